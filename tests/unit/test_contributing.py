"""CONTRIBUTING.md's map is the tree, and the hooks before a commit run what `scripts/test` runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_map_has_every_folder_of_the_package_once() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix() + "/" for path in (ROOT / "qvmsh").rglob("__init__.py")
    }
    rows = re.findall(r"^\| `(qvmsh/[\w/]+/)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(folders - {"qvmsh/"})


def test_every_path_that_is_named_is_there() -> None:
    paths = re.findall(r"(?<![\w./])((?:qvmsh|scripts|docs|tests|benchmarks|rc)/[\w./-]*\w/?)", PAGE)
    assert len(paths) > 40
    assert not [path for path in paths if "VERB" not in path and not (ROOT / path).exists()]
    tests = set(re.findall(r"`(test_\w+\.py)`", PAGE))
    assert tests <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_twelve_questions_have_an_answer() -> None:
    section = PAGE.partition("### Where is ...?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| .*\? \| .*`qvmsh/[\w/.]+`.* \|$", section, re.MULTILINE)
    assert len(rows) == 12


def test_hooks_run_the_checks_of_scripts_test() -> None:
    hooks = re.findall(
        r"entry: (?:\.venv/bin/)?(.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE
    )
    script = (ROOT / "scripts/test").read_text()
    assert len(hooks) == 5
    assert not [hook for hook in hooks if hook.removesuffix(" --force-exclude") not in script]
