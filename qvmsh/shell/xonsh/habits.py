"""What users of other shells type: it works here too, or a line says what to type instead.

XSH.aliases.update(aliases(context))
advice("for i in 1 2; do echo $i; done")    # "a loop is Python's: ..."; "" where nothing is known
"""

from __future__ import annotations

import re
import shutil
import sys

from xonsh.built_ins import XSH

from qvmsh.cli import help as texts
from qvmsh.cli.parse import verb_of
from qvmsh.config.words import joined, quote
from qvmsh.shell.session.calls import listing
from qvmsh.shell.xonsh.words import Word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from qvmsh.shell.session.context import Context

VARIABLE = "`$NAME = 'value'` sets a variable of the environment, `name = value` one of Python"

ADVICE = {
    "for": "a loop is Python's: `for i in [1, 2]: echo @(i)`",
    "while": "a loop is Python's: `while !(test -e FILE): sleep 1`",
    "until": "a loop is Python's: `while not !(test -e FILE): sleep 1`",
    "select": "a choice is Python's: `x = input('which? ')`",
    "if": "a condition is Python's: `if !(test -e FILE): echo yes`",
    "case": "a choice is Python's: `if $NAME == 'value': echo yes`",
    "function": "a function is Python's: `def hello(): echo hello`; `alias hello='echo hello'` works",
    "[[": "a condition is Python's: `if $NAME == 'value': echo yes`; `test` and `[` are programs",
    "((": "arithmetic is Python's: `x = 2 * 21`, `echo @(x)`",
    "let": "arithmetic is Python's: `x = 2 * 21`, `echo @(x)`",
    "declare": VARIABLE,
    "typeset": VARIABLE,
    "local": VARIABLE,
    "readonly": VARIABLE,
    "read": "`$NAME = input('value? ')` reads a line",
    "eval": "`execx(text)` runs a text as lines of this shell",
    "set": "`$XONSH_TRACE_SUBPROC = True` is `set -x`; a script ends at a failure as with `set -e`",
    "shopt": "`xonfig` and `$DOTGLOB`, `$AUTO_CD` ... are the options of this shell",
    "trap": "Python's `try: ... finally: ...` cleans up",
    ".": "`source FILE` reads xonsh lines, `source-bash FILE` a bash script",
    "wait": "a command without `&` is waited for; `jobs`, `fg` and `bg` handle the others",
    "command": "a program of the same name is called by its path; `which -a NAME` shows it",
    "builtin": "`aliases` shows what is built in",
    "hash": "there is nothing to hash here",
}
"""What to type instead of a word of bash."""

ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
STATUS = re.compile(r"\$[?!#@*$]")
SPECIAL = {
    "$?": "$LAST_RETURN_CODE",
    "$!": "the pid in `jobs`",
    "$$": "@(os.getpid()), after `import os`",
    "$#": "@(len($ARGS) - 1)",
    "$@": "@($ARGS[1:])",
    "$*": "@($ARGS[1:])",
}


def advice(line: str) -> str:
    """What to type instead of a line of bash; "" where nothing is known of it."""
    first = line.split(maxsplit=1)[0] if line.strip() else ""
    word = "((" if first.startswith("((") else first
    if word in ADVICE:
        return f"`{word}` is bash's: here {ADVICE[word]}"
    name, mark, rest = line.strip().partition("=")
    if mark and ASSIGNED.match(first):
        value, _, command = rest.partition(" ")
        if value[:1] not in ("'", '"', "$"):
            value = repr(value)
        shown = f"${name}={value} {command}" if command else f"${name} = {value}"
        return f"bash's `{line.strip()}` is `{shown}` here"
    return ""


def of_special(line: str) -> str:
    """What `$?` and the like are called here; "" if the line has none."""
    found = STATUS.search(line)
    return f"bash's `{found[0]}` is {SPECIAL[found[0]]} here" if found else ""


def aliases(context: Context) -> dict[str, Any]:
    """Words of bash that do here what they do there."""

    def help_(args: list[str], stdout: TextIO | None = None, stderr: TextIO | None = None) -> int:
        found = verb_of(args) if args else None
        text = texts.of_command(found[0]) if found else texts.of_family(args[0]) if args else listing(context)
        if not text:
            print(f"help: no command {args[0]!r}; `vm` lists them", file=stderr or sys.stderr)
            return 1
        print(text.rstrip(), file=stdout or sys.stdout)
        return 0

    def source(args: list[str], stderr: TextIO | None = None) -> int:
        print(f"qvm: {advice('.')}", file=stderr or sys.stderr)
        return 2

    return {
        ".": source, "alias": _alias, "export": _export, "help": help_, "logout": "exit", "type": _type,
        "unalias": _unalias, "unset": _unset,
    }  # fmt: skip


def _unquoted(word: str) -> str:
    """`'a b'` within a word, as a POSIX shell reads it; xonsh leaves the quotes in."""
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word


def _export(args: list[str], stdout: TextIO | None = None, stderr: TextIO | None = None) -> int:
    words = [word for word in args if word not in ("-p", "-x")]
    for word in words:
        name, mark, value = word.partition("=")
        if not name.isidentifier():
            text = f"export: {name!r} is not a name; `export NAME=value`; `vm export` packs a machine"
            print(text, file=stderr or sys.stderr)
            return 2
        if mark:
            XSH.env[name] = _unquoted(value)
        elif name in XSH.ctx:  # `name = value` was Python's
            XSH.env[name] = str(XSH.ctx[name])
        elif name not in XSH.env:
            text = f"export: there is no variable {name}; `vm export {name}` packs a machine"
            print(text, file=stderr or sys.stderr)
    if not words:
        for name, value in sorted(XSH.env.detype().items()):
            print(f"export {name}={quote(value)}", file=stdout or sys.stdout)
    return 0


def _unset(args: list[str], stderr: TextIO | None = None) -> int:
    for name in args:
        for place in (XSH.env, XSH.ctx):
            if name in place:
                del place[name]
                break
        else:
            print(f"unset: there is no {name}", file=stderr or sys.stderr)
            return 1
    return 0


def _alias(args: list[str], stdout: TextIO | None = None, stderr: TextIO | None = None) -> int:
    shown = [arg for arg in args if "=" not in arg] if args else sorted(XSH.aliases._raw)
    for arg in args:
        name, mark, value = arg.partition("=")
        if mark:
            XSH.aliases[name] = _unquoted(value)
    for name in shown:
        if name not in XSH.aliases._raw:
            print(f"alias: there is no {name}; `alias {name}='...'` makes it", file=stderr or sys.stderr)
            return 1
        value = XSH.aliases._raw[name]
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            print(f"alias {name}={quote(joined(value))}", file=stdout or sys.stdout)
        elif args:
            print(f"{name}: {value!r}", file=stdout or sys.stdout)
    return 0


def _unalias(args: list[str], stderr: TextIO | None = None) -> int:
    for name in args:
        if name not in XSH.aliases._raw:
            print(f"unalias: there is no {name}", file=stderr or sys.stderr)
            return 1
        del XSH.aliases[name]
    return 0


def _type(args: list[str], stdout: TextIO | None = None, stderr: TextIO | None = None) -> int:
    status = 0
    for name in args:
        value, path = XSH.aliases._raw.get(name), shutil.which(name)
        if isinstance(value, Word) or (isinstance(value, list) and value[:1] == ["vm"]):
            text = f"{name} is a command of qvm; `{name} --help` explains it"
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            text = f"{name} is an alias for {joined(value)}"
        elif value is not None:
            text = f"{name} is a word of this shell"
        elif path is not None:
            text = f"{name} is {path}"
        elif name in XSH.ctx:
            text = f"{name} is a name of Python: {type(XSH.ctx[name]).__name__}"
        else:
            print(f"type: {name}: not found", file=stderr or sys.stderr)
            status = 1
            continue
        print(text, file=stdout or sys.stdout)
    return status
