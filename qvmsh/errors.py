"""The one tree of exceptions and the one table of exit statuses.

    QvmError                    1   something failed
    +-- UsageError              2   the command line is wrong
    +-- ConfigError             2   a `.vmrc` (or another layer) has problems; carries all of them
    +-- StateError              3   the machine is not in the state that is required
    |   +-- LockedError         3   the machine is in use by another process
    +-- MissingProgramError     1   a required program is not installed
    +-- ImageError              1   a disk image is missing, locked, damaged or orphaned
    +-- LaunchError             1   QEMU ended at once
    +-- QmpError                1   QEMU refused a command, or does not answer
    +-- CommandError            n   a command in the guest or on the host failed with n
    +-- GuestUnreachableError 125   the guest cannot be reached, so its status is not known
    +-- DeadlineError         124   a deadline passed

Example of what a user sees (one line: what, which machine, why; then the hint)::

    qvm: demo: cannot start: demo-base.qcow2 is missing
    hint: `qvm init` creates it from demo-seed.qcow2
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypedDict, Unpack

    class _More(TypedDict, total=False):
        machine: str | None
        hint: str | None
        details: Sequence[str]


EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STATE = 3
EXIT_DEADLINE = 124
EXIT_UNREACHABLE = 125
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class QvmError(Exception):
    """A failure that is reported to the user without a traceback.

    Args:
        what: one line: what could not be done and why.
        machine: name (or directory) of the machine, None if none is concerned.
        hint: what to do next, None if there is nothing useful to say.
        details: additional lines, printed between the message and the hint
            (QEMU's output, the last lines of a log, the current state).
    """

    status = EXIT_FAILED

    def __init__(
        self,
        what: str,
        *,
        machine: str | None = None,
        hint: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.machine = machine
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        return f"{self.machine}: {self.what}" if self.machine else self.what

    def lines(self) -> list[str]:
        """The lines a user sees on standard error."""
        lines = [f"qvm: {printable(str(self))}"]
        lines += [f"  {printable(line)}" for line in self.details]
        if self.hint:
            lines.append(f"hint: {printable(self.hint)}")
        return lines

    def as_json(self) -> dict[str, object]:
        """The error as the value of `error` in the output of `--json`."""
        return {
            "kind": type(self).__name__,
            "message": self.what,
            "machine": self.machine,
            "hint": self.hint,
            "details": list(self.details),
            "status": self.status,
        }


class UsageError(QvmError):
    """The command line is wrong: `qvm: start: unknown option --lodvm`."""

    status = EXIT_USAGE


class ConfigError(QvmError):
    """The configuration has problems; `problems` holds all of them."""

    status = EXIT_USAGE

    def __init__(self, what: str, *, problems: Sequence[object] = (), **more: Unpack[_More]) -> None:
        super().__init__(what, **more)
        self.problems = tuple(problems)


class NotAcceptedError(ConfigError):
    """A configuration file is not used: others could have written it, and it was not accepted."""


class StateError(QvmError):
    """The machine is in state `actual`, the command needs `required`."""

    status = EXIT_STATE

    def __init__(
        self, what: str, *, actual: str | None = None, required: str | None = None, **more: Unpack[_More]
    ) -> None:
        super().__init__(what, **more)
        self.actual = actual
        self.required = required


class LockedError(StateError):
    """The machine is in use by another process: `demo is being started (qvm start, pid 812)`."""


class MissingProgramError(QvmError):
    """A program is not installed: `qemu-system-x86_64 is not installed`."""


class ImageError(QvmError):
    """A disk image is missing, locked, damaged or orphaned."""


class LaunchError(QvmError):
    """QEMU ended before it answered; `details` holds its output."""


class QmpError(QvmError):
    """QEMU refused a command (`error_class` is QMP's own), or does not answer (None)."""

    def __init__(self, what: str, *, error_class: str | None = None, **more: Unpack[_More]) -> None:
        super().__init__(what, **more)
        self.error_class = error_class


class CommandError(QvmError):
    """A program failed; `status` is its own exit status (128+n where signal n ended it)."""

    def __init__(
        self, what: str, *, argv: Sequence[str] = (), status: int = EXIT_FAILED, stdout: str = "",
        stderr: str = "", **more: Unpack[_More],
    ) -> None:  # fmt: skip
        super().__init__(what, **more)
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr

    def as_json(self) -> dict[str, object]:
        """As `QvmError`, with what the program wrote."""
        return super().as_json() | {"stdout": self.stdout, "stderr": self.stderr}


class GuestUnreachableError(QvmError):
    """The guest does not answer, so its command was not run."""

    status = EXIT_UNREACHABLE


class DeadlineError(QvmError):
    """A deadline passed; `details` says how far it got."""

    status = EXIT_DEADLINE


class Terminated(BaseException):
    """SIGTERM arrived: the work in progress ends cleanly, then the status is 143."""


def printable(text: str) -> str:
    """`text` on one line, without characters that could control a terminal: controls, bidi overrides."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def visible(text: str) -> str:
    """`text` without characters that could control a terminal, except newlines and tabs."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
