"""Words of a command line that name a machine.

option("web")                                       # "-M": a known machine
instead("disk list", ["web"], "web")                # "`qvm -M web disk list`"
"""

from __future__ import annotations

import os

from qvmsh.config.words import joined

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def is_machine(word: str) -> bool:
    """True for a directory with a `.vmrc`, and for the name of a known machine."""
    if os.path.lexists(os.path.join(word, ".vmrc")):
        return True
    from qvmsh.machine import registry

    return any(each.name == word and each.is_there for each in registry.rows(os.environ))


def option(machine: str) -> str:
    """The option that names this machine."""
    return "-C" if os.path.lexists(os.path.join(machine, ".vmrc")) else "-M"


def instead(verb: str, words: Sequence[str], extra: str) -> str | None:
    """The line for a verb with one word too many, if that or the first word is a machine; else None."""
    for at in (0, words.index(extra)):
        if is_machine(words[at]):
            named = [option(words[at]), words[at], *verb.split(), *words[:at], *words[at + 1 :]]
            return f"`qvm {joined(named)}`"
    return None
