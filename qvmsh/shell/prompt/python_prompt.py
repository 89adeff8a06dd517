"""`--ui python`: plain Python in ptpython, with `await` at the prompt. No xonsh is loaded.

    run_prompt(context)
    demo:running> await asyncio.sleep(1, "done")

What is awaited runs on a loop in a thread of its own, which keeps running between the inputs, so tasks
live on; Ctrl-C cancels what the prompt waits for.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import signal
import sys
import threading

import ptpython.repl
from prompt_toolkit.history import FileHistory, InMemoryHistory, ThreadedHistory
from ptpython.repl import PythonRepl

from qvmsh.errors import EXIT_FAILED, EXIT_INTERRUPTED, QvmError
from qvmsh.shell.prompt import fields
from qvmsh.shell.prompt.ptpython_look import dress, read_here
from qvmsh.shell.script import report
from qvmsh.shell.script.python import main_namespace
from qvmsh.shell.session import breakpoint as breakpoints
from qvmsh.shell.session import calls
from qvmsh.shell.session.lines import Lines
from qvmsh.shell.xonsh import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import CodeType
    from typing import Any, NoReturn

    from qvmsh.shell.script.python import First
    from qvmsh.shell.session.context import Context

HISTORY = "python_history"

ON_LOOP = frozenset(("create_task", "ensure_future", "gather", "get_running_loop", "current_task", "shield"))
"""What asyncio answers only while its loop is running."""


def run_prompt(context: Context, first: First | None = None) -> int:
    """Read and run Python until the user leaves; returns the exit status of the session.

    Args:
        first: the script that runs before the first prompt (`-i`).
    """
    context.export()
    received = calls.catch_signals()
    signal.signal(signal.SIGQUIT, lambda *_: None)  # Ctrl-\\ is for programs, which have the default again
    context.lines = Lines(context, is_python=True)
    namespace = _namespace(context, first)
    breakpoints.install(context)
    if context.io.level >= 1:
        print(
            "Python: `vm.VERB()` and the functions of that name are the commands, `help(start)` explains "
            "one, Ctrl-D leaves.",
            file=sys.stderr,
        )
    repl = Repl(context, namespace)
    if first is not None:
        repl.status = _run_first(context, first, namespace)
    status = 0
    try:
        repl.run()
    except SystemExit as error:
        status = report.ended(error, script="", debug=False)
    except OSError:
        if not received:
            raise
    finally:
        calls.ending.set()
        repl.close()
        context.leave()
    return 128 + received[0] if received else status


def open_at(context: Context, namespace: dict[str, Any], mark: str, *, ui: str) -> None:  # there is one
    """Open a prompt inside a script, with the names of `namespace`, until it is left."""
    repl = Repl(context, namespace, mark)
    try:
        repl.run()
    finally:
        repl.close()


def _namespace(context: Context, first: First | None) -> dict[str, Any]:
    namespace = main_namespace()
    namespace.update(__builtins__=builtins, **context.names())
    context.namespaces.append(namespace)
    sys.argv = first.argv if first else ["qvm"]
    return namespace


def _run_first(context: Context, first: First, namespace: dict[str, Any]) -> int:
    """Run the script of `-i`; whatever its end, the prompt follows."""
    assert first.program is not None
    try:
        first.program.prepare(lambda _: {}, first.argv, namespace)
        first.program.run(namespace)
    except calls.Leaving:
        raise
    except BaseException as error:
        return first.program.report(error, debug=context.io.debug)
    return 0


async def _on_loop(code: CodeType, namespace: dict[str, Any]) -> Any:
    """Run code without `await` where the loop is the running one."""
    return eval(code, namespace)  # noqa: S307  # the user's own


class Leave(ptpython.repl.exit):
    """`exit`, `exit()`, `exit(5)`."""

    def __call__(self, status: object = None) -> NoReturn:
        raise SystemExit(status)


class _History(FileHistory):
    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):  # a full disk, a removed folder: the line runs nevertheless
            super().store_string(string)


class Repl(PythonRepl):
    """ptpython's prompt in this thread, on a namespace, with the errors and statuses of the shell."""

    def __init__(self, context: Context, namespace: dict[str, Any], mark: str = "") -> None:
        self._context = context
        self._mark = mark
        self._live = fields.Live(context, lambda: self.app)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.status = 0
        super().__init__(get_globals=lambda: namespace)
        dress(self, self._tokens)

    def _create_buffer(self) -> Any:
        path = history.plain(HISTORY, self._context.io)
        self.history = ThreadedHistory(_History(path)) if path else InMemoryHistory()
        return super()._create_buffer()

    def run(self) -> None:
        """Read and run inputs until Ctrl-D or SystemExit (ptpython's own continues after it)."""
        self._add_to_namespace()
        failed = False
        while True:
            self._live.begin()
            try:
                text = self.read()
                failed = False
            except EOFError:
                return
            except Exception as error:
                if failed or isinstance(error, OSError):  # the terminal has gone
                    raise
                failed = True
                self._handle_exception(error)
                continue
            self.run_and_show_expression(text)

    def read(self) -> str:
        return read_here(self)

    def _tokens(self) -> list[tuple[str, str]]:
        status = [("ansired bold", f"[{self.status}] ")] if self.status else []
        values = self._live.fields
        mark = [("ansiyellow", f"{self._mark} ")] if self._mark else []
        return [
            *mark,
            *status,
            ("ansicyan bold", values["qvm_name"]()),
            ("", values["qvm_state"]()),
            ("ansiblue bold", values["qvm_cwd"]()),
            ("", "> "),
        ]

    def run_and_show_expression(self, expression: str) -> None:
        lines = self._context.lines
        if lines is not None and not self._mark:
            lines.begin(expression)
        self._context.forget_settings()
        self.status = 0
        try:
            super().run_and_show_expression(expression)
        finally:
            if lines is not None and not self._mark:
                lines.end(self.status)

    def eval(self, line: str) -> object:
        try:
            code = self._compile_with_flags(line, "eval")
        except SyntaxError:
            code = None
        if code is None:
            code = self._compile_with_flags(line, "exec")
        namespace = self.get_globals()
        if ON_LOOP & {*code.co_names} and not code.co_flags & 0x80:
            return self._wait(_on_loop(code, namespace))
        result = eval(code, namespace)  # noqa: S307  # the user's own
        if code.co_flags & 0x80:  # CO_COROUTINE: `await` at the margin
            result = self._wait(result)
        if result is not None:
            builtins._ = result  # type: ignore[attr-defined]  # as Python's own prompt does
        return result

    def _wait(self, awaited: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the session's loop; Ctrl-C cancels it, and its clean-up is waited for."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="qvm-await", daemon=True).start()
        done = threading.Event()

        async def run() -> Any:
            try:
                return await awaited
            finally:
                done.set()

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException as error:
            if not future.done() or isinstance(error, KeyboardInterrupt):
                future.cancel()
                done.wait()
            raise

    def close(self) -> None:
        """End the loop of what is awaited, and the connection to QEMU."""
        self._live.close()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _handle_exception(self, e: BaseException) -> None:
        self.status = EXIT_FAILED
        trace = e.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != "<stdin>":
            trace = trace.tb_next
        e.__traceback__ = trace or e.__traceback__
        if isinstance(e, QvmError) or report.is_bug(e, ""):
            self.status = report.ended(e, script="", debug=False)
            return
        self.status = report.status_of(e)
        super()._handle_exception(e)

    def _handle_keyboard_interrupt(self, e: KeyboardInterrupt) -> None:
        self.status = EXIT_INTERRUPTED
        print(file=sys.stderr)  # the terminal has shown ^C

    def _add_to_namespace(self) -> None:
        self.get_globals().setdefault("exit", Leave())

    def _remove_from_namespace(self) -> None:
        pass

    def _load_start_paths(self) -> None:
        pass
