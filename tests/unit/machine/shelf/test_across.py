"""A directory that is copied, compared, and then removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from qvmsh.errors import QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.io import QUIET
from qvmsh.machine.journal import Kind
from qvmsh.machine.shelf import across
from qvmsh.machine.work import creation_folder
from tests.support.world import bare_environ, write_vmrc


@pytest.fixture
def job(tmp_path: Path) -> across.Job:
    return across.Job(Kind.MOVE, "web", bare_environ(tmp_path), QUIET)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_vmrc(tmp_path / "web", "web")
    (tmp_path / "web/data").write_text("0")
    return tmp_path / "web"


def test_directory_that_is_written_to_all_the_time_stays(
    source: Path, job: across.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = host_files.copy, 0

    def copy(path: str, target: str, *more: object) -> None:
        nonlocal count
        real(path, target)
        if path.endswith("data"):
            count += 1
            Path(path).write_text(str(count))

    monkeypatch.setattr(host_files, "copy", copy)
    with pytest.raises(StateError, match="cannot move: data is written to all the time"):
        across.take(str(source), str(tmp_path / "new"), job)
    assert (source / "data").read_text() == str(count) == str(across.ROUNDS)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("web", ".local")]
    assert not list((tmp_path / ".local").rglob("making"))


def test_file_changed_while_it_is_aside_is_copied_again(
    source: Path, job: across.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(old: str, new: str) -> None:
        real(old, new)
        if ".moved-" in new:
            (Path(new) / "data").write_text("1")

    monkeypatch.setattr(os, "rename", rename)
    across.take(str(source), str(tmp_path / "new"), job)
    assert (tmp_path / "new/data").read_text() == "1"
    assert not source.exists()


def test_place_that_is_taken_meanwhile_leaves_the_directory(
    source: Path, job: across.Job, tmp_path: Path
) -> None:
    def prepare(_: str) -> None:
        (tmp_path / "new/other").mkdir(parents=True)

    with pytest.raises(OSError, match="not empty"):
        across.take(str(source), str(tmp_path / "new"), job, prepare)
    assert (source / "data").read_text() == "0"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["other"]
    assert not [path for path in tmp_path.iterdir() if path.name not in ("web", "new", ".local")]


def test_all_of_a_directory_is_copied_with_its_dates_and_modes(
    source: Path, job: across.Job, tmp_path: Path
) -> None:
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_text("text")
    (source / "a/way").symlink_to("b/file")
    (source / "a/b/file").chmod(0o640)
    for path in (source / "a/b/file", source / "a/b", source / "a", source):
        os.utime(path, ns=(1, 10**18 + 1))
    across.take(str(source), str(tmp_path / "new"), job)
    new = tmp_path / "new"
    assert os.readlink(new / "a/way") == "b/file"
    assert (new / "a/b/file").stat().st_mode & 0o777 == 0o640
    # .qvm is new: it notes that the machine is known here
    assert {path.stat().st_mtime_ns for path in (new / "a/b/file", new / "a/b", new / "a")} == {10**18 + 1}


def test_old_directory_that_cannot_be_removed_is_named(
    source: Path, job: across.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rmtree(path: str) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(QvmError, match="the old directory cannot be removed") as found:
            across.take(str(source), str(tmp_path / "new"), job)
    assert (tmp_path / "new/data").read_text() == "0"
    assert ".web.moved-" in str(found.value.hint)
    monkeypatch.setattr(process, "exists", lambda pid: False)  # as if that command had ended
    assert "it has been completed" in creation_folder.sweep(job.environ)[0]
    assert not list(tmp_path.glob(".web*"))
