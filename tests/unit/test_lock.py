"""What set-ups install is pinned with hashes, fits pyproject.toml, and has its license named."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.world import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(group: str) -> dict[str, str]:
    """Name and version of each package in the lock file of a set-up."""
    text = (ROOT / f"scripts/requirements-{group}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", text, re.MULTILINE))


def wanted(group: str) -> list[Requirement]:
    groups = PROJECT["dependency-groups"]
    rows = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], *groups["build"]]
    rows += groups["docs"] if group in ("docs", "dev") else []
    if group == "dev":
        rows += [*groups["test"], *groups["lint"]]
    return [Requirement(row) for row in rows]


@pytest.mark.parametrize("group", ["run", "docs", "dev"])
def test_lock_has_every_dependency_in_a_version_that_fits(group: str) -> None:
    found = pinned(group)
    for each in wanted(group):
        assert each.specifier.contains(found[canonicalize_name(each.name)]), f"./scripts/lock: {each}"


@pytest.mark.parametrize("group", ["run", "docs", "dev"])
def test_lock_pins_everything_with_hashes_and_names_no_registry(group: str) -> None:
    lines = (ROOT / f"scripts/requirements-{group}.txt").read_text().splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("#"):
            continue
        if line.startswith(" "):
            assert re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line), line
        else:
            assert re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; [^\\]*)? \\", line), line
            assert "--hash" in following


def test_lock_is_the_same_for_all_set_ups() -> None:
    assert pinned("run").items() <= pinned("docs").items() <= pinned("dev").items()


def test_run_dependency_has_an_upper_bound() -> None:
    for row in PROJECT["project"]["dependencies"]:
        assert any(each.operator in ("<", "<=", "==") for each in Requirement(row).specifier), row


def test_licenses_page_names_the_license_of_each_package() -> None:
    """All that the run-time dependencies need, as the installed packages say."""
    section = (ROOT / "docs/licenses.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE))
    todo = [Requirement(row) for row in PROJECT["project"]["dependencies"]]
    seen: set[str] = set()
    while todo:
        each = todo.pop()
        if each.name in seen or (each.marker and not each.marker.evaluate({"extra": ""})):
            continue
        seen.add(each.name)
        output = metadata.metadata(each.name)
        todo += [Requirement(row) for row in metadata.requires(each.name) or ()]
        licenses = output.get_all("License-Expression") or output.get_all("License") or [""]
        words = licenses[0][:60]
        words += " ".join(row for row in output.get_all("Classifier") or () if row.startswith("License"))
        kind = next(kind for kind in ("LGPL", "MIT", "BSD", "PSF") if kind in words)
        names = next(names for title, names in rows.items() if title.startswith(kind))
        listed = {canonicalize_name(name.strip(" ;`")) for name in re.split(r"[ ,;]+", names)}
        assert canonicalize_name(each.name) in listed, f"docs/licenses.md, {kind}: {each.name}"
