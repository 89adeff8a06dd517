"""xonsh with the machine's context: the set-up that prompt, scripts and `-c` share.

    engine = Engine(context)
    engine.load(["--no-rc", "-c", ""])      # XSH is ready, names and words are in it
    engine.compile(source, "<string>")

Three things of xonsh 0.25 are used that are not documented, held by tests/qemu/shell/test_forms.py
and docs/adr/0004: `Execer.ctxtransformer`, `main.premain` with its event `on_pre_rc`, and the rule of
its parser for strings, `p_string_literal`.
"""

from __future__ import annotations
import __future__ as future

import ast
import builtins
import os
import sys
from signal import SIGINT

import xonsh.main
from xonsh.built_ins import XSH
from xonsh.events import events
from xonsh.parsers import ast as xonsh_ast
from xonsh.procs.pipelines import CommandPipeline

from qvmsh.errors import EXIT_INTERRUPTED
from qvmsh.io import unwritable
from qvmsh.machine.machine import BaseMachine
from qvmsh.shell.script import check
from qvmsh.shell.session.names import Command, Group, Lazy, Nowhere
from qvmsh.shell.xonsh import foreground, jobs, quoting, reaping, streams, words
from qvmsh.shell.xonsh.chunks import chunks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping
    from types import CodeType
    from typing import Any

    from qvmsh.shell.session.context import Context

UNSEEN = ("source", "xontrib", "execx", "XSH", "__xonsh__", "xonsh")
"""With one of these words a script can define names unseen."""

FUTURES = sum(getattr(future, name).compiler_flag for name in future.all_feature_names)
"""The bits of a code object that `from __future__ import` sets; they hold for the chunks after it."""


class Transformer(xonsh_ast.CtxAwareTransformer):  # type: ignore[misc]  # xonsh has no types
    """Decides which lines are commands; with a command's name first, a statement is one.

    xonsh takes a line for Python if all its names are defined, so with `stop` and `start` defined
    `stop && start --loadvm x` would silently not run `stop`. Here a statement that is nothing but
    such a name, or begins with it as an operand (`status -v`, `status | cat`), is a command,
    unless the user has given the name another meaning.
    """

    def __init__(self, parser: Any, names: Mapping[str, object], words: Container[str]) -> None:
        super().__init__(parser)
        self._names = names
        self._words = words
        self._is_statement = False

    def ctxvisit(self, node: Any, inp: str, *words: Any, **options: Any) -> Any:
        tree = super().ctxvisit(node, inp, *words, **options)
        if "'" in inp:
            for each in ast.walk(tree):
                if isinstance(each, ast.Call) and getattr(each.func, "attr", "").startswith("subproc_"):
                    quoting.keep(each, self._words)
        return tree

    def visit_Expr(self, node: Any) -> Any:  # noqa: N802  # ast's name
        outside, self._is_statement = self._is_statement, True
        try:
            return super().visit_Expr(node)
        finally:
            self._is_statement = outside

    def is_in_scope(self, node: Any) -> bool:
        if self._is_statement and self._is_command(node):
            return False
        return bool(super().is_in_scope(node))

    def _is_bare_builtin(self, node: Any) -> bool:
        return not self._is_command(node) and bool(super()._is_bare_builtin(node))

    def _is_command(self, node: Any) -> bool:
        if isinstance(node, xonsh_ast.Expr):
            node = node.value
        while isinstance(node, xonsh_ast.BinOp | xonsh_ast.Compare):
            node = node.left
        return (
            isinstance(node, xonsh_ast.Name)
            and node.id in self._names
            and self._is_ours(node.id)
            and not any(node.id in names for names in self.contexts[1:])
        )

    def _is_ours(self, name: str) -> bool:
        value = XSH.ctx.get(name, getattr(builtins, name, None))  # `list` is Python's too
        if name == "vm":  # another object after `use`
            return isinstance(value, BaseMachine | Lazy | Nowhere)
        return value is self._names[name]


class Engine:
    """One xonsh in this process, with the names and words of a context.

    Args:
        has_vm: as for `Context.names`.
        show: as for `jobs.install`.
    """

    def __init__(
        self, context: Context, *, has_vm: bool = True, show: Callable[[str, str], object] | None = None
    ) -> None:
        self.context = context
        self.has_vm = has_vm
        self._show = show
        self.arguments: Any = None

    def load(self, argv: list[str]) -> None:
        """Start xonsh's services; `argv` as for xonsh itself. The user's rc finds our names there."""
        foreground.install()
        reaping.install()
        streams.install()
        jobs.install(self.context, self._show)
        events.on_pre_rc(lambda **_: self._install())  # a bound method cannot be a handler
        self.arguments = xonsh.main.premain(argv)

    def unload(self, status: int) -> None:
        """End xonsh's services."""
        foreground.restore_suspend_key()
        events.on_exit.fire(exit_code=status)
        xonsh.main.postmain(self.arguments)

    def _install(self) -> None:
        self._set_variables()
        self.context.namespaces.append(XSH.ctx)
        self.context.followers.append(self._follow)
        names = self.context.names(has_vm=self.has_vm)
        XSH.ctx.update(names)
        aliases = words.aliases(self.context)
        XSH.aliases.update(aliases)
        commands = {word: getattr(builtins, word) for word in aliases if hasattr(builtins, word)}
        commands |= {
            name: value
            for name, value in names.items()
            if isinstance(value, Command | Group) or name in ("vm", "sh")
        }
        XSH.aliases["xreset"] = self._reset
        XSH.ctx["exit"] = commands["exit"] = sys.exit  # `exit 5` is a word, `exit(5)` a function
        XSH.execer.ctxtransformer = Transformer(XSH.execer.parser, commands, aliases)
        CommandPipeline.end = _end

    def _reset(self, _args: list[str]) -> None:
        """`xreset`: forget the user's names; the machine's are there as at the beginning."""
        XSH.ctx.clear()
        XSH.ctx.update(self.context.names(has_vm=self.has_vm), exit=sys.exit)

    def _set_variables(self) -> None:
        env = XSH.env
        self.context.export()
        for name in [name for name in env if name not in os.environ and name.startswith("VM_")]:
            del env[name]
        # after xonsh has read the environment: it would try each of its patterns on each name
        self._set_exported()
        env["XONTRIBS_AUTOLOAD_DISABLED"] = True  # a scan of all installed packages
        env._orig_env = dict(os.environ)  # else the next line would write all of it again, for 10 ms
        env["UPDATE_OS_ENVIRON"] = True
        env["XONSH_SUPPRESS_WELCOME"] = True
        env["XONSH_SHOW_TRACEBACK"] = False  # unset, it adds a line on itself to every message
        env["ENABLE_ASYNC_PROMPT"] = False  # with UPDATE_PROMPT_ON_KEYPRESS it crashes xonsh 0.25
        events.on_envvar_new(_update_plumbum)
        events.on_envvar_change(_update_plumbum)

    def _set_exported(self) -> None:
        for name, value in self.context.exported.items():
            XSH.env.register(name, type="str")  # or $VM_KERNEL_PATH would become a list
            XSH.env[name] = value

    def _follow(self, gone: list[str]) -> None:
        """Give xonsh the environment of the current machine."""
        for name in gone:
            if name in XSH.env:
                del XSH.env[name]
        self._set_exported()
        for name in ("PWD", "OLDPWD"):
            XSH.env[name] = os.environ[name]

    def compile(self, source: str, name: str, flags: int = 0, start: int = 0) -> CodeType:
        """Compile xonsh code that begins in line `start` (from 0) of the file `name`.

        Raises:
            SyntaxError: with the line of the file.
        """
        defined = set(XSH.ctx)
        try:
            tree = XSH.execer.parse(
                source, set(dir(builtins)) | defined, mode="exec", filename=name, user_names=defined
            )
        except SyntaxError as error:
            if error.lineno is not None:
                error.lineno += start
            raise
        if tree is None:  # nothing but comments
            tree = ast.Module(body=[], type_ignores=[])
        ast.increment_lineno(tree, start)
        try:
            code: CodeType = compile(tree, name, "exec", flags=flags, dont_inherit=True)
        except SyntaxError as error:  # found late (`return` outside a function): without the line's text
            if error.lineno is not None and error.text is None:
                error.text = source.splitlines()[error.lineno - start - 1]
            raise
        return code

    def run(self, source: str, name: str, *, has_check: bool = True) -> None:
        """Run xonsh code statement by statement.

        Each is compiled when those before it have run, as in a shell: so a name that one defines
        is known to the next, and the time to compile is linear in the length (xonsh parses a text
        again for each line in it that is not Python).

        Raises:
            QvmError: it uses names that do not exist; nothing has run.
        """
        parts = list(chunks(source))
        if has_check:
            check.require_names_in_lines(parts, name, {*XSH.ctx}, UNSEEN)
        flags = 0
        for start, chunk in parts:
            code = self.compile(chunk, name, flags, start)
            flags |= code.co_flags & FUTURES
            exec(code, XSH.ctx)  # noqa: S102  # the user's own


_xonsh_end = CommandPipeline.end


def _end(self: Any, tee_output: bool = True) -> None:
    """End a pipeline; Ctrl-C in it ends the line, the loop and the script too.

    xonsh 0.25 only records it for a word's thread, or sees a program that failed: `start || echo no`
    would run `echo`. And it leaves the thread's handler in place, so that the next Ctrl-C
    would be lost.
    """
    if self.ended:  # asked again, by `returncode`
        return
    try:
        _xonsh_end(self, tee_output)
    except OSError as error:  # what a word wrote could not be passed on
        raise unwritable(error) from None
    finally:
        foreground.restore_suspend_key()
        is_interrupted = False
        for process in reversed(self.procs):
            is_interrupted |= getattr(process, "_interrupted", False)
            if XSH.env["XONSH_INTERACTIVE"]:  # else this process has got the SIGINT as well
                is_interrupted |= process.returncode in (-SIGINT, EXIT_INTERRUPTED)
                if process.returncode == EXIT_INTERRUPTED and not hasattr(process, "_interrupted"):
                    print(file=sys.stderr)  # the terminal has shown ^C, and xonsh sees no signal
            if hasattr(process, "_restore_sigint"):
                process._restore_sigint()
        if XSH.env["XONSH_INTERACTIVE"] and not is_interrupted:
            words.hint_at_host_words(self)
        if is_interrupted and self.captured != "object":
            if XSH.history is not None:  # not yet while the user's rc is loaded
                XSH.history.last_cmd_rtn = EXIT_INTERRUPTED
            raise KeyboardInterrupt


def _update_plumbum(name: str, **_: Any) -> None:
    """plumbum's `local.env` is a copy made at import; keep it up to date with `$NAME = value`."""
    plumbum = sys.modules.get("plumbum")
    if plumbum is not None and name in os.environ:
        plumbum.local.env[name] = os.environ[name]
