"""Markdown for the generated pages: tables whose cells are taken from the code."""

from __future__ import annotations

import re
from collections.abc import Iterable

WRITTEN = "Generated from {} by `python scripts/reference`; do not edit.\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table; its cells are Markdown."""
    head = list(head)
    lines = [_line(head), "|" + "---|" * len(head)]
    return lines + [_line(row) for row in rows]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(each.replace("|", "\\|").replace("\n", " ") for each in cells) + " |"


def prose(text: str) -> str:
    """Text in which nothing but backquotes is markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(each if each[:1] == "`" else re.sub(r"([<*\\])", r"\\\1", each) for each in parts)
