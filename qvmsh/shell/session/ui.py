"""Which editor the user types in: xonsh's, ptpython, or plain Python in ptpython."""

from __future__ import annotations

from qvmsh.config.variables import VARIABLES
from qvmsh.shell.session.context import Context


def chosen(context: Context) -> str:
    """What the user types in: `--ui`, else VM_SHELL, of any layer that can be read."""
    if context.ui:
        return context.ui
    known = VARIABLES["VM_SHELL"]
    found = context.exported.get(known.name) or ""
    if not context.has_machine:
        from qvmsh.config import files, layers

        found = context.environ.get(known.name, "")
        for path in (files.global_file(context.environ), files.user_file(context.environ)):
            found = layers.shared_value(path, known.name, context.environ) or found
        wrong = known.check(found) if found else None
        if wrong:
            context.io.warn(f"{known.name} {wrong[0]}")
    return found if found in known.allowed else known.default
