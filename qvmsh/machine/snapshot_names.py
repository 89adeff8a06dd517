"""Names of snapshots: which are allowed, and which qvm itself uses."""

from __future__ import annotations

import os

from qvmsh.errors import StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from qvmsh.machine.machine import BaseMachine

NEW = ".qvm-new"
"""Suffix of the snapshot that is taken before one of the same name is replaced."""
INTERNAL = (NEW, ".qvm-back")
"""Names that qvm uses itself while it works."""


def require_name(vm: BaseMachine, name: str) -> None:
    """Refuse names that QEMU's tools would take for something else, and those that nobody could type.

    Raises:
        UsageError: with what is wrong with it.
    """
    hint = "choose another name; without one, the time is used"
    if not name:
        why = "it is empty"
    elif len(os.fsencode(name)) > 200:
        why = f"it has {len(os.fsencode(name))} bytes, of at most 200"
    elif not name.isprintable():
        why = "it contains unprintable characters"
    elif name != name.strip():
        why = "it begins or ends with a space"
    elif name.endswith(INTERNAL):
        why = f"qvm itself uses names that end in {' and '.join(INTERNAL)}"
    elif name.isascii() and name.isdigit():
        why, hint = "QEMU would read it as a number", "add a letter"
    else:
        return
    shown = repr(name if len(name) <= 60 else name[:60] + "...")
    raise UsageError(f"{shown} cannot be the name of a snapshot: {why}", machine=vm.name, hint=hint)


def unknown(vm: BaseMachine, name: str, there: Iterable[str]) -> StateError:
    """The error for a snapshot that is not there; it names those that are."""
    names = sorted(each for each in there if not each.endswith(INTERNAL))
    return StateError(
        f"there is no snapshot {name if name.strip() else repr(name)}",
        machine=vm.name,
        hint=f"there are: {', '.join(names)}" if names else "`qvm snapshot save NAME` creates one",
    )
