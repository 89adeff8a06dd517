"""Names of snapshots: which are allowed, and which qvm itself uses."""

from __future__ import annotations

import os
import re
import time

from qvmsh.errors import QvmError, StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from qvmsh.machine.machine import BaseMachine

NEW = ".qvm-new"
"""Suffix of the snapshot that is taken before one of the same name is replaced."""
INTERNAL = (NEW, ".qvm-back")
"""Names that qvm uses itself while it works."""
AUTO = "auto"
"""The name after the time of a snapshot that nobody named."""
STAMP = "%Y-%m-%dT%H-%M-%S"
"""The time in front of a name. Source: vmctl.sh."""
_STAMPED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}(?:-(.+))?", re.DOTALL)


def stamped(name: str | None) -> str:
    """The name of a snapshot that is taken now: the time, and `name` after it."""
    return time.strftime(STAMP) + (f"-{name}" if name else "")


def series(name: str) -> str | None:
    """What comes after the time in a snapshot's name, "" if nothing does; None for a name without a time."""
    found = _STAMPED.fullmatch(name)
    return None if found is None else found[1] or ""


def meant(vm: BaseMachine, name: str, there: Collection[str]) -> str:
    """The snapshot of that name, in any form of Unicode; else the only one called so after its time.

    Raises:
        QvmError: several are.
    """
    if name in there or not name:
        return name
    found, how = sorted(each for each in there if _is_same(each, name)), "in other forms of Unicode"
    if not found:
        found, how = sorted(each for each in there if _is_same(series(each) or "", name)), "after their time"
    found = [each for each in found if not each.endswith(INTERNAL)]
    if len(found) > 1:
        raise QvmError(
            f"{len(found)} snapshots are called {name} {how}",
            machine=vm.name,
            details=found,
            hint="give the whole name of one of them",
        )
    return found[0] if found else name


def _is_same(one: str, other: str) -> bool:
    if one == other or (one.isascii() and other.isascii()):
        return one == other
    from unicodedata import normalize

    return normalize("NFC", one) == normalize("NFC", other)


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
