"""The generated pages of docs/ are what `python scripts/reference` writes, and leave nothing out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from qvmsh import errors
from qvmsh.cli.man import EXIT
from qvmsh.commands.index import ALIASES, COMMANDS
from qvmsh.config.variables import VARIABLES

ROOT = Path(__file__).parents[2]
PAGES = ("commands", "exit-status", "json", "variables")


@pytest.fixture(scope="module")
def outdated() -> list[str]:
    argv = [sys.executable, "scripts/reference", "--check"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def text(name: str) -> str:
    return (ROOT / f"docs/{name}.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_reference_page_is_up_to_date(outdated: list[str], name: str) -> None:
    assert f"{name}.md" not in outdated, "run: python scripts/reference"


def test_check_of_an_edited_page_names_it(tmp_path: Path) -> None:
    for folder in ("scripts/reference", "docs"):
        (tmp_path / folder).mkdir(parents=True)
        for path in (ROOT / folder).glob("*.*"):
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    (tmp_path / "docs/json.md").write_text("")
    argv = [sys.executable, "scripts/reference", "--check"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "json.md\n"), done


def test_commands_page_has_every_verb_alias_and_option() -> None:
    page = text("commands")
    sections = dict(re.findall(r"^## ([a-z -]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    for verb, row in COMMANDS.items():
        assert f"[`{verb}`](#{verb.replace(' ', '-')})" in page
        for option in row[8]:
            assert all(flag in sections[verb] for flag in option[2]), (verb, option)
    assert all(f"`{alias}`" in sections[verb] for alias, verb in ALIASES.items())


def test_exit_status_page_has_every_status_and_error() -> None:
    page = text("exit-status")
    statuses = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(status) for status, _ in EXIT} == statuses
    kinds = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and each.__module__ == errors.__name__
    ]
    named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert named == {each.__name__ for each in kinds if issubclass(each, errors.QvmError)}


def test_json_page_has_keys_for_every_verb_that_prints() -> None:
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text("json"), re.MULTILINE | re.DOTALL))
    assert sections.keys() - {"Errors"} == COMMANDS.keys() - {"console", "monitor", "sh"}
    assert all(
        re.search(r"^Keys?: `", body, re.MULTILINE) for verb, body in sections.items() if verb in COMMANDS
    )
    assert (
        "Keys: `detail`, `hint`, `machine`, `pid`, `ready`, `ssh`, `ssh_port`, `state`, "
        in sections["status"]
    )


def test_variables_page_has_each_variable_in_a_row_of_four_cells() -> None:
    rows = re.findall(r"^\| `(VM_\w+)` \|(.*)\|$", text("variables"), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(VARIABLES)
    assert all(len(re.findall(r"(?<!\\)\|", rest)) == 2 for _, rest in rows)


def test_variables_page_has_a_title_for_every_group() -> None:
    titles = re.findall(r"^## (.*)$", text("variables"), re.MULTILINE)
    assert len(titles) == len({each.group for each in VARIABLES.values()})
