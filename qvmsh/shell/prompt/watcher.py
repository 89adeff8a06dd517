"""The machine's state as the prompt shows it, and its events, received while the user types.

    watcher = Watcher(context, repaint=..., tell=...)
    watcher.start()
    watcher.state         # "running": read from memory, without waiting

Two threads: one reads the machine's state on request, since a QEMU that hangs may take
seconds to answer; one waits for changes: the machine's folder (inotify: a start, the end
of the directory), QEMU's end (pidfd), QEMU's events (QMP). Another waits for a guest that comes up
if no command does. QEMU talks to one client of a socket at a time, so of several shells one receives
the events and writes them to the file `told` beside the socket; the others read it, and one of them
takes over when it leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time

from qvmsh.errors import QvmError, Terminated
from qvmsh.host import files as host_files
from qvmsh.host import locks
from qvmsh.host.inotify import Watch
from qvmsh.io import Io
from qvmsh.machine import launch_record, ready_sign, state
from qvmsh.machine import machine as machines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.shell.session.context import Context

LATE_S = 0.5
"""After this time without an answer the state is shown with a `?`."""

GONE = "gone"
"""The machine's directory, or its `.vmrc`, is not there any more."""

EVENTS_FILE = "told"
"""The file in the runtime folder by which one shell passes the events on to the others."""

TOLD_BYTES = 65536

LIVE = (state.RUNNING, state.PAUSED, state.SUSPENDED, state.STARTING)
"""States in which there is a QEMU; its unexplained end is reported."""

EXPECTED = {"SHUTDOWN", "RESET", "JOB_STATUS_CHANGE", "ENDED"}
CAUSES = {"archive", "kill", "reboot", "restart", "run", "snapshot", "start", "stop"}
"""Events that these commands cause, and report themselves."""


class Watcher:
    """Watches the machine of a context.

    Args:
        repaint: called, in some thread, when the prompt is out of date.
        tell: called, in some thread, with a line for the user.
    """

    def __init__(self, context: Context, *, repaint: Callable[[], None], tell: Callable[[str], None]) -> None:
        self._context = context
        self._repaint = repaint
        self._tell = tell
        self._seen: tuple[str | None, str] = (None, "")
        """The directory that was looked at, and the state that was seen there."""
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._asked_at = 0.0
        self._is_ending = False
        self._looker: threading.Thread | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None

    # what the prompt asks

    @property
    def state(self) -> str:
        """The state in a word, as last seen; with a `?` if the answer is late."""
        directory, seen = self._seen
        if directory != self._context.directory:  # of the machine before `use`
            return "?"
        is_late = not self._answered.is_set() and time.monotonic() - self._asked_at > LATE_S
        return f"{seen}?" if is_late else seen

    def look(self, *, patience_s: float = 0.0) -> None:
        """Ask for the machine's state; wait at most `patience_s` for the answer."""
        if not self._context.has_machine:
            return
        if self._looker is None:
            self._looker = threading.Thread(target=self._look_whenever_asked, name="qvm-look", daemon=True)
            self._looker.start()
        if self._answered.is_set() or not self._asked_at:
            self._asked_at = time.monotonic()
        self._answered.clear()
        self._asked.set()
        if patience_s:
            self._answered.wait(patience_s)

    def start(self) -> None:
        """Begin to listen, if not yet done; follow a change of the context's machine."""
        if self._thread is None and self._context.has_machine and not self._is_ending:
            self._thread = threading.Thread(target=self._run, name="qvm-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the conversation with QEMU, so that another shell can have it."""
        self._is_ending = True
        self._asked.set()
        self._wake()
        if self._thread is not None:
            self._thread.join(2.0)

    # the thread that looks

    def _look_whenever_asked(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._is_ending:
                return
            before, self._seen = self._seen, self._look()
            was_late = time.monotonic() - self._asked_at > LATE_S
            if not self._asked.is_set():
                self._answered.set()
            if self._seen != before or was_late:
                self._repaint()

    def _look(self) -> tuple[str | None, str]:
        directory = self._context.directory
        return directory, "" if directory is None else self._kind(directory)

    def _kind(self, directory: str) -> str:
        vm = machines.BaseMachine(directory)
        try:
            if not os.path.exists(vm.files.vmrc):
                return GONE
            if locks.holder(vm.files.pid_file) is None and not os.path.exists(vm.files.state):
                return state.STOPPED
            seen = state.observe(vm)
        except (OSError, QvmError):
            return state.BROKEN
        before, was = self._seen
        was_live = before == directory and was in LIVE
        if seen.kind == state.CRASHED and not seen.is_live and was_live:
            self._report(directory, "ENDED", seen.detail)
        return seen.kind

    def _report(self, directory: str, event: str, line: str) -> None:
        """Show a line about the session's machine, unless a command of this session reports the same."""
        if (
            line
            and directory == self._context.directory
            and not (event in EXPECTED and self._context.works.has(CAUSES))
        ):
            self._tell(f"qvm: {self._context.vm.name}: {line} ({time.strftime('%H:%M:%S')})")

    # a thread for each guest that no command waits for

    def await_guest(self, directory: str, pid: int, record: LaunchRecord) -> None:
        """Report when the guest answers, as after `start --no-wait`; a waiting command does so itself."""
        thread = threading.Thread(
            target=self._await_guest, args=(directory, pid, record), name="qvm-guest", daemon=True
        )
        thread.start()

    def _await_guest(self, directory: str, pid: int, record: LaunchRecord) -> None:
        from qvmsh.machine.guest import readiness

        with contextlib.suppress(OSError, QvmError, Terminated):
            vm = self._context.machine(_Patience(lambda: self._is_of_use(directory)))
            if vm is not None and vm.directory == directory:
                readiness.wait(vm, pid, record, timeout_s=readiness.attempt_seconds(vm, pid))
                sign = ready_sign.of(vm, record)
                by = {"ssh": f"ssh on port {record.ssh_port}", "agent": "by its agent"}.get(sign, "")
                self._report(directory, "READY", f"the guest answers {by}" if by else "the guest is ready")

    def _is_of_use(self, directory: str) -> bool:
        if self._is_ending or directory != self._context.directory:
            return False
        return locks.working(machines.BaseMachine(directory).files.wait_lock) is None

    # the thread that listens

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # without it the prompt is still updated at each line
            asyncio.run(self._listen())

    def _wake(self) -> None:
        """Wake the listening thread (from any thread)."""
        loop, changed = self._loop, self._changed
        if loop is not None and changed is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(changed.set)

    def moved(self) -> None:
        """The context has another machine, perhaps: listen there."""
        self.start()
        self._wake()

    async def _listen(self) -> None:
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        surroundings: _Surroundings | None = None
        try:
            while not self._is_ending:
                self._changed.clear()
                directory = self._context.directory
                if surroundings is None or surroundings.vm.directory != directory:
                    if surroundings is not None:
                        await surroundings.close()
                    surroundings = _Surroundings(
                        self, machines.BaseMachine(directory or "/"), self._changed.set
                    )
                surroundings.renew()
                self._look_from_loop()
                await self._changed.wait()
        finally:
            if surroundings is not None:
                await surroundings.close()

    def _look_from_loop(self) -> None:
        self.look()
        assert self._loop is not None
        self._loop.call_later(LATE_S + 0.01, self._repaint_if_late)

    def _repaint_if_late(self) -> None:
        if not self._answered.is_set():
            self._repaint()

    def heard(self, directory: str, event: str, line: str) -> None:
        """QEMU sent `event`; `line` describes it for the user, or is empty."""
        self._report(directory, event, line)
        self._look_from_loop()


class _Patience(Io):
    """A silent caller that waits while `is_of_use` is true."""

    def __init__(self, is_of_use: Callable[[], bool]) -> None:
        super().__init__(level=0, capture=True)
        self._is_of_use = is_of_use

    def checkpoint(self) -> None:
        if not self._is_of_use():
            raise Terminated


class _Surroundings:
    """All sources of changes of one machine."""

    def __init__(self, watcher: Watcher, vm: BaseMachine, changed: Callable[[], None]) -> None:
        self.vm = vm
        self._watcher = watcher
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._watches: dict[str, Watch] = {}
        self._pid: int | None = None
        self._pidfd = -1
        self._run: tuple[int, int] | None = None
        self._has_looked = False
        self._awaited: int | None = None
        self._conversation: asyncio.Task[None] | None = None
        self._relay: _Relay | None = None

    def renew(self) -> None:
        """Watch what exists now: folders, QEMU's process, its events."""
        files = self.vm.files
        record = launch_record.read(files) if os.path.exists(files.launch_record) else None
        folders = [(self.vm.directory, False), (files.state, True)]
        if record is not None:
            folders.append((record.runtime, True))
        for path in [path for path in self._watches if path not in dict(folders)]:
            self._drop(path)
        for path, has_writes in folders:
            if path not in self._watches:
                with contextlib.suppress(OSError, QvmError):
                    self._watches[path] = watch = Watch(path, has_writes=has_writes)
                    self._loop.add_reader(watch.fd, self._in_folder, path)
        self._renew_process()
        if record is not None:
            self._renew_conversation(record)
            self._renew_waiting(record)
        self._has_looked = True
        if self._relay is not None:
            self._relay.read()

    def _in_folder(self, path: str) -> None:
        watch = self._watches.get(path)
        if watch is not None and not watch.drain():
            self._drop(path)
        self._changed()

    def _drop(self, path: str) -> None:
        watch = self._watches.pop(path)
        self._loop.remove_reader(watch.fd)
        watch.close()

    def _renew_process(self) -> None:
        try:
            pid = locks.holder(self.vm.files.pid_file)
        except OSError:
            pid = None
        if pid == self._pid:
            return
        self._close_process()
        if pid is not None:
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(pid)
                self._loop.add_reader(self._pidfd, self._process_ended)
        self._pid = pid

    def _process_ended(self) -> None:
        self._close_process()
        self._changed()

    def _close_process(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._pid, self._pidfd = None, -1

    def _renew_conversation(self, record: LaunchRecord) -> None:
        """Connect to QEMU once for each run: a launch record with another inode is another run."""
        try:
            status = os.stat(self.vm.files.launch_record)
        except OSError:
            return
        run = (status.st_ino, status.st_mtime_ns)
        if run == self._run:
            return
        self._run = run
        if self._conversation is not None:
            self._conversation.cancel()
        self._relay = _Relay(record.socket(EVENTS_FILE), self._heard)
        self._conversation = asyncio.ensure_future(self._converse(record, self._relay))

    def _renew_waiting(self, record: LaunchRecord) -> None:
        """Wait once for the guest of each QEMU that began while it was watched; a load writes it anew."""
        if self._pid is None or self._pid == self._awaited:
            return
        self._awaited = self._pid
        if self._has_looked and ready_sign.of(self.vm, record) != "none":
            self._watcher.await_guest(self.vm.directory, self._pid, record)

    def _heard(self, event: str, line: str) -> None:
        self._watcher.heard(self.vm.directory, event, line)

    async def _converse(self, record: LaunchRecord, relay: _Relay) -> None:
        from qvmsh.qemu import events

        teller = events.Teller()

        def heard(event: dict[str, Any]) -> None:
            line = teller.line(event)
            self._heard(event["event"], line)
            relay.write(event["event"], line)

        def greeted() -> None:
            relay.lead()
            self._changed()

        try:
            await events.hear(record.socket("watch"), greeted=greeted, heard=heard)
        except OSError:  # a QEMU that an older qvm began has no such socket
            pass
        finally:
            self._changed()

    async def close(self) -> None:
        for path in list(self._watches):
            self._drop(path)
        self._close_process()
        if self._conversation is not None:
            self._conversation.cancel()
            await asyncio.gather(self._conversation, return_exceptions=True)


class _Relay:
    """The file by which the leading shell informs the others: a line `EVENT<TAB>LINE` each."""

    def __init__(self, path: str, heard: Callable[[str, str], None]) -> None:
        self._path = path
        self._heard = heard
        self._is_leading = False
        self._offset = self._size()

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0

    def lead(self) -> None:
        """From now on write instead of reading."""
        self.read()
        self._is_leading = True

    def write(self, event: str, line: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        flags |= os.O_TRUNC if self._size() > TOLD_BYTES else 0
        with contextlib.suppress(OSError):  # the folder goes with QEMU
            file = host_files.opened(self._path, flags)
            try:
                os.write(file, f"{event}\t{line}\n".encode())
            finally:
                os.close(file)

    def read(self) -> None:
        """Pass on what the leading shell has written since."""
        if self._is_leading:
            return
        size = self._size()
        if size < self._offset:
            self._offset = 0
        if size == self._offset:
            return
        try:
            data = host_files.read(self._path).data[self._offset :]
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for row in whole.decode(errors="replace").splitlines():
            event, _, line = row.partition("\t")
            self._heard(event, line)
