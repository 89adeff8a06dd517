"""`qvm sh`: open the shell, run a script or a line of code."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.errors import UsageError
from qvmsh.io import QUIET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.shell.run import Left


@command(group="shell", words="rest", terminal=True)
def sh(
    vm: BaseMachine | None,
    *words: Annotated[str, Opt(complete="script")],
    code: Annotated[str | None, Opt("-c", metavar="CODE", is_last=True, excludes=("module",))] = None,
    module: Annotated[
        str | None, Opt("-m", metavar="MODULE", is_last=True, excludes=("xonsh", "shell"))
    ] = None,
    interactive: Annotated[bool, Opt("-i", excludes=("shell",))] = False,
    ui: Annotated[
        str | None, Opt("--ui", metavar="UI", choices=("xonsh", "ptpython", "python"), excludes=("shell",))
    ] = None,
    shell: Annotated[bool, Opt("--shell", excludes=("xonsh",))] = False,
    xonsh: bool = False,
    no_rc: Annotated[bool, Opt("--no-rc", excludes=("shell",))] = False,
    io: Io = QUIET,
) -> Left:
    """Open the machine's shell, or run a script in it.

    The shell is xonsh: shell lines and Python in one language. Every command is a word
    (`start --no-wait`) and a function (`start(wait=False)`); `vm` lists them. A script runs in the
    machine's directory: a file named .xsh is xonsh, any other is Python; without a file, standard
    input is xonsh. A failing command ends a script with the command's exit status. `--shell` opens
    your own shell instead, with the machine's variables, or runs a bash script as `vm` did.

    Args:
        words: the script and its arguments; `-` reads standard input.
        code: run CODE, shell lines or Python, instead of a file.
        module: run the Python module MODULE as a script.
        interactive: open the prompt afterwards, with the script's names.
        ui: the prompt: xonsh; ptpython, another editor for the same language; or python,
            plain Python with await (VM_SHELL).
        shell: open $SHELL, or run a bash script of the old vm.
        xonsh: run the file as xonsh regardless of its name.
        no_rc: open the prompt without your xonshrc and the machine's .qvmrc.xsh.

    Raises:
        UsageError: the script cannot be read, or the options exclude each other.
        ConfigError: the machine's configuration is wrong.
    """
    from qvmsh.shell import run  # the one upward import: this command opens a door

    if io.json:
        raise UsageError("sh: --json is for a command in the shell", hint="`qvm sh -c 'status --json'`")
    wanted = run.Wanted(
        words,
        code=code,
        module=module,
        is_interactive=interactive,
        ui=ui,
        is_shell=shell,
        is_xonsh=xonsh,
        has_rc=not no_rc,
    )
    return run.Left(run.run(vm, io, wanted))
