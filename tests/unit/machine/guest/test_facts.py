"""What a guest says about itself by a script, and how clocks and addresses are read."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvmsh.errors import printable
from qvmsh.machine.guest import address, clock, facts
from qvmsh.machine.guest.reports import MOST_ROWS, Addresses, Facts, off
from qvmsh.qemu.qmp import dumps


def read(text: str) -> Facts:
    """The facts in the output of the script."""
    found = Facts("demo", "ssh")
    facts.read_script(found, text, 1000.0, 1002.0)
    return found


def test_script_of_a_real_shell_gives_every_part() -> None:
    done = subprocess.run(["sh", "-c", facts.SCRIPT], capture_output=True, text=True, check=False)
    found = read(done.stdout)
    assert found.kernel == os.uname().release
    assert found.host_name == os.uname().nodename
    assert found.os
    assert found.missing.keys() <= {"users"}


SAID = """\
@clock
1001
@system
Linux
6.1.0
x86_64
PRETTY_NAME="A \\"system\\""
ID=x
@host_name
demo
@users
qvm      pts/0        2026-12-01 09:30 (10.0.2.2)
@mounts
/dev/vda1 / ext4 rw 0 0
/dev/vdb /mnt/a\\040b xfs rw 0 0
proc /proc proc rw 0 0
@file_systems
Filesystem     1024-blocks    Used Available Capacity Mounted on
/dev/vda1             1000     500       500      50% /
/dev/vdb              2000       1      1999       1% /mnt/a b
tmpfs                    1       0         1       0% /run
"""


def test_script_output_is_read_as_the_agents_answers() -> None:
    found = read(SAID)
    assert (found.os, found.os_id, found.kernel, found.architecture) == ('A "system"', "x", "6.1.0", "x86_64")
    assert found.users == [{"user": "qvm", "since": None}]
    assert [(row["mount_point"], row["type"], row["size_bytes"]) for row in found.file_systems] == [
        ("/", "ext4", 1024000),
        ("/mnt/a b", "xfs", 2048000),
    ]
    assert found.clock_behind_s == -0.5
    assert found.clock_within_s == 1.5
    assert not found.missing


def test_script_output_without_a_part_says_that_it_is_missing() -> None:
    found = read("@clock\nno\n@host_name\n@system\nLinux\n")
    assert found.missing.keys() == {"clock", "host_name", "system", "users", "file_systems"}
    assert "unknown: " in str(found)


@given(st.lists(st.sampled_from([*SAID.splitlines(), "@clock", "\x1b[2J", '"', "@", "9" * 5000, "a\u202eb"])))
def test_script_output_of_a_hostile_guest_is_only_text(lines: list[str]) -> None:
    found = read("\n".join(lines))
    assert all(printable(line) == line for line in str(found).splitlines())
    found.as_json()


def test_long_lists_are_shown_in_part() -> None:
    found = Facts("demo", "agent")
    found.users = [{"user": f"u{at}", "since": None} for at in range(1000)]
    lines = str(found).splitlines()
    assert len(lines) == MOST_ROWS + 2
    assert lines[-1].strip() == f"... and {1000 - MOST_ROWS} more"


@pytest.mark.parametrize(
    ("behind", "within", "text"),
    [
        (0.0, 0.0, "right, within 0.1 s"),
        (-0.1, 0.0, "right, within 0.1 s"),
        (2.0, 3.0, "right, within 3.0 s"),
        (12.34, 0.1, "12.3 s behind the host"),
        (-90000.0, 0.5, "1 d 1 h ahead of the host"),
    ],
)
def test_clock_difference_is_said_as_exactly_as_it_is_known(behind: float, within: float, text: str) -> None:
    assert off(behind, within) == text


def test_clock_difference_of_an_instant_answer_is_exact() -> None:
    import time

    behind, within = clock.difference(lambda: time.time() - 100)
    assert abs(behind - 100) <= within + 0.001


@pytest.mark.parametrize(
    ("argv", "macs", "is_user_only"),
    [
        (["-netdev", dumps({"type": "user", "id": "net0"}), "-device", dumps({"mac": "DE:AD"})],
         {"de:ad"}, True),
        (["-netdev", "tap,id=n,ifname=t0", "-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:00:01"],
         {"52:54:00:00:00:01"}, False),
        (["-nic", "none"], set(), True),
        (["-nic", "tap,mac=AA:BB,model=e1000"], {"aa:bb"}, False),
        (["-netdev", "{broken", "-device"], set(), False),
    ],
)  # fmt: skip
def test_cards_are_read_from_qemus_arguments(argv: list[str], macs: set[str], is_user_only: bool) -> None:
    found = address.Cards(argv)
    assert (found.macs, found.is_user_only) == (macs, is_user_only)


def test_addresses_of_one_family_are_bare() -> None:
    row = {"address": "10.9.0.5", "family": "inet", "interface": "eth0", "port": None, "reachable": True}
    assert str(Addresses("demo", [row | {"way": "lease"}], {}, "inet")) == "10.9.0.5"
    assert str(Addresses("demo", [row | {"way": "lease"}], {"agent": "no answer"}, None)).splitlines() == [
        "demo: 10.9.0.5 on eth0, from the lease",
        "demo: agent: no answer",
    ]
