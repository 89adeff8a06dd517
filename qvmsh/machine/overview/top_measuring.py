"""What each machine takes of the host: two looks at it, and the time between them.

    sampler = Sampler(os.environ, ["web*"])
    sampler.measure()           # [(<row of `list`>, <Rates without a rate>), ...]
    sampler.measure()           # the rates since the last look

Each look at a machine with a QEMU has a thread of its own, so that one that hangs delays nobody: after
`PATIENCE_S` its last known row is used. The disk counters come with the question for the state, over a
connection that is closed at once: each of QEMU's sockets serves one client at a time, so none is kept.
"""

from __future__ import annotations

import os
import threading
import time
from fnmatch import fnmatchcase

import psutil

from qvmsh.errors import QvmError
from qvmsh.host import locks, process, taps
from qvmsh.machine import registry, state
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.monitor import conversation
from qvmsh.machine.overview import list as listing
from qvmsh.machine.overview.list import Listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord

PATIENCE_S = 0.5
"""How long a frame waits for all QEMUs together."""
FORGET_S = 60.0
"""After this time a configuration is read again, even if its `.vmrc` is the same: it may include others."""
FOREIGN_S = 10.0
"""How often root looks at a machine of another account, which costs a process."""
UNKNOWN = "unknown"


class Rates:
    """What a machine takes; None where that is not known.

    Args:
        cpu_percent: 100 is one processor.
        rss_bytes: memory of the host.
        read, written: of the disks, in bytes per second.
        received, sent: of the guest's network, in bytes per second.
    """

    __slots__ = ("cpu_percent", "read", "received", "rss_bytes", "sent", "written")

    def __init__(self) -> None:
        self.cpu_percent: float | None = None
        self.rss_bytes: int | None = None
        self.read: float | None = None
        self.written: float | None = None
        self.received: float | None = None
        self.sent: float | None = None


class _Counter:
    """A number that grows: how fast, since the last look."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._at = 0.0
        self._value: float | None = None

    def rate(self, value: float | None, now: float) -> float | None:
        """The growth per second; None without two looks, or if it has begun anew."""
        before, since = self._value, now - self._at
        self._value, self._at = value, now
        if value is None or before is None or value < before or since <= 0:
            return None
        return (value - before) / since


class _Look:
    """What one look at a machine has found.

    Args:
        row: as in `list`.
        read, written: the bytes that the disks have moved, None if QEMU was not asked.
        at: when QEMU was asked.
    """

    __slots__ = ("at", "read", "row", "written")

    def __init__(self, row: Listed) -> None:
        self.row = row
        self.read: float | None = None
        self.written: float | None = None
        self.at = time.monotonic()


class _Watched:
    """One machine, over the frames."""

    def __init__(self, directory: str, name: str, environ: Mapping[str, str]) -> None:
        self.directory = directory
        self._environ = environ
        self._look = _Look(Listed(name, UNKNOWN, directory))
        self._thread: threading.Thread | None = None
        self._vm: BaseMachine | None = None
        self._is_foreign = False
        self._known: tuple[int, ...] = ()
        self._read_at = self._looked_at = -FORGET_S
        self._process: psutil.Process | None = None
        self._taps: list[str] = []
        self._counters = {name: _Counter() for name in ("cpu", "read", "written", "received", "sent")}

    @property
    def name(self) -> str:
        return self._look.row.machine

    def begin(self, holders: process.LockHolders) -> threading.Thread | None:
        """Look at it; if that may take its time, in the thread that is returned."""
        if self._thread is not None and self._thread.is_alive():
            return None  # the previous look is still waiting for QEMU
        now = time.monotonic()
        self._renew(now)
        if self._is_foreign and now - self._looked_at < FOREIGN_S:
            return None
        self._looked_at = now
        if not self._is_foreign and not self._has_qemu():
            self._see(holders)
            return None
        self._thread = threading.Thread(target=self._see, args=(holders,), daemon=True)
        self._thread.start()
        return self._thread

    def _renew(self, now: float) -> None:
        """Read the configuration if its file has changed, or it is time to."""
        try:
            status = os.stat(os.path.join(self.directory, ".vmrc"))
            known: tuple[int, ...] = (
                status.st_dev,
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
        except OSError:
            known = ()
        if known == self._known and now - self._read_at < FORGET_S:
            return
        self._known, self._read_at = known, now
        self._vm, self._is_foreign = None, False
        try:
            if os.geteuid() == 0:
                from qvmsh.machine import owner

                self._is_foreign = owner.of(self.directory, self._environ) is not None
            if not self._is_foreign:
                self._vm = BaseMachine(self.directory, environ=self._environ)
        except QvmError:  # the look reports it
            pass
        if self._process is not None:
            self._taps = taps.names(self._process.pid)

    def _has_qemu(self) -> bool:
        if self._vm is None or self._look.row.pid is not None:
            return True
        try:
            return locks.holder(self._vm.files.pid_file) is not None
        except OSError:
            return False

    def _see(self, holders: process.LockHolders) -> None:
        """Look at it now."""
        asked: dict[str, float] = {}

        def ask(note: LaunchRecord) -> str:
            with conversation.begin(note) as qemu:
                status: str = qemu.ask("query-status")["status"]
                rows = qemu.ask("query-blockstats")
            asked["at"] = time.monotonic()
            for name in ("rd_bytes", "wr_bytes"):
                asked[name] = float(sum(each["stats"][name] for each in rows))
            return status

        vm, name = self._vm, self._look.row.machine
        found = _Look(listing.look(self.directory, name, self._environ, holders, vm=vm, ask=ask))
        if "wr_bytes" in asked:
            found.at, found.read, found.written = asked["at"], asked["rd_bytes"], asked["wr_bytes"]
        self._look = found

    def measured(self, traffic: Mapping[str, Any]) -> tuple[Listed, Rates]:
        """Its row, and its rates since the last frame.

        Args:
            traffic: the counters of all network devices.
        """
        look, rates, now = self._look, Rates(), time.monotonic()
        cpu_s = None
        try:
            if self._process is None or self._process.pid != look.row.pid or not self._process.is_running():
                self._process = None if look.row.pid is None else psutil.Process(look.row.pid)
                self._taps = []
            if self._process is not None:
                with self._process.oneshot():
                    times = self._process.cpu_times()
                    cpu_s = times.user + times.system
                    rates.rss_bytes = self._process.memory_info().rss
        except psutil.Error:  # it has ended, or is another account's
            self._process = None
        if self._process is not None and not self._taps and (look.row.uptime_s or 0) < FORGET_S:
            self._taps = taps.names(self._process.pid)  # a young QEMU opens its own after its pid file
        per_second = self._counters["cpu"].rate(cpu_s, now)
        rates.cpu_percent = None if per_second is None else 100 * per_second
        counted = look if self._process is not None else None
        rates.read = self._counters["read"].rate(counted.read if counted else None, look.at)
        rates.written = self._counters["written"].rate(counted.written if counted else None, look.at)
        own = [traffic[name] for name in self._taps if name in traffic] if self._process is not None else []
        # what the host sends to the device, the guest receives
        received = sum(each.bytes_sent for each in own) if own else None
        sent = sum(each.bytes_recv for each in own) if own else None
        rates.received = self._counters["received"].rate(received, now)
        rates.sent = self._counters["sent"].rate(sent, now)
        return look.row, rates

    @property
    def has_qemu_now(self) -> bool:
        return self._look.row.pid is not None


class Sampler:
    """The machines that are meant, measured as often as asked for.

    Args:
        environ: whose known machines.
        words: machines: names, directories, patterns of names. None: all known ones.

    Raises:
        UsageError: a word means no machine.
        ConfigError: a directory is not a machine.
    """

    def __init__(self, environ: Mapping[str, str], words: Sequence[str]) -> None:
        from qvmsh.config import locate

        self._environ = dict(environ)  # read for each machine, and `os.environ` is slow
        self._patterns = [word for word in words if registry.is_pattern(word)]
        for word in self._patterns:
            registry.matching(word, environ)
        places = [registry.resolve(word, environ) for word in words if not registry.is_pattern(word)]
        self._places = [locate.find(each, environ, os.getcwd()) for each in places]
        self._watched: dict[str, _Watched] = {}

    def measure(self) -> list[tuple[Listed, Rates]]:
        """Look at every machine, and compare with the last look."""
        found = self._machines()
        holders = process.LockHolders(state.PID_WORD)
        begun = [each.begin(holders) for each in found]
        until = time.monotonic() + PATIENCE_S
        for thread in begun:
            if thread is not None:
                thread.join(max(0.0, until - time.monotonic()))
        traffic: Mapping[str, Any] = {}
        if any(each.has_qemu_now for each in found):
            traffic = psutil.net_io_counters(pernic=True)
        return [each.measured(traffic) for each in found if self._is_meant(each)]

    def _machines(self) -> list[_Watched]:
        """The machines that are there now; those of earlier frames keep their counters."""
        before, self._watched = self._watched, {}
        wanted: list[registry.Known] = []
        if self._patterns or not self._places:
            wanted = [each for each in registry.rows(self._environ) if each.is_there or each.silent]
        wanted += [registry.Known(os.path.basename(each), "", each) for each in self._places]
        for row in wanted:
            place = os.path.realpath(row.directory) if row.is_there else row.directory
            if row.silent:
                silent = _Silent(row.directory, row.name, self._environ)
                self._watched[place] = silent
            elif row.is_there:
                kept = before.get(place)
                if kept is None or isinstance(kept, _Silent):
                    kept = _Watched(row.directory, row.name, self._environ)
                self._watched[place] = kept
        return list(self._watched.values())

    def _is_meant(self, each: _Watched) -> bool:
        if not self._patterns or each.directory in self._places:
            return True
        return any(fnmatchcase(each.name, pattern) for pattern in self._patterns)


class _Silent(_Watched):
    """A machine on a file system that does not answer: nothing of it is touched."""

    def __init__(self, directory: str, name: str, environ: Mapping[str, str]) -> None:
        super().__init__(directory, name, environ)
        self._look = _Look(Listed(name, state.BROKEN, directory, hint=listing.SILENT))

    def begin(self, holders: process.LockHolders) -> None:
        pass
