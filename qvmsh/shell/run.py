"""`qvm sh`: chooses the front end that a call asks for, and runs it.

run(vm, Io(), Wanted(code="status -s"))      # without xonsh: one plain command
"""

from __future__ import annotations

import atexit
import gc
import os
import sys

from qvmsh.commands.index import ALIASES, COMMANDS
from qvmsh.errors import ConfigError, UsageError
from qvmsh.io import isatty, write_at_once
from qvmsh.shell.script import python
from qvmsh.shell.script.python import First
from qvmsh.shell.session.context import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,+%")
"""The characters that xonsh passes on unchanged."""

STDIN = "-"

_before: set[str] = set()  # the modules that were there before a script


class Wanted:
    """What the words of `qvm sh` ask for; as the parameters of the command."""

    __slots__ = ("code", "has_rc", "is_interactive", "is_shell", "is_xonsh", "module", "ui", "words")

    def __init__(
        self,
        words: Sequence[str] = (),
        *,
        code: str | None = None,
        module: str | None = None,
        is_interactive: bool = False,
        ui: str | None = None,
        is_shell: bool = False,
        is_xonsh: bool = False,
        has_rc: bool = True,
    ) -> None:
        self.words = list(words)
        self.code = code
        self.module = module
        self.is_interactive = is_interactive
        self.ui = ui
        self.is_shell = is_shell
        self.is_xonsh = is_xonsh
        self.has_rc = has_rc

    @property
    def is_script(self) -> bool:
        """True if there is something to run, not only a prompt to open."""
        return bool(self.words) or self.code is not None or self.module is not None

    @property
    def is_python(self) -> bool:
        """True if what is to run is plain Python, which needs no xonsh."""
        if self.module is not None:
            return True
        return self.code is None and self.words[0] != STDIN and not self.is_lines(self.words[0])

    def is_lines(self, path: str) -> bool:
        """True if the file `path` is xonsh."""
        return self.is_xonsh or path.endswith(".xsh")


class Left(int):
    """Result of `sh`: the exit status; nothing is printed."""

    exit_status = property(int)

    def __str__(self) -> str:
        return ""


def run(vm: BaseMachine | None, io: Io, wanted: Wanted) -> int:
    """Open the prompt, or run a script or code; returns the exit status.

    Raises:
        UsageError: the script cannot be read, or the options do not fit together.
        ConfigError: (script, code) the machine's configuration is wrong.
    """
    context = Context(vm, io)
    here = os.getcwd()
    if wanted.is_shell:
        from qvmsh.shell.script import bash

        return bash.run(context, here, wanted.words, wanted.code)
    if wanted.code is not None and not wanted.is_interactive:
        plain = plain_words(wanted.code)
        if plain and not wanted.is_xonsh:
            return _run_plain(context, plain)
    from qvmsh.shell.session import children

    children.install(context)
    write_at_once()
    has_prompt = wanted.is_interactive or (not wanted.is_script and isatty(sys.stdin))
    if has_prompt:
        return _prompt(context, here, wanted)
    return _script(context, here, wanted)


def _script(context: Context, here: str, wanted: Wanted) -> int:
    """Run what is to run, and leave."""
    atexit.register(_end)  # the first of all, so it is called last
    _before.update(sys.modules)
    context.ui = wanted.ui
    if not wanted.is_script:
        wanted.words = [STDIN]
    first = _first(context, here, wanted)
    if first.program is not None:
        return python.run_python(context, first.program, first.argv)
    gc.disable()  # as in `__main__`, until xonsh is there
    from qvmsh.shell.xonsh.script import run_xonsh

    return run_xonsh(context, first.lines, first.name, first.argv)


def is_over() -> bool:
    """End a script's objects as Python does; True if none is left, so that the process may end at once.

    Python ends one that has imported more than Python's own modules, or those to C code with a buffer.
    """
    known = {"qvmsh", *sys.stdlib_module_names}
    new = {name.partition(".")[0] for name in sys.modules.keys() - _before}
    if sys.modules.keys() & {"threading", "_ctypes", "_tkinter"} or new - known:
        return False
    atexit._run_exitfuncs()
    try:
        for file in _files():
            file.flush()
        place = id(vars(sys.modules.pop("__main__")))
        gc.collect()
        return not _files() and not any(id(each) == place for each in gc.get_objects())
    except Exception:  # Python itself reports what is wrong with it
        return False


def _files() -> list[Any]:
    """The script's files that are still open, with their buffers."""
    import _io

    return [each for each in gc.get_objects() if isinstance(each, _io._IOBase) and not each.closed]


def _end() -> None:
    """The last of a script: die as `report` says, which only one that has failed loads.

    Our modules are hidden from Python, which would take each of them apart before it ends.
    """
    report = sys.modules.get("qvmsh.shell.script.report")
    if report is not None:
        report.die_as_interrupted()
    if "threading" not in sys.modules:
        for name in [each for each in sys.modules if each.partition(".")[0] == "qvmsh"]:
            del sys.modules[name]


def _prompt(context: Context, here: str, wanted: Wanted) -> int:
    """Open the prompt; with `-i` after something has run."""
    first = None
    if not wanted.is_script and not isatty(sys.stdin):
        wanted.words = [STDIN]
    if wanted.is_script:
        first = _first(context, here, wanted)
        if wanted.code is None and wanted.module is None and wanted.words[0] == STDIN:
            _back_to_terminal()
    else:
        try:
            context.enter(here, ())
        except ConfigError as error:  # it can be corrected at the prompt
            print("\n".join(error.lines()), file=sys.stderr)
    context.ui = wanted.ui
    from qvmsh.shell.session import ui

    chosen = ui.chosen(context)
    if chosen == "python" and first is not None and first.program is None:
        if wanted.ui:
            raise UsageError(
                "sh: --ui python cannot run shell lines", hint="`--ui ptpython` does, in the same editor"
            )
        chosen = "ptpython"
    if chosen == "python":
        from qvmsh.shell.prompt.python_prompt import run_prompt as run_python_prompt

        return run_python_prompt(context, first)
    from qvmsh.shell.prompt.xonsh_prompt import run_prompt

    return run_prompt(context, ui=chosen, first=first, has_rc=wanted.has_rc)


def _first(context: Context, here: str, wanted: Wanted) -> First:
    """Read what is to run, and go to the machine's directory."""
    words = wanted.words
    if wanted.code is not None:
        context.enter(here, words)
        return First(["-c", *words], name="<string>", lines=wanted.code)
    if wanted.module is not None:
        program = python.from_module(wanted.module, here)
        context.enter(here, words)
        return First([program.path, *words], program=program)
    if words[0] == STDIN:
        context.enter(here, words[1:])
        return First([STDIN, *words[1:]], name="<stdin>", lines=sys.stdin.read().removeprefix("\ufeff"))
    path = os.path.normpath(os.path.join(here, words[0]))
    argv = [path, *words[1:]]
    if wanted.is_python:
        program = python.from_file(path)
        context.enter(here, words[1:])
        return First(argv, program=program)
    lines = python.read(path)
    context.enter(here, words[1:])
    try:
        return First(argv, name=path, lines=lines.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"sh: {path}: is not UTF-8 (byte {error.start})") from None


def _back_to_terminal() -> None:
    """Read from the terminal again, after a script came on standard input."""
    if isatty(sys.stdin):
        return
    try:
        fd = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        raise UsageError("sh: -i after a script on standard input needs a terminal") from None
    os.dup2(fd, 0)
    os.close(fd)
    sys.stdin = open(0, closefd=False)


def plain_words(code: str) -> list[str]:
    """The words of one plain command of qvm, which needs no xonsh; empty for anything else.

    Examples:
        >>> plain_words("status -s")
        ['status', '-s']
        >>> plain_words("status -s | cat")
        []
    """
    import keyword

    found = code.split(" ") if "\n" not in code.strip() else []
    found = [word for word in found if word]
    if not found or any(not PLAIN.issuperset(word) or keyword.iskeyword(word) for word in found):
        return []
    verbs = found[1:] if found[0] == "vm" else found
    if not verbs or "." in verbs[0] or "/" in verbs[0]:
        return []
    from qvmsh.shell.session.spelling import REFUSED, is_hosts

    if found[0] != "vm" and (verbs[0] in REFUSED or is_hosts(verbs[0])):
        return []
    is_ours = verbs[0] in COMMANDS or verbs[0] in ALIASES or " ".join(verbs[:2]) in COMMANDS
    return verbs if is_ours else []


def _run_plain(context: Context, words: list[str]) -> int:
    """One command of qvm, on the session's machine; no child needs its variables."""
    from qvmsh.shell.session.calls import WordCall

    if context.directory is not None:
        os.chdir(context.directory)
    return WordCall(context).perform(words)
