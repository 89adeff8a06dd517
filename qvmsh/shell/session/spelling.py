"""Commands in texts, spelt as they are typed at the prompt; which words are the host's there."""

from __future__ import annotations

import re

from qvmsh.cli.parse import verb_of
from qvmsh.commands.index import COMMANDS

SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


HOST_WORDS = frozenset((
    "exec", "env", "export", "gdb", "help", "import", "info", "init", "ip", "kill", "list", "logs", "ls",
    "mount", "network", "ps", "reset", "resume", "sh", "ssh", "suspend", "test", "top", "umount", "watch",
))  # fmt: skip
"""Words that stay the host's where it has such a program: those commands are typed `vm kill`, `vm ssh`."""
SHELL_WORDS = frozenset(("export",))
"""Words that mean something in any shell, whether the host has such a program or not."""
REFUSED = {"poweroff": "stop", "halt": "stop", "shutdown": "stop", "reboot": "reboot"}
"""Typed bare, these could mean the guest or the host; and the verb that means the guest."""
CALL = re.compile(
    r"`(?:cd (?P<folder>'[^`]*'|[^ `]+) && )?qvm (?:-[CM] (?P<place>'[^`]*'|[^ `]+) )?(?P<words>[^`]+)`"
    "(?! (?:works|starts it) as )"  # another account's: a session cannot `use` it, a process of its own can
)
"""A command in a text for the user."""


def is_hosts(word: str) -> bool:
    """True for a word that means a program of this host, so that the command is typed `vm WORD`."""
    if word not in HOST_WORDS or word in SHELL_WORDS:
        return word in SHELL_WORDS
    from shutil import which

    return (which(word) or which(word, path=SYSTEM_PATH)) is not None


def as_typed_here(text: str) -> str:
    """A text whose commands are spelt as they are typed at this prompt.

    Examples:
        >>> as_typed_here("`cd zz && qvm start` starts it, `qvm kill` ends it")
        '`use zz && start` starts it, `vm kill` ends it'
    """
    return CALL.sub(_typed_here, text)


def _typed_here(call: re.Match[str]) -> str:
    place, words = call["folder"] or call["place"], call["words"]
    first = words.partition(" ")[0]
    if words == "..." or (place and words == "sh"):
        words = ""
    elif first == "sh" or not (first == "VERB" or verb_of(words.split(" ")[:2]) or is_group(first)):
        return call[0]
    parts = [f"use {place}"] if place else []
    if words:
        parts.append(f"vm {words}" if first in (*HOST_WORDS, *REFUSED, "VERB") else words)
    return f"`{' && '.join(parts)}`"


def is_group(word: str) -> bool:
    """True if commands of two words begin with `word`."""
    return any(verb.startswith(f"{word} ") for verb in COMMANDS)
