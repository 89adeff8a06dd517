"""Words as in a shell: split a value (VM_QEMU_EXTRA, VM_SSH_OPTIONS), and quote one.

    split("-device 'virtio-rng-pci,id=a b'")      # ["-device", "virtio-rng-pci,id=a b"]
    quote("it is")                                 # "'it is'"

The rules are those of `shlex.split`: blanks separate words, quotes and `\\` keep them together,
nothing is expanded.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CONTROLS = frozenset(map(chr, (*range(9), *range(11, 32), *range(127, 160))))
"""Not allowed in values: bash loses some (it marks quoting with 1 and 127), all can control a terminal."""

BLANKS = " \t\r\n"
_SPECIAL = frozenset(BLANKS + "'\"\\")


def split(text: str) -> list[str]:
    """The words of `text`.

    Raises:
        ValueError: a quote is not closed, or nothing follows the last backslash.
    """
    words: list[str] = []
    word: list[str] | None = None  # None between words; [] is the empty word of ''
    at, size = 0, len(text)
    while at < size:
        char = text[at]
        if char in BLANKS:
            if word is not None:
                words.append("".join(word))
            word = None
            at += 1
            continue
        word = [] if word is None else word
        if char == "'":
            at = _single(text, at, word)
        elif char == '"':
            at = _double(text, at, word)
        elif char == "\\":
            if at + 1 == size:
                raise ValueError("a \\ at the end")
            word.append(text[at + 1])
            at += 2
        else:
            begin = at
            while at < size and text[at] not in _SPECIAL:
                at += 1
            word.append(text[begin:at])
    if word is not None:
        words.append("".join(word))
    return words


def _single(text: str, at: int, word: list[str]) -> int:
    end = text.find("'", at + 1)
    if end < 0:
        raise ValueError("an unclosed '")
    word.append(text[at + 1 : end])
    return end + 1


def _double(text: str, at: int, word: list[str]) -> int:
    """A string in double quotes, in which a backslash acts on `"` and itself only."""
    begin = at = at + 1
    while True:
        end, slash = text.find('"', at), text.find("\\", at)
        if end < 0:
            raise ValueError('an unclosed "')
        if slash < 0 or end < slash:
            word.append(text[begin:end])
            return end + 1
        if text[slash + 1] in '"\\':
            word.append(text[begin:slash])
            begin = slash + 1
        at = slash + 2


def joined(words: Iterable[str]) -> str:
    """The words as a line from which a shell, and `split`, read them back."""
    return " ".join(map(quote, words))


_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-")


def quote(value: str) -> str:
    """`value` as one word of a POSIX shell, in the shortest readable form.

    Raises:
        ValueError: it contains a NUL byte.
    """
    if "\0" in value:
        raise ValueError("a value cannot contain a NUL byte")
    if value and _SAFE.issuperset(value):
        return value
    if "'" not in value:
        return f"'{value}'"
    pieces = "'" + value.replace("'", "'\\''") + "'"
    if any(c in value for c in "$`!"):  # in double quotes `shlex` and a prompt read these differently
        return pieces
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if len(escaped) + 2 <= len(pieces) else pieces


def typed(value: str) -> str:
    """The same for a text on one line of a terminal: what cannot be printed is an escape for bash and zsh."""
    if value.isprintable():
        return quote(value)
    pieces = [f"\\{c}" if c in "\\'" else c if c.isprintable() else _escaped(c) for c in value]
    return f"$'{''.join(pieces)}'"


def _escaped(char: str) -> str:
    if char == "\n":
        return "\\n"
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))
