"""A program at the prompt that reads the terminal before it has been given to it gets it nevertheless.

May import: xonsh.

xonsh 0.25 gives the terminal to a program's process group after the program has begun, and where the
shell leads its session (the first program of a terminal) the program inherits an ignored SIGTTIN. So
on a busy host `less` may read while it is in the background, get EIO, and leave. Here such a program
has the default signals, is stopped by that read, and goes on as soon as it has the terminal.
"""

from __future__ import annotations

import contextlib
import os
import signal

from xonsh.procs.pipelines import CommandPipeline
from xonsh.procs.specs import SubprocSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_xonsh_prepare = SubprocSpec.prep_preexec_fn
_xonsh_save = CommandPipeline._save_term_state


def install() -> None:
    """Do this for every program that xonsh begins from now on."""
    SubprocSpec.prep_preexec_fn = _prepare
    CommandPipeline._save_term_state = _save


def _prepare(spec: Any, kwargs: dict[str, Any], pipeline_group: int | None = None) -> None:
    _xonsh_prepare(spec, kwargs, pipeline_group=pipeline_group)
    before = kwargs.get("preexec_fn")
    if before is not None:
        kwargs["preexec_fn"] = lambda: _become(before)


def _become(before: Callable[[], None]) -> None:
    """In the child, before the program: its process group, and the signals of job control."""
    before()
    for number in (signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_DFL)


def _save(pipeline: Any) -> None:
    """The group has just been given the terminal: what it was stopped for it can do now."""
    _xonsh_save(pipeline)
    with contextlib.suppress(OSError):  # it has ended already
        os.killpg(pipeline.term_pgid, signal.SIGCONT)
