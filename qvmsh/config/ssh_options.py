"""VM_SSH_OPTIONS: words for ssh, and lines as in ssh_config.

    arguments("ServerAliveInterval=60\n-C")       # ["-oServerAliveInterval=60", "-C"]

A line that begins with `-` is words for ssh, split as a shell would; any other is a keyword of ssh_config
with its value, `Key value` or `Key=value`. Source: ssh_config(5), `ssh -o`.
"""

from __future__ import annotations

from qvmsh.config import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FORM = "words for ssh, or lines `Key value` or `Key=value` as in ssh_config"
CACHE = ("controlmaster", "controlpath", "controlpersist")
"""Keywords that decide about cached connections, as qvm does."""
SECTIONS = ("host", "match", "include")
"""Keywords that are about other keywords: on ssh's command line they have no use."""
PINS = (
    "stricthostkeychecking", "userknownhostsfile", "globalknownhostsfile", "hostkeyalias",
    "knownhostscommand", "nohostauthenticationforlocalhost", "checkhostip", "hashknownhosts",
    "updatehostkeys", "verifyhostkeydns",
)  # fmt: skip
"""Keywords that decide which host key is taken: that of the machine alone."""
PLACES = {
    "user": "VM_MACHINE_USER names the account, or `qvm exec --user`",
    "port": "VM_SSH_PORT and VM_SSH_GUEST_PORT name the ports",
    "hostname": "qvm knows where the guest is",
}
"""Keywords that say what is reached; ssh would ignore them, since qvm says it before."""
_MEANS = {"M": "ControlMaster", "O": "ControlMaster", "S": "ControlPath", "l": "User", "p": "Port"}
_WITH_VALUE = frozenset("BbcDEeFIiJLlmOopQRSWw")
"""ssh's options with a value. Source: ssh(1)."""


def arguments(value: str) -> list[str]:
    """The words for ssh.

    Raises:
        ValueError: a line is neither, or is about what qvm decides.
    """
    found: list[str] = []
    for line in map(str.strip, value.split("\n")):
        if not line or line.startswith("#"):
            continue
        if line.startswith("-") or _waits(found):
            found += words.split(line)
        elif keyword(line)[1]:
            found.append(f"-o{line}")
        else:
            raise ValueError(f"{words.quote(line)} is neither an option nor a keyword with its value")
    require_allowed(found)
    return found


def require_allowed(arguments: Sequence[str]) -> None:
    """Refuse words for ssh that are about what qvm decides: connections, host key, address, account.

    Raises:
        ValueError: the text says why.
    """
    for letter, value in options(arguments):
        if letter == "o":
            key = keyword(value.strip())[0]
            if not key:
                raise ValueError(f"{words.quote(value)} is not a keyword with its value")
            _require_free(key)
        elif letter in _MEANS:
            _require_free(_MEANS[letter])


def _require_free(key: str) -> None:
    if key.lower() in CACHE:
        raise ValueError(f"{key}: qvm caches the connections itself")
    if key.lower() in PINS:
        raise ValueError(f"{key}: qvm pins the host key itself")
    if key.lower() in PLACES:
        raise ValueError(f"{key}: {PLACES[key.lower()]}")
    if key.lower() in SECTIONS:
        raise ValueError(f"{key}: it is for configuration files of ssh")


def keyword(line: str) -> tuple[str, str]:
    """Keyword and value of a line of ssh_config; the value is "" if it has none."""
    size = next((at for at, char in enumerate(line) if not (char.isascii() and char.isalnum())), len(line))
    rest = line[size:].lstrip()
    rest = rest.removeprefix("=").lstrip()
    return line[:size], rest if line[size : size + 1] in (" ", "\t", "=") else ""


def keywords(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """The keywords with their values among words for ssh."""
    return [keyword(value.strip()) for flag, value in options(arguments) if flag == "o"]


def options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """ssh's options among words for it: the letter of each, and its value ("" if it takes none)."""
    rest = iter(arguments)
    for word in rest:
        letters = word[1:] if word.startswith("-") else ""
        for at, letter in enumerate(letters, 1):
            if letter in _WITH_VALUE:
                yield letter, word[at + 1 :] or next(rest, "")
                break
            yield letter, ""


def _waits(arguments: Sequence[str]) -> bool:
    """True if the last option still needs its value, which is then on the next line."""
    last = arguments[-1] if arguments else ""
    return len(last) == 2 and last[0] == "-" and last[1] in _WITH_VALUE
