"""How a command talks to whoever called it: streams, terminal, stages of long work.

Every `Machine` carries one `Io`. The one-shot door makes it from the process' own streams, the
shell from those of the pipeline that the word stands in, a library user gets one that prints
nothing and captures what a guest's command writes. So a command is written once and never asks
where it runs::

    with vm.io.stage("waiting for ssh"):
        ...
"""

from __future__ import annotations

import sys
import time

from qvmsh.errors import EXIT_STATE, EXIT_USAGE, QvmError, printable, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
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
        """The shell or script that a command stands in (`shell.session.context`)."""

        @property
        def lines(self) -> Lines | None: ...
        def use(self, where: str) -> Named: ...


class Io:
    """The caller's side of a command.

    Args:
        stdin, stdout, stderr: text streams; children get their file descriptors.
        capture: a guest's command gives its output back as a value (Python) instead of
            writing to `stdout` (command line, shell word).
        level: 0 = only errors and results, 1 = warnings and, on a terminal, stages,
            2 = stages always (`-v`).
    """

    session: Session | None = None
    """The shell or script that the command stands in; None outside of one."""

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
        """The title of a stage stands on the terminal without a line end."""
        self.current: Stage | None = None
        """The step that is at work; within others it is the innermost one."""

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
        """What is written to `stdout` is seen by a person: nothing in it may act on the terminal."""
        return isatty(self.stdout)

    def remark(self, text: str) -> None:
        """Warn of something in the configuration; in a session once is enough."""
        self.warn(text)

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
        """Say something the user should know although the command goes on (one line)."""
        if self.level >= 1:
            self.begin_line()
            tell(self.stderr, f"qvm: {printable(text)}")

    def say(self, text: str) -> None:
        """Say what is being done, where the user asked for it (`-v`) or sits at a terminal."""
        if self.shows_stages:
            self.begin_line()
            tell(self.stderr, text)

    def begin_line(self) -> None:
        """End the line that a stage has begun."""
        if self.is_mid_line:
            self.is_mid_line = False
            tell(self.stderr, "")

    def trace(self, text: str) -> None:
        """A line for `--debug`: programs run, the wire log."""
        if self.debug:
            tell(self.stderr, f"debug: {text}")

    @property
    def shows_stages(self) -> bool:
        return self.level >= 2 or (self.level >= 1 and not self.capture and isatty(self.stderr))

    def stage(self, title: str) -> Stage:
        """A step of long work, shown with the time that it took: `with io.stage("..."): ...`."""
        return Stage(self, title)

    def checkpoint(self) -> None:
        """Called between the slices of every wait; a door overrides it to interrupt the wait."""


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
        """True where its line stands on a terminal, and can change."""
        return self.io.shows_stages and isatty(self.io.stderr)

    def progress(self, text: str) -> None:
        """Show how far it is, behind its title; at most some times a second, and only on a terminal."""
        now = time.monotonic()
        if not self.is_drawn or now - self._shown < PROGRESS_S:
            return
        self._shown = now
        begin = "\r" if self.io.is_mid_line else ""
        tell(self.io.stderr, f"  {printable(self.title)}: {text}", begin=begin, end="\x1b[K")
        self.io.is_mid_line = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.io.current = self._outer
        if not self.io.shows_stages:
            return
        if _is_refused(kind):  # it was never begun; the error says so
            if self.io.is_mid_line:
                tell(self.io.stderr, "", begin="\r\x1b[K", end="")
            self.io.is_mid_line = False
            return
        took = time.monotonic() - self.began
        mark = cut_off(kind) or f"{took:.1f} s"
        note = f", {self.note}" if self.note and not kind else ""
        begin = "\r" if self.io.is_mid_line else ""
        self.io.is_mid_line = False
        end = "\x1b[K\n" if self._shown else "\n"
        tell(self.io.stderr, f"  {printable(self.title)}: {mark}{note}", begin=begin, end=end)


QUIET = Io(capture=True, level=0)
"""What a library user gets: nothing is printed but what is asked for."""


def _is_refused(kind: type[BaseException] | None) -> bool:
    """True for an error with which a command refuses to begin: its words, or the state, are wrong."""
    return getattr(kind, "status", None) in (EXIT_USAGE, EXIT_STATE)


def cut_off(kind: type[BaseException] | None) -> str:
    """How a step is marked that such an exception has ended; "" without one."""
    if kind is None:
        return ""
    return "failed" if issubclass(kind, Exception) else "interrupted"  # Ctrl-C, SIGTERM, a shell's end


def tell(stream: TextIO, text: str, *, begin: str = "", end: str = "\n") -> None:
    """Write a line at once; a terminal that has gone does not stop the work that is told of.

    Args:
        text: nothing in it acts on a terminal.
        begin, end: written as they are.
    """
    try:
        print(begin + visible(text), end=end, file=stream, flush=True)
    except (OSError, ValueError):
        pass


def write_at_once() -> None:
    """Let standard output hold nothing back, so that it is in order with what other processes write.

    With no terminal there, Python would keep some kilobytes, while a command or program of the same
    script writes to the same file. Whatever reaches the buffer is flushed: a raw stream, as with
    `python -u`, may write a part and forget the rest.
    """
    import io

    class Direct(io.BufferedWriter):
        def write(self, data: Any) -> int:
            count = super().write(data)
            self.flush()
            return count

    old: Any = sys.stdout
    if type(old) is not io.TextIOWrapper or type(old.buffer) is not io.BufferedWriter:
        return  # somebody else's
    how: dict[str, Any] = {"encoding": old.encoding, "errors": old.errors}
    raw = old.detach().detach()
    sys.stdout = io.TextIOWrapper(Direct(raw), write_through=True, **how)
    setattr(sys, "__stdout__", sys.stdout)  # noqa: B010  # final to mypy


def unwritable(error: OSError, machine: str | None = None) -> QvmError:
    """The error for a result that the caller cannot be given."""
    return QvmError(f"standard output cannot be written to: {error.strerror or error}", machine=machine)


def isatty(stream: TextIO | None) -> bool:
    """True if `stream` is open on a terminal."""
    try:
        return stream.isatty()  # type: ignore[union-attr]  # that of None is caught
    except (AttributeError, ValueError):
        return False
