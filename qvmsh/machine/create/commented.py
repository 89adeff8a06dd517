"""The `.vmrc` of `create --bare`: every variable with its default, as a comment.

text({"VM_MACHINE_NAME": "web", "VM_MACHINE_ID": "02"})
"""

from __future__ import annotations

from textwrap import wrap

from qvmsh.config import edit
from qvmsh.config.variables import VARIABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OPENING = """\
# The configuration of a virtual machine: assignments as in a POSIX shell, which are read, not run.
# `qvm config --check` checks it; `qvm config NAME` shows a value.
"""
_WIDTH = 98


def text(values: Mapping[str, str]) -> str:
    """The file's text, in which `values` are set."""
    lines, group = [OPENING], ""
    for each in VARIABLES.values():
        if each.computed or each.context or each.later:
            continue
        if each.group != group:
            group = each.group
            lines.append(f"\n# {group.capitalize()}\n")
        unit = f" ({each.unit})" if each.unit else ""
        lines += [f"# {line}" for line in wrap(each.help[0].upper() + each.help[1:] + unit, _WIDTH)]
        if each.name in values:
            lines.append(f"{each.name}={edit.quote(values[each.name])}\n")
        else:
            lines.append(f"#{each.name}={edit.quote(each.default) if each.default else ''}\n")
    return "\n".join(lines)
