"""Which global names Python code binds and uses."""

from __future__ import annotations

import builtins

from qvmsh.commands.index import COMMANDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

MODULE = frozenset((
    "__name__", "__file__", "__doc__", "__builtins__", "__spec__", "__loader__", "__package__", "__cached__",
    "__path__", "__annotations__", "__conditional_annotations__", "__module__", "__qualname__", "__class__",
    "__debug__", "__dict__", "WindowsError", "_",  # gettext.install gives `_`
))  # fmt: skip
"""Names that a module, a class or another system gives."""


UNSEEN = ("globals", "locals", "vars", "exec", "execfile", "builtins", "__builtins__", "__main__", "runpy")
"""With one of these a script can define names unseen."""


def global_names(source: bytes, path: str) -> tuple[set[str], set[str]]:
    """The global names that the source binds, and those that it uses."""
    import _symtable as symbols

    bound: set[str] = set()
    used: set[str] = set()
    top = symbols.symtable(source, path, "exec")

    def look(table: Any) -> None:
        for name, flags in table.symbols.items():
            scope = flags >> symbols.SCOPE_OFF & symbols.SCOPE_MASK
            is_global = scope in (symbols.GLOBAL_IMPLICIT, symbols.GLOBAL_EXPLICIT)
            if flags & symbols.DEF_BOUND and (table is top or scope == symbols.GLOBAL_EXPLICIT):
                bound.add(name)
            if flags & symbols.USE and (is_global or table is top):
                used.add(name)
        for inner in table.children:
            look(inner)

    look(top)
    return bound, used


def suspects(source: bytes, path: str, known: Container[str]) -> set[str]:
    """The names of the source that seem to come from nowhere; quick, and empty for nearly every script."""
    return unknown(*global_names(source, path), known)


def unknown(bound: set[str], used: set[str], known: Container[str]) -> set[str]:
    """Those of the used names that seem to come from nowhere."""
    there = vars(builtins)
    found = {name for name in used - bound if name not in there and name not in known and name not in MODULE}
    return set() if any(name in used or name in bound for name in UNSEEN) else found


def are_commands(used: set[str]) -> bool:
    """True if one of the names is that of a command, or `vm`."""
    return "vm" in used or any(
        verb.partition(" ")[0] in used or row[1] in used for verb, row in COMMANDS.items()
    )
