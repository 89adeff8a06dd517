"""How a script ends: from the exception that ended it to the message and the exit status.

    status = ended(error, script="./deploy", debug=False)

A script that fails shows its own frames and the command's error; a bug in qvm shows everything.
"""

from __future__ import annotations

import os
import sys

from qvmsh import errors
from qvmsh.errors import QvmError, Terminated
from qvmsh.io import flush, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import TextIO

EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127

HOME = os.path.dirname(os.path.abspath(errors.__file__)) + os.sep
"""The folder of the package."""

DOORS = tuple(os.path.join(HOME, *each) for each in (
    ("shell", ""), ("cli", ""), ("api.py",), ("here.py",), ("commands", "arguments.py"),
))  # fmt: skip
"""Where a call from the script passes, so that a wrong argument is still the script's fault."""

PROTOCOL = ("__getattr__", "__getitem__", "__setattr__", "__setitem__")
"""What Python calls for `settings.TYPO`: the script has asked for it."""

BUG = (
    "qvm: this is a bug in qvm, not in what you did\n"
    "hint: please report it, with the lines above and the output of `qvm doctor`"
)


_interrupted: list[BaseException] = []


def die_as_interrupted() -> None:
    """As the last of a script: end by SIGINT if Ctrl-C has ended it, or a loop of bash would continue."""
    if _interrupted:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def ended(error: BaseException, *, script: str, debug: bool) -> int:
    """Report why a script ended, if there is a reason, and return its exit status.

    Args:
        error: what it raised.
        script: the file name in its code.
        debug: show all frames.
    """
    out = sys.stderr
    try:
        flush()
    except BrokenPipeError:
        pass
    if isinstance(error, SystemExit):
        return _exit_status(error.code, out)
    hook = sys.excepthook
    if hook is not sys.__excepthook__ and not isinstance(error, Terminated):
        remember(error, is_all=debug)
        hook(type(error), error, error.__traceback__)  # the script's own
        return _quiet_status(error)
    if isinstance(error, KeyboardInterrupt):
        _interrupted.append(error)
        return errors.EXIT_INTERRUPTED
    if isinstance(error, Terminated):
        return errors.EXIT_TERMINATED
    is_ours = is_bug(error, script)
    is_shell_line = _is_shell_line(error)
    remember(error, is_all=is_ours or debug)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone: nothing more to report
        return errors.EXIT_FAILED
    if isinstance(error, OSError) and is_ours:
        from qvmsh.cli.failures import from_os

        error = from_os(error).with_traceback(error.__traceback__)
    if isinstance(error, QvmError):
        if debug:
            _show(error, out)
        else:
            _show_frames(error, out)
        tell(out, "\n".join(error.lines()))
        return error.status
    status = _program_status(error)
    if status is not None:
        if not is_shell_line:  # the program itself has printed why
            _show_frames(error, out)
            tell(out, str(error))
        return status
    if type(error).__name__ == "XonshError" and not debug:  # a redirection, a program without rights
        _show_frames(error, out)
        tell(out, str(error))
        return EXIT_NOT_EXECUTABLE if isinstance(error.__cause__, PermissionError) else errors.EXIT_FAILED
    _show(error, out)
    if is_ours:
        tell(out, BUG)
    return errors.EXIT_FAILED


FAILED_PROGRAMS = {
    "CalledProcessError": "returncode",
    "ProcessExecutionError": "retcode",
    "ErrorReturnCode": "exit_code",
}
"""The errors that subprocess, plumbum and sh raise for a failed program, and their status."""


def _program_status(error: BaseException) -> int | None:
    """The exit status of the program whose failure `error` reports; None for another error."""
    for kind in type(error).__mro__:
        if kind.__name__ in FAILED_PROGRAMS:
            status = int(getattr(error, FAILED_PROGRAMS[kind.__name__]))
            return 128 - status if status < 0 else status & 0xFF
    return None


def _quiet_status(error: BaseException) -> int:
    """The exit status that an exception means, whatever is printed."""
    if isinstance(error, KeyboardInterrupt):
        return errors.EXIT_INTERRUPTED
    return error.status if isinstance(error, QvmError) else status_of(error)


def status_of(error: BaseException) -> int:
    """The exit status that an exception means: that of the program that failed, else 1."""
    status = _program_status(error)
    return errors.EXIT_FAILED if status is None else status


def _exit_status(code: object, out: TextIO) -> int:
    """What `sys.exit(code)` means."""
    if code is None:
        return errors.EXIT_OK
    if isinstance(code, int):
        return code & 0xFF
    tell(out, str(code))
    return errors.EXIT_FAILED


def remember(error: BaseException, *, is_all: bool) -> None:
    """Let `pdb.pm()` find where it failed; without our frames, if not `is_all`."""
    if not is_all:
        _prune(error, set())
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    setattr(sys, "last_exc", error)  # noqa: B010  # Python 3.12


def _show(error: BaseException, out: TextIO) -> None:
    """As Python shows it, with what it thinks was meant."""
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stderr(text):
        sys.__excepthook__(type(error), error, error.__traceback__)
    tell(out, _tidy([text.getvalue()]))


def _show_frames(error: BaseException, out: TextIO) -> None:
    """The script's own frames, without the exception itself."""
    import traceback

    frames = [row for row in traceback.extract_tb(error.__traceback__) if not _is_hidden(row.filename)]
    while frames and _is_library(frames[-1].filename):
        frames.pop()
    if any(os.path.exists(row.filename) for row in frames):
        tell(out, _tidy(traceback.format_list(frames)))


def _tidy(parts: list[str]) -> str:
    """Without the empty lines that stand for marks below a line (xonsh counts columns differently)."""
    return "\n".join(line for line in "".join(parts).splitlines() if line.strip() or not line)


def _prune(error: BaseException | None, seen: set[int]) -> None:
    """Take our frames and xonsh's out of the tracebacks of `error` and of what led to it."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _pruned(error.__traceback__)
    _prune(error.__cause__, seen)
    _prune(error.__context__, seen)


def _pruned(trace: TracebackType | None) -> TracebackType | None:
    kept = []
    while trace is not None:
        if not _is_hidden(trace.tb_frame.f_code.co_filename):
            kept.append(trace)
        trace = trace.tb_next
    for at, one in enumerate(kept, 1):
        one.tb_next = kept[at] if at < len(kept) else None
    return kept[0] if kept else None


def _is_hidden(file: str) -> bool:
    return file.startswith(HOME) or f"{os.sep}xonsh{os.sep}" in file


def _is_library(file: str) -> bool:
    """True for Python's own modules and for installed ones."""
    return "-packages" + os.sep in file or file.startswith(os.path.dirname(os.__file__) + os.sep)


def is_bug(error: BaseException, script: str) -> bool:
    """True if the exception arose in qvm or in what it called, behind the doors."""
    if isinstance(error, RecursionError | MemoryError):  # it ends where the script has exhausted it
        return False
    is_ours = False
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == script:
            is_ours = False
        elif code.co_filename.startswith(HOME) and not code.co_filename.startswith(DOORS):
            is_ours |= code.co_name not in PROTOCOL
        trace = trace.tb_next
    return is_ours


def _is_shell_line(error: BaseException) -> bool:
    """True if xonsh raised it for a failing command, and not `subprocess.run(check=True)`."""
    trace = error.__traceback__
    file = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return f"{os.sep}xonsh{os.sep}" in file
