"""`qvm config`: show, explain, check, change and edit the configuration."""

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
    from qvmsh.machine.settings.config import Changed, CheckResult, CheckResults, Values
    from qvmsh.machine.settings.editor import Edited


@command(group="configuration")
def config(
    vm: BaseMachine | None,
    *assignments: Annotated[str, Opt(complete="variable")],
    explain: Annotated[bool, Opt("-e", excludes=("check",))] = False,
    check: bool = False,
) -> Values | CheckResult | CheckResults | Changed:
    """Show the configuration, or change it.

    Without words it prints every value in the syntax of a `.vmrc`. `NAME` prints one value,
    `NAME=value` sets one in the `.vmrc`: the value is checked first, an invalid one changes nothing,
    and every other byte of the file stays the same. An empty value means the default.
    `config edit` opens an editor.

    Args:
        assignments: NAME shows a value, NAME=value sets it; with --check, directories.
        explain: show where each value comes from.
        check: list all problems and warnings, or those of every .vmrc in and below the given
            directories; exit status 2 if there is a problem.

    Raises:
        UsageError: a name is unknown or cannot be set.
        ConfigError: a new value is invalid. The file did not change.
    """
    import os

    from qvmsh.config import locate
    from qvmsh.machine import machine
    from qvmsh.machine.settings import config as configuration

    if check and assignments:
        environ = os.environ if vm is None else vm.environ
        return configuration.check_trees(assignments, environ, () if vm is None else vm.overrides)
    vm = vm or machine.BaseMachine(locate.find(None, os.environ, os.getcwd()))  # which says why there is none
    if check:
        return configuration.check(vm)
    pairs = [(name, value) for name, mark, value in (word.partition("=") for word in assignments) if mark]
    if not pairs:
        return configuration.show(vm, assignments, has_origins=explain)
    if explain or len(pairs) < len(assignments):
        raise UsageError("config: cannot show and set at once", hint="set with NAME=value, then show")
    _complete_renaming(vm)
    return configuration.change(vm, pairs)


def _complete_renaming(vm: BaseMachine) -> None:
    """Complete an interrupted renaming first: it replaces the `.vmrc`."""
    import os

    if os.path.lexists(vm.files.archive_journal):
        from qvmsh.machine.work import lock

        lock.complete_renaming(vm)


@command(group="configuration", name="config edit")
def config_edit(vm: BaseMachine, *, io: Io = QUIET) -> Edited:
    """Edit the `.vmrc` with $VISUAL or $EDITOR, and check it before saving.

    The editor works on a copy. If the new text has problems, they are printed and the old file is
    kept; on a terminal you can edit again. An unchanged file is not touched.

    Raises:
        ConfigError: the new text has problems, or the file was changed in the meantime. The text
            is kept in `.qvm/vmrc.rejected`.
    """
    from qvmsh.machine.settings import editor

    _complete_renaming(vm)
    return editor.edit(vm, io, vm.environ)
