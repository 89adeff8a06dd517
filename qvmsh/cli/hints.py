"""What to type instead of a word that is not a verb.

Other tools' words come first, then the spelling, then the order of the words. A verb that removes or
stops something is never proposed for its spelling: a line typed without thinking must not lose anything.

    for_verb(["ls"])            # "qvm calls that `qvm list`"
    for_verb(["rm", "web"])     # "qvm calls that `qvm delete web`"
    near("strat")               # "start"
    near("stpo")                # None
"""

from __future__ import annotations

from qvmsh.cli.machine_words import is_machine, option
from qvmsh.cli.parse import Entry, suggestion, verb_of
from qvmsh.commands.index import ALIASES, COMMANDS
from qvmsh.config.words import joined, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qvmsh.cli.parse import Bound

OTHER_TOOLS = {
    "attach": "console",
    "attach-disk": "disk add FILE",
    "backup": "archive",
    "boot": "start",
    "checkpoint": "snapshot save NAME",
    "cmdline": "dryrun",
    "connect": "console|ssh",
    "cont": "resume",
    "copy": "clone NEW|put SOURCE TARGET|get SOURCE TARGET",
    "cp": "clone NEW|put SOURCE TARGET|get SOURCE TARGET",
    "debug": "monitor|cmd LINE",
    "define": "create NAME|init",
    "download": "get SOURCE TARGET",
    "destroy": "delete|kill",
    "dmesg": "logs",
    "domfsfreeze": "freeze",
    "domfsinfo": "info",
    "domfsthaw": "thaw",
    "domhostname": "info",
    "domifaddr": "ip",
    "dominfo": "status",
    "domstate": "status -s",
    "domtime": "set-time|info",
    "down": "stop",
    "dump": "export",
    "dumpxml": "config|dryrun",
    "edit": "config edit",
    "fork": "clone NEW",
    "guestinfo": "info",
    "halt": "stop",
    "hmp": "cmd LINE|monitor",
    "image": "img list",
    "images": "img list",
    "inspect": "status --json",
    "launch": "create NAME",
    "load": "import FILE",
    "loadvm": "snapshot restore NAME|start --loadvm NAME",
    "ls": "list",
    "man": "--help",
    "managedsave": "stop --savevm NAME",
    "mount": "share add DIR:TAG",
    "mv": "rename NEW|move DIR",
    "new": "create NAME",
    "pack": "export",
    "package": "export",
    "port": "forward add 8080:80|forward list",
    "poweroff": "stop",
    "ps": "list",
    "pull": "get SOURCE TARGET|img build NAME",
    "push": "put SOURCE TARGET",
    "purge": "prune|delete --now",
    "qemu-agent-command": "agent COMMAND",
    "qemu-monitor-command": "qmp COMMAND|cmd LINE",
    "remove": "delete",
    "reset": "cmd system_reset|reboot",
    "reset-id": "renew",
    "resize": "disk resize NAME SIZE",
    "revert": "snapshot restore NAME",
    "rm": "delete",
    "rsync": "sync SOURCE TARGET",
    "run-command": "exec COMMAND",
    "save": "stop --savevm NAME",
    "savevm": "snapshot save NAME|cmd savevm NAME",
    "scp": "put SOURCE TARGET|get SOURCE TARGET",
    "set": "config NAME=VALUE",
    "shell": "ssh|sh",
    "show": "status -v|config",
    "show-ssh": "ssh-config",
    "ssh-copy-id": "ssh --copy-id",
    "snapshot-create-as": "snapshot save NAME",
    "snapshot-delete": "snapshot delete NAME",
    "snapshot-list": "snapshot list",
    "snapshot-revert": "snapshot restore NAME",
    "snapshots": "snapshot list",
    "sysprep": "renew",
    "tail": "logs --follow",
    "undefine": "delete",
    "unpack": "import FILE",
    "unpause": "resume",
    "up": "start",
    "upload": "put SOURCE TARGET",
    "validate": "config --check",
    "version": "-V",
    "vnc": "config VM_QEMU_VNC=:1",
    "umount": "share remove TAG",
}
"""Words of virsh, Lima, Incus, Multipass, Vagrant, quickemu, xl and others, and the lines for them."""

ENDING = frozenset({
    "archive", "delete", "disk commit", "disk rebase", "disk resize", "disk trim", "kill", "move", "prune",
    "reboot", "restart", "restore", "snapshot delete", "snapshot prune", "snapshot restore", "stop",
    "suspend",
})  # fmt: skip
"""Verbs that stop, remove or overwrite something, or end what runs in the guest."""


SLIP = 0.75
"""How much of two words must be the same (1 = all) for one to be a misspelling of the other."""


def near(word: str, known: Iterable[str] = (*COMMANDS, *ALIASES)) -> str | None:
    """The verb that `word` is probably a misspelling of; None also where that verb ends something."""
    found = _spelt(word, known)
    return None if found is None or ALIASES.get(found, found) in ENDING else found


def _spelt(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is a slip of; one that only has some of its letters is another word."""
    from difflib import SequenceMatcher

    found = suggestion(word, known)
    if found is None:
        return None
    is_slip = SequenceMatcher(None, word, found).ratio() >= SLIP or sorted(word) == sorted(found)
    return found if is_slip else None


def for_verb(words: Sequence[str]) -> str | None:
    """The hint for an unknown first word; None if nothing is like it.

    Args:
        words: that one, and those after it, whose machines are in the hint too: elsewhere it is typed
            in the directory of another machine.
    """
    lines = OTHER_TOOLS.get(words[0])
    if lines:
        return "qvm calls that " + " or ".join(f"`qvm {_line(each, words[1:])}`" for each in lines.split("|"))
    found = near(words[0])
    return f"did you mean `qvm {found}`?" if found else None


def _line(line: str, words: Sequence[str]) -> str:
    """A line of `OTHER_TOOLS` for the machines that `words` name.

    Of a verb that ends something it has them even if they are not known.
    """
    found = verb_of(line.split())
    named = [each for each in words if not each.startswith("-") and not each.isdecimal()]
    if found is None or not named:
        return line
    (verb, count), entry = found, Entry(found[0])
    *head, last = line.split()
    has_place = len(head) >= count and last.isalpha() and last.isupper()
    if entry.machine == "none" or not (is_machine(named[0]) or (verb in ENDING and not has_place)):
        return line
    if entry.words == "machines" and not has_place:
        return f"{line} {joined(named)}"
    rest = list(words[list(words).index(named[0]) + 1 :])
    if has_place and rest and not head[-1].isupper():
        line = f"{' '.join(head)} {joined(rest if entry.words == 'rest' else rest[:1])}"
    machine = quote(named[0])
    if entry.words == "machines":
        return f"{line} {machine}"
    if entry.words == "first":
        return f"{verb} {machine} {line.removeprefix(verb).strip()}"
    return f"{option(named[0])} {machine} {line}"


def for_second_word(first: str, word: str, seconds: Iterable[str]) -> str | None:
    """The hint for an unknown verb after `snapshot`, `disk`, `img` and the like."""
    found = _spelt(word, seconds)
    full = f"{first} {found}"
    return None if found is None or ALIASES.get(full, full) in ENDING else f"did you mean `qvm {full}`?"


def for_turned_words(words: Sequence[str]) -> str | None:
    """The hint for `qvm web status`: a machine, then a verb; None if the words are not that."""
    found = verb_of(words[1:])
    first = words[0]
    if found is None or not is_machine(first):
        return None
    verb, count = found
    rest = joined(words[1 + count :])
    if Entry(verb).words == "machines":
        line = f"qvm {verb} {rest} {quote(first)}" if rest else f"qvm {verb} {quote(first)}"
    else:
        line = f"qvm {option(first)} {quote(first)} {verb} {rest}".rstrip()
    return f"the verb comes first: `{line}`"


def for_named_machine(bound: Bound) -> str | None:
    """The hint for `qvm ssh web` where there is no machine: its first word is one."""
    verb, first = bound.entry.verb, bound.words[0]
    if not is_machine(first):
        return None
    if bound.entry.words == "first":
        return f"`qvm {verb} {quote(first)} NEW`"
    named = f"qvm {option(first)} {quote(first)}"
    if verb == "config" and not bound.words[1:]:
        return f"`{named} config` shows its settings, `{named} config edit` opens its file"
    return f"`{' '.join([named, verb, *map(quote, bound.words[1:])])}`"
