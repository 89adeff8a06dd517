"""What is done to hold, let go and wake a guest is decided by what QEMU answers.

The answers of 7.2 are those that it gave; those of 9.0 and later are constructed after its commits
b9ae473d80 and b4e9ddccd1 (`stop` and `cont` keep "suspended"), since it does not run here.
"""

from __future__ import annotations

from typing import Any

import pytest

from qvmsh.machine.guest import sleep
from qvmsh.qemu.ich9 import Registers

MAPPED = "  0000000000000630-0000000000000637 (prio 0, i/o): acpi-smi\n"
REGISTERS = Registers(0x600, {"smi_en": 3, "pm1_en": 0x100, "gpe0_en": 1, "pm1_cnt": 1})


class Qemu:
    """Answers as QEMU does; keeps the commands that it got.

    Args:
        keeps_suspended: as 9.0 and later: `stop` makes a sleeping guest "paused", `cont` "suspended".
        is_q35: has ICH9's power registers, which the firmware loses at a wake-up.
    """

    def __init__(self, status: str, *, keeps_suspended: bool, is_q35: bool = False) -> None:
        self.status = status
        self.keeps_suspended = keeps_suspended
        self.is_mapped = self.is_q35 = is_q35
        self.is_asleep_below = status == "paused" and keeps_suspended
        self.commands: list[str] = []

    def ask(self, command: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = 0.0) -> Any:
        if command == "human-monitor-command":
            assert arguments is not None
            return self._human(arguments["command-line"])
        if command == "query-status":
            return {"status": self.status}
        self.commands.append(command)
        if command == "stop" and (self.status == "running" or self.keeps_suspended):
            self.is_asleep_below = self.status == "suspended"
            self.status = "paused"
        elif command == "cont" and self.status == "paused":
            self.status = "suspended" if self.is_asleep_below else "running"
        elif command == "system_wakeup":
            assert self.status == "suspended", "Unable to wake up: guest is not in suspended state"
            self.status, self.is_asleep_below, self.is_mapped = "running", False, False
        return {}

    def together(self, *commands: str) -> None:
        for command in commands:
            self.ask(command)

    def _human(self, line: str) -> str:
        if line == "info mtree -f":
            return MAPPED if self.is_mapped else ""
        if line.startswith("o /w 0xcfc"):
            self.is_mapped = self.is_q35
            self.commands.append("registers")
        return f"port = {0x101:#x}\r\n"


def test_hold_on_7_2_saves_a_guest_that_has_begun_to_wake() -> None:
    qemu = Qemu("suspended", keeps_suspended=False)
    sleep.hold(qemu, None)  # type: ignore[arg-type]
    assert qemu.commands == ["stop", "system_wakeup", "stop"]
    assert qemu.status == "paused"
    sleep.resume(qemu)  # type: ignore[arg-type]
    assert (qemu.commands[3:], qemu.status) == (["cont"], "running")  # it wakes by itself


def test_hold_on_7_2_and_q35_restores_the_registers_first() -> None:
    qemu = Qemu("suspended", keeps_suspended=False, is_q35=True)
    sleep.hold(qemu, REGISTERS)  # type: ignore[arg-type]
    assert qemu.commands[:3] == ["stop", "system_wakeup", "stop"]
    assert "registers" in qemu.commands[3:]
    assert qemu.is_mapped


def test_hold_on_9_0_saves_the_sleeping_guest_as_it_is() -> None:
    qemu = Qemu("suspended", keeps_suspended=True, is_q35=True)
    sleep.hold(qemu, REGISTERS)  # type: ignore[arg-type]
    assert qemu.commands == ["stop"]
    assert (qemu.status, qemu.is_asleep_below) == ("paused", True)


def test_hold_of_a_guest_that_runs_stops_it_on_either() -> None:
    for keeps_suspended in (False, True):
        qemu = Qemu("running", keeps_suspended=keeps_suspended)
        sleep.hold(qemu, None)  # type: ignore[arg-type]
        assert (qemu.commands, qemu.status) == (["stop"], "paused")


@pytest.mark.parametrize("is_q35", [False, True])
def test_resume_on_9_0_wakes_what_was_saved_asleep(is_q35: bool) -> None:
    qemu = Qemu("paused", keeps_suspended=True, is_q35=is_q35)
    sleep.resume(qemu)  # type: ignore[arg-type]
    assert qemu.commands[:2] == ["cont", "system_wakeup"]
    assert qemu.status == "running"
    assert qemu.is_mapped == is_q35


def test_wake_on_q35_stops_it_in_the_firmware_and_resumes_it() -> None:
    qemu = Qemu("suspended", keeps_suspended=False, is_q35=True)
    sleep.wake(qemu)  # type: ignore[arg-type]
    assert (qemu.commands[0], qemu.commands[1], qemu.commands[-1]) == ("system_wakeup", "stop", "cont")
    assert (qemu.status, qemu.is_mapped) == ("running", True)


def test_wake_without_such_registers_only_wakes() -> None:
    qemu = Qemu("suspended", keeps_suspended=False)
    sleep.wake(qemu)  # type: ignore[arg-type]
    assert qemu.commands == ["system_wakeup"]
