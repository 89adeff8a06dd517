"""Words as jobs: `start &`, and `start | less` at the prompt, are processes, as programs are.

So `jobs`, `fg`, `bg`, `kill`, Ctrl-Z and the end of a reader are the kernel's, and the session can
run other words. What such a process prints in the background is put above the line being typed.
What only this session can do (`use`), and functions of Python under an alias, are refused in the
background: xonsh 0.25 runs them in a thread, which `jobs` does not list and nothing can end.

Source: xonsh 0.25, `procs/specs.py` (`cmds_to_specs`, `SubprocSpec.resolve_alias`).
"""

from __future__ import annotations

import inspect
import os
import select
import threading

from xonsh.built_ins import XSH
from xonsh.events import events
from xonsh.procs import specs
from xonsh.procs.pipes import PipeChannel
from xonsh.procs.specs import SubprocSpec
from xonsh.tools import XonshError

from qvmsh.shell.session.calls import child
from qvmsh.shell.xonsh.words import Word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qvmsh.shell.session.context import Context

OF_SESSION = ("use", "session")
"""Words that change or read this session: no other process can run them."""

_here = threading.local()
_xonsh_build = specs.cmds_to_specs
_xonsh_resolve = SubprocSpec.resolve_alias


def install(context: Context, show: Callable[[str, str], object] | None = None) -> None:
    """Run such words as processes from now on.

    Args:
        show: prints a line that such a process has written, and what follows it (`\\n`, or nothing yet),
            above the prompt if there is one; without it they write to the standard streams themselves.
    """

    def build(cmds: list[Any], captured: Any = False, **options: Any) -> list[Any]:
        is_background = bool(cmds) and cmds[-1] == "&"
        is_prompt = bool(XSH.env["XONSH_INTERACTIVE"])
        outside = getattr(_here, "is_job", False)
        _here.is_job = is_background or (is_prompt and captured == "hiddenobject" and "|" in cmds)
        try:
            made: list[Any] = _xonsh_build(cmds, captured=captured, **options)
        finally:
            _here.is_job = outside
        if is_background:
            _require_processes(made)
            if show is not None and is_prompt and any(hasattr(spec, "qvm_word") for spec in made):
                _relay(made, show)
        return made

    def resolve(spec: Any) -> None:
        _xonsh_resolve(spec)
        if getattr(_here, "is_job", False) and isinstance(spec.alias, Word):
            words = spec.alias.line(spec.cmd[1:])
            if words[0] not in OF_SESSION:
                spec.qvm_word = words[0]
                spec.alias = child(context, words)

    def stack(spec: Any) -> None:
        """As xonsh's own, which counts frames, and `build` is one more; `source` needs it."""
        words = (
            inspect.signature(getattr(spec.alias, "func", spec.alias)).parameters
            if callable(spec.alias)
            else ()
        )
        if len(words) > 5 or "stack" in words:
            frames = inspect.stack(context=0)
            spec.stack = frames[[each.function for each in frames].index("run_subproc") + 2 :]

    specs.cmds_to_specs = build
    SubprocSpec.resolve_stack = stack
    SubprocSpec.resolve_alias = resolve
    events.on_post_spec_run(lambda spec, proc, **_: _begun(spec, proc, context))


def _require_processes(made: list[Any]) -> None:
    """Refuse what would be a thread of this shell."""
    for spec in made:
        if spec.is_proxy:
            name = spec.alias_name or getattr(spec.alias, "__name__", "this")
            for each in made:
                each.close()
            raise XonshError(
                f"qvm: {name}: cannot run in the background: it is part of this shell, "
                "not a program\nhint: type it without the `&`"
            )


def _relay(made: list[Any], show: Callable[[str, str], object]) -> None:
    """Let the processes of a pipeline print by `show` what they would write to the terminal."""
    for spec in made:
        pipe = PipeChannel.from_pipe()
        spec.pipe_channels.append(pipe)
        spec.qvm_pipe = pipe
        if spec.stdout is None:
            spec.stdout = pipe.write_fd
        if spec.stderr is None:
            spec.stderr = pipe.write_fd
        reader = os.dup(pipe.read_fd)
        pipe.close_reader()
        threading.Thread(target=_pass_on, args=(reader, show), name="qvm-output", daemon=True).start()


def _begun(spec: Any, process: Any, context: Context) -> None:
    """A process has begun: it has its end of the pipe, and it may be a word at work in this session."""
    if hasattr(spec, "qvm_pipe"):
        spec.qvm_pipe.close_writer()
    if hasattr(spec, "qvm_word"):
        work = f"{spec.qvm_word} &"
        context.works.begin(work)
        words = (os.pidfd_open(process.pid), work, context)
        threading.Thread(target=_await, args=words, name="qvm-job", daemon=True).start()


def _await(pidfd: int, work: str, context: Context) -> None:
    """Wait for the end of a process."""
    end = select.poll()
    end.register(pidfd, select.POLLIN)
    end.poll()
    os.close(pidfd)
    context.works.end(work)


def _pass_on(reader: int, show: Callable[[str, str], object]) -> None:
    """Show what a process writes until it, and whatever it has left behind with that end, has ended."""
    with open(reader, "rb", buffering=0) as file:
        rest = b""
        while data := file.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                show(line.decode(errors="replace"), "\n")
    if rest:
        show(rest.decode(errors="replace"), "\n")
