"""Which disk, and which base, a name means: formats, links, names with a `:`, circles."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.disks import disk_io, holds, list_disks
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm

DEVICE = "/machine/peripheral/disk1-device/virtio-backend"


def io_of(vm: Vm, kind: str, disk: str, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    argv = ["qemu-io", "-f", kind, *words, disk]
    return subprocess.run(argv, cwd=vm.directory, capture_output=True, text=True, check=True).stdout


def on_base(vm: Vm, kind: str, *options: str, size: str = "") -> str:
    """`data.qcow2` on a base in that format, each with data of its own; the base's name."""
    base = f"base.{kind}"
    for name in (base, "data.qcow2"):
        (vm.directory / name).unlink(missing_ok=True)
    qemu_img(vm, "create", "-q", "-f", kind, *options, base, "16M")
    io_of(vm, kind, base, "write -P 51 1M 64k")
    qemu_img(
        vm, "create", "-q", "-f", "qcow2", "-F", kind, "-b", base, "data.qcow2", *([size] if size else [])
    )
    disk_io(vm, "data.qcow2", "write -P 68 2M 64k")
    return base


def has_both(vm: Vm) -> bool:
    output = disk_io(vm, "data.qcow2", "read -P 51 1M 64k", "read -P 68 2M 64k")
    assert output.count("read 65536/65536") == 2, output
    return "verification failed" not in output


@pytest.fixture
def vm(blank: Blank) -> Vm:
    return blank(VM_DISKS="data.qcow2")


@pytest.mark.parametrize(
    "kind", ["vmdk", *(pytest.param(each, marks=pytest.mark.long) for each in ("qed", "qcow"))]
)
def test_a_base_in_another_format_keeps_its_format(vm: Vm, kind: str) -> None:
    base = on_base(vm, kind)
    vm.ok("start", "--no-wait")
    vm.ok("disk", "commit", "disk1")
    vm.ok("kill")
    assert has_both(vm)
    assert f"backing file format: {kind}" in qemu_img(vm, "info", "data.qcow2")
    on_base(vm, kind)
    vm.ok("disk", "trim", "disk1")
    assert has_both(vm)
    (vm.directory / base).rename(vm.directory / f"moved.{kind}")
    vm.ok("disk", "rebase", "-u", "disk1", f"moved.{kind}")
    assert has_both(vm)
    assert f"moved.{kind}: " in vm.ok("disk", "check", "disk1").out
    vm.ok("disk", "commit", "disk1")
    assert has_both(vm)
    io_of(vm, kind, f"moved.{kind}", "read -P 68 2M 64k")


def test_commit_to_a_base_that_cannot_grow_loses_nothing(vm: Vm) -> None:
    base = on_base(vm, "vpc", "-o", "subformat=fixed", size="64M")
    before = (vm.directory / base).read_bytes()
    refused = vm.qvm("disk", "commit", "disk1")
    assert refused.status == 1
    assert f"cannot resize {base}" in refused.err
    assert "nothing was changed" in refused.err
    assert (vm.directory / base).read_bytes() == before
    assert has_both(vm)


def test_rebase_onto_a_name_without_a_format_is_refused(vm: Vm) -> None:
    (vm.directory / on_base(vm, "vmdk")).rename(vm.directory / "moved")
    refused = vm.qvm("disk", "rebase", "-u", "disk1", "moved")
    assert refused.status == 1
    assert "moved looks like vmdk, but its name does not say so" in refused.err
    assert "hint: name it moved.vmdk" in refused.err


def test_overlays_in_other_formats_protect_their_base(vm: Vm) -> None:
    base = "a base with a long name.qcow2"
    formats = (("qed", ""), ("qcow", ""), ("vmdk", ""), ("vmdk", "subformat=twoGbMaxExtentSparse"))
    for kind, options in formats:
        below = "vmdk" if kind == "vmdk" else "qcow2"
        (vm.directory / base).unlink(missing_ok=True)
        qemu_img(vm, "create", "-q", "-f", below, base, "16M")
        words = ["-F", below, "-b", base, *(["-o", options] if options else [])]
        qemu_img(vm, "create", "-q", "-f", kind, *words, f"data.{kind}")
        vm.set(VM_DISKS=f"data.{kind}\n{base}:{below}")
        assert list_disks(vm)["disk1"]["chain"] == [str(vm.directory / base)], kind
        refused = vm.qvm("disk", "resize", "disk2", "32M")
        assert refused.status == 1, kind
        guarded = f"cannot resize {base}: data.{kind} is backed by it and would be silently corrupted"
        assert guarded in refused.err
        refused = vm.qvm("disk", "commit", "disk1")
        assert (refused.status, "only a qcow2 overlay can be changed" in refused.err) == (2, True), kind
        (vm.directory / f"data.{kind}").unlink()


def test_resize_to_what_is_not_a_size_is_refused(vm: Vm) -> None:
    for text in ("++1G", "1_0M", "nan", "1e400", "10GiBB", "", "0.1K"):
        assert vm.qvm("disk", "resize", "disk0", "--", text).status == 2, text


def test_disk_of_arguments_without_a_format_has_qemus_guess(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA="-drive file=w.img,if=virtio")
    qemu_img(vm, "create", "-q", "-f", "vmdk", "w.img", "1G")
    assert list_disks(vm)["drive0"]["format"] == "vmdk"
    assert list_disks(vm)["drive0"]["size_bytes"] == 1 << 30


def test_resize_reckons_from_the_disk_not_from_the_file(vm: Vm) -> None:
    vm.ok("config", "VM_DISKS=data.qed")
    qemu_img(vm, "create", "-q", "-f", "qed", "data.qed", "32M")
    assert "32.0 MiB -> 64.0 MiB" in vm.ok("disk", "resize", "disk1", "+32M").out


def test_a_name_means_the_path_before_the_name_of_another_file(blank: Blank) -> None:
    vm = blank(VM_DISKS="a/data.qcow2\ndata.qcow2\na/more.qcow2\nb/more.qcow2")
    for folder in ("a", "b"):
        (vm.directory / folder).mkdir()
    for name in ("a/data.qcow2", "data.qcow2", "a/more.qcow2", "b/more.qcow2"):
        qemu_img(vm, "create", "-q", "-f", "qcow2", name, "16M")
    vm.ok("disk", "resize", "data.qcow2", "8M", "--shrink")
    vm.ok("disk", "resize", "./a/data.qcow2", "32M")
    sizes = {name: row["size_bytes"] >> 20 for name, row in list_disks(vm).items()}
    assert (sizes["disk1"], sizes["disk2"]) == (32, 8)
    refused = vm.qvm("disk", "resize", "more.qcow2", "32M")
    assert refused.status == 2
    assert "more.qcow2 is the name of disk3 and disk4" in refused.err


@pytest.fixture
def linked(blank: Blank) -> tuple[Vm, Path]:
    """A disk that is a link to an overlay in another folder, which is backed by a base there."""
    vm = blank(VM_DISKS="data.qcow2")
    far = vm.directory.parent / "big"
    far.mkdir()
    qemu_img(vm, "create", "-q", "-f", "qcow2", str(far / "base.qcow2"), "16M")
    disk_io(vm, str(far / "base.qcow2"), "write -P 51 1M 64k")
    base = str(far / "base.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, str(far / "data.qcow2"))
    disk_io(vm, str(far / "data.qcow2"), "write -P 68 2M 64k")
    (vm.directory / "data.qcow2").symlink_to(far / "data.qcow2")
    return vm, far


def test_rebase_of_a_link_names_the_base_so_that_it_is_found(linked: tuple[Vm, Path]) -> None:
    vm, far = linked
    (far / "base.qcow2").rename(far / "moved.qcow2")
    vm.ok("disk", "rebase", "-u", "disk1", str(far / "moved.qcow2"))
    assert has_both(vm)
    (far / "again.qcow2").write_bytes((far / "moved.qcow2").read_bytes())
    vm.ok("disk", "rebase", "disk1", str(far / "again.qcow2"))
    (far / "moved.qcow2").unlink()
    assert has_both(vm)


@pytest.mark.parametrize("is_relative", [False, True])
def test_commit_of_a_link_while_on_leaves_the_link(linked: tuple[Vm, Path], is_relative: bool) -> None:
    vm, far = linked
    if is_relative:  # QEMU looks for it beside the link
        (vm.directory / "base.qcow2").symlink_to(far / "base.qcow2")
        qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "data.qcow2")
    vm.ok("start", "--no-wait")
    vm.ok("disk", "commit", "disk1")
    output = vm.ok("cmd", f'qemu-io -d {DEVICE} "read -P 68 2M 64k"').out
    assert "verification failed" not in output
    vm.ok("kill")
    assert os.readlink(vm.directory / "data.qcow2") == str(far / "data.qcow2")
    assert has_both(vm)
    assert holds(vm, str(far / "base.qcow2"), 51)
    assert sorted(os.listdir(far)) == ["base.qcow2", "data.qcow2"]


def test_rebase_onto_a_name_with_a_colon_takes_a_file(vm: Vm) -> None:
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "16M")
    disk_io(vm, "demo-base.qcow2", "write -P 51 1M 64k")
    (vm.directory / "x:y.qcow2").write_bytes((vm.directory / "demo-base.qcow2").read_bytes())
    for words in (["disk0", "x:y.qcow2"], ["-u", "disk0", "x:y.qcow2"]):
        assert "now backed by x:y.qcow2" in vm.ok("disk", "rebase", *words).out
        assert holds(vm, "demo-backing.qcow2", 51)
    vm.ok("start", "--no-wait")


def test_circle_of_images_is_reported_at_once(vm: Vm) -> None:
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "16M")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "data.qcow2", "b.qcow2")
    qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "b.qcow2", "data.qcow2")
    why = "data.qcow2 cannot be read: data.qcow2 on b.qcow2 on data.qcow2 is a circle"
    for words in (["start", "--no-wait"], ["disk", "rebase", "disk1"], ["disk", "commit", "disk1"]):
        refused = vm.qvm(*words)
        assert (refused.status, f"demo: {why}" in refused.err) == (1, True), refused.err
    checked = vm.qvm("disk", "check")
    assert (checked.status, why in checked.out) == (1, True), checked.out
    assert "demo: demo-base.qcow2: sound" in checked.out
    assert list_disks(vm)["disk1"]["problem"] == why


def test_check_of_a_missing_image_looks_at_the_others_too(vm: Vm) -> None:
    assert not (vm.directory / "data.qcow2").exists()
    (vm.directory / "demo-base.qcow2").unlink()
    vm.ok("config", "VM_DISKS=data.qcow2\nb.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "b.qcow2", "16M")
    checked = vm.qvm("disk", "check")
    assert checked.status == 1
    assert "demo: demo-base.qcow2: demo-base.qcow2 is missing (put it back)" in checked.out
    assert "demo: data.qcow2: data.qcow2 is missing (put it back)" in checked.out
    assert "demo: b.qcow2: sound" in checked.out


def test_add_of_a_name_that_a_line_cannot_hold_makes_nothing(vm: Vm) -> None:
    before = sorted(os.listdir(vm.directory))
    for name in ("a\nb.qcow2", " lead.qcow2", " "):
        refused = vm.qvm("disk", "add", "--", name, "1M")
        assert (refused.status, "VM_DISKS cannot hold the name" in refused.err) == (2, True), refused.err
        assert sorted(os.listdir(vm.directory)) == before, name


def test_disposable_run_shows_the_disks_and_changes_none(vm: Vm) -> None:
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "16M")
    vm.ok("start", "--no-wait", "--disposable")
    assert [row["name"] for row in list_disks(vm).values()] == ["demo-backing.qcow2", "data.qcow2"]
    assert not any(row["problem"] for row in list_disks(vm).values())
    assert "demo: data.qcow2: sound" in vm.ok("disk", "check").out
    for words in (["resize", "disk0", "+16M"], ["trim"], ["commit"], ["rebase", "disk1"]):
        refused = vm.qvm("disk", *words)
        assert refused.status == 3, refused.err
        assert f"demo: cannot {words[0]} a disk: it is disposable" in refused.err


def test_resize_of_the_only_disk_needs_no_name(blank: Blank) -> None:
    vm = blank()
    assert "disk0, demo-backing.qcow2: 16.0 MiB -> 32.0 MiB" in vm.ok("disk", "resize", "32M").out
    for word, why in (("disk0", "no size given"), ("much", "much: is not a size")):
        refused = vm.qvm("disk", "resize", word)
        assert (refused.status, why in refused.err) == (2, True), refused.err
    vm.ok("disk", "add", "data.qcow2", "1M")
    refused = vm.qvm("disk", "resize", "64M")
    assert refused.status == 2
    assert "no disk given, and the machine has several" in refused.err
    assert "hint: `qvm disk resize disk0 64M`; there are: disk0, disk1" in refused.err


def test_list_of_a_machine_without_disks_reports_it(blank: Blank) -> None:
    vm = blank(VM_QEMU_ARGS="-m 64")
    for words in (["resize", "1G"], ["commit"]):
        refused = vm.qvm("disk", *words)
        assert (refused.status, refused.err) == (2, "qvm: demo: the machine has no disks\n")


def test_snapshot_argument_without_effect_is_refused(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA="-snapshot")
    refused = vm.qvm("start", "--no-wait")
    assert (refused.status, "would not cover the machine's own disks" in refused.err) == (2, True)
    assert "--disposable" in refused.err
    vm.ok("start", "--no-wait", "--disposable")


def test_trim_of_a_read_only_disk_is_refused(vm: Vm) -> None:
    vm.ok("config", "VM_DISKS=data.qcow2:qcow2:ro")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "16M")
    refused = vm.qvm("disk", "trim", "disk1")
    assert (refused.status, refused.err) == (3, "qvm: demo: cannot trim disk1: it is read-only\n")


def test_commit_while_on_of_a_drive_of_arguments_is_refused(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA="-drive file=w.qcow2,if=virtio,format=qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "base.qcow2", "16M")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "w.qcow2")
    vm.ok("start", "--no-wait")
    refused = vm.qvm("disk", "commit", "w.qcow2")
    assert (refused.status, "it is named in VM_QEMU_EXTRA or VM_QEMU_ARGS" in refused.err) == (3, True), (
        refused.err
    )
