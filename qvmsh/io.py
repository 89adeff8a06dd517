"""How a command communicates with its caller: streams, terminal, stages of long work.

Every `Machine` has one `Io`. The one-shot door creates it from the process' own streams, the
shell from those of the pipeline that the word is in; a library user gets one that prints
nothing and captures the output of guest commands. So a command is written once and never asks
where it runs::

    with vm.io.stage("waiting for ssh"):
        ...
"""

from __future__ import annotations

import os
import sys
import time

from qvmsh.errors import EXIT_STATE, EXIT_USAGE, QvmError, UsageError, printable, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Any, Protocol, TextIO

    class Row(Protocol):
        """One line that was typed."""

        def as_row(self) -> dict[str, Any]: ...

    class Lines(Protocol):
        """What was typed in a session (`shell.session.lines`)."""

        def chosen(self, ranges: Sequence[str]) -> Sequence[Row]: ...
        def save(self, file: str, ranges: Sequence[str], *, is_forced: bool) -> tuple[str, int, int]: ...

    class Named(Protocol):
        """A machine's name and directory."""

        @property
        def name(self) -> str: ...
        @property
        def directory(self) -> str: ...

    class Session(Protocol):
        """The shell or script that a command runs in (`shell.session.context`)."""

        @property
        def lines(self) -> Lines | None: ...
        def use(self, where: str) -> Named: ...


class Io:
    """The caller's side of a command.

    Args:
        stdin, stdout, stderr: text streams; children get their file descriptors.
        capture: the output of a guest command is returned (Python) instead of
            written to `stdout` (command line, shell word).
        level: 0 = only errors and results, 1 = warnings and, on a terminal, stages,
            2 = stages always (`-v`).
    """

    session: Session | None = None
    """The shell or script that the command runs in; None outside of one."""
    about: str | None = None
    """The directory of the machine that the texts are about."""
    naming: Callable[[str, str], str] | None = None
    """Lets the commands in a text name the machine in a directory, where that is not the one here."""

    def __init__(
        self,
        *,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        capture: bool = False,
        level: int = 1,
        debug: bool = False,
        json: bool = False,
    ) -> None:
        self._streams = (stdin, stdout, stderr)
        self.capture = capture
        self.level = level
        self.debug = debug
        self.json = json
        self.is_mid_line = False
        """The title of a stage is on the terminal without a line end."""
        self.current: Stage | None = None
        """The current step; the innermost one if they are nested."""

    @property
    def stdin(self) -> TextIO:
        return self._streams[0] or sys.stdin

    @property
    def stdout(self) -> TextIO:
        return self._streams[1] or sys.stdout

    @property
    def stderr(self) -> TextIO:
        return self._streams[2] or sys.stderr

    @property
    def is_on_terminal(self) -> bool:
        """True if `stdout` is a terminal: nothing written to it may control the terminal."""
        return isatty(self.stdout)

    def remark(self, text: str) -> None:
        """Warn about the configuration; a session overrides it to warn only once."""
        self.warn(text)

    def working(self, verb: str) -> AbstractContextManager[None]:
        """A machine's method runs during the block; a session notes which."""
        from contextlib import nullcontext

        return nullcontext()

    def write(self, text: str) -> None:
        """Write a part of the result.

        Raises:
            QvmError: it cannot be written.
            BrokenPipeError: nobody reads it.
        """
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise unwritable(error) from None

    def warn(self, text: str) -> None:
        """Print one line that the user should know although the command continues."""
        if self.level >= 1:
            self.begin_line()
            tell(self.stderr, f"qvm: {printable(self.named(text))}")

    def named(self, text: str) -> str:
        """A text for the user, with the machine in its commands if they need it."""
        if self.naming is None or self.about is None or "`qvm " not in text:
            return text
        return self.naming(text, self.about)

    def say(self, text: str) -> None:
        """Print what is being done, with `-v` or on a terminal."""
        if self.shows_stages:
            self.begin_line()
            tell(self.stderr, text)

    def require_yes(self, question: str, *, is_given: bool, what: str, machine: str | None = None) -> None:
        """Ask before something is removed; anything but `y` or `yes` refuses.

        Args:
            question: one line, or several.
            is_given: `--yes` was given: do not ask.
            what: the verb, for the error.
            machine: what it is about, for the error.

        Raises:
            UsageError: nobody can be asked.
            QvmError: the answer is no.
        """
        if is_given:
            return
        if not (isatty(self.stdin) and isatty(self.stderr)):
            raise UsageError(
                f"{what}: there is no terminal to ask on", machine=machine,
                hint=f"`qvm {what} --yes` does not ask",
            )  # fmt: skip
        self.begin_line()
        tell(self.stderr, question, end=" [y/N] ")
        if self.stdin.readline().strip().lower() not in ("y", "yes"):
            raise QvmError(f"{what}: nothing was changed", machine=machine)

    def begin_line(self) -> None:
        """End the line that a stage has started."""
        if self.is_mid_line:
            self.is_mid_line = False
            tell(self.stderr, "")

    def trace(self, text: str) -> None:
        """Print a line for `--debug`: programs run, the wire log."""
        if self.debug:
            tell(self.stderr, f"debug: {text}")

    @property
    def shows_stages(self) -> bool:
        return self.level >= 2 or (self.level >= 1 and not self.capture and isatty(self.stderr))

    def stage(self, title: str) -> Stage:
        """A step of long work, shown with the time that it took: `with io.stage("..."): ...`."""
        return Stage(self, title)

    def checkpoint(self) -> None:
        """Called repeatedly during every wait; a door overrides it to interrupt the wait."""


PROGRESS_S = 0.2


class Stage:
    """One shown step: its title at once, the seconds it took when it ends."""

    __slots__ = ("_outer", "_shown", "began", "io", "note", "title")

    def __init__(self, io: Io, title: str) -> None:
        self.io = io
        self.title = title
        self.note = ""
        self.began = 0.0
        self._shown = 0.0
        self._outer: Stage | None = None

    def __enter__(self) -> Stage:
        self.began = time.monotonic()
        self._outer, self.io.current = self.io.current, self
        if self.is_drawn:
            self.io.begin_line()
            tell(self.io.stderr, f"  {printable(self.title)} ...", end="")
            self.io.is_mid_line = True
        return self

    @property
    def is_drawn(self) -> bool:
        """True if its line is on a terminal and can be rewritten."""
        return self.io.shows_stages and isatty(self.io.stderr)

    def progress(self, text: str) -> None:
        """Show the progress after the title; a few times a second, and only on a terminal."""
        now = time.monotonic()
        if not self.is_drawn or now - self._shown < PROGRESS_S:
            return
        self._shown = now
        begin = "\r" if self.io.is_mid_line else ""
        tell(self.io.stderr, f"  {printable(self.title)}: {text}", begin=begin, end="\x1b[K")
        self.io.is_mid_line = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.io.current = self._outer
        if not self.io.shows_stages:
            return
        if _is_refused(kind):  # it never started; the error says so
            if self.io.is_mid_line:
                tell(self.io.stderr, "", begin="\r\x1b[K", end="")
            self.io.is_mid_line = False
            return
        took = time.monotonic() - self.began
        mark = failure_mark(kind) or f"{took:.1f} s"
        note = f", {self.note}" if self.note and not kind else ""
        begin = "\r" if self.io.is_mid_line else ""
        self.io.is_mid_line = False
        end = "\x1b[K\n" if self._shown else "\n"
        tell(self.io.stderr, f"  {printable(self.title)}: {mark}{note}", begin=begin, end=end)


QUIET = Io(capture=True, level=0)
"""For library users: nothing is printed unless requested."""


def _is_refused(kind: type[BaseException] | None) -> bool:
    """True for an error that refuses a command before it starts: wrong words or wrong state."""
    return getattr(kind, "status", None) in (EXIT_USAGE, EXIT_STATE)


def failure_mark(kind: type[BaseException] | None) -> str:
    """The mark of a step that such an exception has ended; "" without one."""
    if kind is None:
        return ""
    return "failed" if issubclass(kind, Exception) else "interrupted"  # Ctrl-C, SIGTERM, a shell's end


def tell(stream: TextIO, text: str, *, begin: str = "", end: str = "\n") -> None:
    """Write a line at once; a terminal that is gone does not stop the work.

    Args:
        text: control characters in it are escaped.
        begin, end: written unchanged.
    """
    try:
        print(begin + visible(text), end=end, file=stream, flush=True)
    except (OSError, ValueError):
        pass


def write_at_once() -> None:
    """Make standard output unbuffered, so that it is in order with the output of other processes.

    Without a terminal, Python would buffer some kilobytes, while a command or program of the same
    script writes to the same file. Everything that reaches the buffer is flushed: a raw stream, as
    with `python -u`, may write a part and lose the rest.
    """
    import io

    class Direct(io.BufferedWriter):
        def write(self, data: Any) -> int:
            count = super().write(data)
            self.flush()
            return count

    old: Any = sys.stdout
    if type(old) is not io.TextIOWrapper or type(old.buffer) is not io.BufferedWriter:
        return  # replaced by the caller
    how: dict[str, Any] = {"encoding": old.encoding, "errors": old.errors}
    raw = old.detach().detach()
    sys.stdout = io.TextIOWrapper(Direct(raw), write_through=True, **how)
    setattr(sys, "__stdout__", sys.stdout)  # noqa: B010  # final to mypy


def flush() -> None:
    """Write what standard output still holds; one that the script has closed is not missed."""
    try:
        sys.stdout.flush()
    except (AttributeError, ValueError):
        sys.stdout = open(os.devnull, "w")


def unwritable(error: OSError, machine: str | None = None) -> QvmError:
    """The error for a result that cannot be printed."""
    return QvmError(f"cannot write to standard output: {error.strerror or error}", machine=machine)


def isatty(stream: TextIO | None) -> bool:
    """True if `stream` is open on a terminal."""
    try:
        return stream.isatty()  # type: ignore[union-attr]  # that of None is caught
    except (AttributeError, ValueError):
        return False
