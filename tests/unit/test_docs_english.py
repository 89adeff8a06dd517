"""The pages that are written by hand use the usual words: a short list of phrases that they do without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = {"commands.md", "exit-status.md", "json.md", "variables.md"}  # their words are in the code
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name not in GENERATED),
    *sorted((ROOT / "scripts/reference").glob("*.py")),
]
BANNED = {
    r"who(ever)? (looks?|has it|asks?|takes?|waits?)|\bone who|whoever": "the process, the caller",
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
    text = prose(path)
    found = [
        f"...{text[max(0, match.start() - 30) : match.end() + 20]}...: {better}"
        for pattern, better in BANNED.items()
        for match in re.finditer(pattern, text)
    ]
    assert not found


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
