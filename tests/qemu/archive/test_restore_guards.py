"""restore writes where it should and nowhere else, and what it says of the machine is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from typing import Any

import pytest

from tests.support.archives import make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.errors import require_one_error
from tests.support.forged_archives import edit_manifest, first_part, write_settings
from tests.support.programs import qemu_img
from tests.support.world import DEADLINE_S, Blank, Vm


def left_out(source: str, role: str = "file1") -> dict[str, Any]:
    """A part of a manifest whose file was not archived."""
    return {"role": role, "name": "", "format": "raw", "source": source, "left_out": "it is large"}


def test_new_machine_does_not_write_through_a_link(blank: Blank) -> None:
    vm = blank(VM_DISKS="sub/evil.txt:raw")
    (vm.directory / "sub").mkdir()
    (vm.directory / "sub/evil.txt").write_bytes(b"#!/bin/sh\n".ljust(1024, b"\n"))
    made = make_archive(vm)
    victim = vm.world.home / "sub"
    victim.mkdir()

    def change(found: dict[str, Any]) -> None:
        found["directory"] = str(vm.world.home)
        found["points"][0]["parts"].append(left_out("sub"))

    edit_manifest(vm, change)
    vm.ok("restore", state_name(made), "../twin")
    assert os.listdir(victim) == []
    assert (vm.world.home / "twin/sub/evil.txt").is_file()
    assert not (vm.world.home / "twin/sub").is_symlink()


def test_restore_links_what_was_left_out_and_keeps_disk_places(blank: Blank) -> None:
    """A folder and a file of it, in either order; a disk that had the name of a link is beside it."""
    vm = blank(VM_DISKS="../tools.raw")
    for name in ("shared/kernel", "other/kernel", "tools.raw"):
        (vm.directory / name).parent.mkdir(exist_ok=True)
        (vm.directory / name).write_text("as it was\n")
    (vm.world.home / "tools.raw").write_bytes(b"a disk".ljust(512))
    make_archive(vm)
    sources = ("shared", "shared/kernel", "other/kernel", "other", "tools.raw")

    def change(found: dict[str, Any]) -> None:
        rows = [left_out(source, f"file{at}") for at, source in enumerate(sources, start=1)]
        found["points"][0]["parts"] += rows

    edit_manifest(vm, change)
    vm.ok("restore", "latest", "../twin")
    twin = vm.world.home / "twin"
    assert (twin / "shared").readlink() == vm.directory / "shared"
    assert (twin / "other/kernel").readlink() == vm.directory / "other/kernel"
    assert (twin / "tools.raw").readlink() == vm.directory / "tools.raw"
    assert (twin / "tools-2.raw").read_bytes().startswith(b"a disk")
    assert "tools-2.raw" in (twin / ".vmrc").read_text()


def test_what_was_left_out_and_is_not_a_file_is_not_linked(blank: Blank) -> None:
    vm = blank()
    make_archive(vm)
    os.mkfifo(vm.directory / "pipe")
    edit_manifest(vm, lambda found: found["points"][0]["parts"].append(left_out("pipe")))
    assert "put it into the new machine" in vm.ok("restore", "latest", "../twin").out
    assert not os.path.lexists(vm.world.home / "twin/pipe")


# An image is opened as what it was archived as


def trap(vm: Vm, name: str) -> None:
    """Put an image that is backed by a file of the user in place of an archived one."""
    secret = vm.world.home / "secret"
    secret.write_bytes(b"S" * (1 << 20))
    (vm.directory / name).unlink()
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), name)


def refused(vm: Vm, says: str) -> None:
    """Into the same machine and into a new one; the machine is as it was."""
    require_one_error(vm.qvm("restore", "--force", "latest"), 1, says=says)
    require_one_error(vm.qvm("restore", "latest", "../twin"), 1, says=says)
    assert not (vm.world.home / "twin").exists()
    assert read_byte(vm, "0") == 2
    require_nothing_left(vm)


def test_image_that_the_manifest_calls_raw_is_opened_as_raw(blank: Blank) -> None:
    vm = blank()
    made = make_archive(vm)
    trap(vm, f"{made['archive']}/demo-backing.qcow2")
    write_byte(vm, 2, "0")
    edit_manifest(vm, lambda found: first_part(found).update(format="raw"))
    refused(vm, "is raw in the archive, but the machine opens it as qcow2")


def test_raw_layer_that_begins_like_a_qcow2_image_is_refused(blank: Blank) -> None:
    vm = blank()
    made = make_archive(vm)
    trap(vm, f"{made['archive']}/demo-base.qcow2")
    write_byte(vm, 2, "0")
    edit_manifest(vm, lambda found: found["layers"]["main"][0].update(format="raw", source_mtime_ns=0))
    refused(vm, "-base.qcow2 is raw in the archive, but starts like a qcow2 image")


def test_raw_disk_of_guessed_format_like_qcow2_is_refused(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA="-drive file=data.img,if=virtio")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.img", "1M")
    made = make_archive(vm)
    vm.ok("restore", "latest", "../good")
    trap(vm, f"{made['archive']}/demo-extra1.img")
    write_byte(vm, 2, "0")
    edit_manifest(vm, lambda found: None)
    refused(vm, "data.img is raw in the archive, but starts like a qcow2 image")


def test_raw_disk_with_a_qcow2_image_on_it_is_restored(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.img:raw")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.img", "1M")
    kept = (vm.directory / "data.img").read_bytes()
    make_archive(vm)
    vm.ok("archive", "--verify")
    (vm.directory / "data.img").write_bytes(b"else".ljust(1 << 20))
    vm.ok("restore", "--force", "latest")
    vm.ok("restore", "latest", "../twin")
    assert (vm.directory / "data.img").read_bytes() == kept
    assert (vm.world.home / "twin/data.img").read_bytes() == kept


def test_disk_that_is_of_another_format_now_is_not_replaced(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.img:raw")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.img", "1M")
    make_archive(vm)
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.img", "1M")
    vm.ok("config", "VM_DISKS=data.img:qcow2")
    result = vm.qvm("restore", "--force", "latest")
    require_one_error(result, 1, says="data.img is raw in the archive, but the machine opens it as qcow2")
    qemu_img(vm, "check", "-f", "qcow2", "data.img")
    require_nothing_left(vm)


def test_restored_disk_is_opened_in_its_archived_format(blank: Blank) -> None:
    """Whatever the archived settings say of it."""
    vm = blank(VM_DISKS="data.img:raw:none")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.img", "1M")
    make_archive(vm)
    vm.ok("config", "VM_DISKS=data.img:qcow2:none")
    write_settings(vm)
    vm.ok("config", "VM_DISKS=")
    vm.ok("restore", "--force", "latest")
    assert "VM_DISKS=data.img:raw:none" in (vm.directory / ".vmrc").read_text().replace("'", "")


# A restore that fails leaves the machine unchanged and usable


def test_disk_whose_folder_is_a_link_is_restored_in_the_machine(blank: Blank) -> None:
    vm = blank()
    (vm.world.home / "big").mkdir()
    (vm.directory / "disks").symlink_to(vm.world.home / "big")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "disks/data.qcow2", "1M")
    write_byte(vm, 1, "0", "disks/data.qcow2")
    vm.ok("config", "VM_DISKS=disks/data.qcow2:qcow2")
    make_archive(vm)
    vm.ok("config", "VM_DISKS=")
    write_byte(vm, 2, "0", "disks/data.qcow2")
    vm.ok("restore", "--force", "latest")
    assert "VM_DISKS=data.qcow2:qcow2" in (vm.directory / ".vmrc").read_text()
    assert read_byte(vm, "0", "data.qcow2") == 1
    assert read_byte(vm, "0", "disks/data.qcow2") == 2
    require_nothing_left(vm)


def test_base_whose_name_is_a_link_is_not_replaced_through_it(blank: Blank) -> None:
    """The disk has no base now, so the state's base gets the name that it had, or one that is free."""
    vm = blank()
    write_byte(vm, 1, "0", "demo-base.qcow2")
    make_archive(vm)
    qemu_img(vm, "rebase", "-q", "-f", "qcow2", "-b", "", "demo-backing.qcow2")
    elsewhere = vm.world.home / "elsewhere.qcow2"
    (vm.directory / "demo-base.qcow2").rename(elsewhere)
    (vm.directory / "demo-base.qcow2").symlink_to(elsewhere)
    write_byte(vm, 2, "0", "demo-base.qcow2")
    vm.ok("restore", "--force", "latest")
    assert read_byte(vm, "0") == 1
    assert read_byte(vm, "0", "../elsewhere.qcow2") == 2
    require_nothing_left(vm)
    vm.ok("start", "--no-wait")
    vm.ok("kill")


FAILING = """
import errno, os, sys
from qvmsh.machine import journal
from qvmsh.machine.restore import recovery
old = journal._write
how, *words = sys.argv[1:]
def write(vm, record):
    if record.phase is not journal.Phase.READY:
        return old(vm, record)
    if how == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")
    before = os.stat(vm.files.archive_journal)
    old(vm, record)
    after = os.stat(vm.files.archive_journal)
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    recovery.put_in_place = lambda *words: os._exit(9)
    raise KeyboardInterrupt
journal._write = write
from qvmsh.cli.main import main
sys.exit(main(words))
"""


@pytest.mark.parametrize(("how", "status"), [("full", 1), ("killed", 9)])
def test_restore_whose_last_journal_is_not_written_is_undone(blank: Blank, how: str, status: int) -> None:
    """A full disk; Ctrl-C just behind it, and a kill while all is undone."""
    vm = blank()
    write_byte(vm, 1, "0")
    make_archive(vm)
    write_byte(vm, 2, "0")
    done = subprocess.run(
        [sys.executable, "-c", FAILING, how, "restore", "--force", "latest"],
        cwd=vm.directory,
        env=vm.world.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done
    if how == "full":
        assert "the machine did not change" in done.stderr
    else:
        assert "undone: the machine is as before" in vm.ok("doctor", "--fix").out
    assert read_byte(vm, "0") == 2
    require_nothing_left(vm)


# What the disks are backed by


def bases(vm: Vm, *names: str) -> list[str]:
    """The name of each disk's backing file."""
    chains = [json.loads(qemu_img(vm, "info", "--output=json", name)) for name in names]
    return [os.path.basename(each["backing-filename"]) for each in chains]


def test_base_of_one_disk_is_not_taken_for_that_of_another(blank: Blank) -> None:
    """Both disks are backed by one base now, and by two in the archived state."""
    vm = blank()
    write_byte(vm, 1, "0", "demo-base.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "b2.qcow2", "16M")
    write_byte(vm, 2, "0", "b2.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "b2.qcow2", "d.qcow2")
    vm.ok("config", "VM_DISKS=d.qcow2:qcow2")
    make_archive(vm)
    vm.ok("disk", "rebase", "disk1", "demo-base.qcow2")
    vm.ok("restore", "--force", "latest")
    assert [read_byte(vm, "0"), read_byte(vm, "0", "d.qcow2")] == [1, 2]
    assert bases(vm, "demo-backing.qcow2", "d.qcow2") == ["demo-base.qcow2", "demo-disk1-base.qcow2"]
    assert read_byte(vm, "0", "b2.qcow2") == 2
    require_nothing_left(vm)


def test_base_of_two_disks_stays_one(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 1, "0", "demo-base.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "demo-base.qcow2", "d.qcow2")
    vm.ok("config", "VM_DISKS=d.qcow2:qcow2")
    make_archive(vm)
    before = sorted(path.name for path in vm.directory.glob("*.qcow2"))
    for is_changed in (False, True):
        if is_changed:
            write_byte(vm, 3, "0", "demo-base.qcow2")
        vm.ok("restore", "--force", "latest")
        assert [read_byte(vm, "0"), read_byte(vm, "0", "d.qcow2")] == [1, 1], is_changed
        assert bases(vm, "demo-backing.qcow2", "d.qcow2") == ["demo-base.qcow2"] * 2
        assert sorted(path.name for path in vm.directory.glob("*.qcow2")) == before


# Who may read them


def modes(vm: Vm, *names: str) -> list[str]:
    return [f"{(vm.directory / name).stat().st_mode & 0o777:o}" for name in names]


def test_new_machine_keeps_private_files_private(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.raw")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.raw", "1M")
    for name, mode in (("demo-backing.qcow2", 0o600), ("demo-base.qcow2", 0o444), ("data.raw", 0o660)):
        (vm.directory / name).chmod(mode)
    vm.directory.chmod(0o700)
    make_archive(vm)
    vm.ok("restore", "latest", "../twin")
    twin = Vm(vm.world, vm.world.home / "twin")
    assert modes(twin, "twin-backing.qcow2", "twin-base.qcow2", "data.raw", ".") == [
        "600",
        "644",
        "660",
        "700",
    ]
    # of an older archive nothing is known; where the machine is gone its folder's is neither
    edit_manifest(
        vm, lambda found: [row.pop("mode") for row in parts(found)] and found.update(directory="/nowhere")
    )
    vm.ok("restore", "latest", "../older")
    older = Vm(vm.world, vm.world.home / "older")
    names = ("older-backing.qcow2", "older-base.qcow2", "data.raw", ".")
    assert modes(older, *names) == ["600", "600", "600", "755"]
    # a manifest gives no permissions of its own
    edit_manifest(
        vm, lambda found: [row.update(mode=0o7777) for row in parts(found)] and found.update(directory="/tmp")
    )
    vm.ok("restore", "latest", "../other")
    assert modes(Vm(vm.world, vm.world.home / "other"), "data.raw", ".") == ["664", "755"]


def parts(found: dict[str, Any]) -> list[dict[str, Any]]:
    layers = [row for rows in found["layers"].values() for row in rows]
    return [*layers, *(row for point in found["points"] for row in point["parts"])]


def test_disk_that_comes_back_has_the_mode_that_it_had(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.raw")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.raw", "1M")
    (vm.directory / "data.raw").chmod(0o640)
    make_archive(vm)
    (vm.directory / "data.raw").unlink()
    vm.ok("restore", "--force", "latest")
    assert modes(vm, "data.raw") == ["640"]


LATE = """
import os, signal, sys
from qvmsh.machine.journal import Phase
from qvmsh.machine.restore import recovery

original = recovery.put_in_place


def put_in_place(journal, **how):
    if journal.record.phase is Phase.READY:
        os.kill(os.getpid(), signal.SIGINT)
    return original(journal, **how)


recovery.put_in_place = put_in_place
sys.argv = ["qvm", *sys.argv[1:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


def test_ctrl_c_at_the_end_of_a_restore_is_reported_as_late(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 7, "0")
    made = make_archive(vm)
    (vm.directory / ".qvm/uuid").write_text(f"{uuid.uuid4()}\n")  # of another guest, with another host key
    (vm.directory / ".qvm/known_hosts").write_text("theirs\n")
    write_byte(vm, 8, "0")
    done = subprocess.run(
        [sys.executable, "-c", LATE, "restore", "--force", state_name(made)],
        cwd=vm.directory, env=vm.world.environ, capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert "demo: interrupted too late: the restore was completed" in done.stderr
    assert read_byte(vm, "0") == 7
    assert not (vm.directory / ".qvm/known_hosts").exists()
    require_nothing_left(vm)
    assert "interrupted" not in vm.ok("disk", "check").err


def test_host_key_is_removed_also_by_a_recovered_restore(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 7, "0")
    made = make_archive(vm)
    (vm.directory / ".qvm/uuid").write_text(f"{uuid.uuid4()}\n")
    (vm.directory / ".qvm/known_hosts").write_text("theirs\n")
    write_byte(vm, 8, "0")
    done = subprocess.run(
        [sys.executable, "-c", LATE.replace("SIGINT", "SIGKILL"), "restore", "--force", state_name(made)],
        cwd=vm.directory, env=vm.world.environ, capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    assert (vm.directory / ".qvm/known_hosts").exists()
    assert "completed" in vm.ok("disk", "check").err
    assert read_byte(vm, "0") == 7
    assert not (vm.directory / ".qvm/known_hosts").exists()
    require_nothing_left(vm)


# What is in no archive


def test_base_that_was_written_to_is_not_thrown_away(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    vm.ok("archive", "--create")
    vm.ok("start", "--base-only", "--no-wait")
    write_live(vm, "-P 7 0 64k")
    vm.ok("kill")
    refused = vm.qvm("restore", "latest")
    assert refused.status == 3, str(refused)
    assert "cannot restore: the current content of the disks is in no archive" in refused.err
    assert read_byte(vm, "0") == 7
    vm.ok("restore", "--force", "latest")
    assert read_byte(vm, "0") == 1


def test_restored_state_is_in_the_archive_until_it_is_written_to(blank: Blank) -> None:
    """Of changes only, and of a copy without a snapshot."""
    vm = blank()
    write_byte(vm, 1, "0")
    qemu_img(vm, "snapshot", "-c", "gone", "demo-backing.qcow2")
    vm.ok("start", "--no-wait")
    make_archive(vm)
    write_live(vm, "-P 2 1M 64k")
    made = [make_archive(vm), make_archive(vm, "--delvm", "gone")]
    assert [each["incremental"] for each in made] == [True, False]
    vm.ok("kill")
    for report in made:
        vm.ok("restore", "--force", state_name(report))
        vm.ok("restore", state_name(report))
        assert read_byte(vm, "1M") == 2
        write_byte(vm, 3, "1M")
        assert vm.qvm("restore", state_name(report)).status == 3


def test_folder_here_is_an_archive_only_by_its_name_or_a_path(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    made = make_archive(vm)
    for name in ("latest", made["stamp"]):
        (vm.world.home / name).mkdir()
        result = vm.world.run("-C", vm.directory, "restore", name, cwd=vm.world.home)
        assert result.status == 0, str(result)
    refused = vm.world.run("-C", vm.directory, "restore", "./latest", cwd=vm.world.home)
    assert refused.status == 2
    vm.world.run("restore", made["archive"], vm.world.home / "twin", cwd=vm.directory)
    assert (vm.world.home / "twin/.vmrc").exists()
    alone = vm.world.run("restore", made["archive"], vm.world.home / "other", cwd=vm.world.home)
    assert "there is no archive" in alone.err
    (vm.directory / made["archive"]).rename(vm.world.home / made["archive"])
    vm.world.run("restore", made["archive"], "other", cwd=vm.world.home)
    assert (vm.world.home / "other/.vmrc").exists()
