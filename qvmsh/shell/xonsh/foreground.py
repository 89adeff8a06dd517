"""Corrects what the terminal does to programs and words in the foreground.

A program may read the terminal before it owns it.

xonsh 0.25 gives the terminal to a program's process group after the program has begun, and where the
shell leads its session (the first program of a terminal) the program inherits an ignored SIGTTIN. So
on a busy host `less` may read while it is in the background, get EIO, and leave. Here such a program
has the default signals, is stopped by that read, and resumes as soon as it has the terminal.

xonsh also takes Ctrl-Z from the terminal while it captures a program's output (`$(program)`), and never
restores it; after Ctrl-Z on a pipeline it waits three seconds for the end of what was stopped; and it
silently ignores Ctrl-Z itself while code of its own runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios

from xonsh.procs import jobs
from xonsh.procs.pipelines import CommandPipeline
from xonsh.procs.posix import PopenThread
from xonsh.procs.specs import SubprocSpec

from qvmsh.io import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qvmsh.shell.session.context import Context

_xonsh_disable = PopenThread._disable_suspend_keybind
_disabled: list[Any] = []
"""The character that xonsh has taken from the terminal, while it has."""

_xonsh_close = CommandPipeline._close_prev_procs
_xonsh_prepare = SubprocSpec.prep_preexec_fn
_xonsh_save = CommandPipeline._save_term_state


def install() -> None:
    """Apply this to every program that xonsh starts from now on."""
    SubprocSpec.prep_preexec_fn = _prepare
    CommandPipeline._save_term_state = _save
    CommandPipeline._close_prev_procs = _close
    PopenThread._disable_suspend_keybind = _disable


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
    """Resume the group, which has just been given the terminal and may have been stopped for it."""
    _xonsh_save(pipeline)
    with contextlib.suppress(OSError):  # it has ended already
        os.killpg(pipeline.term_pgid, signal.SIGCONT)


def _close(pipeline: Any) -> None:
    """Leave a stopped pipeline alone: `fg` resumes it."""
    is_stopped = any(
        job["pipeline"] is pipeline and job["status"] == "stopped" for job in jobs.get_jobs().values()
    )
    if not is_stopped:
        _xonsh_close(pipeline)


def _disable(process: Any) -> None:
    """Note what xonsh takes from the terminal."""
    _xonsh_disable(process)
    if not _disabled and process._tc_cc_vsusp != b"\0":
        _disabled.append(process._tc_cc_vsusp)


def restore_suspend_key() -> None:
    """Give Ctrl-Z back to the terminal if xonsh has taken it."""
    if not _disabled:
        return
    character = _disabled.pop()
    with contextlib.suppress(termios.error):  # it is not a terminal, or it has gone
        mode = termios.tcgetattr(0)
        if mode[6][termios.VSUSP] == b"\0":
            mode[6][termios.VSUSP] = character
            termios.tcsetattr(0, termios.TCSANOW, mode)


def refuse_to_stop(context: Context) -> None:
    """At Ctrl-Z, report that what runs in this process cannot be stopped."""

    def refuse(_number: int, _frame: object) -> None:
        os.killpg(0, signal.SIGCONT)  # what it has begun itself was stopped with the terminal's group
        verb = context.works.current
        what = f"`{verb}`" if verb else "this"
        instead = f", `{verb} &` starts it in the background" if verb else ""
        line = f"qvm: {what} cannot be stopped by Ctrl-Z: Ctrl-C ends it{instead}"
        tell(sys.__stderr__ or sys.stderr, line, begin="\n")

    signal.signal(signal.SIGTSTP, refuse)
