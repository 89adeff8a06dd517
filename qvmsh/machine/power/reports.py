"""Results of the commands that start, stop and hold the machine."""

from __future__ import annotations

from qvmsh.machine.reports import Report, plural, shown, stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Started(Report):
    """Result of `start`: `ready` is False after `--no-wait`; `seconds` until the guest was.

    Args:
        sign: what says that the guest is ready (`ready_sign.of`).
        renewed: what is new in the guest of a clone.
        shares: `tag`, `mount` and `problem` of each share that was to be mounted; "" for those that are.
    """

    __slots__ = (
        "_sign", "accelerator", "attach", "clock", "disposable", "machine", "pid", "ready", "renewed",
        "seconds", "shares", "ssh_port",
    )  # fmt: skip

    def __init__(
        self,
        machine: str,
        *,
        pid: int,
        ssh_port: int | None,
        ready: bool,
        seconds: float,
        accelerator: str,
        disposable: bool,
        clock: str = "",
        attach: str = "",
        sign: str = "ssh",
        renewed: Sequence[str] = (),
        shares: Sequence[dict[str, str]] = (),
    ) -> None:
        self._sign = sign
        self.renewed = list(renewed)
        self.shares = list(shares)
        self.attach = attach
        self.clock = clock
        self.machine = machine
        self.pid = pid
        self.ssh_port = ssh_port
        self.ready = ready
        self.seconds = round(seconds, 3)
        self.accelerator = accelerator
        self.disposable = disposable

    def shown(self) -> list[str]:
        how = f"ready after {self.seconds:.1f} s" if self.ready else "QEMU runs; did not wait for the guest"
        if self._sign == "none":
            how = "started"
        port = f", ssh on port {self.ssh_port}" if self.ssh_port and self._sign == "ssh" else ""
        lost = ", disposable: changes will be discarded" if self.disposable else ""
        clock = f"; {self.clock}" if self.clock else ""
        screen = [f"{self.machine}: `{self.attach}` shows its screen"] if self.attach else []
        renewed = [f"{self.machine}: {each}" for each in self.renewed]
        return [f"{self.machine}: {how} (pid {self.pid}{port}{lost}){clock}", *renewed, *screen]


class Stopped(Report):
    """Result of `stop` and `kill`.

    Args:
        by: what worked (`guest agent`, `ssh`, `quit`, ...).
        snapshot: what VM_SNAPSHOT_ON_STOP has saved, or null.
    """

    __slots__ = ("by", "is_kill", "machine", "seconds", "snapshot")

    def __init__(
        self, machine: str, by: str, seconds: float, snapshot: str | None = None, *, is_kill: bool = False
    ) -> None:
        self.machine = machine
        self.by = by
        self.seconds = round(seconds, 3)
        self.snapshot = snapshot
        self.is_kill = is_kill

    def shown(self) -> list[str]:
        what = "killed" if self.is_kill else "powered off"
        saved = f"; saved the disks as {self.snapshot}" if self.snapshot else ""
        return [f"{self.machine}: {what} by {self.by} in {self.seconds:.1f} s{saved}"]

    def as_json(self) -> dict[str, Any]:
        return {"machine": self.machine, "by": self.by, "seconds": self.seconds, "snapshot": self.snapshot}


class Saved(Report):
    """Result of `stop --savevm`: `suspend_seconds` is the guest's own part of `seconds`."""

    __slots__ = ("machine", "seconds", "snapshot", "suspend_seconds")

    def __init__(self, machine: str, snapshot: str, suspend_seconds: float, seconds: float) -> None:
        self.machine = machine
        self.snapshot = snapshot
        self.suspend_seconds = round(suspend_seconds, 3)
        self.seconds = round(seconds, 3)

    def shown(self) -> list[str]:
        from qvmsh.config.words import quote

        part = f" ({self.suspend_seconds:.1f} s to suspend)" if self.suspend_seconds else ""
        return [
            f"{self.machine}: state saved as {self.snapshot} in {self.seconds:.1f} s{part}; "
            f"`qvm start --loadvm {quote(self.snapshot)}` resumes it"
        ]


class Rebooted(Report):
    """Result of `reboot`: `by` is what worked, `seconds` until the guest answered again."""

    __slots__ = ("by", "machine", "seconds")

    def __init__(self, machine: str, by: str, seconds: float) -> None:
        self.machine = machine
        self.by = by
        self.seconds = round(seconds, 3)

    def shown(self) -> list[str]:
        return [f"{self.machine}: rebooted by {self.by} in {self.seconds:.1f} s"]


class Restarted(Report):
    """Result of `restart`: `by` is what ended the run before, None where there was none.

    `stop_seconds` and `seconds` are those of the two halves; the rest is as in the result of `start`.
    """

    __slots__ = (
        "by", "disposable", "lines", "machine", "pid", "ready", "seconds", "ssh_port", "stop_seconds"
    )  # fmt: skip

    def __init__(self, by: str | None, stop_seconds: float, started: Started) -> None:
        self.by = by
        self.stop_seconds = round(stop_seconds, 3)
        self.machine = started.machine
        self.pid = started.pid
        self.ssh_port = started.ssh_port
        self.ready = started.ready
        self.seconds = started.seconds
        self.disposable = started.disposable
        stopped = f"powered off by {by} in {stop_seconds:.1f} s" if by else "was not running"
        first, *rest = started.shown()
        self.lines = [f"{self.machine}: {stopped}; {first.removeprefix(f'{self.machine}: ')}", *rest]

    def shown(self) -> list[str]:
        return self.lines

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "lines"}


class Paused(Report):
    """Result of `pause` and `resume`.

    Args:
        asleep: the resumed guest is suspended (QEMU 9 and later).
        clock: how the clock of the paused guest was corrected.
    """

    __slots__ = ("asleep", "clock", "machine", "paused")

    def __init__(self, machine: str, *, is_paused: bool, is_asleep: bool = False, clock: str = "") -> None:
        self.machine = machine
        self.clock = clock
        self.paused = is_paused
        self.asleep = is_asleep

    def shown(self) -> list[str]:
        if self.asleep:
            return [f"{self.machine}: resumed, suspended as before; `qvm wakeup` wakes it"]
        if self.paused:
            return [f"{self.machine}: paused; `qvm resume` resumes it"]
        return [f"{self.machine}: resumed" + (f"; {self.clock}" if self.clock else "")]


class Froze(Report):
    """Result of `freeze`: how many `file_systems` are frozen, for how many `seconds`, `until` when."""

    __slots__ = ("file_systems", "machine", "seconds", "until")

    def __init__(self, machine: str, file_systems: int, seconds: float, until: float) -> None:
        self.machine = machine
        self.file_systems = file_systems
        self.seconds = seconds
        self.until = stamp(until)

    def shown(self) -> list[str]:
        what = plural(self.file_systems, "file system")
        return [f"{self.machine}: froze {what} until {shown(self.until)[11:]}; `qvm thaw` thaws earlier"]


class Thawed(Report):
    """Result of `thaw`: how many `file_systems` were thawed; 0 if none was frozen."""

    __slots__ = ("file_systems", "machine")

    def __init__(self, machine: str, file_systems: int) -> None:
        self.machine = machine
        self.file_systems = file_systems

    def shown(self) -> list[str]:
        if not self.file_systems:
            return [f"{self.machine}: no file system was frozen"]
        return [f"{self.machine}: thawed {plural(self.file_systems, 'file system')}"]


class Suspended(Report):
    """Result of `suspend`: `by` is what asked the guest (`ssh`, `guest agent`), `seconds` until it slept."""

    __slots__ = ("by", "machine", "seconds")

    def __init__(self, machine: str, by: str, seconds: float) -> None:
        self.machine = machine
        self.by = by
        self.seconds = round(seconds, 3)

    def shown(self) -> list[str]:
        return [f"{self.machine}: suspended by {self.by} in {self.seconds:.1f} s; `qvm wakeup` wakes it"]


class Woken(Report):
    """Result of `wakeup`: `ready` is False without waiting for ssh; `seconds` until it answered."""

    __slots__ = ("machine", "ready", "seconds")

    def __init__(self, machine: str, ready: bool, seconds: float) -> None:
        self.machine = machine
        self.ready = ready
        self.seconds = round(seconds, 3)

    def shown(self) -> list[str]:
        if not self.ready:
            return [f"{self.machine}: awake; did not wait for the guest"]
        return [f"{self.machine}: awake, ready after {self.seconds:.1f} s"]
