"""Unpacking what a guest sends: all of a good tree, and nothing outside the folder of a bad one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvmsh.host import tar_format
from qvmsh.machine.guest.files import incoming
from qvmsh.machine.guest.files.incoming import Refused, Unpacking
from qvmsh.machine.guest.files.placing import Placing
from tests.support.odd_names import make_sparse, make_tree, seen


def idle(*_: object) -> None:
    pass


def same(name: str) -> str:
    return name


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: object) -> bytes:
    """One member as Python's tarfile writes it."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    text = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return text + data + bytes(tar_format.padding(len(data)))


END = bytes(1024)
OTHER = 4242


@contextlib.contextmanager
def account(number: int) -> Iterator[None]:
    """What is done as another account, where root runs the tests."""
    if os.geteuid() or not number:
        yield
        return
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def own() -> Iterator[Path]:
    """A folder of that account; pytest's folders are for root alone."""
    with tempfile.TemporaryDirectory() as found:
        if not os.geteuid():
            os.chown(found, OTHER, OTHER)
        yield Path(found)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """An empty folder with its descriptor; beside it a file that nothing may change."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("safe")
    folder = tmp_path / "part"
    folder.mkdir(0o700)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield folder, fd
    os.close(fd)
    assert sorted(os.listdir(tmp_path)) == ["outside", "part"]
    assert os.listdir(tmp_path / "outside") == ["file"]
    assert (tmp_path / "outside/file").read_text() == "safe"


def unpacked(
    fd: int, data: bytes, top: Callable[[str], str] = same, tops: dict[str, str] | None = None
) -> Unpacking:
    """Unpack what was asked for: a folder `t`, if nothing else is given."""
    found = Unpacking(fd, {"t": "folder"} if tops is None else tops, "demo", idle, idle)
    try:
        found.all(io.BytesIO(data).read, top)
    finally:
        found.close()
    return found


@pytest.mark.parametrize("how", [[], ["--format=pax"], ["--format=gnu", "-S"]])
def test_unpacking_what_gnu_tar_sends_keeps_all_of_it(
    root: tuple[Path, int], tmp_path_factory: pytest.TempPathFactory, how: list[str]
) -> None:
    source = tmp_path_factory.mktemp("source") / "tree"
    make_tree(source)
    make_sparse(source / "holes", 8 << 20, 1 << 20)
    data = subprocess.run(
        ["tar", "-c", *how, "-C", source.parent, "-f", "-", "./tree"], stdout=subprocess.PIPE, check=True
    ).stdout
    found = unpacked(root[1], data, tops={"tree": "folder"})
    assert (found.failed, found.missing) == ([], set())
    target = tmp_path_factory.mktemp("target")
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    Placing(found.modes, found.failed).place(root[1], "tree", fd, "tree")
    os.close(fd)
    assert found.failed == []
    assert seen(target) | {b"tree": ()} == {b"tree/" + key: row for key, row in seen(source).items()} | {
        b"tree": ()
    }
    assert os.stat(target / "tree/holes").st_blocks * 512 < 1 << 20
    assert os.path.samefile(target / "tree/second name", target / "tree/dir\n1/f")


HOSTILE = {
    "parent": member("../outside/evil", data=b"x"),
    "parent below": member("t/../../outside/evil", data=b"x"),
    "absolute": member("/tmp/evil", data=b"x"),
    "through a link": member("t/l", tarfile.SYMTYPE, linkname="../../outside")
    + member("t/l/evil", data=b"x"),
    "over a link": member("t/l", tarfile.SYMTYPE, linkname="../../outside/file") + member("t/l", data=b"x"),
    "folder over a link": member("t/l", tarfile.SYMTYPE, linkname="../../outside")
    + member("t/l/", tarfile.DIRTYPE),
    "hard link out": member("t/h", tarfile.LNKTYPE, linkname="../outside/file") + member("t/h", data=b"x"),
    "hard link to a link": member("t/l", tarfile.SYMTYPE, linkname="../../outside/file")
    + member("t/h", tarfile.LNKTYPE, linkname="t/l"),
    "hard link through a link": member("t/l", tarfile.SYMTYPE, linkname="../../outside")
    + member("t/h", tarfile.LNKTYPE, linkname="t/l/file"),
    "hard link to a folder": member("t/d/", tarfile.DIRTYPE) + member("t/h", tarfile.LNKTYPE, linkname="t/d"),
    "twice": member("t/a", data=b"x") + member("t/a", data=b"y"),
    "below a file": member("t/a", data=b"x") + member("t/a/b", data=b"y"),
    "too deep": member("t/" * 300 + "f", data=b"x"),
    "not a tar": b"hello" * 1000,
    "damaged": member("t/a", data=b"x" * 600)[:700],
    "size": member("t/a")[:124] + b"77777777777\0" + member("t/a")[136:],
}
"""Where a folder `t` was asked for."""
OTHERS = {
    "link for a folder": ("folder", member("x", tarfile.SYMTYPE, linkname="../outside")),
    "link for a file": ("file", member("x", tarfile.SYMTYPE, linkname="../outside/file")),
    "file for a folder": ("folder", member("x", data=b"x")),
    "folder for a file": ("file", member("x/", tarfile.DIRTYPE)),
    "what is below for a file": ("file", member("x/y", data=b"x")),
    "device for a file": ("file", member("x", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "hard link for a folder": ("folder", member("x", tarfile.LNKTYPE, linkname="x")),
    "hard link to a link": (
        "file",
        member("t/l", tarfile.SYMTYPE, linkname="../../outside/file")
        + member("x", tarfile.LNKTYPE, linkname="t/l"),
    ),
}
"""Where `x` of this kind was asked for, beside the folder."""


@pytest.mark.parametrize("name", HOSTILE)
def test_unpacking_hostile_members_is_refused(root: tuple[Path, int], name: str) -> None:
    with pytest.raises(Refused) as caught:
        unpacked(root[1], HOSTILE[name] + END)
    assert caught.value.machine == "demo"


@pytest.mark.parametrize("name", OTHERS)
def test_unpacking_another_kind_than_asked_for_is_refused(root: tuple[Path, int], name: str) -> None:
    """The next copy to the same place would follow a link."""
    kind, data = OTHERS[name]
    with pytest.raises(Refused):
        unpacked(root[1], data + END, tops={"x": kind, "t": "folder"})
    assert not (root[0] / "x").is_symlink()


def test_unpacking_two_names_of_one_file_and_nothing(root: tuple[Path, int]) -> None:
    data = member("a", data=b"x") + member("b", tarfile.LNKTYPE, linkname="a")
    found = unpacked(root[1], data + END, tops={"a": "file", "b": "file", "c": "folder"})
    assert (found.failed, found.missing) == ([], {"c"})
    assert (root[0] / "b").read_text() == "x"


def test_unpacking_a_name_not_asked_for_is_refused(root: tuple[Path, int]) -> None:
    with pytest.raises(Refused, match="not asked for"):
        unpacked(root[1], member("other", data=b"x") + END, {"wanted": "wanted"}.__getitem__)
    assert os.listdir(root[0]) == []


def test_unpacking_too_many_members_is_refused(
    root: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "MOST_MEMBERS", 3)
    with pytest.raises(Refused, match="more than 3 files"):
        unpacked(root[1], b"".join(member(f"t/f{i}") for i in range(4)) + END)


def test_unpacking_devices_and_fifos_are_named_and_the_rest_kept(root: tuple[Path, int]) -> None:
    data = member("t/null", tarfile.CHRTYPE, devmajor=1, devminor=3) + member("t/pipe", tarfile.FIFOTYPE)
    found = unpacked(root[1], data + member("t/f", data=b"x") + END)
    assert found.failed == ["t/null: it is a device", "t/pipe: it is a FIFO"]
    assert os.listdir(root[0] / "t") == ["f"]


def test_unpacking_keeps_no_set_user_id(root: tuple[Path, int]) -> None:
    unpacked(root[1], member("t/f", data=b"x", mode=0o6755) + END)
    assert os.stat(root[0] / "t/f").st_mode & 0o7777 == 0o755


TEXTS = st.lists(
    st.sampled_from(["..", ".", "", "a", "l", "b", "outside", "/", "\udcff", "\n"]), min_size=1, max_size=5
).map("/".join)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.sampled_from(["t/", "t/", ""]), TEXTS, KINDS, TEXTS), max_size=6))
def test_unpacking_any_members_writes_nothing_outside(
    tmp_path: Path, rows: list[tuple[str, str, bytes, str]]
) -> None:
    """Whatever it makes of them: beside its folder all stays as it was."""
    number = len(os.listdir(tmp_path))
    base = tmp_path / str(number)
    (base / "part").mkdir(parents=True)
    (base / "outside").mkdir()
    fd = os.open(base / "part", os.O_RDONLY | os.O_DIRECTORY)
    try:
        data = b"".join(
            member(top + name, kind, linkname=top + link if kind == tarfile.LNKTYPE else link)
            for top, name, kind, link in rows
        )
        unpacked(fd, data + END, tops={"t": "folder", "a": "file"})
    except Refused:
        pass
    finally:
        os.close(fd)
    assert sorted(os.listdir(base)) == ["outside", "part"]
    assert os.listdir(base / "outside") == []
    assert not any(each.is_symlink() for each in (base / "part").iterdir())


# moving to the final place


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Path, int, Path, int]]:
    made: list[tuple[Path, int]] = []
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
        made.append((tmp_path / name, os.open(tmp_path / name, os.O_RDONLY | os.O_DIRECTORY)))
    yield (*made[0], *made[1])
    for _, fd in made:
        os.close(fd)


def test_place_folder_into_folder_makes_one_of_both(both: tuple[Path, int, Path, int]) -> None:
    source, old, target, new = both
    for folder, names in ((source, ("x/a", "x/deep/b")), (target, ("x/c", "x/deep/b", "x/deep/d"))):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(folder.name)
    failed: list[str] = []
    Placing({}, failed).place(old, "x", new, "x")
    assert failed == []
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found == {"x/a": "from", "x/c": "to", "x/deep/b": "from", "x/deep/d": "to"}


def test_place_does_not_follow_links_of_the_target(both: tuple[Path, int, Path, int], tmp_path: Path) -> None:
    source, old, target, new = both
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("safe")
    (source / "d/inner").mkdir(parents=True)
    (source / "d/inner/passwd").write_text("evil")
    (source / "d/file").write_text("evil")
    (target / "d").mkdir()
    (target / "d/inner").symlink_to(outside)
    (target / "d/file").symlink_to(outside / "passwd")
    failed: list[str] = []
    Placing({}, failed).place(old, "d", new, "d")
    assert failed == ["d/inner: a symbolic link is in the way"]
    assert (outside / "passwd").read_text() == "safe"
    assert (target / "d/file").read_text() == "evil"
    assert not (target / "d/file").is_symlink()


def test_place_does_not_replace_a_folder_or_a_device(both: tuple[Path, int, Path, int]) -> None:
    source, old, target, new = both
    (source / "f").write_text("x")
    (source / "g").write_text("x")
    (target / "f").mkdir()
    os.mkfifo(target / "g")
    failed: list[str] = []
    Placing({}, failed).place(old, "f", new, "f")
    Placing({}, failed).place(old, "g", new, "g")
    assert failed == ["f: a directory is in the way", "g: a device is in the way"]


@pytest.mark.parametrize("owner", [0, OTHER])
def test_place_read_only_folders_twice_and_their_modes(own: Path, owner: int) -> None:
    """Another account than root cannot move a read-only folder, nor write to one."""
    with account(owner):
        target = own / "to"
        target.mkdir()
        for content in ("first", "second"):
            source = own / content
            (source / "x/closed/inner").mkdir(parents=True)
            for name in ("x/a", "x/closed/b", "x/closed/inner/c"):
                (source / name).write_text(content)
            old, new = (os.open(each, os.O_RDONLY | os.O_DIRECTORY) for each in (source, target))
            failed: list[str] = []
            Placing({"x": 0o555, "x/closed": 0o555, "x/closed/inner": 0o500}, failed).place(
                old, "x", new, "y"
            )
            os.close(old)
            os.close(new)
            assert failed == []
            files = {path: path.read_text() for path in target.rglob("*") if path.is_file()}
            assert {each.name for each in files} == {"a", "b", "c"}
            assert set(files.values()) == {content}
            modes = [os.stat(target / name).st_mode & 0o777 for name in ("y", "y/closed", "y/closed/inner")]
            assert modes == [0o555, 0o555, 0o500]
        for folder in ("y/closed/inner", "y/closed", "y"):
            (target / folder).chmod(0o700)


def test_place_what_cannot_be_moved_is_named(own: Path) -> None:
    """The rest is moved."""
    with account(OTHER):
        for name in ("from/x/closed", "to/x/closed", "from/x/open", "to"):
            (own / name).mkdir(parents=True, exist_ok=True)
        (own / "from/x/closed/a").write_text("new")
        (own / "from/x/open/b").write_text("new")
    if os.geteuid():
        pytest.skip("root alone can give a folder to another account")
    os.chown(own / "to/x/closed", 0, 0)
    with account(OTHER):
        old, new = (os.open(own / each, os.O_RDONLY | os.O_DIRECTORY) for each in ("from", "to"))
        failed: list[str] = []
        Placing({"x": 0o755, "x/closed": 0o755, "x/open": 0o700}, failed).place(old, "x", new, "x")
        os.close(old)
        os.close(new)
    assert failed == ["x/closed/a: Permission denied"]
    assert (own / "to/x/open/b").read_text() == "new"


@pytest.mark.parametrize(
    "rows",
    [
        [("a\0b", tarfile.REGTYPE, {})],
        [("t/link", tarfile.SYMTYPE, {"linkname": "a\0b"})],
    ],
)
def test_nul_in_a_name_of_a_guest_is_refused(
    root: tuple[Path, int], rows: list[tuple[str, bytes, dict[str, str]]]
) -> None:
    data = b""
    for name, kind, more in rows:
        info = tarfile.TarInfo(name)
        info.type = kind
        for key, value in more.items():
            setattr(info, key, value)
        info.pax_headers = {"path": name} if "\0" in name else {"linkpath": more["linkname"]}
        data += info.tobuf(tarfile.PAX_FORMAT)
    with pytest.raises(Refused, match="NUL"):
        unpacked(root[1], data + END)
    assert [path for path in root[0].rglob("*") if not path.is_dir()] == []
