"""archive and restore with wrong and hostile input: an error of one line, and no file written elsewhere."""

from __future__ import annotations

import json
import lzma
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import archived_states, make_archive, require_nothing_left
from tests.support.counting import NO_WAITING
from tests.support.disks import read_byte, write_byte
from tests.support.errors import require_one_error
from tests.support.forged_archives import archive_folder, edit_manifest, first_part, write_settings
from tests.support.programs import qemu_img
from tests.support.world import Vm, World, copy_of, create_blank


@pytest.fixture(scope="module")
def archived(module_world: World) -> Path:
    made = create_blank(module_world, **NO_WAITING)
    write_byte(made, 1, "0")
    make_archive(made)
    write_byte(made, 2, "0")
    return made.directory


@pytest.fixture
def vm(world: World, archived: Path) -> Iterator[Vm]:
    """Archived with 1 at 0; there is 2 now."""
    made = copy_of(world, archived)
    yield made
    if world.pids("qemu-system"):
        made.kill()


@pytest.fixture
def canaries(vm: Vm) -> Iterator[list[Path]]:
    """Files outside of the archive and of the machine, which nothing may touch."""
    home = vm.world.home
    found = [home / "canary", home / "sub/canary", vm.directory / "canary"]
    (home / "sub").mkdir()
    for path in found:
        path.write_text("alive\n")
    yield found
    assert [path.read_text() for path in found] == ["alive\n"] * 3
    assert not (home / "made").exists()


def everything(vm: Vm) -> list[str]:
    """All names in the world's home, besides logs and locks of the machine."""
    found = (str(path.relative_to(vm.world.home)) for path in vm.world.home.rglob("*"))
    return sorted(name for name in found if not re.search(r"\.qvm/(log|.*lock|uuid)|\.local|\.cache", name))


NO_ARCHIVE = [
    "nothing", "../nothing", "../../etc", "/etc", "/etc/passwd", "demo-2", "a\nb", "demo-20200101000000",
    "demo-20200101000000/20200101000000", ".", "..", "/", "//", "", "ssh://", "ssh://host", "ftp://x/y",
    "ssh://127.0.0.1:1/x/demo-20200101000000", "ssh://-oProxyCommand=x/y/demo-20200101000000", "~", "*",
    "latest/..", "\x1b[31m", "x" * 300, "a/" * 2000 + "b",
]  # fmt: skip


def test_restore_of_no_archive_is_refused(vm: Vm) -> None:
    before = everything(vm)
    for at, word in enumerate(NO_ARCHIVE):
        require_one_error(vm.qvm("restore", "--force", word), 1, 2)
        if at % 4 == 0:  # the word is judged before the directory
            require_one_error(vm.qvm("restore", "--force", word, "../made"), 1, 2)
    assert read_byte(vm, "0") == 2
    assert everything(vm) == before


def test_restore_words_with_a_dash_are_options(vm: Vm) -> None:
    assert vm.qvm("restore", "-x").status == 2
    require_one_error(vm.qvm("restore", "--", "-x"), 2)
    assert vm.qvm("restore").status == 2
    assert vm.qvm("restore", "latest", "../made", "more").status == 2


# Manifests


def unfinished(found: dict[str, Any], name: str) -> None:
    """A state whose files the next archive would remove."""
    point = json.loads(json.dumps(found["points"][0]))
    point |= {"stamp": "20300101000000", "is_done": False}
    point["parts"][0]["name"] = name
    found["points"].append(point)


MANIFESTS: list[Callable[[dict[str, Any]], None]] = [
    lambda found: first_part(found).update(name="../../canary"),
    lambda found: first_part(found).update(name="/etc/hostname"),
    lambda found: first_part(found).update(source="../../canary"),
    lambda found: first_part(found, "settings").update(name="../canary"),
    lambda found: found["layers"]["main"][0].update(name="../../sub/canary"),
    lambda found: found["layers"]["main"][0].update(source="../../made"),
    lambda found: found["points"][0]["parts"].append(
        first_part(found) | {"role": "disk1", "source": "../made"}
    ),
    lambda found: found["points"][0]["parts"].append(
        first_part(found) | {"role": "extra1", "source": ".vmrc"}
    ),
    lambda found: unfinished(found, "../../canary"),
    lambda found: unfinished(found, "../canary"),
    lambda found: found["points"][0].update(stamp="../../../made"),
    lambda found: found["points"][0].update(parts=7),
    lambda found: found.update(points="none"),
    lambda found: found.update(directory="\ud83d"),
    lambda found: found.update(directory="a\0b"),
    lambda found: first_part(found).update(source="x\ud83d"),
    lambda found: first_part(found).update(format="raw,file.filename=/etc/passwd"),
]


def test_manifest_that_leads_outside_is_refused(vm: Vm, canaries: list[Path]) -> None:
    folder = archive_folder(vm)
    manifest = vm.directory / folder / "manifest.json"
    before = manifest.read_text()
    for at, change in enumerate(MANIFESTS):
        print("manifest", at)
        manifest.write_text(before)
        edit_manifest(vm, change, folder)
        require_one_error(vm.qvm("restore", "--force", folder), 1, says="manifest.json cannot be read: ")
        assert "cannot be read" in vm.ok("archive", "--keep", "1").err  # a new archive, beside it
        assert (vm.directory / folder / "demo-backing.qcow2").exists()
        require_nothing_left(vm)
    # the last of them; all have the manifest of one function
    require_one_error(vm.qvm("restore", "--force", folder, "../made"), 1)
    require_one_error(vm.qvm("archive", "--verify", folder), 1)
    assert read_byte(vm, "0") == 2
    assert len(archived_states(vm)) == 1


@pytest.mark.parametrize("source", ["/etc/qvm-made", "/etc/hostname"])
def test_disk_named_only_by_the_manifest_goes_into_the_machine(vm: Vm, source: str) -> None:
    """A manifest may hold an absolute path; it is used only if the machine's settings have it too."""
    before = Path("/etc/hostname").read_bytes()
    edit_manifest(
        vm,
        lambda found: found["points"][0]["parts"].append(
            first_part(found) | {"role": "disk1", "source": source, "format": "raw"}
        ),
    )
    vm.ok("restore", "--force", "latest")
    vm.ok("restore", "latest", "../twin")
    for where in (vm.directory, vm.world.home / "twin"):
        assert (where / Path(source).name).is_file()
    assert Path("/etc/hostname").read_bytes() == before
    assert not Path("/etc/qvm-made").exists()


GARBAGE = ["", "{", "[1]", "\0\xff", '{"qvm": 1}', "[" * 50000]


def test_manifest_of_garbage_is_reported_and_the_others_work(vm: Vm) -> None:
    folders = [vm.directory / f"demo-2099010100000{at}" for at in range(len(GARBAGE))]
    for folder, text in zip(folders, GARBAGE, strict=True):
        folder.mkdir()
        (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    listed = vm.ok("archive", "--list")
    assert len(listed.out.splitlines()) == 1
    for folder in folders:
        assert f"{folder}/manifest.json cannot be read" in listed.err
        require_one_error(vm.qvm("restore", "--force", folder.name), 1, says="cannot be read")
        require_one_error(vm.qvm("archive", "--verify", folder.name), 1, says="cannot be read")
    vm.ok("restore", "--force", "latest")
    assert read_byte(vm, "0") == 1
    vm.ok("archive")


def test_words_of_a_manifest_do_not_drive_the_terminal(vm: Vm) -> None:
    edit_manifest(
        vm, lambda found: found["points"][0].update(snapshots=["\x1b[31mred\nline"], consistency="\x1b[2J")
    )
    for words in (["archive", "--list"], ["archive", "--verify"], ["restore", "--force", "latest"]):
        result = vm.ok(*words)
        assert "\x1b" not in result.out + result.err, words


MEMBERS = [
    ("../canary", "dead"), ("/tmp/qvm-made", "dead"), ("a/../../canary", "dead"), ("link", "->/etc"),
    (".qvm/archive.unfinished", "{}"), (".qvm/snapshot.unfinished", "{}"), (".qvm/running", "x"),
    (".qvm/qemu.pid", "1"), (".qvm/log/qvm.log", "x"), (".qvm", "x"), (".", "x"), ("..", "x"),
]  # fmt: skip


def test_settings_that_do_not_belong_there_are_refused(vm: Vm, canaries: list[Path]) -> None:
    for member in MEMBERS:
        print(member)
        write_settings(vm, member)
        for words in (["latest"], ["latest", "../made"]):
            refused = vm.qvm("restore", "--force", *words)
            require_one_error(refused, 1, says="which is not a file of a machine")
        require_nothing_left(vm)
    require_one_error(vm.qvm("archive", "--verify", "--boot"), 1)
    require_nothing_left(vm)
    assert read_byte(vm, "0") == 2


def test_settings_with_a_file_where_a_folder_is_are_refused(vm: Vm) -> None:
    for names in (("x", "x/y"), ("x/y", "x"), ("y/x", "y/x/x/x")):
        write_settings(vm, *((f".qvm/tpm/{name}", "x") for name in names))
        for words in (["latest"], ["latest", "../made"]):
            require_one_error(vm.qvm("restore", "--force", *words), 1, says="cannot unpack ")
        assert not (vm.world.home / "made").exists(), names
        require_nothing_left(vm)
    assert read_byte(vm, "0") == 2


def test_settings_do_not_take_the_place_of_a_folder(vm: Vm) -> None:
    (vm.directory / ".qvm/tpm/x").mkdir(parents=True)
    write_settings(vm, (".qvm/tpm/x", "x"))
    require_one_error(vm.qvm("restore", "--force", "latest"), 1, says="cannot unpack ")
    assert read_byte(vm, "0") == 2
    require_nothing_left(vm)


def test_settings_that_are_not_a_tar_are_refused(vm: Vm, canaries: list[Path]) -> None:
    for data in (b"", b"no tar" * 200, lzma.compress(b"x" * 5000)):
        path = vm.directory / archive_folder(vm) / "demo-settings.tar"
        path.write_bytes(data)
        size = len(data)
        edit_manifest(vm, lambda found, size=size: first_part(found, "settings").update(stored_bytes=size))  # type: ignore[misc]
        require_one_error(vm.qvm("restore", "--force", "latest", "../made"), 1, says="is damaged")
        require_one_error(vm.qvm("restore", "--force", "latest"), 1, says="is damaged")
        assert read_byte(vm, "0") == 2
        require_nothing_left(vm)


def test_settings_do_not_replace_what_the_machine_has(vm: Vm) -> None:
    (vm.directory / ".qvm/known_hosts").write_text("mine\n")
    (vm.directory / "hook.sh").write_text("mine\n")
    write_settings(
        vm, (".qvm/known_hosts", "theirs\n"), ("hook.sh", "theirs\n"), (".vmrc", "VM_PRE_START=evil\n")
    )
    before = (vm.directory / ".vmrc").read_bytes()
    vm.ok("restore", "--force", "latest")
    assert (vm.directory / ".qvm/known_hosts").read_text() == "mine\n"
    assert (vm.directory / "hook.sh").read_text() == "mine\n"
    assert (vm.directory / ".vmrc").read_bytes() == before
    write_settings(vm, (".git/hooks/post-commit", "evil\n"), ("named.sh", "back\n"))
    vm.ok("config", "VM_PRE_START=./named.sh")
    vm.ok("restore", "--force", "latest")
    assert not (vm.directory / ".git").exists()  # no setting of the machine names it
    assert (vm.directory / "named.sh").read_text() == "back\n"


@pytest.fixture
def old(vm: Vm) -> Path:
    """An archive in the layout of `vm`: nothing in it is checked by a checksum."""
    folder = vm.directory / "demo-20250102030405"
    folder.mkdir()
    for name in ("demo-base.qcow2", "demo-backing.qcow2"):
        shutil.copy(vm.directory / name, folder)
    return folder


def test_images_that_name_files_of_the_host_are_refused(vm: Vm, old: Path, canaries: list[Path]) -> None:
    """A base that is backed by another file, an overlay alone, data in another file, a device."""
    secret = canaries[0]
    base, top = old / "demo-base.qcow2", old / "demo-backing.qcow2"

    def both(says: str) -> None:
        for words in ([old.name], [old.name, "../made"]):
            require_one_error(vm.qvm("restore", "--force", *words), 1, says=says)
        assert vm.qvm("archive", "--verify", old.name).status == 1
        assert read_byte(vm, "0") == 2
        require_nothing_left(vm)

    qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(base))
    both(f"is backed by {secret}, which is not in the archive")
    base.unlink()
    both("which is not in the archive")
    qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/dev/zero", str(top))
    both("is backed by /dev/zero")
    top.unlink()
    qemu_img(
        vm, "create", "-q", "-f", "qcow2", "-o", f"data_file={old}/data,data_file_raw=on", str(top), "1M"
    )
    both("keeps its data in another file")
    top.write_bytes(b"no image")
    both("is not a qcow2 image")
    top.write_bytes(b"QFI\xfb")
    both("is damaged")


def test_overlay_that_stands_alone_is_not_put_onto_the_base(vm: Vm, old: Path) -> None:
    """What it does not hold would be read from the base, and is zero."""
    write_byte(vm, 5, "1M", f"{old.name}/demo-base.qcow2")
    (old / "demo-backing.qcow2").unlink()
    qemu_img(vm, "create", "-q", "-f", "qcow2", f"{old.name}/demo-backing.qcow2", "16M")
    write_byte(vm, 7, "0", f"{old.name}/demo-backing.qcow2")
    vm.ok("restore", "--force", old.name)
    assert [read_byte(vm, at) for at in ("0", "1M")] == [7, 0]


def compress(tool: str, path: Path) -> Path:
    """Compress a file as `vm` does it, in place."""
    made = path.with_name(f"{path.name}.{SUFFIXES[tool]}")
    words = {"lz4": ["--rm", str(path), str(made)], "zstd": ["--rm", str(path)]}.get(tool, [str(path)])
    subprocess.run([tool, "-q", *words], check=True)
    assert not path.exists()
    return made


SUFFIXES = {"bzip2": "bz2", "gzip": "gz", "lz4": "lz4", "xz": "xz", "zstd": "zst"}


def test_layout_of_vm_compressed_by_each_tool_restores(vm: Vm, old: Path) -> None:
    """The base by one tool, the overlay by the next, and three later overlays by the others."""
    stamps = [old.name.removeprefix("demo-"), *(f"2025020304050{at}" for at in (6, 7, 8))]
    files = [old / "demo-backing.qcow2"]
    for value, stamp in enumerate(stamps[1:], start=3):
        write_byte(vm, value, "0")
        files.append(old / f"demo-backing-{stamp}.qcow2")
        shutil.copy(vm.directory / "demo-backing.qcow2", files[-1])
    tools = list(SUFFIXES)
    compress(tools[0], old / "demo-base.qcow2")
    compressed = [compress(tool, path) for tool, path in zip(tools[1:], files, strict=True)]
    assert "is good" in vm.ok("archive", "--verify", old.name).out
    for value, stamp in enumerate(stamps, start=2):
        vm.ok("restore", "--force", f"{old.name}/{stamp}")
        assert read_byte(vm, "0") == value, stamp
    vm.ok("restore", old.name, "../twin")
    twin = Vm(vm.world, vm.world.home / "twin")
    assert read_byte(twin, "0", "twin-backing.qcow2") == 5
    twin.ok("start", "--no-wait")
    twin.ok("kill")
    for stamp, path in zip(stamps, compressed, strict=True):
        path.write_bytes(path.read_bytes()[:-20])
        require_one_error(vm.qvm("restore", "--force", f"{old.name}/{stamp}"), 1, says="is damaged")
    assert read_byte(vm, "0") == 5


# Places


def test_restore_into_a_place_that_is_taken_is_refused(vm: Vm) -> None:
    home = vm.world.home
    (home / "full").mkdir()
    (home / "full/file").touch()
    (home / "file").touch()
    (home / "link").symlink_to(home / "nowhere")
    before = everything(vm)
    for place in (
        "../full",
        "../file",
        "../link",
        "../no/such/place",
        "..",
        ".",
        "../demo",
        "../a\nb",
        "/",
        "../-x",
    ):
        require_one_error(vm.qvm("restore", "latest", place), 2)
    vm.ok("start", "--no-wait")
    require_one_error(vm.qvm("restore", "--force", "latest", "../demo"), 2, says="is already a machine")
    require_one_error(vm.qvm("restore", "--force", "latest", "."), 2)
    require_one_error(vm.qvm("restore", "--force", "latest"), 3, says="cannot restore: it is running")
    vm.ok("kill")
    assert [name for name in everything(vm) if name not in before] in ([], [".qvm/snapshots.json"])
    (home / "empty").mkdir()
    vm.ok("restore", "latest", "../empty")
    assert read_byte(Vm(vm.world, home / "empty"), "0", "empty-backing.qcow2") == 1
