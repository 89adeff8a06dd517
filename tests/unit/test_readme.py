"""The README's table of commands is the index; `python tests/unit/test_readme.py --write` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

from qvmsh.commands.index import COMMANDS

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- commands: written by tests/unit/test_readme.py --write -->\n", "<!-- end of commands -->"


def table() -> str:
    rows = [f"| `{verb}` | {row[7]} |" for verb, row in COMMANDS.items()]
    return "\n".join(["| verb | |", "|---|---|", *rows]) + "\n"


def test_readme_table_is_the_index() -> None:
    text = README.read_text()
    assert text.partition(BEGIN)[2].partition(END)[0] == table()


if __name__ == "__main__" and "--write" in sys.argv:
    head, _, rest = README.read_text().partition(BEGIN)
    README.write_text(head + BEGIN + table() + END + rest.partition(END)[2])
