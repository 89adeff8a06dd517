"""The generated index says what the functions say."""

from __future__ import annotations

import keyword
import re

from qvmsh.commands import describe, index
from tests.support.world import ROOT


def test_index_is_up_to_date() -> None:
    assert describe.INDEX.read_text() == describe.text(), "run: python -m qvmsh.commands.describe"


def test_types_of_here_are_up_to_date() -> None:
    assert describe.HERE.read_text() == describe.here(), "run: python -m qvmsh.commands.describe"


def test_index_flags_of_a_command_are_unique() -> None:
    for verb, row in index.COMMANDS.items():
        flags = [flag for option in row[8] for flag in option[2]]
        assert len(flags) == len(set(flags)), verb


def test_index_summaries_are_short() -> None:
    assert not [row[7] for row in index.COMMANDS.values() if len(row[7]) > 72]


def test_index_no_command_but_import_is_a_keyword_of_python() -> None:
    words = {verb.partition(" ")[0] for verb in index.COMMANDS}
    assert words & {*keyword.kwlist, *keyword.softkwlist} == {"import"}  # `import_package` in a script


def test_index_every_group_has_a_title() -> None:
    from qvmsh.cli.help import TOPICS

    assert {row[2] for row in index.COMMANDS.values()} <= set(TOPICS)


def test_version_is_the_same_everywhere() -> None:
    from qvmsh._version import VERSION

    found = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    assert found[1] == VERSION
