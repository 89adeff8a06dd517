"""An archive is never written to in place: it only runs `--disposable` (real QEMU)."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.small_disk import small_disk
from tests.support.world import Blank, Vm

WRITING = (
    "start --no-wait", "run", "start --no-wait --base-only", "start --no-wait --loadvm old",
    "restart --no-wait", "init", "init -k", "init -b -k", "snapshot save new", "snapshot delete old",
    "snapshot restore old", "disk commit", "disk resize +1M", "disk resize 1M --shrink", "disk trim",
    "disk check --repair", "disk add more.qcow2 1M", "disk rebase disk0", "archive", "archive --create",
    "restore ../ARCHIVE --force", "doctor --fix",
)  # fmt: skip


def archived(vm: Vm) -> Path:
    """Two states of a machine; the folder, with a `.vmrc` of its own in it."""
    vm.ok("disk", "add", "data.qcow2", "1M")
    vm.ok("snapshot", "save", "old")
    vm.ok("archive")
    vm.ok("archive", "--full")
    (folder,) = vm.directory.glob("demo-2*/")
    lines = (vm.directory / ".vmrc").read_text().replace("data.qcow2", "demo-disk1.qcow2")
    (folder / ".vmrc").write_text(lines.replace("'33'", "'34'"))
    return folder


def images(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir()) if each.is_file()}


def require_good(vm: Vm, folder: Path, before: dict[str, bytes]) -> None:
    assert {**images(folder), ".vmrc": b""} == {**before, ".vmrc": b""}
    vm.ok("archive", "--verify", folder.name)
    vm.ok("restore", folder, vm.world.home / "copy")


def test_every_verb_that_writes_in_an_archive_is_refused(blank: Blank) -> None:
    vm = blank()
    folder = archived(vm)
    inside, before = Vm(vm.world, folder), images(folder)
    for line in WRITING:
        result = inside.qvm(*line.replace("ARCHIVE", folder.name).split())
        assert result.status == 3, result
        assert f"{folder} is an archive and would be damaged" in result.err
        assert f"`qvm restore {folder} DIR`" in result.err
        assert ("--disposable" in result.err) == line.startswith(("start", "run", "restart"))
    require_good(vm, folder, before)


def test_reading_verbs_work_in_an_archive_and_leave_it_good(blank: Blank) -> None:
    vm = blank()
    folder = archived(vm)
    inside, before = Vm(vm.world, folder), images(folder)
    for line in (
        "status", "config", "dryrun", "doctor", "snapshot list", "snapshot verify", "snapshot show old",
        "disk list", "disk check", "archive --list", "list", "env", "config VM_LABELS=x", "config VM_LABELS=",
        "start --disposable --no-wait", "status -s", "cmd info block", "pause", "resume", "snapshot list",
        "disk list", "disk check", "stop --force --timeout 0", "start --disposable --no-wait", "kill",
    ):  # fmt: skip
        result = inside.qvm(*line.split())
        assert result.status == 0 or line in ("status", "status -s", "doctor"), result
        assert "is an archive" not in result.err
    inside.ok("start", "--disposable", "--no-wait")
    try:
        inside.ok("cmd", 'qemu-io disk0 "write -P 7 0 64k"')
        for line in ("snapshot save new", "disk resize disk0 +1M", "stop --savevm now", "archive"):
            assert inside.qvm(*line.split()).status == 3
    finally:
        inside.ok("kill")
    require_good(vm, folder, before)


def test_start_of_a_machine_with_a_disk_in_an_archive_is_refused(blank: Blank) -> None:
    """A disk by VM_DISKS, by the user's own words; then its overlay is a link, or its base is there."""
    vm = blank()
    folder = archived(vm)
    (folder / ".vmrc").unlink()
    before = images(folder)
    other = blank("other", VM_MACHINE_ID="35")

    def refused(*words: str) -> None:
        result = other.qvm(*words)
        assert result.status == 3, result
        assert f"{folder} is an archive" in result.err
        assert images(folder) == before

    other.set(VM_DISKS=str(folder / "demo-disk1.qcow2"))
    refused("start", "--no-wait")
    other.ok("start", "--no-wait", "--disposable")
    other.kill()
    words = f"-drive file={folder}/demo-disk1.qcow2,format=qcow2,if=none,id=x"
    other.set(VM_DISKS="", VM_QEMU_EXTRA=words)
    refused("start", "--no-wait")
    refused("start", "--no-wait", "--disposable")  # QEMU itself would write to it
    other.set(VM_QEMU_EXTRA="")
    overlay = other.directory / "other-backing.qcow2"
    kept = overlay.rename(other.directory / "kept")
    overlay.symlink_to(folder / "demo-backing.qcow2")
    refused("start", "--no-wait")
    kept.replace(overlay)
    other.ok("disk", "rebase", "disk0", str(folder / "demo-base.qcow2"), "--unsafe")
    refused("disk", "commit")


def test_manifest_of_something_else_forbids_nothing(blank: Blank) -> None:
    vm = blank()
    (vm.directory / "manifest.json").write_text(json.dumps({"name": "a web page", "version": 1}))
    vm.ok("snapshot", "save", "x")
    vm.ok("start", "--no-wait")


def test_archive_on_a_mount_that_is_missing_is_refused(blank: Blank, tmp_path: Path) -> None:
    vm = blank()
    point = tmp_path / "the disk"
    table = tmp_path / "fstab"
    table.write_text(
        "# /dev/sdc1 / ext4\n/dev/sda1 / ext4 defaults 0 1\nnone none swap\n\n"
        f"UUID=1  {str(point).replace(' ', chr(92) + '040')}/ ext4 noauto 0 0\n"
    )
    env = {"LIBMOUNT_FSTAB": str(table)}
    (tmp_path / "link").symlink_to(point)
    for where in (point / "archives", point, tmp_path / "link/archives"):
        vm.ok("config", f"VM_ARCHIVE={where}")
        result = vm.qvm("archive", env=env)
        assert result.status == 3, result
        assert f"is on {point}, which is in {table} but not mounted" in result.err
        assert f"`mount '{point}'`" in result.err
        assert not point.exists()
    with small_disk(point, 4):
        vm.ok("archive", env=env)
    vm.ok("config", f"VM_ARCHIVE={tmp_path / 'the disk of others'}")
    vm.ok("archive", env=env)
    table.write_text(f"UUID=1 {vm.directory} ext4\n")  # of a host; this may be a container
    vm.ok("config", "VM_ARCHIVE=archives")
    vm.ok("archive", env=env)
