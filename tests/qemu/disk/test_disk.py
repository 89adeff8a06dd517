"""`qvm disk`, on and off, with real images; what backs others is never written to."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.disks import disk_io, holds, list_disks, two_disks, write_live
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm


@pytest.fixture
def vm(blank: Blank) -> Vm:
    return two_disks(blank)


def test_list_shows_sizes_chains_and_processes(vm: Vm) -> None:
    output = vm.ok("disk", "list").out
    assert re.search(
        r"^disk0 +demo-backing.qcow2: qcow2, 16.0 MiB, .* used, on demo-base.qcow2$", output, re.M
    )
    vm.ok("start", "--no-wait")
    output = vm.ok("disk", "list").out
    assert re.search(rf"^ +in use by machine demo, pid {vm.pid}, since \d\d:\d\d:\d\d$", output, re.M)
    vm.ok("kill")
    (vm.directory / "data.qcow2").unlink()
    assert "disk1    data.qcow2: data.qcow2 is missing" in vm.ok("disk", "list").out


def test_add_makes_an_image_and_a_running_guest_has_it_at_once(vm: Vm) -> None:
    assert vm.ok("disk", "add", "new.qcow2", "64M").out == "demo: disk2, new.qcow2: created and added\n"
    vm.ok("start", "--no-wait")
    assert "available in the guest now" in vm.ok("disk", "add", "it's, hot.qcow2", "1G").out
    assert "disk3-device" in vm.ok("cmd", "info block").out
    assert list_disks(vm)["disk3"]["size_bytes"] == 1 << 30
    vm.ok("snapshot", "save", "with four")
    vm.ok("stop", "--savevm", "later", "--no-suspend")
    vm.ok("start", "--no-wait", "--loadvm", "with four")  # the next start gives it the same place
    vm.ok("kill")
    assert list_disks(vm)["disk3"]["snapshots"] == 2
    for words, status, why in (
        (["data.qcow2"], 2, "disk add: data.qcow2 is already disk1"),
        (["none.qcow2"], 1, "none.qcow2 is missing"),
        (["new.img", "10X"], 2, "10X: is not a size"),
        (["demo-base.qcow2"], 1, "cannot add demo-base.qcow2: demo-backing.qcow2 holds snapshots"),
    ):
        before = (vm.directory / ".vmrc").read_bytes()
        refused = vm.qvm("disk", "add", *words)
        assert (refused.status, why in refused.err) == (status, True), refused.err
        assert (vm.directory / ".vmrc").read_bytes() == before
    assert not list(vm.directory.glob("*.part*"))


def test_add_writes_no_disk_of_the_command_line(vm: Vm) -> None:
    assert vm.qvm("--set", "VM_DISKS=", "disk", "add", "new.qcow2", "1M").status == 0
    assert vm.value("VM_DISKS").split("\n") == ["data.qcow2", "new.qcow2:qcow2"]


def test_add_where_the_machine_takes_none_while_it_runs(blank: Blank) -> None:
    vm = blank(VM_QEMU_MACHINE="q35")
    vm.ok("start", "--no-wait")
    output = vm.ok("disk", "add", "x.qcow2", "1G").out
    assert "created and added; available after the next start (" in output
    assert "disk1" not in vm.ok("cmd", "info block").out
    vm.ok("kill")
    vm.ok("start", "--no-wait")
    assert "disk1" in vm.ok("cmd", "info block").out


def test_resize_on_and_off_and_never_smaller_by_accident(vm: Vm) -> None:
    vm.ok("disk", "resize", "disk1", "32M")
    assert list_disks(vm)["disk1"]["size_bytes"] == 32 << 20
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "before")
    output = vm.ok("disk", "resize", "data.qcow2", "+32M").out
    assert output.startswith("demo: disk1, data.qcow2: 32.0 MiB -> 64.0 MiB; ")
    assert list_disks(vm)["disk1"]["size_bytes"] == 64 << 20
    vm.ok("snapshot", "restore", "before", "--no-wait")
    assert list_disks(vm)["disk1"]["size_bytes"] == 32 << 20
    assert vm.qvm("disk", "resize", "disk1", "16M", "--shrink").status == 3
    vm.ok("kill")
    refused = vm.qvm("disk", "resize", "disk1", "16M")
    assert refused.status == 2
    assert "16.0 MiB is less than disk1 has (32.0 MiB)" in refused.err
    assert vm.qvm("disk", "resize", "disk7", "16M").status == 2
    vm.ok("snapshot", "delete", "before")
    output = vm.ok("disk", "resize", "disk1", "16M", "--shrink").out
    assert output == "demo: disk1, data.qcow2: 32.0 MiB -> 16.0 MiB; the data beyond that is gone\n"
    assert list_disks(vm)["disk1"]["size_bytes"] == 16 << 20


def test_trim_while_off_frees_space_and_keeps_the_data(vm: Vm) -> None:
    for disk in ("data.qcow2", "demo-backing.qcow2"):
        disk_io(vm, disk, "write -P 7 0 8M", "write -z 0 1M", "write -z 2M 6M")
    found = {row["id"]: row for row in json.loads(vm.ok("disk", "trim", "--json").out)["disks"]}
    for row in found.values():
        assert row["before_bytes"] - row["after_bytes"] > 5 << 20
    assert holds(vm, "data.qcow2", 7)
    assert holds(vm, "demo-backing.qcow2", 7)
    assert list_disks(vm)["disk0"]["chain"] == [str(vm.directory / "demo-base.qcow2")]
    vm.ok("snapshot", "save", "a")
    assert "unchanged: it holds snapshots" in vm.ok("disk", "trim", "disk1").out
    vm.ok("start", "--no-wait")
    refused = vm.qvm("disk", "trim")
    assert refused.status == 3
    assert "cannot trim: neither the guest agent nor ssh could do it" in refused.err


def test_trim_of_a_disk_that_is_a_link_rewrites_its_target(vm: Vm) -> None:
    there = vm.directory.parent / "big"
    there.mkdir()
    data, real = vm.directory / "data.qcow2", there / "real.qcow2"
    data.rename(real)
    data.symlink_to("../big/real.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", str(there / "base.qcow2"), "16M")
    base = str(there / "base.qcow2")
    qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base, str(real))
    disk_io(vm, str(real), "write -P 5 1M 64k", "write -z 4M 8M")
    inode = real.stat().st_ino
    vm.ok("disk", "trim", "disk1")
    assert data.is_symlink()
    assert real.stat().st_ino != inode
    assert holds(vm, str(real), 5)
    assert sorted(path.name for path in there.iterdir()) == ["base.qcow2", "real.qcow2"]
    (there / "base.qcow2").rename(vm.directory / "base.qcow2")  # to QEMU, which opens the link, it is here
    qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", str(real))
    inode = real.stat().st_ino
    assert "unchanged: " in vm.ok("disk", "trim", "disk1").out
    assert real.stat().st_ino == inode


def test_check_finds_and_repairs(vm: Vm) -> None:
    disk_io(vm, "data.qcow2", "write -P 7 0 4M")
    output = vm.ok("disk", "check").out
    assert output.splitlines() == [
        "demo: demo-backing.qcow2: sound",
        "demo: demo-base.qcow2: sound",
        "demo: data.qcow2: sound",
    ]
    path = vm.directory / "data.qcow2"
    with path.open("r+b") as file:  # the refcounts of some clusters
        file.seek(2 * 65536 + 8)
        file.write(bytes(8))
    damaged = vm.qvm("disk", "check", "disk1")
    assert damaged.status == 1
    assert "demo: data.qcow2: damaged: " in damaged.out
    vm.ok("start", "--no-wait")
    assert "not checked: the running machine writes to it" in vm.ok("disk", "check").out
    assert vm.qvm("disk", "check", "--repair").status == 3
    vm.ok("kill")
    assert "repaired: " in vm.ok("disk", "check", "--repair").out
    assert holds(vm, "data.qcow2", 7)
    assert vm.ok("disk", "check", "disk1").out == "demo: data.qcow2: sound\n"


def test_commit_writes_to_the_base_unless_others_use_it(vm: Vm) -> None:
    disk_io(vm, "demo-backing.qcow2", "write -P 7 1M 64k")
    vm.ok("snapshot", "save", "a")
    refused = vm.qvm("disk", "commit")
    assert refused.status == 1
    assert "cannot commit to demo-base.qcow2: demo-backing.qcow2 holds snapshots (a)" in refused.err
    assert not holds(vm, "demo-base.qcow2", 7)
    vm.ok("snapshot", "delete", "a")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "demo-base.qcow2", "other.qcow2")
    refused = vm.qvm("disk", "commit")
    assert refused.status == 1
    assert "other.qcow2 is backed by it and would be silently corrupted" in refused.err
    refused = vm.qvm("init", "-b", "-k")
    assert refused.status == 1
    assert "cannot replace demo-base.qcow2: other.qcow2 is backed by it" in refused.err
    (vm.directory / "other.qcow2").unlink()
    assert "its data is now in demo-base.qcow2" in vm.ok("disk", "commit").out
    assert holds(vm, "demo-base.qcow2", 7)
    assert holds(vm, "demo-backing.qcow2", 7)
    assert vm.qvm("disk", "commit", "disk1").status == 2


@pytest.mark.both_qemus
def test_commit_and_flatten_while_on_keep_the_guest_running(vm: Vm) -> None:
    disk_io(vm, "demo-base.qcow2", "write -P 5 4M 64k")
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 7 1M 64k")
    vm.ok("snapshot", "save", "a")
    assert "holds snapshots (a)" in vm.qvm("disk", "commit").err
    vm.ok("snapshot", "delete", "a")
    for pattern in (7, 8):  # twice: the fresh overlay is as good as the first
        write_live(vm, f"-P {pattern} 1M 64k")
        assert "its data is now in demo-base.qcow2" in vm.ok("disk", "commit").out
        assert vm.qvm("status", "-s").out.startswith("demo: running")
        assert holds(vm, "demo-base.qcow2", pattern)
    write_live(vm, "-P 9 1M 64k")
    assert list_disks(vm)["disk0"]["chain"] == [str(vm.directory / "demo-base.qcow2")]
    vm.ok("snapshot", "save", "b")
    write_live(vm, "-P 3 1M 64k")
    vm.ok("snapshot", "restore", "b", "--no-wait")
    vm.ok("snapshot", "delete", "b")
    refused = vm.qvm("disk", "rebase", "disk0", "data.qcow2")
    assert refused.status == 3
    vm.ok("pause")
    assert "no longer backed by another image" in vm.ok("disk", "rebase", "disk0").out
    assert vm.qvm("status", "-s").out.startswith("demo: paused")
    assert vm.qvm("disk", "commit").status == 2
    vm.ok("kill")
    assert holds(vm, "demo-base.qcow2", 8)
    (vm.directory / "demo-base.qcow2").unlink()
    assert holds(vm, "demo-backing.qcow2", 9)
    assert "verification failed" not in disk_io(vm, "demo-backing.qcow2", "read -P 5 4M 64k")
    assert vm.ok("disk", "check", "disk0").out == "demo: demo-backing.qcow2: sound\n"
    assert not list(vm.directory.glob("*.part*"))


def test_rebase_keeps_what_is_read(vm: Vm) -> None:
    disk_io(vm, "demo-base.qcow2", "write -P 5 1M 64k")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "empty.qcow2", "16M")
    assert "now backed by empty.qcow2" in vm.ok("disk", "rebase", "disk0", "empty.qcow2").out
    assert holds(vm, "demo-backing.qcow2", 5)
    vm.ok("snapshot", "save", "a")
    refused = vm.qvm("disk", "rebase", "disk0", "demo-base.qcow2")
    assert refused.status == 1
    assert "cannot rebase demo-backing.qcow2: it holds snapshots (a)" in refused.err
    (vm.directory / "empty.qcow2").rename(vm.directory / "moved.qcow2")
    vm.ok("disk", "rebase", "disk0", "moved.qcow2", "--unsafe")
    vm.ok("snapshot", "delete", "a")
    assert "no longer backed by another image" in vm.ok("disk", "rebase", "disk0").out
    (vm.directory / "moved.qcow2").unlink()
    assert holds(vm, "demo-backing.qcow2", 5)
    assert vm.qvm("disk", "rebase", "disk1", "demo-backing.qcow2", "-u").status == 0
    assert vm.qvm("disk", "rebase", "disk0", "data.qcow2").status == 2  # a circle


def test_rebase_onto_a_disk_by_its_id_says_that_a_base_is_a_file(vm: Vm) -> None:
    named = vm.qvm("disk", "rebase", "disk0", "disk1")
    assert named.status == 2
    assert "demo: disk rebase: disk1 is the id of a disk; a base is given as a file\n" in named.err
    assert "hint: its file is data.qcow2; " in named.err
    for word in ("disk1", "data.qcow2"):
        itself = vm.qvm("disk", "rebase", "disk1", word)
        assert (itself.status, itself.err) == (
            2, "qvm: demo: disk rebase: a disk cannot be its own base\n",
        )  # fmt: skip


def test_failed_add_and_resize_name_the_machine_and_the_remedy(vm: Vm) -> None:
    """Names that qvm uses for a moment are not shown."""
    for words, said, hint in (
        (["add", "sub/x.qcow2", "1G"], "cannot create x.qcow2: there is no folder", "create it first"),
        (["add", "big.qcow2", "99999T"], "cannot create big.qcow2", "choose a smaller size"),
        (["resize", "disk1", "99999T"], "cannot resize disk1", "it still has 16.0 MiB"),
    ):
        refused = vm.qvm("disk", *words)
        assert refused.status == 1, str(refused)
        assert refused.err.startswith(f"qvm: demo: {said}"), refused.err
        assert f"hint: {hint}" in refused.err, refused.err
        assert ".part" not in refused.err
    assert list_disks(vm)["disk1"]["size_bytes"] == 16 << 20
    vm.ok("start", "--no-wait")
    refused = vm.qvm("disk", "resize", "disk1", "99999T")
    assert refused.status == 1, str(refused)
    assert refused.err.startswith("qvm: demo: "), refused.err
    assert "hint: it still has 16.0 MiB" in refused.err, refused.err


def test_only_what_is_a_disk_by_its_name_is_made_and_taken(vm: Vm) -> None:
    refused = vm.qvm("disk", "add", "foo.vmdk", "1M")
    assert (refused.status, "disk add: qvm creates qcow2 and raw images, not vmdk" in refused.err) == (
        2,
        True,
    )
    assert "hint: `qvm disk add foo.qcow2 1M`" in refused.err
    assert not (vm.directory / "foo.vmdk").exists()
    qemu_img(vm, "create", "-q", "-f", "vmdk", "foo.vmdk", "1M")
    vm.ok("disk", "add", "foo.vmdk")
    assert list_disks(vm)["disk2"]["size_bytes"] == 1 << 20
    assert "foo.vmdk: vmdk, 1.0 MiB" in vm.ok("disk", "list").out
    (vm.directory / "notes").write_text("no image")
    refused = vm.qvm("disk", "add", "notes")
    assert refused.status == 2
    assert "disk add: neither name nor content of notes says that it is an image" in refused.err
    assert "hint: `--format raw`" in refused.err
    vm.ok("disk", "add", "notes", "--format", "raw", "--read-only")


def test_disk_of_another_machine_is_reported(vm: Vm) -> None:
    vm.ok("archive")
    vm.ok("restore", "latest", "../other")
    other = vm.directory.parent / "other"
    result = vm.ok("disk", "add", "../other/data.qcow2")
    assert (
        result.err == f"qvm: demo: data.qcow2 is also a disk of other ({other}): only one may write to it\n"
    )
    vm.ok("disk", "add", "more.qcow2", "1M")
    # a machine of the same name elsewhere, used later: the name means that one
    (vm.directory.parent / "elsewhere").mkdir()
    vm.ok("restore", "latest", "../elsewhere/other")
    result = vm.ok("disk", "add", "../other/other-backing.qcow2")
    assert f"other-backing.qcow2 is also a disk of other ({other})" in result.err
