"""Write the generated pages of docs/ from the code.

    .venv/bin/python scripts/reference            # writes all pages
    .venv/bin/python scripts/reference --check    # prints the pages that are out of date; status 1 if any is

A page is a module of this folder with `PAGE`, its path below docs/, and `page()`, its text.
"""

from __future__ import annotations

import sys
from pathlib import Path

import commands
import exit_status
import json_output
import variables

DOCS = Path(__file__).parents[2] / "docs"


def main() -> int:
    outdated = []
    for module in (commands, exit_status, json_output, variables):
        path, text = DOCS / module.PAGE, module.page()
        if not path.exists() or path.read_text() != text:
            outdated.append(module.PAGE)
            if "--check" not in sys.argv:
                path.write_text(text)
    if "--check" in sys.argv and outdated:
        print(*outdated, sep="\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
