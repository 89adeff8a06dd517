"""Pages, help and messages use the usual words: a short list of banned phrases."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "scripts/reference").glob("*.py")),
]
MODULES = [
    *sorted(path for path in (ROOT / "qvmsh").rglob("*.py") if path.name != "index.py"),
    *sorted((ROOT / "scripts").rglob("*.py")),
]
BANNED = {
    r"who(ever)? (looks?|has it|asks?|takes?|waits?)|\bone who\b|whoever": "the process, the caller",
    r"\bhe\b|\bhis\b|\bhim\b": "it",
    r"\bof (then|old|ours)\b": "at the time; earlier; qvm's",
    r"\b(is|are|was|were) (told|said)\b|\btold (with|by|at|of)\b": "reported, printed",
    r"\bstand(s|ing)? on\b": "backed by",
    r"\bcut off\b": "interrupted",
    r"\b(go(es|ing)?|runs?) on(?=[.,;:]| (with|by|from|at)\b)": "continue, resume",
    r"\bfurther (disks?|words?|arguments?|lines?)\b|\ba further\b": "additional, another",
    r"\b(there is|make|no|little) room\b": "free space",
    r"\bmend(s|ed|ing)?\b": "repair",
    r"\bsettle[sd]?\b(?!`)": "recover",
    r"\bno problem\b": "ok",
    r"\bis too much\b": "unexpected",
    r"\bas it lies\b|\blies? (in|beside|elsewhere|outside)\b": "in place; is in",
}
"""A pattern, and what to write instead."""


def prose(path: Path) -> str:
    """The text of a page on one line a paragraph, without its blocks and its code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", re.sub(r"`[^`]*`", "``", text))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_page_is_in_plain_english(path: Path) -> None:
    assert not banned(prose(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_is_in_plain_english(path: Path) -> None:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    texts = (each.string for each in tokens if each.type in (tokenize.STRING, tokenize.COMMENT))
    sentences = (text for text in texts if " " in text)  # a single word is the name of something
    assert not banned("\n".join(re.sub(r"`[^`]*`", "``", text) for text in sentences))


def banned(text: str) -> list[str]:
    """Each banned phrase in `text` with what is around it, and what to write instead."""
    return [
        f"...{text[max(0, match.start() - 30) : match.end() + 20]}...: {better}"
        for pattern, better in BANNED.items()
        for match in re.finditer(pattern, text)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "all that they stand on", "it is told by name", "the hardware of then", "a save that was cut off",
        "the guest goes on.", "a further disk", "there is room for it", "mended", "settle the rest",
        "whoever has the console", "an archive lies beside it",
    ],
)  # fmt: skip
def test_banned_phrase_is_found(text: str) -> None:
    assert any(re.search(pattern, text) for pattern in BANNED)
