"""A program at the prompt has the terminal from its first instruction on.

May import: xonsh.

xonsh 0.25 gives the terminal to a program's process group only after the program has begun, and where
the shell leads its session (the first program of a terminal) lets it inherit an ignored SIGTTIN. So on
a busy host `less` may read before it is in the foreground, get EIO, and leave. As bash does it, the
child takes the terminal itself before it becomes the program.
"""

from __future__ import annotations

import contextlib
import os
import signal

from xonsh.procs.specs import SubprocSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_STDERR = 2
"""xonsh's own handle of the terminal."""

_xonsh_prepare = SubprocSpec.prep_preexec_fn


def install() -> None:
    """Have every program that xonsh begins from now on take the terminal, unless it is in the background."""
    SubprocSpec.prep_preexec_fn = _prepare


def _prepare(spec: Any, kwargs: dict[str, Any], pipeline_group: int | None = None) -> None:
    _xonsh_prepare(spec, kwargs, pipeline_group=pipeline_group)
    before = kwargs.get("preexec_fn")
    if before is not None:
        kwargs["preexec_fn"] = lambda: _become(before, takes_terminal=not spec.background)


def _become(before: Callable[[], None], *, takes_terminal: bool) -> None:
    """In the child, before the program: the process group, the terminal, the signals of job control."""
    before()
    if takes_terminal:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        with contextlib.suppress(OSError):  # there is no terminal
            os.tcsetpgrp(_STDERR, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])
    for number in (signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_DFL)
