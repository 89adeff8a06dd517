"""The list: which machines are in it, and how a row looks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qvmsh.errors import UsageError
from qvmsh.machine import registry
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.overview import list as listing
from qvmsh.machine.reports import lasting
from tests.support.world import bare_environ, write_vmrc


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return bare_environ(tmp_path)


def make(tmp_path: Path, environ: dict[str, str], name: str, **more: str) -> Path:
    write_vmrc(tmp_path / "vms" / name, name, **more)
    registry.remember(BaseMachine(tmp_path / "vms" / name, environ=environ))
    return tmp_path / "vms" / name


def test_list_of_off_machines_has_no_empty_columns(tmp_path: Path, environ: dict[str, str]) -> None:
    where = make(tmp_path, environ, "web", VM_MACHINE_CPUS="3", VM_MACHINE_MEM="64")
    assert str(listing.known_machines(environ)).splitlines() == [
        "name  state    vcpus  mem     directory",
        f"web   stopped  3      64 MiB  {where}",
    ]


def test_list_selects_by_name_label_and_state(tmp_path: Path, environ: dict[str, str]) -> None:
    make(tmp_path, environ, "web1", VM_LABELS="a b")
    make(tmp_path, environ, "web2", VM_LABELS="a", VM_FMT="nonsense")
    make(tmp_path, environ, "db")

    def names(**how: tuple[str, ...]) -> list[str]:
        return [each.machine for each in listing.known_machines(environ, **how)]  # type: ignore[arg-type]

    assert names() == ["db", "web1", "web2"]
    assert names(names=("web*",)) == ["web1", "web2"]
    assert names(names=("db", str(tmp_path / "vms/web1"))) == ["db", "web1"]
    assert names(labels=("a",)) == ["web1", "web2"]
    assert names(labels=("a", "b")) == ["web1"]
    assert names(states=("broken",)) == ["web2"]
    assert names(states=("running", "stopped")) == ["db", "web1"]
    with pytest.raises(UsageError, match="--state runing: must be one of stopped"):
        names(states=("runing",))
    with pytest.raises(UsageError, match="no machine is known as 'mail'"):
        names(names=("mail",))


def test_tree_finds_unknown_machines(tmp_path: Path, environ: dict[str, str]) -> None:
    for name in ("a", "deep/er/b", "a/inner", "1/2/3/4/5/6/7/far"):
        write_vmrc(tmp_path / "tree" / name, os.path.basename(name))
    os.symlink(tmp_path / "tree", tmp_path / "tree/deep/loop")
    make(tmp_path, environ, "known")
    found = listing.known_machines(environ, tree=str(tmp_path / "tree"))
    assert [each.machine for each in found] == ["a", "b"]  # not inside a machine, not through a link
    assert [each.machine for each in listing.known_machines(environ)] == ["known"]
    with pytest.raises(UsageError, match="not a directory"):
        listing.known_machines(environ, tree=str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 0 min"), (90000, "1 d 1 h")],
)
def test_lasting_is_short(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
