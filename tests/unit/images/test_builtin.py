"""Which cached image is taken for a built guest, and which is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qvmsh.errors import QvmError, UsageError
from qvmsh.images import builtin
from qvmsh.images.builtin import BUILTIN, digest
from qvmsh.images.packages import Package

TINY = BUILTIN["tiny"]
A = Package("a", "1", (), "00", 1)
B = Package("b", "2", (), "11", 1)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path), "HOME": "/nonexistent"}


def put(environ: dict[str, str], made_by: str, packages: str, mtime: int = 0) -> Path:
    """A finished image in the cache; its path."""
    folder = Path(builtin.cache_folder(environ)) / f"tiny-{made_by}-{packages}"
    folder.mkdir(parents=True)
    image = folder / "tiny.qcow2"
    image.write_bytes(b"QFI\xfb")
    for name in TINY.kept:
        (folder / name).touch()
    status = image.stat()
    about = {"packages": {"a": "1"}, "seconds": 1.0, "stamp": [status.st_size, status.st_mtime_ns]}
    (folder / "about.json").write_text(json.dumps(about))
    os.utime(folder, (mtime, mtime))
    return image


def test_cache_folder_follows_xdg_and_ignores_a_relative_path() -> None:
    assert builtin.cache_folder({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == "/c/qvm/images"
    assert builtin.cache_folder({"XDG_CACHE_HOME": "c", "HOME": "/h"}) == "/h/.cache/qvm/images"
    assert builtin.cache_folder({"HOME": "/h"}) == "/h/.cache/qvm/images"


def test_path_empty_cache_has_none(environ: dict[str, str]) -> None:
    assert builtin.path("tiny", environ) is None
    assert not os.path.exists(builtin.cache_folder(environ))
    assert str(builtin.listing(environ)) == "tiny  not built"


def test_path_takes_the_newest_complete_image_of_this_recipe(environ: dict[str, str]) -> None:
    put(environ, digest(TINY), "a" * 12, mtime=1000)
    newest = put(environ, digest(TINY), "b" * 12, mtime=2000)
    assert builtin.path("tiny", environ) == str(newest)
    (one,) = builtin.listing(environ).images
    assert one.as_json() | {"size_bytes": 0, "summary": ""} == {
        "name": "tiny",
        "user": "qvm",
        "summary": "",
        "built": True,
        "image": str(newest),
        "size_bytes": 0,
    }


def test_path_other_recipe_or_other_guest_is_not_taken(environ: dict[str, str]) -> None:
    put(environ, "0" * 12, "a" * 12)
    put(environ, f"generic-{digest(TINY)}", "a" * 12)
    put(environ, digest(TINY), "a" * 11)
    assert builtin.path("tiny", environ) is None


def test_path_changed_image_is_not_taken(environ: dict[str, str]) -> None:
    image = put(environ, digest(TINY), "a" * 12)
    assert builtin.path("tiny", environ) == str(image)
    os.utime(image, (1, 1))
    assert builtin.path("tiny", environ) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stamp": 3}', "\0"])
def test_path_damaged_record_is_not_taken(environ: dict[str, str], text: str) -> None:
    image = put(environ, digest(TINY), "a" * 12)
    (image.parent / "about.json").write_text(text)
    assert builtin.path("tiny", environ) is None


def test_build_finished_image_is_returned_without_a_program(environ: dict[str, str]) -> None:
    image = put(environ, digest(TINY), "a" * 12)
    built = builtin.build("tiny", environ=environ | {"PATH": "/nonexistent"})
    assert (built.image, built.user, built.fresh) == (str(image), "qvm", False)
    assert str(built).endswith("already built; user qvm)")
    assert built.as_json()["packages"] == {"a": "1"}


@pytest.mark.parametrize("verb", [builtin.path, builtin.build])
def test_unknown_guest_is_refused_and_known_ones_are_named(verb: object) -> None:
    with pytest.raises(UsageError, match="no built-in image is named 'debian'") as caught:
        verb("debian")  # type: ignore[operator]
    assert caught.value.hint == "there is: tiny"


def test_build_on_another_architecture_is_refused(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.uname()
    other = os.uname_result((here.sysname, here.nodename, here.release, here.version, "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: other)
    with pytest.raises(QvmError, match="can be built only on x86_64, but this host is aarch64"):
        builtin.build("tiny", environ=environ)


def test_key_follows_versions_and_content_not_order() -> None:
    assert builtin.key([A, B]) == builtin.key([B, A])
    others = [[A], [A, replace(B, version="3")], [A, replace(B, sha256="12")]]
    assert len({builtin.key(content) for content in [[A, B], *others]}) == 4


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the recipe's sources that `digest` reads."""
    copy = tmp_path / "images"
    shutil.copytree(os.path.dirname(builtin.__file__), copy)
    monkeypatch.setattr(builtin, "_HERE", str(copy))
    digest.cache_clear()
    yield copy
    digest.cache_clear()


def test_digest_follows_every_source_of_the_recipe(sources: Path) -> None:
    seen = {digest(TINY)}
    changes = ["tiny.py", "filesystem.py", "tiny_files/root/etc/rcS", "tiny_files/initramfs/init"]
    for name in changes:
        with (sources / name).open("a") as file:
            file.write("#\n")
        digest.cache_clear()
        seen.add(digest(TINY))
    (sources / "tiny_files/root/etc/new").write_text("")
    digest.cache_clear()
    seen.add(digest(TINY))
    assert len(seen) == len(changes) + 2


def test_digest_same_sources_elsewhere_are_the_same(sources: Path) -> None:
    copied = digest(TINY)
    shutil.rmtree(sources / "__pycache__", ignore_errors=True)
    digest.cache_clear()
    assert digest(TINY) == copied


def test_copy_out_existing_file_is_refused_and_left(environ: dict[str, str], tmp_path: Path) -> None:
    put(environ, digest(TINY), "a" * 12)
    built = builtin.build("tiny", environ=environ)
    target = tmp_path / "a,b=c é.qcow2"
    assert builtin.copy_out(built, str(target)).output == str(target)
    assert target.read_bytes() == b"QFI\xfb"
    assert os.access(target, os.W_OK)
    target.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        builtin.copy_out(built, str(target))
    assert target.read_text() == "mine"
    assert not list(tmp_path.glob("*.part*"))


def test_copy_out_missing_folder_is_an_error_and_leaves_nothing(
    environ: dict[str, str], tmp_path: Path
) -> None:
    put(environ, digest(TINY), "a" * 12)
    built = builtin.build("tiny", environ=environ)
    with pytest.raises(QvmError, match=r"cannot write .*: No such file or directory"):
        builtin.copy_out(built, str(tmp_path / "no/where.qcow2"))
