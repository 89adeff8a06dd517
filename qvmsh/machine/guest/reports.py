"""Results of the commands that ask the guest: `info`, `ip`, `set-time`."""

from __future__ import annotations

from qvmsh.machine.progress import size
from qvmsh.machine.reports import Report, lasting, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

BY = {"agent": "the guest agent", "ssh": "ssh", "serial": "the serial console"}
"""The ways into the guest, as texts name them."""
MOST_ROWS = 40
"""How many users or file systems are shown; `--json` has all."""


def off(behind_s: float, within_s: float) -> str:
    """How a clock differs from the host's: `12.3 s behind the host`, `right, within 0.1 s`."""
    within_s = max(within_s, 0.05)
    if abs(behind_s) <= within_s + 0.1:
        return f"right, within {max(abs(behind_s), within_s):.1f} s"
    far = f"{abs(behind_s):.1f} s" if abs(behind_s) < 60 else lasting(abs(behind_s))
    return f"{far} {'behind' if behind_s > 0 else 'ahead of'} the host"


class Facts(Report):
    """Result of `info`: what the guest says about itself; None where that is not known.

    Args:
        machine: its name.
        via: who said it: `agent`, `ssh` or `serial`.
        os: the system's name for people.
        os_id, os_version: as `debian` and `12`.
        kernel: its release.
        architecture: as `x86_64`.
        host_name: the guest's own name.
        users: who is logged in, each with `user` and `since`.
        file_systems: each with `mount_point`, `type`, `device`, `used_bytes`, `size_bytes`.
        clock_behind_s: how far the guest's clock is behind the host's; negative if it is ahead.
        clock_within_s: how exactly that is known.
        missing: the parts that could not be had (`system`, `host_name`, `users`, `file_systems`, `clock`),
            each with the reason.
        refused: the ways that could not be used, each with the reason.
    """

    __slots__ = (
        "architecture", "clock_behind_s", "clock_within_s", "file_systems", "host_name", "kernel", "machine",
        "missing", "os", "os_id", "os_version", "refused", "users", "via",
    )  # fmt: skip

    def __init__(self, machine: str, via: str, *, refused: Mapping[str, str] | None = None) -> None:
        self.machine = machine
        self.via = via
        self.os: str | None = None
        self.os_id: str | None = None
        self.os_version: str | None = None
        self.kernel: str | None = None
        self.architecture: str | None = None
        self.host_name: str | None = None
        self.users: list[dict[str, Any]] = []
        self.file_systems: list[dict[str, Any]] = []
        self.clock_behind_s: float | None = None
        self.clock_within_s: float | None = None
        self.missing: dict[str, str] = {}
        self.refused = dict(refused or {})

    def shown(self) -> list[str]:
        system = ", ".join(filter(None, (self.os, self.kernel, self.architecture)))
        rows = [("system", system or None), ("host name", self.host_name)]
        rows += [("users", each) for each in self._users()]
        rows += [("file systems", each) for each in self._file_systems()]
        if self.clock_behind_s is not None and self.clock_within_s is not None:
            rows.append(("clock", off(self.clock_behind_s, self.clock_within_s)))
        rows += [(part.replace("_", " "), f"unknown: {why}") for part, why in self.missing.items()]
        refused = "".join(f"; not by {BY[way]}: {why}" for way, why in self.refused.items())
        lines, last = [f"{self.machine}: by {BY[self.via]}{refused}"], ""
        for name, text in rows:
            if text:
                lines.append(f"  {name if name != last else '':14}{text}")
                last = name
        return lines

    def _users(self) -> list[str]:
        rows = [
            f"{each['user']}, since {shown(each['since'])}" if each["since"] else each["user"]
            for each in self.users
        ]
        none = [] if "users" in self.missing else ["nobody is logged in"]
        return _cut(rows) or none

    def _file_systems(self) -> list[str]:
        rows = []
        for row in self.file_systems:
            text = f"{row['mount_point']} ({', '.join(filter(None, (row['type'], row['device'])))})"
            if row["size_bytes"] and row["used_bytes"] is not None:
                text += f": {size(row['used_bytes'])} of {size(row['size_bytes'])} used"
            rows.append(text)
        return _cut(rows)

    def as_json(self) -> dict[str, Any]:
        found = super().as_json()
        for name in ("clock_behind_s", "clock_within_s"):
            found[name] = found[name] if found[name] is None else round(found[name], 3)
        return found


def _cut(rows: Sequence[str]) -> list[str]:
    """No more rows than a person reads."""
    more = len(rows) - MOST_ROWS
    return [*rows[:MOST_ROWS], *([f"... and {more} more"] if more > 0 else [])]


class Addresses(Report):
    """Result of `ip`: the addresses by which the guest can be reached, or has on its own network.

    Args:
        machine: its name.
        addresses: each with `address`; `family` (`inet`, `inet6`); `interface`, the guest's name for it;
            `port`, if only this port leads to the guest (to its ssh); `reachable`, false behind user
            networking; `way`, which says where the address
            is known from: `agent`, `forward` (user networking), `lease` or `neighbour` (the host's tables).
        refused: the ways that gave none, each with the reason.
        family: only its addresses are printed, bare.
    """

    __slots__ = ("_family", "addresses", "machine", "refused")

    def __init__(
        self,
        machine: str,
        addresses: Sequence[dict[str, Any]],
        refused: Mapping[str, str],
        family: str | None,
    ) -> None:
        self.machine = machine
        self.addresses = list(addresses)
        self.refused = dict(refused)
        self._family = family

    def __iter__(self) -> Any:
        return iter(self.addresses)

    def shown(self) -> list[str]:
        if self._family:
            return [row["address"] for row in self.addresses]
        lines = [f"{self.machine}: {_described(row)}" for row in self.addresses]
        return lines + [f"{self.machine}: {way}: {why}" for way, why in self.refused.items()]

    def as_json(self) -> dict[str, Any]:
        return {"machine": self.machine, "addresses": self.addresses, "refused": self.refused}


def _described(row: Mapping[str, Any]) -> str:
    if row["way"] == "forward":
        return f"{row['address']}:{row['port']} on the host leads to the guest's ssh (user networking)"
    source = {"agent": "from the guest agent", "lease": "from the lease", "neighbour": "from the ARP table"}
    place = f" on {row['interface']}" if row["interface"] else ""
    far = "" if row["reachable"] else "; not reachable from the host (user networking)"
    return f"{row['address']}{place}, {source[row['way']]}{far}"


class ClockSet(Report):
    """Result of `set-time`.

    Args:
        machine: its name.
        via: what set the clock: `agent`, `ssh` or `serial`.
        was_behind_s: how far it was behind the host's clock; negative if it was ahead.
        behind_s: how far it is behind now.
        within_s: how exactly that is known.
    """

    __slots__ = ("behind_s", "machine", "via", "was_behind_s", "within_s")

    def __init__(
        self, machine: str, via: str, *, was_behind_s: float, behind_s: float, within_s: float
    ) -> None:
        self.machine = machine
        self.via = via
        self.was_behind_s = round(was_behind_s, 3)
        self.behind_s = round(behind_s, 3)
        self.within_s = round(within_s, 3)

    def shown(self) -> list[str]:
        was = off(self.was_behind_s, self.within_s)
        if was.startswith("right"):
            return [f"{self.machine}: the clock was {was}"]
        return [f"{self.machine}: the clock was {was}; set by {BY[self.via]}"]
