"""What state a machine is in, read each time from the host and from QEMU, never remembered.

    observe(vm).kind          # "running"

"Running" means that QEMU holds the lock on its pid file; QMP answers for the rest.
"""

from __future__ import annotations

import os

from qvmsh.errors import ConfigError, QmpError, QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process
from qvmsh.machine import launch_record, paths
from qvmsh.machine.paths import PID_FILE
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

STOPPED = "stopped"
"""No QEMU, and the last one ended cleanly."""
STARTING = "starting"
"""A `start` is in progress: QEMU is coming up, or the guest does not answer yet."""
RUNNING = "running"
"""QEMU runs the guest."""
PAUSED = "paused"
"""QEMU holds the guest (QMP `stop`, an I/O error)."""
SUSPENDED = "suspended"
"""The guest sleeps (ACPI S3)."""
SHUT_DOWN = "shut down"
"""The guest is off, QEMU is still there (`-no-shutdown`)."""
CRASHED = "crashed"
"""The guest panicked, or QEMU ended unexpectedly."""
BROKEN = "broken"
"""QEMU is there, but cannot be reached or must not be resumed; the detail says why."""

PID_WORD = "-pidfile"
"""Among the arguments of each QEMU that qvm starts."""
YOUNG_S = 10.0
"""A QEMU younger than this that does not answer is still coming up."""
GREETING_S = 5.0
"""How long QEMU may take to greet: it serves one client of a socket at a time."""
ENDING_S = 3.0
"""How long QEMU may take from the end of its monitor to its own."""

AGAIN = "`qvm start` starts it again; .qvm/log/ has its output"

_KINDS = {
    "running": (RUNNING, ""),
    "paused": (PAUSED, ""),
    "prelaunch": (PAUSED, "QEMU waits before the first instruction (prelaunch)"),
    "suspended": (SUSPENDED, ""),
    "shutdown": (SHUT_DOWN, ""),
    "guest-panicked": (CRASHED, "the guest's kernel panicked"),
    "internal-error": (CRASHED, "QEMU reports an internal error"),
    "io-error": (PAUSED, "QEMU paused the guest after an I/O error; is the host's disk full?"),
    "watchdog": (PAUSED, "the guest's watchdog fired"),
    "debug": (PAUSED, "stopped at a breakpoint"),
    "restore-vm": (PAUSED, "a snapshot could not be loaded; do not resume it, use `qvm kill`"),
    "inmigrate": (PAUSED, "QEMU waits for a state to be loaded"),
    "save-vm": (PAUSED, "a snapshot is being saved"),
    "finish-migrate": (PAUSED, "QEMU finishes a migration"),
    "postmigrate": (PAUSED, "the guest was migrated to another QEMU"),
}

SPOILT = ("restore-vm", "internal-error", "guest-panicked", "inmigrate", "finish-migrate", "save-vm")
"""QEMU's states in which a guest cannot be resumed, or would destroy its disks."""


class Observation:
    """A machine's state at one moment.

    Args:
        kind: one of this module's constants.
        detail: one more line, "" if `kind` says it all.
        pid: QEMU's, None without one.
        note: the launch record, None if unknown.
        hint: what to do about it.
        status: QEMU's own word for it, "" if it was not asked.
    """

    __slots__ = ("detail", "hint", "kind", "note", "pid", "status")

    def __init__(
        self,
        kind: str,
        detail: str = "",
        pid: int | None = None,
        note: LaunchRecord | None = None,
        hint: str | None = None,
        status: str = "",
    ) -> None:
        self.kind = kind
        self.status = status
        self.detail = detail
        self.pid = pid
        self.note = note
        self.hint = hint

    def __str__(self) -> str:
        pid = f" (pid {self.pid})" if self.pid else ""
        return f"{self.kind}{pid}" + (f": {self.detail}" if self.detail else "")

    @property
    def is_live(self) -> bool:
        """True if there is a QEMU process."""
        return self.pid is not None

    @property
    def is_spoilt(self) -> bool:
        """True if the guest must not, or cannot, be resumed."""
        return self.status in SPOILT


def observe(vm: BaseMachine, ask: Callable[[LaunchRecord], str] | None = None) -> Observation:
    """Read the state of `vm`; takes at most about `GREETING_S` where QEMU does not answer.

    Args:
        ask: asks QEMU for its status, for a caller that has more questions.
    """
    try:
        pid = locks.holder(vm.files.pid_file)
    except PermissionError:
        return _foreign(vm)
    except OSError as error:
        what = f".qvm/{os.path.basename(vm.files.pid_file)}: {error.strerror}"
        return Observation(BROKEN, what, hint="move it away; a running QEMU is found without it")
    note = launch_record.read(vm.files)
    if pid is None:
        return _without_process(vm, note)
    if note is None:
        return _unknown_process(pid, "its launch record .qvm/running is missing")
    if process.is_stopped(pid):
        return _frozen(pid)
    try:
        status = (ask or asked)(note)
    except PermissionError:
        who = process.user(pid)
        detail = f"it is {who}'s machine: you may not use its monitor"
        return Observation(RUNNING, detail, pid, note, f"run this as {who} or as root")
    except (OSError, QmpError) as error:
        return _silent(vm, pid, note, error)
    if note.loading and status != "running":
        return _loading(vm, pid, note)
    kind, detail = _KINDS.get(status, (PAUSED, f"QEMU says {status}"))
    is_interrupted = kind == PAUSED and os.path.lexists(vm.files.snapshot_journal)
    if is_interrupted and locks.working(vm.files.work_lock) is None:
        from qvmsh.machine import journal

        if journal.must_stand_still(vm):
            detail = f"a commit was interrupted, and the guest {journal.HELD}"
            return Observation(kind, detail, pid, note, journal.HELD_HINT, status)
    return Observation(kind, detail, pid, note, status=status)


def asked(note: LaunchRecord) -> str:
    """QEMU's own word for its state."""
    return str(qmp.ask(note.socket("qmp"), "query-status", timeout_s=GREETING_S)["status"])


def _loading(vm: BaseMachine, pid: int, note: LaunchRecord) -> Observation:
    """A guest into which a `start` is loading a state, or was when it was killed."""
    by = locks.working(vm.files.work_lock)
    if by and by.what.partition(" ")[0] in ("start", "run", "snapshot"):
        return Observation(STARTING, f"{by} is loading the state {note.loading}", pid, note)
    if os.path.lexists(vm.files.snapshot_journal):
        from qvmsh.machine import journal

        verb = "start" if journal.is_of(vm, journal.Kind.SNAPSHOT_LOAD) else "snapshot restore"
        return Observation(
            BROKEN,
            f"the `qvm {verb}` that was loading {note.loading} was interrupted; do not resume the guest",
            pid, note,
            "`qvm doctor --fix` restores the previous state; so does the next command that changes it",
        )  # fmt: skip
    from qvmsh.config.words import quote

    return Observation(
        BROKEN,
        f"the `qvm start` that was loading the state {note.loading} was interrupted; do not resume the guest",
        pid, note, f"`qvm stop` ends QEMU, then `qvm start --loadvm {quote(note.loading)}`; "
        "the saved state is unchanged",
    )  # fmt: skip


def _without_process(vm: BaseMachine, note: LaunchRecord | None) -> Observation:
    by = locks.working(vm.files.work_lock)
    is_other = by is not None and by.pid != os.getpid()
    if by and is_other and by.what.partition(" ")[0] in ("start", "run"):
        return Observation(STARTING, str(by))
    try:
        left = process.number(host_files.read(vm.files.pid_file).text.strip())
    except OSError:
        return _without_pid_file(vm, note)
    if launch_record.is_of_a_copy(vm.files):
        return Observation(STOPPED)  # .qvm describes the directory that this is a copy of
    if note and not note.is_of_this_boot:
        return Observation(STOPPED, "the host went down while it was running")
    detail = f"QEMU (pid {left}) ended unexpectedly" if left else "QEMU did not start"
    if left and process.exists(left):
        detail += f"; pid {left} is now another program, `{process.program(left)}`"
    words = paths.tail(vm.files.qemu_stderr, 1)
    return Observation(
        CRASHED, "; ".join([detail, *(f"its last output: {line}" for line in words)]), hint=AGAIN
    )


def _without_pid_file(vm: BaseMachine, note: LaunchRecord | None) -> Observation:
    """No pid file means stopped, unless QEMU runs and the file, or `.qvm`, was removed.

    QEMU removes the file of that name at its end, even another run's; so may a person. The process still
    holds its lock on the file that has no name any more.
    """
    holders = vm.lock_holders or process.LockHolders(PID_WORD)
    pid = holders.find(vm.directory, [PID_WORD, PID_FILE], lambda: _accounts(vm))
    if pid is None:
        return Observation(STOPPED)
    what = "its pid file was" if note else "its folder .qvm was"
    try:
        note = note or _rebuilt(vm, pid)
        status = asked(note)
    except (OSError, QmpError, ConfigError):
        return _unknown_process(pid, f"{what} removed, and its monitor does not answer")
    kind = _KINDS.get(status, (PAUSED, ""))[0]
    return Observation(
        kind, f"{what} removed; `qvm stop` and `qvm kill` still work", pid, note, status=status
    )


def _accounts(vm: BaseMachine) -> set[int]:
    """Whose QEMU may be the machine's: the caller's, and that of the directory's, or the machine's, owner."""
    found = {os.geteuid(), os.stat(vm.directory).st_uid}
    if found == {0}:
        from pwd import getpwnam

        try:
            found.add(getpwnam(vm.loaded["VM_MACHINE_OWNER"]).pw_uid)
        except (QvmError, KeyError):
            pass
    return found


def _rebuilt(vm: BaseMachine, pid: int) -> LaunchRecord:
    """What a launch chose, from the arguments of its QEMU: for a machine whose record was removed."""
    from qvmsh.machine import identity

    argv = process.arguments(pid)
    uuid = argv[argv.index("-uuid") + 1] if "-uuid" in argv[:-1] else ""
    head = next((word for word in argv if "-:22" in word), "").partition("-:22")[0]
    port = head.rpartition(":")[2]
    return launch_record.LaunchRecord(
        runtime=identity.runtime_path(vm, uuid, process.effective_uid(pid) or 0),
        boot=process.boot_id(),
        ssh_port=int(port) if port.isdigit() else 0,
        user=vm.settings.text("VM_MACHINE_USER"),
        disposable=any("/disposable-" in word or word == "-snapshot" for word in argv),
        directory=launch_record.place(vm.directory),
    )


def _silent(vm: BaseMachine, pid: int, note: LaunchRecord, error: Exception) -> Observation:
    """Say why the monitor of an existing QEMU process does not answer."""
    if process.is_stopped(pid):
        return _frozen(pid)
    if isinstance(error, FileNotFoundError):
        return Observation(
            BROKEN, f"its sockets are missing ({note.runtime} was removed)", pid, note,
            "`qvm stop` can still reach the guest by ssh, `qvm kill` ends QEMU",
        )  # fmt: skip
    if locks.holder(vm.files.pid_file) is None:
        return _without_process(vm, note)
    if process.age_s(pid) < YOUNG_S:
        return Observation(STARTING, "QEMU does not answer yet", pid, note)
    if not is_qemu(pid):
        return _unknown_process(pid, "")
    return Observation(
        BROKEN,
        f"QEMU does not answer on its monitor ({error or type(error).__name__})",
        pid, note, "it may be busy, or another program holds the monitor; try again, or `qvm kill`",
    )  # fmt: skip


def _frozen(pid: int) -> Observation:
    hint = f"`kill -CONT {pid}` continues it"
    if process.is_without_terminal(pid):
        hint = f"`fg` in the shell that started it continues it; so does `kill -CONT {pid}`"
    return Observation(BROKEN, "the QEMU process is stopped by a signal", pid, None, hint)


def _unknown_process(pid: int, why: str) -> Observation:
    if is_qemu(pid):
        return Observation(BROKEN, why, pid, None, "`qvm kill` ends QEMU")
    what = f"the pid file is locked by `{process.program(pid)}`, which is not QEMU"
    return Observation(BROKEN, what, pid, None, f"check pid {pid}; qvm does not touch it")


def is_qemu(pid: int) -> bool:
    """True if the process `pid` is a QEMU (or about to become one)."""
    argv = process.arguments(pid)
    return bool(argv) and ("-pidfile" in argv or "qemu" in os.path.basename(argv[0]))


def _foreign(vm: BaseMachine) -> Observation:
    who = process.user_name(os.lstat(vm.files.state).st_uid)
    detail = f"it is {who}'s machine: you may not use it"
    return Observation(BROKEN, detail, hint=f"run this as {who} or as root")


def require_live(vm: BaseMachine, what: str) -> tuple[int, LaunchRecord]:
    """`require` of what is observed now, in any state in which there is a QEMU."""
    return require(vm, observe(vm), what)


def require(vm: BaseMachine, seen: Observation, what: str, *kinds: str) -> tuple[int, LaunchRecord]:
    """Pid and launch record of the QEMU of a machine that is in one of the states `kinds` (none: in any).

    Raises:
        StateError: it has no QEMU, or is in another; the text names its state and what cannot be done.
    """
    if seen.pid is None or seen.note is None or (kinds and seen.kind not in kinds):
        raise not_in_state(vm, seen, what, kinds[0] if kinds else RUNNING)
    return seen.pid, seen.note


def require_off(vm: BaseMachine, seen: Observation, what: str, hint: str = "`qvm stop` first") -> None:
    """Refuse a machine that has a QEMU."""
    if seen.is_live:
        is_start = what in ("start", "run")
        raise StateError(
            f"cannot {what}: it is {'already ' if is_start else ''}{seen}", machine=vm.name,
            hint=hint, actual=seen.kind, required=STOPPED,
        )  # fmt: skip


def require_lasting(
    vm: BaseMachine, seen: Observation, what: str, lost: str = "its changes are lost"
) -> None:
    """Refuse a disposable run."""
    if seen.is_live and seen.note is not None and seen.note.disposable:
        why = f"it is disposable, {lost} when it stops"
        raise StateError(f"cannot {what}: {why}", machine=vm.name, hint="`qvm stop` it first")


def reachable(vm: BaseMachine, what: str) -> tuple[int, LaunchRecord]:
    """As `require_live`, but does not ask QEMU: for a command whose own question reveals as much."""
    try:
        pid, note = locks.holder(vm.files.pid_file), launch_record.read(vm.files)
    except OSError:
        pid = note = None
    if pid is None or note is None or process.is_stopped(pid):
        return require_live(vm, what)
    return pid, note


def require_sound(vm: BaseMachine, seen: Observation, what: str) -> None:
    """Refuse to resume or save a guest whose memory and disks may not fit together.

    Raises:
        StateError: they may not.
    """
    if seen.is_spoilt:
        raise StateError(
            f"will not {what}: QEMU says {seen.status}, its memory and its disks may not fit together",
            machine=vm.name,
            hint="`qvm kill` ends it, `qvm start` boots it from its disks",
            actual=seen.status,
        )


def not_in_state(vm: BaseMachine, seen: Observation, what: str, required: str) -> QvmError:
    """The error for a command that needs another state than `seen`."""
    if seen.kind == required == RUNNING and seen.detail:  # runs, but there is something about it
        return StateError(f"cannot {what}: {seen.detail}", machine=vm.name, hint=seen.hint, actual=seen.kind)
    hint = seen.hint
    if seen.kind == STARTING and not seen.is_live:
        hint = "wait for that start, or end it with Ctrl-C"
    elif not hint and what not in ("stop", "kill"):
        hint = _way_on(seen, required)
    return StateError(
        f"cannot {what}: it is {seen}", machine=vm.name, hint=hint, actual=seen.kind, required=required
    )


def _way_on(seen: Observation, required: str) -> str | None:
    """A hint that leads from the observed state to the required one."""
    if seen.kind == PAUSED:
        return "`qvm resume` resumes it"
    if seen.kind == SUSPENDED:
        return "`qvm wakeup` wakes it"
    if seen.kind == RUNNING:
        return {PAUSED: "`qvm pause` pauses it", SUSPENDED: "`qvm suspend` suspends it"}.get(required)
    if seen.kind == SHUT_DOWN:
        return "`qvm stop` ends QEMU, then `qvm start`"
    return None if seen.is_live else "`qvm start` starts it"


def has_ended(vm: BaseMachine, error: QmpError) -> bool:
    """True if the failure is due to QEMU's end; its monitor closes before its process ends."""
    if error.error_class is not None:  # its own refusal
        return False
    try:
        pid = locks.holder(vm.files.pid_file)
        if pid is None:
            return True
        with process.Process(pid) as handle:
            return handle.wait(ENDING_S)
    except ProcessLookupError:
        return True


class Answering:
    """Turns the failure of a conversation into the machine's error: `with Answering(vm): ...`.

    Args:
        kinds: what a silent QEMU raises in the block.
    """

    def __init__(self, vm: BaseMachine, *kinds: type[OSError]) -> None:
        self._vm = vm
        self._kinds = kinds or (OSError,)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, self._kinds):
            raise silent(self._vm) from None


def silent(vm: BaseMachine) -> QvmError:
    """The error for a QEMU that did not answer: observes the machine again."""
    seen = observe(vm)
    return QmpError(f"the monitor does not answer: it is {seen}", machine=vm.name, hint=seen.hint)
