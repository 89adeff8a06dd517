"""Child processes of a script: fork, spawn, forkserver; and what is pickled for them.

    install(context)                    # once a session
    restored("start", "/vm/demo", ())   # what `pickle.loads(pickle.dumps(start))` gives

A forked child has Python's own signals again, since a handler that raises would be a traceback in a
worker that is about to end, or a lock that is never released; and it gets a shell of its own in the
guest. A child of `spawn` or `forkserver` is a new Python that imports the script: it gets the session
first, its names as builtins.

Source: Python's `multiprocessing/spawn.py`: `get_preparation_data` makes what the child unpickles
before anything else, and `forkserver` asks it with the name `ignore` for what to import beforehand.
"""

from __future__ import annotations

import _signal as signal  # `signal` and `threading` cost more than a small script
import _thread
import os
import sys
from time import sleep

from qvmsh.shell.session import context as contexts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any

    from qvmsh.shell.session.context import Context

SPAWN = "multiprocessing.spawn"
CHILD_MAIN = "qvmsh.shell.xonsh.child_main"
"""The module that a child runs as `__main__` where the script is xonsh."""

_is_installed = False
_lines: list[tuple[str, str]] = []
"""In a child, the xonsh script that it imports: its source and its name."""


def install(context: Context, lines: tuple[str, str] | None = None) -> None:
    """Make `context` the session of this process and of those that come from it.

    Args:
        lines: source and name of the script, if it is xonsh.
    """
    global _is_installed
    contexts.begin(context)
    if lines:
        _lines[:] = [lines]
    if _is_installed:
        return
    _is_installed = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_block, after_in_parent=_go_on, after_in_child=_begin_anew)
    if SPAWN in sys.modules:
        _teach(sys.modules[SPAWN])
    else:
        sys.meta_path.insert(0, _Finder())


_ENDING = (signal.SIGTERM, signal.SIGHUP)
_held = _thread._local()


def _block() -> None:
    """Python forgets a signal that comes before its child is set up; so it comes after that."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def _go_on() -> None:
    for number in signal.sigpending() & {*_ENDING}:
        signal.sigtimedwait((number,), 0)  # raised in here, its exception would be ignored
        _thread.start_new_thread(_send, (number, sys._getframe(1), sys._getframe(1).f_lasti))
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _send(number: int, caller: FrameType, place: int) -> None:
    """Send the signal to this process once `caller` is past the call at `place`: a fork with its hooks."""
    for _ in range(60_000):  # in a loop of forks it is always there
        if caller.f_lasti == place:
            sleep(0.001)
    os.kill(os.getpid(), number)


def _begin_anew() -> None:
    for number in _ENDING:
        owner = getattr(signal.getsignal(number), "__module__", None) or ""
        if owner.partition(".")[0] in ("qvmsh", "xonsh"):
            signal.signal(number, signal.SIG_DFL)
    contexts.current().forget_guest()
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


class _Finder:
    """Waits for multiprocessing to be imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name != SPAWN:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        loader: Any = spec.loader if spec else None
        execute = loader.exec_module

        def execute_and_teach(module: Any) -> None:
            execute(module)
            _teach(module)

        loader.exec_module = execute_and_teach
        return spec


def _teach(spawn: Any) -> None:
    """Put the session first in what a child is sent."""
    ask = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        found: dict[str, Any] = ask(name)
        if name == "ignore":  # the server itself has no session
            found.pop("init_main_from_path", None)
            return found
        if _lines and found.pop("init_main_from_path", None):
            found["init_main_from_name"] = CHILD_MAIN
        return {"qvm": _Session(), **found}

    spawn.get_preparation_data = get_preparation_data


class _Session:
    """Unpickled in a child, it begins the session there."""

    def __reduce__(self) -> tuple[Any, ...]:
        context = contexts.current()
        return _begin, (*context.place, context.io.level, context.io.debug, _lines[:1])


def _begin(
    directory: str | None, overrides: Sequence[tuple[str, str]], level: int, is_debug: bool,
    lines: Sequence[tuple[str, str]],
) -> None:  # fmt: skip
    import builtins

    context = contexts.at(directory, overrides, level=level, debug=is_debug)
    install(context, lines[0] if lines else None)
    names = vars(builtins)
    names.update({name: value for name, value in context.names().items() if name not in names})
    context.namespaces.append(names)


def begin_again() -> tuple[Context, str, str]:
    """The session in a child, with source and name of its xonsh script; signals end the child."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
    return contexts.current(), *_lines[0]


def restored(name: str, directory: str | None, overrides: Sequence[tuple[str, str]]) -> Any:
    """The preloaded name `name`, or `disk.add`, of the session in that place."""
    context = contexts.current()
    if context.place != (directory, tuple(overrides)):
        context = contexts.at(directory, overrides)
    first, _, rest = name.partition(".")
    found = context.names()[first]
    return getattr(found, rest) if rest else found
