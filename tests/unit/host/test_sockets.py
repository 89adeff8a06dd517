"""The folder for sockets if the user has none: in /tmp, where others may be first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qvmsh.host import sockets

UID = os.geteuid() or 12345


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sockets, "TMP", str(tmp_path))
    return tmp_path


def mine(path: Path) -> None:
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, UID, UID)


def test_runtime_base_is_the_usual_one_if_it_is_free(tmp: Path) -> None:
    usual = str(tmp / f"qvm-{UID}")
    assert sockets.runtime_base({}, UID) == usual
    mine(Path(usual))
    assert sockets.runtime_base({}, UID) == usual


@pytest.mark.parametrize("squat", [Path.touch, os.mkfifo, lambda path: path.symlink_to("/root")])
def test_runtime_base_that_is_taken_has_another_name(squat: Callable[[Path], object], tmp: Path) -> None:
    usual = tmp / f"qvm-{UID}"
    squat(usual)
    for name in ("00000000", "11111111"):
        squat(tmp / f"qvm-{UID}.{name}")
    found = sockets.runtime_base({}, UID)
    assert found != sockets.runtime_base({}, UID)  # it cannot be predicted
    assert Path(found).name.startswith(f"{usual.name}.")
    mine(Path(found))
    assert sockets.runtime_base({}, UID) == found  # and it is found again
