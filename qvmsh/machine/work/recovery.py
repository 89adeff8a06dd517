"""Recovery of work whose command failed, was interrupted or was killed.

    with Transaction(vm, Record(Kind.SNAPSHOT_SAVE, name="ready", ...), exchange) as journal:
        ...                          # the record is removed at the end; on failure the work is undone
    recover(vm, record)              # "undone: no disk has it"

Every way to fail ends here, so there is one way back. A table names the module that knows how each kind of
work is completed or undone; it is in a higher room and imported when needed. The work lock is held.
"""

from __future__ import annotations

import importlib

from qvmsh.errors import QvmError
from qvmsh.host import process
from qvmsh.machine import journal as journals
from qvmsh.machine import log
from qvmsh.machine.journal import Journal, Kind, Record
from qvmsh.machine.work import guardian

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.qmp import Exchange

    class Recovery(Protocol):
        """What a module in the table has."""

        def recover(self, journal: Journal) -> str:
            """Complete or undo the work; what was done ("undone: no disk has it").

            Raises:
                QvmError, OSError: it cannot be done now; the record stays.
            """

        def left(self, vm: BaseMachine, record: Record) -> tuple[str, str | None]:
            """The state while it cannot be done; a hint better than the error's."""


MODULES = {
    Kind.ARCHIVE: "qvmsh.machine.archive.recovery",
    Kind.EXPORT: "qvmsh.machine.archive.recovery",
    Kind.CLONED: "qvmsh.machine.archive.recovery",
    Kind.RESTORE: "qvmsh.machine.restore.recovery",
    Kind.RENAME: "qvmsh.machine.shelf.rename",
    Kind.SNAPSHOT_SAVE: "qvmsh.machine.snapshot.recovery",
    Kind.SNAPSHOT_DELETE: "qvmsh.machine.snapshot.recovery",
    Kind.SNAPSHOT_RESTORE: "qvmsh.machine.snapshot.recovery",
    Kind.SNAPSHOT_LOAD: "qvmsh.machine.snapshot.recovery",
    Kind.DISK_COMMIT: "qvmsh.machine.disk.recovery",
    Kind.DISK_REBASE: "qvmsh.machine.disk.recovery",
}
"""The module for each kind; `tests/unit` imports every module and checks that it fits `Recovery`."""

TRIES_AGAIN = "the next command recovers it (`qvm doctor --fix` does nothing else)"


class Unrecovered(QvmError):
    """Work that can neither be completed nor undone now; its record stays.

    Args:
        left: the current state, and what tries again.
    """

    def __init__(self, what: str, left: str, **more: Any) -> None:
        super().__init__(what, **more)
        self.left = left


def recover(vm: BaseMachine, record: Record) -> str:
    """Complete or undo work; returns what was done.

    Raises:
        Unrecovered: it cannot be done now.
    """
    module: Recovery = importlib.import_module(MODULES[record.kind])
    journal = Journal(vm, record)
    try:
        outcome = module.recover(journal)
    except (QvmError, OSError) as error:
        state, hint = module.left(vm, journal.record)
        left = "; ".join(filter(None, (state, TRIES_AGAIN)))
        why = error.what if isinstance(error, QvmError) else f"{error.filename}: {error.strerror}"
        raise Unrecovered(
            f"{journals.title(record)} was interrupted and cannot be recovered: {why}",
            left,
            machine=vm.name,
            details=(*getattr(error, "details", ()), left),
            hint=hint or getattr(error, "hint", None),
        ) from error
    journal.end()
    log.note(vm, f"{journals.title(record)} {outcome}")
    return outcome


def message(record: Record, outcome: str) -> str:
    return f"{journals.title(record)} was interrupted, and {outcome}"


class Transaction:
    """Work with a journal, undone on failure, with a guardian while the machine runs.

    Args:
        exchange: the conversation with the running QEMU, None where the machine is off.
    """

    def __init__(self, vm: BaseMachine, record: Record, exchange: Exchange | None = None) -> None:
        self.vm = vm
        self._journal = Journal(vm, record)
        self._exchange = exchange
        self._guardian = guardian.Guardian(vm) if exchange is not None else None

    def __enter__(self) -> Journal:
        journals.require_none(self.vm, self._journal.record.kind)
        try:
            self._journal = journals.begin(self.vm, self._journal.record)
            if self._guardian:
                self._guardian.__enter__()
        except BaseException:  # interrupted: nothing has been begun
            self._journal.end()
            raise
        return self._journal

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._close(error)
        finally:
            if self._guardian:
                self._guardian.__exit__(kind, error, trace)

    def moved_to(self, vm: BaseMachine) -> None:
        """The machine's directory, with the journal in it, has another path from now on."""
        self.vm = self._journal.vm = vm

    def _close(self, error: BaseException | None) -> None:
        if error is None:
            with process.Shielded():
                self._journal.end()
            return
        if self._exchange is not None:
            self._exchange.close()  # QEMU serves one at a time
        record = self._journal.record
        # a second Ctrl-C must not interrupt the way back
        with process.Shielded(process.SIGINT, process.SIGTERM, process.SIGTSTP):
            try:
                text = f"{journals.title(record)} {recover(self.vm, record)}"
            except Unrecovered as second:
                text = second.left if isinstance(error, QvmError) else f"{second.what}; {second.left}"
                if isinstance(error, QvmError):
                    error.hint = second.hint or error.hint
            if isinstance(error, QvmError):
                error.details = (*error.details, text)
            else:
                self.vm.io.warn(f"{self.vm.name}: {text}")
