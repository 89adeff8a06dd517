"""What `forward add`, `list` and `remove` report."""

from __future__ import annotations

from qvmsh.machine.reports import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.config.forwards import Forward


def row(
    forward: Forward, via: str, *, saved: bool, is_ssh: bool = False, is_open: bool = True
) -> dict[str, Any]:
    """A forwarded port as `--json` has it."""
    return {
        "protocol": forward.protocol, "address": forward.address, "port": forward.port,
        "guest_address": forward.guest_address, "guest_port": forward.guest_port, "via": via,
        "saved": saved, "ssh": is_ssh, "open": bool(via) and is_open,
    }  # fmt: skip


def _target(each: dict[str, Any]) -> str:
    address = each["guest_address"]
    return f"{address}:{each['guest_port']}" if address else f"port {each['guest_port']}"


class Forwards(Report):
    """Result of `forward list`: `forwards`, a dict each, as in JSON.

    `via` is `qemu`, `ssh`, or "" if off; `open` is false for one of ssh whose cached connection has ended.
    """

    __slots__ = ("forwards", "machine")

    def __init__(self, machine: str, forwards: Sequence[dict[str, Any]]) -> None:
        self.machine = machine
        self.forwards = list(forwards)

    def shown(self) -> list[str]:
        if not self.forwards:
            return [f"{self.machine}: no port is forwarded"]
        lines = []
        for each in self.forwards:
            notes = [f"by {each['via']}"] if each["via"] else ["at the next start"]
            notes += ["the way of qvm ssh"] if each["ssh"] else []
            notes += ["closed until the next `qvm ssh`"] if each["via"] and not each["open"] else []
            notes += ["saved"] if each["saved"] and each["via"] else []
            here = f"{each['protocol']} {each['address']}:{each['port']}"
            lines.append(f"{here:26} -> {_target(each):20} {', '.join(notes)}")
        return lines


class Changed(Report):
    """Result of `forward add` and `remove`: `forwards`, as in `forward list`; `saved`: also in VM_HOSTFWD."""

    __slots__ = ("did", "forwards", "machine", "saved")

    def __init__(self, machine: str, did: str, forwards: Sequence[dict[str, Any]], *, saved: bool) -> None:
        self.machine = machine
        self.did = did
        self.forwards = list(forwards)
        self.saved = saved

    def shown(self) -> list[str]:
        lines = []
        for each in self.forwards:
            here = f"{each['protocol']} {each['address']}:{each['port']}"
            if self.did == "added":
                way = f"by {each['via']}" if each["via"] else "at the next start"
                here += f" -> {_target(each)} {way}"
            saved = ", and in VM_HOSTFWD" if self.did == "added" else ", and from VM_HOSTFWD"
            end = saved if self.saved and each["via"] else ""
            lines.append(f"{self.machine}: {self.did} {here}{end}")
        return lines
