"""docs/variables.md is the table of variables; `python -m qvmsh.config.reference` writes it."""

from __future__ import annotations

import re

from qvmsh.config import reference
from qvmsh.config.variables import VARIABLES
from tests.support.world import ROOT


def test_reference_page_is_the_table() -> None:
    assert reference.PAGE.read_text() == reference.page()


def test_reference_page_has_each_variable_in_one_row_of_four_cells() -> None:
    rows = re.findall(r"^\| `(VM_\w+)` \|(.*)\|$", reference.page(), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(VARIABLES)
    assert all(len(re.findall(r"(?<!\\)\|", rest)) == 2 for _, rest in rows)


def test_reference_page_has_a_title_for_every_group() -> None:
    assert {each.group for each in VARIABLES.values()} <= set(reference.GROUPS)


def test_readme_links_the_reference_page() -> None:
    assert "(docs/variables.md)" in (ROOT / "README.md").read_text()
