"""`--shell`: the user's own shell in the machine's context, and scripts of the old `vm`, which are bash.

    run(context, os.getcwd(), ["deploy", "-u"], None)      # does not return: bash takes its place

The functions that such scripts know are in `vm_lib/`; bash loads them through BASH_ENV, so that the
script is read by bash itself and its name, its lines and its exit status are right. `vm` is a program
there, found on PATH by every shell and by what it runs.
"""

from __future__ import annotations

import os
import sys

from qvmsh.config.settings import CONTEXT_MARK, EXPORTED_MARK, checksum
from qvmsh.errors import MissingProgramError, QvmError, UsageError
from qvmsh.io import isatty
from qvmsh.shell.script.python import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from qvmsh.shell.session.context import Context

LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vm_lib")
FUNCTIONS = os.path.join(LIBRARY, "functions.sh")
STDIN = "-"


def run(context: Context, here: str, words: Sequence[str], code: str | None) -> NoReturn:
    """Put `$SHELL`, or bash with a script, in the place of this process.

    Args:
        here: the caller's directory.
        words: the script and its words; `-` or none = the shell itself reads.
        code: what the shell runs instead of a file.

    Raises:
        UsageError: the script cannot be read.
        ConfigError: the machine's configuration is wrong.
        MissingProgramError: the shell is not installed.
    """
    path = None
    if code is None and words and words[0] != STDIN:
        path = os.path.normpath(os.path.join(here, words[0]))
        text = read(path)
    own = words[1:] if code is None else words
    context.enter(here, own)
    _add_old_names(context.exported, own)
    context.export()
    os.environ["VM_LIB"] = LIBRARY
    os.environ["PATH"] = f"{LIBRARY}:{os.environ.get('PATH') or os.defpath}"
    os.environ["QVM_PYTHON"] = sys.executable
    if path is not None:
        first = text.partition(b"\n")[0].lstrip()
        if not first or first.startswith(b"#"):  # a comment to bash
            _bash([path, *words[1:]])
        _bash(["-c", _rest(text), path, *words[1:]])
    if code is not None:
        _bash(["-c", code, "bash", *words])
    if not isatty(sys.stdin) or words:
        _bash(["-s", "--", *words[1:]])
    program = os.environ.get("SHELL") or "/bin/sh"
    if os.path.basename(program) == "bash":
        _exec(program, [program, "--rcfile", os.path.join(LIBRARY, "bashrc"), "-i"])
    _exec(program, [program])


def _add_old_names(exported: dict[str, str], words: Sequence[str]) -> None:
    """Add what scripts of the old vm find in the environment; marked, so that it is never a setting."""
    exported["VM_PARAMS"] = " ".join(words)
    if CONTEXT_MARK not in exported:
        return
    found = {
        "VM_NET_LISTEN": "127.0.0.1",
        "VM_NET_PORT": f"77{exported['VM_MACHINE_ID']}",
        "VM_NET_HOST": "localhost",
        "VM_NET_GUEST": exported["VM_MACHINE_NAME"],
        "VM_SAVE_DELAY": "0",
    }
    found = {name: value for name, value in found.items() if not exported.get(name)}
    for part in ("SEED", "BASE", "BACKING"):
        found[f"VM_SNAPSHOT_{part}_FILENAME"] = exported[f"VM_SNAPSHOT_{part}FILENAME"]
    exported |= found
    marks = [f"{name}={checksum(value)}" for name, value in found.items()]
    exported[EXPORTED_MARK] = " ".join([exported[EXPORTED_MARK], *marks])


def _rest(source: bytes) -> str:
    """The script without its first line, whose number stays."""
    rest = source.partition(b"\n")[2]
    if b"\0" in rest:
        raise UsageError("sh: --shell: the script holds a NUL byte")
    return "\n" + os.fsdecode(rest)


def _bash(words: Sequence[str]) -> NoReturn:
    """Run bash with the functions loaded; it restores a BASH_ENV of the user's."""
    if "BASH_ENV" in os.environ:
        os.environ["QVM_BASH_ENV"] = os.environ["BASH_ENV"]
    os.environ["BASH_ENV"] = FUNCTIONS
    _exec("bash", ["bash", *words])


def _exec(program: str, argv: Sequence[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(program, list(argv))
    except FileNotFoundError:
        hint = "set SHELL to an installed shell" if program != "bash" else "install bash"
        raise MissingProgramError(f"{program} is not installed", hint=hint) from None
    except OSError as error:
        raise QvmError(
            f"{program} cannot be run: {error.strerror}", hint="set SHELL to an installed shell"
        ) from None
