"""What a machine has, for its row in a list: processors, memory, accelerator, how long it has run.

While it runs they are read from the arguments of its QEMU, which `--set` or an edited `.vmrc` does not
change; while it is off, from its configuration.

    of(vm, 4711, 2201)   # {"vcpus": 2, "memory_mib": 1024, "accelerator": "kvm", "uptime_s": 93.1, ...}
"""

from __future__ import annotations

from qvmsh.config import variables
from qvmsh.errors import QvmError
from qvmsh.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.machine.machine import BaseMachine

_NAMES = ("vcpus", "memory_mib", "accelerator", "uptime_s", "ssh_port")


def of(vm: BaseMachine, pid: int | None, ssh_port: int | None) -> dict[str, Any]:
    """The numbers of a machine; unknown ones are None, also where its configuration is wrong.

    Returns:
        `vcpus`; `memory_mib`, the guest's memory; `accelerator`, as `kvm` or `tcg`; `uptime_s`, seconds since
        QEMU began; `ssh_port`, of 127.0.0.1.
    """
    if pid is not None:
        uptime_s = round(process.age_s(pid), 1)
        return of_arguments(process.arguments(pid)) | {"uptime_s": uptime_s, "ssh_port": ssh_port}
    found = dict.fromkeys(_NAMES)
    try:
        if not vm.loaded.text("VM_QEMU_ARGS"):
            found["vcpus"] = vm.loaded.integer("VM_MACHINE_CPUS")
            found["memory_mib"] = vm.loaded.integer("VM_MACHINE_MEM")
    except (QvmError, KeyError, ValueError):
        pass
    return found


def of_arguments(argv: Sequence[str]) -> dict[str, Any]:
    """What QEMU's arguments say: the last of several `-m` or `-smp`, the first `-accel`.

    Source: qemu-system-x86_64(1).
    """
    found: dict[str, Any] = dict.fromkeys(_NAMES)
    flag = ""
    for value in argv:
        flag, before = value.removeprefix("-") if value.startswith("--") else value, flag
        if before == "-smp":
            found["vcpus"] = _processors(value)
        elif before == "-m":
            found["memory_mib"] = _memory_mib(value)
        elif before == "-accel":
            found["accelerator"] = found["accelerator"] or _first(value, "accel")
        elif before in ("-machine", "-M") and "accel=" in value:
            found["accelerator"] = _options(value).get("accel", "").partition(":")[0] or None
    if "-enable-kvm" in argv:
        found["accelerator"] = "kvm"
    return found


def _options(value: str) -> dict[str, str]:
    """`4,sockets=2` as {"": "4", "sockets": "2"}."""
    found = {}
    for part in value.split(","):
        name, mark, text = part.partition("=")
        found[name if mark else ""] = text if mark else name
    return found


def _first(value: str, name: str) -> str | None:
    options = _options(value)
    return options.get(name) or options.get("") or None


def _processors(value: str) -> int | None:
    count = _first(value, "cpus")
    if count is not None:
        return int(count) if count.isdecimal() else None
    total, options = 1, _options(value)
    parts = [options[name] for name in ("sockets", "dies", "clusters", "cores", "threads") if name in options]
    for part in parts:
        total *= int(part) if part.isdecimal() else 1
    return total if parts else None


def _memory_mib(value: str) -> int | None:
    text = _first(value, "size") or ""
    try:
        return variables.memory_mib(text)
    except (ValueError, KeyError, IndexError):
        return None
