"""Root archives and restores the machine of a plain user: afterwards it still belongs to that user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.archives import archived_states
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.owner import Owner, give
from tests.support.programs import qemu_img
from tests.support.world import Vm, World

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can archive a machine of another account"
)
Theirs = Callable[..., Vm]


def of_root(folder: Path) -> list[str]:
    """What in a folder is root's, besides the `.vmrc`."""
    found = [path for path in (folder, *folder.rglob("*")) if path.lstat().st_uid == 0]
    return [str(path.relative_to(folder)) for path in found if path.name != ".vmrc"]


@pytest.fixture
def vm(theirs: Theirs, owner: Owner) -> Vm:
    made = theirs(VM_DISKS="data.qcow2", VM_TPM="yes")
    qemu_img(made, "create", "-q", "-f", "qcow2", "data.qcow2", "1M")
    give(made, owner)
    return made


def test_root_archives_and_restores_without_leaving_own_files(
    vm: Vm,
    owner: Owner,
) -> None:
    where = vm.directory
    write_byte(vm, 1, "0")
    vm.ok("archive")
    assert of_root(where) == []
    vm.ok("archive", "--create")
    assert of_root(where) == []
    vm.ok("start", "--no-wait")
    vm.ok("archive")
    write_live(vm, "-P 2 64k 64k")
    vm.ok("archive", "--savevm", "s")
    write_live(vm, "-P 3 64k 64k", "disk1")
    vm.ok("archive", "-z", "gzip", "--keep", "3")
    vm.ok("kill")
    assert of_root(where) == []
    vm.ok("restore", "--force", "latest")
    vm.ok("archive", "--verify")
    vm.ok("archive", "--verify", "--boot")
    assert of_root(where) == []
    assert oct((where / "demo-backing.qcow2").stat().st_mode & 0o777) == "0o600"
    # and now the owner by himself, with all that root has made
    assert len(json.loads(owner.ok("--json", "archive", "--list", cwd=where).out)["states"]) == 3
    write_byte(vm, 9, "64k", "data.qcow2")
    owner.ok("archive", cwd=where)
    owner.ok("archive", "--verify", cwd=where)
    owner.ok("archive", "--create", "--drop-snapshots", cwd=where)
    owner.ok("start", "--no-wait", cwd=where)
    owner.ok("archive", "--keep", "2", cwd=where)
    owner.ok("kill", cwd=where)
    owner.ok("restore", "--force", "latest", cwd=where)
    assert read_byte(vm, "64k", "data.qcow2") == 9
    owner.ok("restore", "latest", "../own", cwd=where)
    assert {path.lstat().st_uid for path in (where.parent / "own").rglob("*")} == {owner.row.pw_uid}
    vm.ok("archive")  # root again, in what the owner has made
    assert of_root(where) == []


def test_new_machine_that_root_restores_is_the_owners(vm: Vm, owner: Owner) -> None:
    """What comes from an archive in the owner's hands root does not take for its own."""
    vm.ok("archive")
    twin = Vm(vm.world, vm.directory.parent / "twin")
    vm.ok("restore", "latest", "../twin")
    assert {path.lstat().st_uid for path in (twin.directory, *twin.directory.rglob("*"))} == {
        owner.row.pw_uid
    }
    owner.ok("start", "--no-wait", cwd=twin.directory)
    owner.ok("archive", cwd=twin.directory)
    owner.ok("kill", cwd=twin.directory)
    twin.ok("start", "--no-wait")
    twin.ok("kill")


def test_store_is_used_with_the_owners_rights(vm: Vm, owner: Owner, tmp_path: Path) -> None:
    store = tmp_path / "closed"
    store.mkdir(mode=0o700)
    refused = vm.qvm("--set", f"VM_ARCHIVE={store}", "archive")
    assert refused.status == 1
    assert f"cannot use {store} for archives: Permission denied" in refused.err
    assert list(store.iterdir()) == []
    open_store = Path(tempfile.mkdtemp(prefix="qvmt-store-"))
    open_store.chmod(0o1777)
    write_byte(vm, 1, "0")
    vm.ok("--set", f"VM_ARCHIVE={open_store}", "archive")
    assert {path.stat().st_uid for path in open_store.rglob("*")} == {owner.row.pw_uid}
    write_byte(vm, 2, "0")
    vm.ok("--set", f"VM_ARCHIVE={open_store}", "restore", "--force", "latest")
    assert read_byte(vm, "0") == 1
    folder = next(open_store.iterdir())
    vm.world.run("restore", folder, vm.directory.parent / "twin")
    assert of_root(vm.directory.parent / "twin") == []
    shutil.rmtree(open_store)


def test_machine_that_root_made_for_the_owner_becomes_the_owners(
    theirs: Theirs,
    owner: Owner,
) -> None:
    vm = theirs()
    write_byte(vm, 1, "0")
    assert vm.directory.stat().st_uid == 0
    vm.ok("archive")
    assert of_root(vm.directory) == ["demo-seed.qcow2"]
    assert len(json.loads(owner.ok("--json", "archive", "--list", cwd=vm.directory).out)["states"]) == 1
    owner.ok("archive", "--verify", cwd=vm.directory)
    write_byte(vm, 2, "0")
    owner.ok("restore", "--force", "latest", cwd=vm.directory)
    assert read_byte(vm, "0") == 1
    owner.ok("start", "--no-wait", cwd=vm.directory)
    vm.ok("kill")


@pytest.mark.parametrize("is_on", [False, True])
def test_root_killed_in_the_middle_lets_the_owner_complete_it(
    vm: Vm,
    owner: Owner,
    is_on: bool,
) -> None:
    write_byte(vm, 1, "0")
    if is_on:
        vm.ok("start", "--no-wait")
    note = vm.directory / ".qvm/archive.unfinished"
    for _ in range(20):  # it may be through before it is seen
        child = vm.world.popen("archive", cwd=vm.directory)
        while child.poll() is None and not note.exists():
            time.sleep(0.001)
        for pid, line in vm.world.processes().items():  # root's half, and the owner's
            if "qvmsh -C" in line or line.endswith("qvm archive "):
                os.kill(pid, signal.SIGKILL)
        child.communicate()
        if note.exists():
            break
    result = owner.ok(*(["pause"] if is_on else ["start", "--no-wait"]), cwd=vm.directory)
    assert "was interrupted" in result.err
    assert not note.exists()
    owner.ok("archive", cwd=vm.directory)
    owner.ok("kill", cwd=vm.directory)
    assert of_root(vm.directory) == []
    assert read_byte(vm, "0") == 1
    left = [path.name for path in vm.directory.rglob("*") if ".part" in path.name or "cut-" in path.name]
    assert not left


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A file that only root may read."""
    path = tmp_path / "secret.raw"
    path.write_bytes(b"root's own words\n" * 64)
    path.chmod(0o600)
    yield path
    assert path.read_bytes() == b"root's own words\n" * 64
    assert path.stat().st_uid == 0


def holds(folder: Path, words: bytes) -> list[str]:
    return [
        str(path) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
        and words in path.read_bytes()
    ]  # fmt: skip


def test_root_does_not_read_for_the_owner_what_is_forbidden(
    vm: Vm,
    owner: Owner,
    secret: Path,
) -> None:
    """The owner backs an image by root's file, names a link, or a setting that is one."""
    words = b"root's own words"

    def as_owner(*argv: str) -> None:
        row = owner.row
        subprocess.run(argv, cwd=vm.directory, user=row.pw_uid, group=row.pw_gid, extra_groups=[], check=True)

    as_owner("mv", "data.qcow2", "kept.qcow2")
    as_owner("ln", "-s", str(secret), "data.qcow2")
    assert vm.qvm("archive").status == 1
    as_owner("rm", "data.qcow2")
    size = str(secret.stat().st_size)
    as_owner(
        "qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", str(secret), "data.qcow2", size
    )
    refused = vm.qvm("archive")
    assert refused.status == 1
    assert "hint: " in refused.err
    as_owner("mv", "kept.qcow2", "data.qcow2")
    # --create writes into what the overlay names as its backing file
    below = ("-F", "raw", "-b", str(secret))
    rebase = ("qemu-img", "rebase", "-u", "-f", "qcow2")
    as_owner("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", "./demo-backing.qcow2")
    as_owner(*rebase, *below, "demo-backing.qcow2")
    assert vm.qvm("archive", "--create").status == 1
    as_owner(*rebase, "-F", "qcow2", "-b", "demo-base.qcow2", "demo-backing.qcow2")
    vm.ok("archive")
    # an archive of the owner: a link in it, and a restore that would write through one
    folder = vm.directory / archived_states(vm)[0]["archive"]
    as_owner("rm", f"{folder}/demo-disk1.qcow2")
    as_owner("ln", "-s", str(secret), f"{folder}/demo-disk1.qcow2")
    assert vm.qvm("restore", "--force", "latest").status == 1
    as_owner("rm", f"{folder}/demo-disk1.qcow2")
    as_owner("cp", "data.qcow2", f"{folder}/demo-disk1.qcow2")
    as_owner("rm", "data.qcow2")
    as_owner("ln", "-s", str(secret), "data.qcow2")
    assert vm.qvm("restore", "--force", "latest").status == 1
    # and a journal that would rename the owner's file to a place of root's
    as_owner("rm", "data.qcow2")
    as_owner("touch", f"x{'.restore-new'}")
    note = {"what": "restore", "since": 0, "pid": 1, "is_ready": True}
    note |= {
        "swap": [
            [f"{os.path.relpath(secret, vm.directory)}.restore-new", os.path.relpath(secret, vm.directory)]
        ]
    }
    (vm.directory / ".qvm/archive.unfinished").write_text(json.dumps(note))
    (secret.parent / f"{secret.name}.restore-new").write_text("his")
    refused = vm.qvm("archive")
    assert refused.status == 1
    assert secret.stat().st_uid == 0
    assert holds(vm.directory, words) == []


def put(vm: Vm, owner: Owner, name: str, data: dict[str, object]) -> Path:
    """A journal of interrupted work that the owner has forged."""
    path = vm.directory / ".qvm" / name
    path.write_text(json.dumps(data))
    os.chown(path, owner.row.pw_uid, owner.row.pw_gid)
    return path


def cut_note(vm: Vm, owner: Owner, cut: str, disk: str, state: str = "open") -> Path:
    row = {"disk": disk, "format": "raw", "node": "disk0", "cut": cut, "cut_node": "q", "state": state}
    facts = {"what": "archive", "since": 1.0, "pid": 1, "is_frozen": 0, "is_held": 0}
    return put(vm, owner, "archive.unfinished", {**facts, "cuts": [row]})


def written_overlay(path: Path, below: Path, owner: Owner) -> None:
    """An overlay that holds data and names a file as its backing file."""
    commands: tuple[list[str | Path], ...] = (
        ["qemu-img", "create", "-q", "-f", "qcow2", path, "1088"],
        ["qemu-io", "-f", "qcow2", "-c", "write -P 65 0 1k", path],
        ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", below, path],
    )
    for words in commands:
        subprocess.run(words, check=True, capture_output=True)
    os.chown(path, owner.row.pw_uid, owner.row.pw_gid)


def test_journal_of_an_archive_does_not_lead_root_elsewhere(
    vm: Vm,
    owner: Owner,
    secret: Path,
) -> None:
    outside = os.path.relpath(secret, vm.directory)
    for state in ("open", "back"):
        note = cut_note(vm, owner, outside, "demo-backing.qcow2", state)
        refused = vm.qvm("archive")
        assert refused.status == 1, str(refused)
        assert "does not name overlays of an archive" in refused.err
        assert "hint: " in refused.err
    name = ".qvm/cut-0123abcd-0.qcow2"
    (vm.directory / name).symlink_to(secret)
    cut_note(vm, owner, name, "demo-backing.qcow2", "back")
    assert "does not name overlays of an archive" in vm.qvm("archive").err
    (vm.directory / name).unlink()
    written_overlay(vm.directory / name, secret, owner)
    cut_note(vm, owner, name, outside)
    assert "Permission denied" in vm.qvm("archive").err
    cut_note(vm, owner, name, "data.qcow2")  # its header names another file than the note
    refused = vm.qvm("archive")
    assert refused.status == 1, str(refused)
    assert "Permission denied" in refused.err
    note.write_text('{"what": "archive", "since": 1, "cuts": [{}]}')
    refused = vm.qvm("archive")
    assert refused.status == 1, str(refused)
    assert "Traceback" not in refused.err


def test_overlay_of_a_killed_archive_stays_the_owners(
    vm: Vm,
    owner: Owner,
) -> None:
    name = ".qvm/cut-0123abcd-0.qcow2"
    written_overlay(vm.directory / name, vm.directory / "raw.img", owner)
    (vm.directory / "raw.img").write_bytes(bytes(1088))
    os.chown(vm.directory / "raw.img", owner.row.pw_uid, owner.row.pw_gid)
    cut_note(vm, owner, name, "raw.img")  # none of its configured disks: one that was plugged in
    vm.ok("archive")
    assert (vm.directory / "raw.img").read_bytes()[:1024] == b"A" * 1024
    assert not (vm.directory / name).exists()
    assert not (vm.directory / ".qvm/archive.unfinished").exists()
    assert of_root(vm.directory) == []


def test_journal_does_not_make_root_remove_or_change_files(
    vm: Vm,
    owner: Owner,
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    before = disk.read_bytes()
    layer = tmp_path / "disk.part0"
    layer.write_text("root's")
    facts = {
        "name": "disk0", "phase": "begin", "was_running": False, "has_memory": False, "is_frozen": False,
        "entry": None, "since": "x", "pid": 1, "backing": "/etc/hostname", "backing_format": "raw",
    }  # fmt: skip
    for what in ("commit", "rebase", "save", "delete"):
        put(vm, owner, "snapshot.unfinished", {"what": what, "disks": [["disk0", str(disk)]], **facts})
        vm.qvm("snapshot", "save", f"after-{what}")
        assert disk.read_bytes() == before
    link = vm.directory / "link"
    link.symlink_to(disk)
    (vm.directory / "link.part0").symlink_to(layer)
    put(vm, owner, "snapshot.unfinished", {"what": "rebase", "disks": [["disk0", "link"]], **facts})
    vm.qvm("snapshot", "save", "y")
    assert (disk.read_bytes(), layer.read_text()) == (before, "root's")


DISK_VERBS = (
    ["commit"], ["rebase", "disk0"], ["resize", "disk0", "32M"], ["trim", "disk0"],
    ["check", "disk0", "--repair"],
)  # fmt: skip


def test_disk_verbs_of_root_have_only_the_owners_rights(vm: Vm, owner: Owner, secret: Path) -> None:
    """The owner's disk is backed by a file of root, or is a link to root's image."""
    top = vm.directory / "demo-backing.qcow2"
    image = secret.parent / "root.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 1 0 64k", image], check=True, capture_output=True)
    before = image.read_bytes()
    image.chmod(0o600)
    for words in DISK_VERBS:
        top.unlink()
        top.symlink_to(image)
        result = vm.qvm("disk", *words)
        assert (image.read_bytes(), image.stat().st_uid) == (before, 0), str(result)
        assert result.status != 0 or words[0] == "check", str(result)
        top.unlink()
        written_overlay(top, secret, owner)
        result = vm.qvm("disk", *words)
        if words[0] in ("commit", "rebase"):
            assert result.status == 1, str(result)
            assert "Permission denied" in result.err
        assert holds(vm.directory, b"root's own words") == [], str(result)


def test_disk_verbs_of_root_leave_the_machine_its_owners(vm: Vm, owner: Owner) -> None:
    write_byte(vm, 1, "0")
    vm.ok("disk", "trim")
    vm.ok("disk", "commit")
    vm.ok("disk", "resize", "disk0", "32M")
    vm.ok("snapshot", "save", "s")
    vm.ok("snapshot", "restore", "s")
    vm.ok("snapshot", "delete", "s")
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 2 64k 64k")
    vm.ok("disk", "commit")
    vm.ok("disk", "rebase", "disk0")
    vm.ok("kill")
    vm.ok("disk", "check", "--repair")
    assert (read_byte(vm, "0"), read_byte(vm, "64k")) == (1, 2)
    assert of_root(vm.directory) == []
    owner.ok("start", "--no-wait", cwd=vm.directory)
    owner.ok("kill", cwd=vm.directory)


def test_plain_user_archives_an_own_machine(owner: Owner, world: World) -> None:
    home = Path(owner.row.pw_dir)
    seed = home / "seed.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", seed, "16M"], check=True)
    os.chown(seed, owner.row.pw_uid, owner.row.pw_gid)
    owner.ok("create", "mine", "--image", seed, "--mem", "64", cwd=home)
    mine = home / "mine"
    owner.ok("archive", cwd=mine)
    owner.ok("start", "--no-wait", cwd=mine)
    owner.ok("archive", cwd=mine)
    owner.ok("archive", cwd=mine)
    owner.ok("kill", cwd=mine)
    owner.ok("archive", "--verify", cwd=mine)
    owner.ok("restore", "--force", "latest", cwd=mine)
    owner.ok("restore", "latest", "../twin", cwd=mine)
    for path in (*mine.rglob("*"), *(home / "twin").rglob("*")):
        assert path.lstat().st_uid == owner.row.pw_uid
    folder = next(mine.glob("mine-2*"))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
    # of root's archive, which the owner cannot read, there is a report
    os.chown(folder, 0, 0)
    refused = owner.run("restore", "latest", cwd=mine)
    assert refused.status == 1
    assert "Permission denied" in refused.err
    os.chown(folder, owner.row.pw_uid, owner.row.pw_gid)
