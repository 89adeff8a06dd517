"""What paths in a directory mean before and after it goes to another place."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvmsh.machine.storage.shift import INSIDE, OTHER, SAME, Shift


@pytest.fixture
def shift(tmp_path: Path) -> Shift:
    for name in ("vm/web/sub", "vm/gold", "deep/er"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("vm")
    (tmp_path / "vm/gold/back").symlink_to("../web/data")
    return Shift(str(tmp_path / "vm/web"), str(tmp_path / "deep/er/web"))


@pytest.mark.parametrize(
    ("folder", "text", "wanted"),
    [
        ("", "data", SAME), ("", "./sub/../data", SAME), ("sub", "../data", SAME), ("", "", SAME),
        ("", "{}/vm/web/data", INSIDE), ("", "{}/vm/web", INSIDE), ("", "{}/link/web/data", INSIDE),
        ("", "{}/vm/../vm/web/./data", INSIDE), ("", "../web/data", INSIDE),
        ("sub", "../../web/data", INSIDE),
        ("", "..", OTHER), ("", "../gold/base", OTHER), ("sub", "../../gold/base", OTHER),
        ("", "{}/vm/gold/back", OTHER), ("", "../gold/back", OTHER),
        ("", "{}/vm/gold/base", SAME), ("", "{}/vm/web2/data", SAME), ("", "/", SAME),
    ],
)  # fmt: skip
def test_path_means_the_same_or_not(
    shift: Shift, tmp_path: Path, folder: str, text: str, wanted: str
) -> None:
    where = str(tmp_path / "vm/web" / folder)
    assert shift.verdict(where, text.format(tmp_path)) == wanted


def test_path_beside_means_the_same_from_beside(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    shift = Shift(str(tmp_path / "web"), str(tmp_path / "mail"))
    assert shift.verdict(str(tmp_path / "web"), "../gold") == SAME
    assert shift.verdict(str(tmp_path / "web"), "../web/data") == INSIDE
    assert Shift(shift.source, shift.source).verdict(shift.source, "../web/data") == SAME


def test_inside_is_seen_from_the_directory(shift: Shift, tmp_path: Path) -> None:
    for text, wanted in (
        ("vm/web/a/b", "a/b"), ("vm/web", "."), ("vm/web/", "."), ("vm/web/sub/../x", "x"),
        ("link/web/x", "x"), ("vm/webs", None), ("vm", None), ("vm/gold/back", None),
    ):  # fmt: skip
        assert shift.inside(f"{tmp_path}/{text}") == wanted, text
