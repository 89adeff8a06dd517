"""Tars of settings that were made to do harm: refused, in little memory."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from qvmsh.errors import ImageError
from qvmsh.machine.archive import settings as archive_settings


def headers(**values: str) -> bytes:
    """A tar of one empty file with extended headers."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(".qvm/x")
        member.pax_headers = {name.replace("_", "."): value for name, value in values.items()}
        tar.addfile(member)
    return made.getvalue()


def long_name(kind: bytes) -> bytes:
    """A header that promises a name of 1 GiB; what stands behind it is a hole."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = kind, 1 << 30
    return member.tobuf(tarfile.GNU_FORMAT)


def old_map() -> bytes:
    member = tarfile.TarInfo(".qvm/x")
    member.type = tarfile.GNUTYPE_SPARSE
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


BOMBS: dict[str, Callable[[], bytes]] = {
    "long name": lambda: long_name(tarfile.GNUTYPE_LONGNAME),
    "long link": lambda: long_name(tarfile.GNUTYPE_LONGLINK),
    "long extended header": lambda: long_name(tarfile.XHDTYPE),
    "long global header": lambda: long_name(tarfile.XGLTYPE),
    "a comment": lambda: headers(comment="x" * 100_000),
    "wrong map of holes": lambda: headers(GNU_sparse_map="1,x,3"),
    "map of holes": lambda: headers(GNU_sparse_map="1099511627776,0", GNU_sparse_size=str(1 << 40)),
    "old map of holes": old_map,
    "map of holes in the file": lambda: headers(GNU_sparse_major="1", GNU_sparse_minor="0"),
    "size below zero": lambda: headers(size="-50000"),
    "many files": lambda: b"".join(tarfile.TarInfo(f".qvm/{n}").tobuf() for n in range(10_001)),
    "compressed": lambda: lzma.compress(headers()),
}


@pytest.mark.parametrize("name", BOMBS)
def test_unpack_of_a_bomb_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.tar"
    with path.open("wb") as file:
        file.write(BOMBS[name]())
        file.truncate(2 << 30)
    largest = [0]

    class Watched(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            largest.append(-1 if size is None else size)
            return super().read(size) or b""

    monkeypatch.setattr(tarfile, "bltn_open", Watched)
    made = None if name == "many files" else str(tmp_path / "made")
    with pytest.raises(ImageError, match=r"is damaged|is not a file of a machine"):
        archive_settings.unpack(str(path), lambda _: made, "L")
    assert min(largest) >= 0
    assert max(largest) <= 1 << 20
    assert not (tmp_path / "made").exists() or not (tmp_path / "made").stat().st_size


def test_unpack_of_a_plain_tar_writes_its_files(tmp_path: Path) -> None:
    name = ".qvm/tpm/" + "ä" * 100 + "/" + "b" * 200
    with tarfile.open(tmp_path / "settings.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mtime = 3, 1.5
        tar.addfile(member, io.BytesIO(b"abc"))
    archive_settings.unpack(str(tmp_path / "settings.tar"), lambda _: str(tmp_path / "made"), "L")
    assert (tmp_path / "made").read_bytes() == b"abc"


def test_unpack_skips_what_is_about_the_old_directory(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "settings.tar", "w") as tar:
        for name in (".vmrc", ".qvm/place", ".qvm/clones", ".qvm/original", ".qvm/uuid"):
            tar.addfile(tarfile.TarInfo(name))
    placed: list[str] = []
    archive_settings.unpack(str(tmp_path / "settings.tar"), placed.append, "L")
    assert placed == [".vmrc", ".qvm/uuid"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", ".qvm/../../x", ".qvm", ".qvm/running"])
def test_unpack_refuses_what_is_not_in_the_machine(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "settings.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(ImageError, match="is not a file of a machine"):
        archive_settings.unpack(str(tmp_path / "settings.tar"), lambda _: str(tmp_path / "made"), "L")
    assert not (tmp_path / "made").exists()
