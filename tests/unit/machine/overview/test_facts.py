"""What QEMU's arguments say about a machine."""

from __future__ import annotations

import pytest

from qvmsh.machine.overview import facts


@pytest.mark.parametrize(
    ("words", "vcpus", "memory_mib", "accelerator"),
    [
        ("-smp 2 -m 1024 -accel tcg", 2, 1024, "tcg"),
        ("-smp cpus=4,maxcpus=8 -m size=2G,slots=2 -accel kvm,kernel-irqchip=off", 4, 2048, "kvm"),
        ("-smp sockets=2,cores=3,threads=2 -m 1G -enable-kvm", 12, 1024, "kvm"),
        ("-smp 2 -smp 3 -m 64 -m 65 -accel hvf -accel tcg", 3, 65, "hvf"),
        ("-m 512M -machine pc,accel=kvm:tcg", None, 512, "kvm"),
        ("--smp 2 --m 64 --accel accel=tcg,thread=single", 2, 64, "tcg"),
        ("-smp many -m lots", None, None, None),
        ("-smp", None, None, None),
        ("", None, None, None),
    ],
)
def test_facts_of_arguments(
    words: str, vcpus: int | None, memory_mib: int | None, accelerator: str | None
) -> None:
    found = facts.of_arguments(words.split())
    assert (found["vcpus"], found["memory_mib"], found["accelerator"]) == (vcpus, memory_mib, accelerator)
