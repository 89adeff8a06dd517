"""Scripts of xonsh lines: `.xsh` files, `-c`, standard input.

    run_xonsh(context, "status -s && echo yes", "<string>", ["-c"])

xonsh 0.25's own way of running a script ends with status 1 whatever failed, and a SIGTERM waits
for a running word; so the context has a runner of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys

from xonsh.built_ins import XSH
from xonsh.environ import make_args_env

from qvmsh.io import flush
from qvmsh.shell.script import report
from qvmsh.shell.script.python import main_namespace
from qvmsh.shell.session import breakpoint as breakpoints
from qvmsh.shell.session import calls, children
from qvmsh.shell.xonsh.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.shell.session.context import Context


def run_xonsh(context: Context, source: str, name: str, argv: Sequence[str]) -> int:
    """Run xonsh code with the context's names and words and return its exit status.

    Args:
        source: the code.
        name: its file (absolute), or `<string>`, `<stdin>`.
        argv: what it sees as `sys.argv` and, without the first, as `$ARGS`.
    """
    is_file = not name.startswith("<")
    sys.argv = list(argv)
    children.install(context, (source, name) if is_file else None)
    XSH.ctx = main_namespace()
    engine = Engine(context, has_vm="vm" in source)
    engine.load(["--no-rc", "--", name] if is_file else ["--no-rc", "-c", ""])
    XSH.env.update(make_args_env())
    XSH.ctx["__name__"] = "__main__"
    if is_file:
        XSH.ctx["__file__"] = name
        XSH.env["XONSH_SOURCE"] = name
        sys.path.insert(0, os.path.dirname(name))
    calls.catch_signals(_end_children)
    breakpoints.install(context)
    atexit.register(_collect)
    gc.freeze()
    gc.enable()
    status = 0
    try:
        engine.run(source, name)
        flush()
    except BaseException as error:
        status = _not_run() or report.ended(error, script=name, debug=context.io.debug)
    if isinstance(XSH.exit, int):  # the alias `exit 5`
        status = XSH.exit
    calls.ending.set()
    engine.unload(status)
    context.leave()
    return status


def _collect() -> None:
    """The collection that Python does before it ends, but not over all of xonsh: a tenth of `-c pass`.

    The next one, when Python takes the modules apart, is over everything.
    """
    if gc.isenabled():
        gc.collect()
    gc.disable()
    gc.unfreeze()


def _not_run() -> int:
    """The shells' status for a program that could not be run (xonsh has 1); 0 for another error."""
    last = XSH.lastcmd
    if last is None or last.proc is not None or callable(last.spec.alias):
        return 0
    return report.EXIT_NOT_EXECUTABLE if last.spec.binary_loc else report.EXIT_NOT_FOUND


def _end_children() -> None:
    """Pass SIGTERM on to the processes of the running pipeline."""
    for process in getattr(XSH.lastcmd, "procs", ()):
        pid = getattr(process, "pid", None)
        if pid and pid != os.getpid() and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
