"""The list of known machines: what is read, found again, forgotten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qvmsh import api
from qvmsh.errors import UsageError
from qvmsh.machine import registry as known
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.overview import list as listing
from tests.support.world import bare_environ, write_vmrc


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return bare_environ(tmp_path)


def make(tmp_path: Path, environ: dict[str, str], name: str, where: str = "", **more: str) -> Path:
    directory = tmp_path / "vms" / (where or name)
    write_vmrc(directory, name, **more)
    known.remember(BaseMachine(directory, environ=environ))
    return directory


def shown(environ: dict[str, str], *labels: str) -> list[tuple[str, str]]:
    return [(each.machine, each.state) for each in listing.known_machines(environ, labels=labels)]


def test_list_of_nothing_is_empty(environ: dict[str, str]) -> None:
    found = listing.known_machines(environ)
    assert str(found) == ""
    assert found.as_json() == {"machines": []}


def test_remember_two_of_one_name_keeps_both(tmp_path: Path, environ: dict[str, str]) -> None:
    one, two = (make(tmp_path, environ, "demo", where) for where in ("one", "two"))
    assert [each.directory for each in listing.known_machines(environ)] == [str(one), str(two)]


def test_list_of_an_older_qvm_survives_new_machines(tmp_path: Path, environ: dict[str, str]) -> None:
    old = make(tmp_path, environ, "old")
    Path(known.list_file(environ) or "").write_text(f"old\t{old}\n")
    make(tmp_path, environ, "new")
    make(tmp_path, environ, "newer")
    assert shown(environ) == [("new", "stopped"), ("newer", "stopped"), ("old", "stopped")]


def test_directory_that_was_renamed_is_found_again(tmp_path: Path, environ: dict[str, str]) -> None:
    directory = make(tmp_path, environ, "demo")
    directory.rename(directory.with_name("other"))
    assert known.find("demo", environ) == str(directory.with_name("other"))
    assert shown(environ) == [("demo", "stopped")]
    known.remember(BaseMachine(directory.with_name("other"), environ=environ))
    assert len(known.rows(environ)) == 1


def test_directory_that_is_gone_is_missing_until_pruned(tmp_path: Path, environ: dict[str, str]) -> None:
    directory = make(tmp_path, environ, "demo", VM_LABELS="web")
    make(tmp_path, environ, "other")
    shutil.rmtree(directory)
    assert shown(environ) == [("demo", "missing"), ("other", "stopped")]
    assert "qvm list --prune" in str(listing.known_machines(environ))
    with pytest.raises(UsageError, match="the directory of demo is missing"):
        known.find("demo", environ)
    known.forget_missing(environ)
    assert shown(environ) == [("other", "stopped")]


def test_machine_made_anew_elsewhere_replaces_a_missing_one(tmp_path: Path, environ: dict[str, str]) -> None:
    shutil.rmtree(make(tmp_path, environ, "demo"))
    make(tmp_path, environ, "demo", "elsewhere")
    assert shown(environ) == [("demo", "stopped")]


def test_list_of_before_is_read(tmp_path: Path, environ: dict[str, str]) -> None:
    directory = tmp_path / "with\ttab"
    write_vmrc(directory)
    path = Path(known.list_file(environ) or "")
    path.parent.mkdir(parents=True)
    path.write_text(f"demo\t{directory}\nbroken line\n\n")
    assert known.machines(environ) == {"demo": [str(directory)]}
    known.remember(BaseMachine(directory, environ=environ))
    directory.rename(tmp_path / "renamed")  # its place has been noted by now
    assert known.machines(environ) == {"demo": [str(tmp_path / "renamed")]}


def test_broken_machine_is_listed_as_broken_and_keeps_its_labels(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    directory = make(tmp_path, environ, "demo", VM_LABELS="web")
    with (directory / ".vmrc").open("a") as file:
        file.write("VM_MACHINE_MEM=lots\n")
    (each,) = listing.known_machines(environ, labels=["web"])
    assert (each.state, each.labels) == ("broken", ["web"])
    assert "VM_MACHINE_MEM is 'lots'" in each.detail
    (directory / ".vmrc").write_bytes(b"\xff\x00")
    (each,) = listing.known_machines(environ)
    assert each.state == "broken"


def test_labels_all_must_be_there(tmp_path: Path, environ: dict[str, str]) -> None:
    a = make(tmp_path, environ, "a", VM_LABELS="web test")
    b = make(tmp_path, environ, "b", VM_LABELS='"two words" web')
    make(tmp_path, environ, "c")
    assert known.labelled(["web"], environ) == [str(a), str(b)]
    assert known.labelled(["web", "two words"], environ) == [str(b)]
    assert shown(environ, "test") == [("a", "stopped")]
    with pytest.raises(UsageError, match="no known machine has the label mail") as caught:
        known.labelled(["mail"], environ)
    assert "labels in use: test, two words, web" in str(caught.value.hint)
    assert [vm.name for vm in api.Machine.known("web", environ=environ)] == ["a", "b"]


def test_half_written_list_of_a_killed_command_is_removed(tmp_path: Path, environ: dict[str, str]) -> None:
    make(tmp_path, environ, "one")
    left = Path(f"{known.list_file(environ)}.part123-0badcafe")
    left.write_text("one\t/half")
    make(tmp_path, environ, "two")
    assert not left.exists()
    assert [name for name, _ in shown(environ)] == ["one", "two"]
