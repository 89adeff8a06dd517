"""A command line inside a session: on the session's machine, in its place in a pipeline.

WordCall(context).perform(["status", "-s"])     # the exit status
"""

from __future__ import annotations

import signal
import sys
import threading

from qvmsh import errors
from qvmsh.cli.main import FOREIGN, Call
from qvmsh.cli.parse import Entry, verb_of
from qvmsh.commands.index import COMMANDS
from qvmsh.errors import Terminated, printable
from qvmsh.io import isatty, tell
from qvmsh.shell.session import spelling
from qvmsh.shell.session.io import SessionIo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import Any, TextIO

    from qvmsh.cli.parse import Bound
    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.shell.session.context import Context


ending = threading.Event()
"""Set when a signal ends the session: words that still run are ended."""


class Leaving(Terminated, SystemExit):
    """A signal ends the session: to a command at work it is `Terminated`, to xonsh `SystemExit`."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


def leave(number: int, frame: FrameType | None) -> None:
    """Raise `Leaving`: at once, or as the next step of the event loop whose own code `frame` is.

    There it would take a step of the loop with it, and a task might wait for that step for ever.
    """
    loop = sys.modules["asyncio"]._get_running_loop() if "asyncio" in sys.modules else None
    module = frame.f_globals.get("__name__", "").partition(".")[0] if frame else ""
    if loop is None or module not in ("asyncio", "selectors", "weakref", "_weakrefset"):
        raise Leaving(number)
    loop.call_soon_threadsafe(leave, number, None)


def catch_signals(before_leaving: Callable[[], object] = lambda: None) -> list[int]:
    """Let a closed terminal and SIGTERM end the session, by `Leaving` in the main thread.

    Args:
        before_leaving: called first.

    Returns:
        The signals that have come, filled as they come.
    """
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        received.append(number)
        ending.set()
        before_leaving()
        leave(number, frame)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    return received


class WordIo(SessionIo):
    """The streams of a word's place in a pipeline; its waits can be interrupted.

    Args:
        is_reader_interrupted: True once Ctrl-C has ended a program behind it in the pipeline, which
            had the terminal, so that the word has no other way to know.
        is_on_terminal: the shell passes on what it writes to the terminal, through a pipe.
    """

    def __init__(
        self,
        session: Context,
        is_reader_interrupted: Callable[[], bool] = lambda: False,
        *,
        is_on_terminal: bool = False,
        **how: Any,
    ) -> None:
        super().__init__(session, **how)
        self._is_reader_interrupted = is_reader_interrupted
        self._is_on_terminal = is_on_terminal

    @property
    def is_on_terminal(self) -> bool:
        return self._is_on_terminal or super().is_on_terminal

    def checkpoint(self) -> None:
        """End the wait if Ctrl-C was typed or the session ends.

        Raises:
            KeyboardInterrupt, Terminated: respectively.
        """
        if getattr(threading.current_thread(), "_interrupted", False):
            if isatty(self.stderr):
                tell(self.stderr, "")  # the terminal has shown ^C
            raise KeyboardInterrupt
        if ending.is_set():
            raise Terminated
        if self._is_reader_interrupted():
            raise KeyboardInterrupt


class WordCall(Call):
    """One command line of a session: parsed and rendered as everywhere, on the session's machine.

    Args:
        streams: standard input, output and error; None = the process' own.
        is_reader_interrupted, is_on_terminal: as for `WordIo`.
    """

    def __init__(
        self,
        context: Context,
        streams: tuple[TextIO | None, TextIO | None, TextIO | None] = (None, None, None),
        *,
        is_reader_interrupted: Callable[[], bool] = lambda: False,
        is_on_terminal: bool = False,
    ) -> None:
        super().__init__()
        self._context = context
        self._streams = streams
        self._is_reader_interrupted = is_reader_interrupted
        self._is_on_terminal = is_on_terminal
        self.io = self.new_io(level=1, debug=False, json=False)

    def new_io(self, *, level: int, debug: bool, json: bool) -> Io:
        stdin, stdout, stderr = self._streams
        session = self._context.io
        return WordIo(
            self._context,
            self._is_reader_interrupted,
            is_on_terminal=self._is_on_terminal,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            level=session.level if level == 1 else level,
            debug=debug or session.debug,
            json=json,
            capture=json,
        )

    def machine_here(self, overrides: Sequence[tuple[str, str]], *, is_optional: bool) -> BaseMachine | None:
        return self._context.machine(self.io, overrides=overrides, is_optional=is_optional)

    def as_owner(self, bound: Bound) -> int | None:
        """A session has one account's rights: another's machine is refused where it would be opened."""
        return None

    def spoken(self, result: object) -> str:
        text = super().spoken(result)
        return text if self.verb in FOREIGN else self._context.spoken(text)

    def here(self) -> str | None:
        return self._context.directory

    def failed(self, error: errors.QvmError) -> int:
        if error.hint:
            error.hint = self._context.spoken(self.io.named(error.hint))
        return super().failed(error)

    def without_reader(self) -> int:
        return errors.EXIT_FAILED


def child(context: Context, words: list[str]) -> list[str]:
    """The argument list that runs a command line of qvm as a process of its own."""
    argv = [sys.executable, "-X", "utf8", "-P", "-m", "qvmsh"]
    found = verb_of(words)
    if context.directory is not None and (found is None or Entry(found[0]).machine != "none"):
        argv[-1] = "qvmsh.shell.session.word_main"
        argv += [context.directory, *(f"{name}={value}" for name, value in context.overrides), "--"]
    if context.io.level != 1:
        argv.append("-v" if context.io.level > 1 else "-q")
    return [*argv, *(["--debug"] if context.io.debug else []), *words]


def listing(context: Context) -> str:
    """The commands by topic and the preloaded names, one a line."""
    from qvmsh.cli.help import TOPICS

    width = max(map(len, COMMANDS)) + 2
    machine = "no machine here"
    if context.has_machine:
        machine = printable(f"{context.vm.name} in {context.directory}")
    parts = [f"{machine}. A command is a word (`start --no-wait`) and a function (`start(wait=False)`)."]
    for group, title in TOPICS.items():
        rows = []
        for verb, row in COMMANDS.items():
            if row[2] == group:
                word = verb.partition(" ")[0]
                shown = f"vm {verb}" if word in spelling.REFUSED or spelling.is_hosts(word) else verb
                rows.append(f"  {shown:{width + 3}}{row[7]}")
        if rows:
            parts.append("\n".join([f"{title}:", *rows]))
    parts.append(
        "Names: vm (the machine, every command a method), settings, guest, local (plumbum), sh, $VM_...\n"
        "qmp is an object too: `qmp.query_status()`. Tab completes, also what the running QEMU understands.\n"
        "`start --help` and `help(start)` explain; `vm VERB` always means qvm's."
    )
    return "\n\n".join(parts)
