"""The prompt: xonsh's own, with the machine's name and state.

run_prompt(context)
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys

import xonsh.main
import xonsh.tools
from xonsh.built_ins import XSH
from xonsh.environ import make_args_env
from xonsh.events import events
from xonsh.history.sqlite import SqliteHistory
from xonsh.procs import jobs
from xonsh.shell import Shell
from xonsh.shells import base_shell
from xonsh.shells.ptk_shell import PromptToolkitShell

from qvmsh.errors import EXIT_INTERRUPTED, QvmError
from qvmsh.host.tty_mode import Kept
from qvmsh.shell.prompt import completer, fields
from qvmsh.shell.script import report
from qvmsh.shell.script.python import main_namespace
from qvmsh.shell.session import breakpoint as breakpoints
from qvmsh.shell.session import calls, spelling
from qvmsh.shell.session.lines import Lines
from qvmsh.shell.xonsh import foreground, habits, history, words
from qvmsh.shell.xonsh.engine import Engine
from qvmsh.shell.xonsh.rc import Rc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qvmsh.shell.script.python import First
    from qvmsh.shell.session.context import Context


def run_prompt(
    context: Context, *, ui: str = "xonsh", first: First | None = None, has_rc: bool = True
) -> int:
    """Read and run lines until the user leaves; returns the exit status of the session.

    Args:
        ui: `xonsh` or `ptpython`: the editor.
        first: what runs before the first prompt (`-i`).
        has_rc: load the rc files of the user and of the machine.
    """
    sys.argv = first.argv if first else ["qvm"]
    live = fields.Live(context, _app, _renew_prompt)
    engine = Engine(context, show=live.screen.say)
    context.lines = lines = Lines(context)
    if first is not None and first.program is not None:
        XSH.ctx = main_namespace()

    events.on_pre_rc(lambda **_: _set_variables(context, live.fields))
    events.on_pre_prompt_format(lambda **_: _before_prompt(live))
    events.on_pre_rc(lambda **_: completer.register(context))
    events.on_pre_rc(lambda **_: XSH.aliases.update(habits.aliases(context)))
    events.on_pre_cmdloop(lambda **_: _begin(engine, first, has_rc=has_rc))
    events.on_precommand(lambda cmd, **_: lines.begin(cmd))
    events.on_precommand(lambda **_: context.forget_settings())
    events.on_precommand(lambda cmd, **_: _advise(habits.of_special(cmd)))
    events.on_postcommand(lambda rtn, **_: _note_interrupt(rtn))
    events.on_postcommand(lambda rtn, **_: lines.end(EXIT_INTERRUPTED if rtn is None else rtn))
    events.on_command_not_found(lambda cmd, **_: _hint(cmd[0]))
    events.on_transform_command(lambda cmd, **_: _note_typed(cmd))
    base_shell.print_exception = _print_exception
    suggest = xonsh.tools.suggest_commands  # similar words; after an advice they would only mislead
    xonsh.tools.suggest_commands = lambda cmd, env: "" if _advice_for(cmd) else suggest(cmd, env)
    choose_editor(ui)
    xonsh.main._setup_controlling_terminal()  # before the rc, as xonsh's own main does
    history.spare_xonsh_folders()
    engine.load(["-i"] if has_rc else ["-i", "--no-rc"])
    received = calls.catch_signals(jobs.hup_all_jobs)  # xonsh would leave with status 1 and 15
    signal.signal(signal.SIGQUIT, lambda *_: None)  # Ctrl-\\ is for programs, which have the default again
    base_shell.BaseShell.restore_tty_sanity = PromptToolkitShell.restore_tty_sanity = _leave_terminal
    status = 0
    try:
        with Kept(0):
            status = int(xonsh.main.main_xonsh(engine.arguments) or 0)
    except OSError:
        if not received:  # else the terminal has gone, so nobody reads what is printed at the end
            raise
    finally:
        calls.ending.set()
        live.close()
        context.leave()
    if signal.SIGHUP in received:
        _forget_terminal()
    return 128 + received[0] if received else status


def _leave_terminal(_shell: object) -> None:
    """Where xonsh runs `stty sane`, which takes the user's own settings from the terminal."""


def choose_editor(ui: str) -> None:
    """Let xonsh read with ptpython where the user wants it and the terminal can."""
    if ui != "ptpython":
        return
    if is_dumb():
        print("qvm: ptpython needs a terminal with cursor control; plain lines are used", file=sys.stderr)
        return
    os.environ["SHELL_TYPE"] = "prompt_toolkit"
    from qvmsh.shell.prompt import ptpython_prompt

    ptpython_prompt.install()


def _begin(engine: Engine, first: First | None, *, has_rc: bool) -> None:
    """Before the first prompt: the greeting, the machine's rc, then the script of `-i`."""
    XSH.exit = None  # an `exit` in the user's rc has ended it
    _greet(engine.context)
    foreground.refuse_to_stop(engine.context)
    if has_rc:
        rc = Rc(engine)
        rc.look()
        events.on_pre_prompt_format(lambda **_: rc.look())
    breakpoints.install(engine.context)
    if first is None:
        return
    try:
        if first.program is None:
            XSH.env.update(make_args_env())
            if not first.name.startswith("<"):
                XSH.ctx["__file__"] = first.name
                sys.path.insert(0, os.path.dirname(first.name))
            engine.run(first.lines, first.name)
        else:
            first.program.prepare(lambda _: {}, first.argv, XSH.ctx)
            first.program.run(XSH.ctx)
        status = 0
    except BaseException as error:
        if isinstance(error, calls.Leaving):
            raise
        if first.program is not None:
            status = first.program.report(error, debug=engine.context.io.debug)
        else:
            status = report.ended(error, script=first.name, debug=engine.context.io.debug)
    XSH.exit = None  # an `exit` in the script ends only the script
    XSH.history.last_cmd_rtn = XSH.env["LAST_RETURN_CODE"] = status


def is_dumb() -> bool:
    """True if the terminal has no cursor control."""
    return os.environ.get("TERM") in (None, "", "dumb")


def _set_variables(context: Context, values: dict[str, Callable[[], Any]]) -> None:
    """What the user's rc may change: the prompt, the history, how a failing line is shown."""
    env = XSH.env
    SqliteHistory.append = _append
    env["XONSH_HISTORY_BACKEND"] = "sqlite"
    # with XONSH_HISTORY_FILE its collector uses another file
    env["XONSH_HISTORY_SQLITE_FILE"] = history.database("history.sqlite", context.io)
    env["XONSH_HISTORY_FILE"] = None
    if is_dumb():
        env["SHELL_TYPE"] = "dumb"  # xonsh itself does not look at the terminal
    env["PROMPT"] = fields.PLAIN if is_dumb() else fields.FORMAT
    env["TITLE"] = "{qvm_name} | {current_job:{} | }qvm"
    env["PROMPT_FIELDS"].update(values)


_xonsh_append = SqliteHistory.append


def _append(self: Any, cmd: dict[str, Any]) -> None:
    """Note a line in the history; xonsh would end the session if the file got damaged."""
    try:
        _xonsh_append(self, cmd)
    except sqlite3.Error as error:
        print(f"qvm: this line is not kept in the history: {error}", file=sys.stderr)


def _before_prompt(live: fields.Live) -> None:
    env = XSH.env
    if env["ENABLE_ASYNC_PROMPT"]:  # xonsh 0.25: its prompt has no `updator` when it is repainted
        env["ENABLE_ASYNC_PROMPT"] = False
        print("qvm: $ENABLE_ASYNC_PROMPT stays off: the prompt updates itself anyway", file=sys.stderr)
    foreground.restore_suspend_key()
    live.begin()


def _app() -> Any:
    """What reads at the prompt; None on a terminal that only shows lines."""
    prompter = getattr(getattr(XSH.shell, "shell", None), "prompter", None)
    return None if prompter is None else prompter.app


def _renew_prompt() -> None:
    """The fields of the prompt have other values."""
    shell = XSH.shell.shell
    XSH.env["PROMPT_FIELDS"].reset()  # a field is asked once a prompt
    message = getattr(shell.prompter, "message", callable)  # ptpython asks whenever it draws
    if not callable(message):  # it is with $UPDATE_PROMPT_ON_KEYPRESS
        shell.prompter.message = shell.prompt_tokens()
        shell.prompter.rprompt = shell.rprompt_tokens()


def _greet(context: Context) -> None:
    """The greeting at the first prompt."""
    if context.io.level < 1:
        return
    print(
        "This is xonsh: Python and shell lines in one; docs/bash.md is for users of bash.\n"
        "`vm` lists the commands, `vm VERB --help` explains one, Ctrl-D leaves.",
        file=sys.stderr,
    )
    for word, path in words.shadowed(context):
        print(f"qvm: `{word}` is qvm's here; the host's is {path}", file=sys.stderr)


_typed = ""


def _note_typed(text: str) -> str:
    """Remember what is about to be compiled: for a syntax error there is no other record."""
    global _typed
    _typed = text
    return text


def _advise(text: str) -> None:
    if text:
        print(f"qvm: {text}", file=sys.stderr)


def _advice_for(word: str) -> str:
    """What to type instead of the line whose command `word` is not found."""
    return habits.advice(_typed) if _typed.split()[:1] in ([word], ["[["]) else ""


def _hint(word: str) -> None:
    """A program that is not found may have been meant as bash's."""
    _advise(_advice_for(word))


def _note_interrupt(status: int | None) -> None:
    """xonsh has no status for a line of Python that Ctrl-C ended."""
    if status is None:
        XSH.history.last_cmd_rtn = XSH.env["LAST_RETURN_CODE"] = EXIT_INTERRUPTED
        print(file=sys.stderr)  # the terminal has shown ^C


_xonsh_print_exception = base_shell.print_exception


def _print_exception(msg: Any = None, exc_info: Any = None, source_msg: Any = None) -> None:
    """Report an exception that ended a line; xonsh would show qvm's without hint and status."""
    error = exc_info[1] if exc_info else sys.exc_info()[1]
    if isinstance(error, QvmError) and error.hint:
        error.hint = spelling.as_typed_here(error.hint)
    if isinstance(error, QvmError) or (error is not None and report.is_bug(error, "")):
        XSH.history.last_cmd_rtn = report.ended(error, script="", debug=False)
        return
    _xonsh_print_exception(msg, exc_info, source_msg)
    if isinstance(error, SyntaxError | NameError):
        _advise(habits.advice(_typed))
    if error is not None:
        report.remember(error, is_all=False)
        if not XSH.history.last_cmd_rtn:  # a command of the line has succeeded before
            XSH.history.last_cmd_rtn = report.status_of(error)


def _forget_terminal() -> None:
    """Replace a terminal that has gone by the null device, so that the last flush succeeds."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)


def open_at(context: Context, namespace: dict[str, Any], mark: str, *, ui: str) -> None:
    """Open a prompt inside a script or session, with the names of `namespace`, until it is left.

    Args:
        mark: shown before the prompt.
        ui: `xonsh` or `ptpython`.

    Raises:
        SystemExit: it was raised at the prompt, so the script ends.
    """
    xonsh.main._setup_controlling_terminal()
    if XSH.env is None or XSH.execer is None:
        handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGHUP)]
        Engine(context).load(["--no-rc", "-c", ""])  # the place is the script's, not the user's rc's
        for number, handler in handlers:  # xonsh has put its own there
            signal.signal(number, handler)
    env = XSH.env
    names = ("XONSH_INTERACTIVE", "PROMPT", "TITLE", "SHELL_TYPE", "XONSH_HISTORY_FILE", "COLOR_RESULTS")
    before = {name: env[name] for name in names if name in env}
    outside = (XSH.ctx, XSH.shell, XSH.history, XSH.exit, base_shell.print_exception, sys.displayhook)
    stopped = signal.getsignal(signal.SIGTSTP)
    was_prompt = env["XONSH_INTERACTIVE"]
    live = None
    try:
        env["XONSH_INTERACTIVE"] = env["COLOR_RESULTS"] = True
        if not was_prompt:
            env["SHELL_TYPE"] = "best"
            live = fields.Live(context, _app, _renew_prompt)
            _set_variables(context, live.fields)
            choose_editor(ui)
            begin = events.on_pre_prompt_format(lambda **_: _before_prompt(live))
        env["PROMPT"] = "{YELLOW}" + mark + "{RESET} " + env["PROMPT"]
        sys.displayhook = xonsh.main._pprint_displayhook
        base_shell.print_exception = _print_exception
        jobs.ignore_sigtstp()
        XSH.ctx, XSH.exit = namespace, None
        XSH.shell = Shell(execer=XSH.execer, ctx=namespace, completer=True)
        XSH.shell.shell.cmdloop()
    finally:
        if live is not None:
            events.on_pre_prompt_format.discard(begin)
            live.close()
        XSH.ctx, XSH.shell, XSH.history, XSH.exit, base_shell.print_exception, sys.displayhook = outside
        for name, value in before.items():
            env[name] = value
        if stopped is not None:
            signal.signal(signal.SIGTSTP, stopped)
