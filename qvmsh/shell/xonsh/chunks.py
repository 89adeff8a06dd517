"""The statements of a xonsh source, found without parsing it.

    list(chunks("a = 1\\nif a:\\n    echo yes\\n"))      # [(0, "a = 1\\n"), (1, "if a:\\n    echo yes\\n")]

xonsh's tokenizer knows where strings, brackets and continued lines end, so a chunk never ends in
the middle of one.
"""

from __future__ import annotations

import io

from xonsh.parsers import tokenize as tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CONTINUES = ("else", "elif", "except", "finally", "case")
"""A line at the margin that begins so belongs to the statement before it."""

BLANK = frozenset(
    (tokens.NL, tokens.COMMENT, tokens.INDENT, tokens.DEDENT, tokens.ENCODING, tokens.ENDMARKER)
)


def chunks(source: str) -> Iterator[tuple[int, str]]:
    """The statements at the margin of `source`, each with the number of lines before it."""
    lines = source.splitlines(keepends=True)
    if len(lines) < 2:
        if lines:
            yield 0, source
        return
    begin, is_open = 0, False
    for line in [*_margins(source), len(lines)]:
        text = lines[line] if line < len(lines) else ""
        word = text.partition(":")[0].split()[:1]
        if is_open or (word and word[0] in CONTINUES):
            is_open = False
            continue
        if line > begin:
            yield begin, "".join(lines[begin:line])
        begin, is_open = line, text.startswith("@")  # a decorator belongs to what follows
    if begin < len(lines):
        yield begin, "".join(lines[begin:])


def _margins(source: str) -> list[int]:
    """Numbers (from 0) of the lines that begin a logical line at the margin."""
    found: list[int] = []
    is_fresh = True
    stream = tokens.tokenize(io.BytesIO(source.encode("utf-8", "surrogateescape")).readline, True)
    try:
        for token in stream:
            if token.type == tokens.NEWLINE:
                is_fresh = True
            elif token.type in BLANK:
                continue
            elif is_fresh:
                is_fresh = False
                if token.start[1] == 0:
                    found.append(token.start[0] - 1)
    except (tokens.TokenError, SyntaxError):  # the rest is one chunk; compiling it shows what is wrong
        pass
    return found
