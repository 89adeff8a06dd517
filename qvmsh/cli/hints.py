"""What to type instead of a word that is not a verb.

Other tools' words come first, then the spelling, then the order of the words. A verb that removes or
stops something is never proposed for its spelling: a line typed without thinking must not lose anything.

    for_verb("ls")              # "qvm calls that `qvm list`"
    near("strat")               # "start"
    near("stpo")                # None
"""

from __future__ import annotations

import os

from qvmsh.cli.parse import Entry, suggestion, verb_of
from qvmsh.commands.index import ALIASES, COMMANDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qvmsh.cli.parse import Bound

OTHER_TOOLS = {
    "attach": "console",
    "backup": "archive",
    "boot": "start",
    "checkpoint": "snapshot save NAME",
    "cmdline": "dryrun",
    "connect": "console|ssh",
    "cont": "resume",
    "copy": "clone NEW",
    "debug": "monitor|cmd LINE",
    "define": "create NAME|init",
    "destroy": "delete|kill",
    "dmesg": "logs",
    "dominfo": "status",
    "domstate": "status -s",
    "down": "stop",
    "dumpxml": "config|dryrun",
    "edit": "config edit",
    "exec": "ssh COMMAND",
    "guestinfo": "status -v",
    "halt": "stop",
    "hmp": "cmd LINE|monitor",
    "image": "img list",
    "images": "img list",
    "info": "status",
    "inspect": "status --json",
    "launch": "create NAME",
    "ls": "list",
    "managedsave": "stop --savevm NAME",
    "mv": "rename NEW|move DIR",
    "new": "create NAME",
    "pack": "export",
    "package": "export",
    "port": "config VM_HOSTFWD=8080:80",
    "poweroff": "stop",
    "ps": "list",
    "pull": "img build NAME",
    "purge": "prune|delete --now",
    "qemu-monitor-command": "qmp COMMAND|cmd LINE",
    "remove": "delete",
    "reset": "cmd system_reset|reboot",
    "reset-id": "renew",
    "resize": "disk resize NAME SIZE",
    "revert": "snapshot restore NAME",
    "rm": "delete",
    "save": "stop --savevm NAME",
    "savevm": "snapshot save NAME|cmd savevm NAME",
    "set": "config NAME=VALUE",
    "shell": "ssh|sh",
    "show": "status -v|config",
    "snapshot-create-as": "snapshot save NAME",
    "snapshot-delete": "snapshot delete NAME",
    "snapshot-list": "snapshot list",
    "snapshot-revert": "snapshot restore NAME",
    "sysprep": "renew",
    "tail": "logs --follow",
    "undefine": "delete",
    "unpack": "import FILE",
    "unpause": "resume",
    "up": "start",
    "validate": "config --check",
    "version": "-V",
    "vnc": "config VM_QEMU_VNC=:1",
}
"""Words of virsh, Lima, Incus, Multipass, Vagrant, quickemu, xl and others, and the lines for them."""

ENDING = frozenset({
    "archive", "delete", "disk commit", "disk rebase", "disk resize", "disk trim", "kill", "move", "prune",
    "reboot", "restart", "restore", "snapshot delete", "snapshot prune", "snapshot restore", "stop",
    "suspend",
})  # fmt: skip
"""Verbs that stop, remove or overwrite something, or end what runs in the guest."""


def near(word: str, known: Iterable[str] = (*COMMANDS, *ALIASES)) -> str | None:
    """The verb that `word` is probably a misspelling of; None also where that verb ends something."""
    found = suggestion(word, known)
    return None if found is None or ALIASES.get(found, found) in ENDING else found


def for_verb(word: str) -> str | None:
    """The hint for an unknown first word; None if nothing is like it."""
    lines = OTHER_TOOLS.get(word)
    if lines:
        return "qvm calls that " + " or ".join(f"`qvm {line}`" for line in lines.split("|"))
    found = near(word)
    return f"did you mean `qvm {found}`?" if found else None


def for_second_word(first: str, word: str, seconds: Iterable[str]) -> str | None:
    """The hint for an unknown verb after `snapshot`, `disk`, `img` and the like."""
    full = {f"{first} {each}": each for each in seconds}
    found = near(f"{first} {word}", full)
    return f"did you mean `qvm {found}`?" if found else None


def for_turned_words(words: Sequence[str]) -> str | None:
    """The hint for `qvm web status`: a machine, then a verb; None if the words are not that."""
    from qvmsh.config.words import quote

    found = verb_of(words[1:])
    first = words[0]
    if found is None or not _is_machine(first):
        return None
    verb, count = found
    rest = " ".join(map(quote, words[1 + count :]))
    if Entry(verb).words == "machines":
        line = f"qvm {verb} {rest} {quote(first)}" if rest else f"qvm {verb} {quote(first)}"
    else:
        flag = "-C" if os.path.lexists(os.path.join(first, ".vmrc")) else "-M"
        line = f"qvm {flag} {quote(first)} {verb} {rest}".rstrip()
    return f"the verb comes first: `{line}`"


def for_named_machine(bound: Bound) -> str | None:
    """The hint for `qvm ssh web` where there is no machine: its first word is one."""
    from qvmsh.config.words import quote

    verb, first = bound.entry.verb, bound.words[0]
    if not _is_machine(first):
        return None
    if bound.entry.words == "first":
        return f"`qvm {verb} {quote(first)} NEW`"
    flag = "-C" if os.path.lexists(os.path.join(first, ".vmrc")) else "-M"
    return f"`qvm {flag} {quote(first)} {' '.join([verb, *map(quote, bound.words[1:])])}`"


def _is_machine(word: str) -> bool:
    """True for a directory with a `.vmrc`, and for the name of a known machine."""
    if os.path.lexists(os.path.join(word, ".vmrc")):
        return True
    from qvmsh.machine import registry

    return any(each.name == word and each.is_there for each in registry.rows(os.environ))
