"""`breakpoint()`: the shell opens at that place, with the names that are seen there.

    install(context)        # from then on `breakpoint()` opens qvm's shell

Leaving the shell resumes the script; names that were changed there are changed in the script.
PYTHONBREAKPOINT, where it is set, decides as in any Python.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading

from qvmsh.errors import Terminated
from qvmsh.io import isatty
from qvmsh.shell.session import calls, ui

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, Protocol

    from qvmsh.shell.session.context import Context

    class Prompt(Protocol):
        """What the modules that open a prompt have."""

        def open_at(self, context: Context, namespace: dict[str, Any], mark: str, *, ui: str) -> None: ...


PROMPTS = {"python": "qvmsh.shell.prompt.python_prompt"}
XONSH_PROMPT = "qvmsh.shell.prompt.xonsh_prompt"
"""What opens a prompt; it is in a higher room, and is imported when it is needed."""


def install(context: Context) -> None:
    """Let `breakpoint()` open the shell of `context`."""
    if os.environ.get("PYTHONBREAKPOINT"):  # a debugger looks for the frame that has called it
        return
    sys.breakpointhook = lambda *words, **more: stop(context, sys._getframe(1), *words, **more)


def stop(context: Context, frame: FrameType, *words: Any, **more: Any) -> object:
    """Open the shell with the names of `frame`; return when the user leaves it."""
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*words, **more)
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    why = ""
    if not (isatty(sys.__stdin__ or sys.stdin) and isatty(sys.__stdout__ or sys.stdout)):
        why = "there is no terminal"
    elif threading.current_thread() is not threading.main_thread():
        why = "it is not in the main thread"
    if why:
        context.io.warn(f"breakpoint() at {place} is ignored: {why}")
        return None
    namespace = _seen(context, frame)
    before = dict(namespace)
    _show(frame)
    sys.stdout.flush()
    chosen = ui.chosen(context)
    mark = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler):
        signal.signal(signal.SIGTERM, _leaving(handler))
    try:
        prompt: Prompt = importlib.import_module(PROMPTS.get(chosen, XONSH_PROMPT))
        prompt.open_at(context, namespace, mark, ui=chosen)
    finally:
        if callable(handler):
            signal.signal(signal.SIGTERM, handler)
        if namespace is not frame.f_globals:
            _write_back(frame, before, namespace)
    return None


def _leaving(handler: Callable[[int, FrameType | None], object]) -> Callable[[int, FrameType | None], None]:
    """A handler whose `Terminated` leaves a prompt: asyncio swallows all but SystemExit."""

    def leave(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except Terminated:
            calls.leave(number, frame)

    return leave


def _seen(context: Context, frame: FrameType) -> dict[str, Any]:
    """The names that code at this place sees, and the context's behind them."""
    if frame.f_locals is frame.f_globals:
        return frame.f_globals
    own = [*frame.f_locals]
    found = {**context.names(), **frame.f_globals, **frame.f_locals}
    if "locals" not in found:
        found["locals"] = lambda: {name: found[name] for name in own if name in found}
    return found


def _write_back(frame: FrameType, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Give the function what was changed at the prompt, as far as the names are its own."""
    own = {*frame.f_code.co_varnames, *frame.f_code.co_cellvars, *frame.f_code.co_freevars}
    changed = {
        name: value
        for name, value in after.items()
        if name in own and (name not in before or before[name] is not value)
    }
    if not changed:
        return
    frame.f_locals.update(changed)
    if sys.version_info < (3, 13):  # from then on f_locals writes through (PEP 667)
        import ctypes

        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def _show(frame: FrameType) -> None:
    """Where the script is, and how to resume it."""
    import linecache

    name = frame.f_code.co_name
    where = "" if name == "<module>" else f" in {name}()"
    print(f"> {frame.f_code.co_filename}:{frame.f_lineno}{where}", file=sys.stderr)
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    if line:
        print(f"    {line}", file=sys.stderr)
    print("Ctrl-D resumes the script, `raise SystemExit` ends it.", file=sys.stderr)
