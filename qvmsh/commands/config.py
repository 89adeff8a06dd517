"""`qvm config`: show, explain, judge, change and edit the configuration."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.errors import UsageError
from qvmsh.io import QUIET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.io import Io
    from qvmsh.machine.machine import Machine
    from qvmsh.machine.settings.commands import Changed, Judgement, Judgements, Values
    from qvmsh.machine.settings.editor import Edited


@command(group="configuration")
def config(
    vm: Machine | None,
    *assignments: Annotated[str, Opt(complete="variable")],
    explain: Annotated[bool, Opt("-e", excludes=("check",))] = False,
    check: bool = False,
) -> Values | Judgement | Judgements | Changed:
    """Show the configuration, or change it.

    Without words it shows every value, as lines that can be read back. `NAME` prints one value,
    `NAME=value` sets one in the `.vmrc`: the value is judged first, a wrong one changes nothing,
    and every other byte of the file stays as it was. An empty value means the default.
    `config edit` opens an editor.

    Args:
        assignments: NAME shows a value, NAME=value sets it; with --check, directories.
        explain: say of each value where it comes from.
        check: list all problems and warnings, or those of every .vmrc in and below the directories
            named; exit status 2 if there is a problem.

    Raises:
        UsageError: a name is unknown or cannot be set.
        ConfigError: a new value is wrong; the file is as it was.
    """
    import os

    from qvmsh.machine.settings import commands as configuration

    if check and assignments:
        environ = os.environ if vm is None else vm.environ
        return configuration.judge_trees(assignments, environ, () if vm is None else vm.overrides)
    vm = vm or _none_here()
    if check:
        return configuration.judge(vm)
    pairs = [(name, value) for name, mark, value in (word.partition("=") for word in assignments) if mark]
    if not pairs:
        return configuration.show(vm, assignments, has_origins=explain)
    if explain or len(pairs) < len(assignments):
        raise UsageError("config: show or set, not both at once", hint="set with NAME=value, then show")
    return configuration.change(vm, pairs)


def _none_here() -> Machine:
    """Say why there is no machine.

    Raises:
        ConfigError: always, but where one has just been made.
    """
    import os

    from qvmsh.config import locate
    from qvmsh.machine.machine import Machine

    return Machine(locate.find(None, os.environ, os.getcwd()))


@command(group="configuration", name="config edit")
def config_edit(vm: Machine, *, io: Io = QUIET) -> Edited:
    """Edit the `.vmrc` with $VISUAL or $EDITOR; it is taken only if it is right.

    The editor works on a copy. If the new text has problems, they are told and the old file is
    kept; on a terminal one can edit again. A file that was not changed is not touched.

    Raises:
        ConfigError: the new text is wrong, or somebody else changed the file meanwhile; the text
            is kept in `.qvm/vmrc.rejected`.
    """
    from qvmsh.machine.settings import editor as editing

    return editing.edit(vm, io, vm.environ)
