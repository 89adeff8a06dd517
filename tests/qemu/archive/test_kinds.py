"""archive and restore of each kind of machine: UEFI, TPM, disks that the user's own words name, no layers.

Real QEMU without a guest system; the guests are in tests/guest/archive/test_kinds.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import archived_states, make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.programs import free_port, output_of, qemu_img
from tests.support.world import Blank, Vm

CODE, VARIABLES = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"


def create(vm: Vm, name: str, form: str = "qcow2", size: str = "1M") -> None:
    qemu_img(vm, "create", "-q", "-f", form, name, size)


def tree(folder: Path) -> dict[str, str]:
    """What is in a folder: a hash for each file."""
    files = [each for each in folder.rglob("*") if each.is_file() and each.name != ".lock"]
    return {str(each.relative_to(folder)): hashlib.sha1(each.read_bytes()).hexdigest() for each in files}


def content(vm: Vm, name: str, form: str = "qcow2") -> str:
    """A hash of what a guest would read from a disk."""
    qemu_img(vm, "convert", "-f", form, "-O", "raw", name, "whole.raw")
    path = vm.directory / "whole.raw"
    found = hashlib.sha1(path.read_bytes()).hexdigest()
    path.unlink()
    return found


def twin_of(vm: Vm, word: str = "latest", name: str = "twin") -> tuple[Vm, dict[str, Any]]:
    report = json.loads(vm.ok("--json", "restore", word, f"../{name}").out)
    return Vm(vm.world, vm.world.home / name), report


def both_run(vm: Vm, twin: Vm) -> None:
    """At one time, each with its own UUID and MAC address: they share nothing that one could lock."""
    facts = []
    for each in (vm, twin):
        each.set(VM_NET_MODEL="virtio")
        each.ok("start", "--no-wait")
        line = Path(f"/proc/{each.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        facts.append((re.search(r"-uuid (\S+)", line)[1], re.search(r"DE:AD:BE:EF:\d\d:11", line)[0]))  # type: ignore[index]
    for each in (vm, twin):
        each.ok("kill")
    assert len({uuid for uuid, _ in facts}) == len({mac for _, mac in facts}) == 2


@pytest.mark.parametrize("is_on", [False, True])
def test_uefi_variables_tpm_and_two_more_disks_come_back(blank: Blank, is_on: bool) -> None:
    vm = blank(VM_FIRMWARE="uefi", VM_TPM="yes", VM_DISKS="db.qcow2\nplain.raw", VM_MACHINE_MEM="128")
    create(vm, "db.qcow2")
    create(vm, "plain.raw", "raw")
    write_byte(vm, 1, "0")
    write_byte(vm, 2, "0", "db.qcow2")
    write_byte(vm, 3, "0", "plain.raw", "raw")
    vm.ok("start", "--no-wait")
    if is_on:
        write_live(vm, "-P 4 64k 64k", "disk1")
        write_live(vm, "-P 5 64k 64k", "disk2")
        first = make_archive(vm)
        assert first["notes"] == []
        write_live(vm, "-P 6 64k 64k", "disk1")
        assert make_archive(vm)["incremental"]
        vm.ok("kill")
    else:
        vm.ok("kill")
        write_byte(vm, 4, "64k", "db.qcow2")
        write_byte(vm, 5, "64k", "plain.raw", "raw")
        first = make_archive(vm)
        assert first["notes"] == []
    row = json.loads(vm.ok("--json", "archive", "--list").out)["states"][0]
    assert sorted(row["disks"]) == ["disk1", "disk2", "main", "uefi"]
    assert "is good" in vm.ok("archive", "--verify", first["archive"]).out
    variables, keys = content(vm, "demo-uefi.qcow2"), tree(vm.directory / ".qvm/tpm")
    assert keys
    make_archive(vm)  # so that all that is there now is in an archive
    write_byte(vm, 9, "0", "demo-uefi.qcow2")
    write_byte(vm, 9, "64k", "db.qcow2")
    for path in (vm.directory / ".qvm/tpm").iterdir():
        path.write_bytes(b"another")
    vm.ok("restore", "--force", state_name(first))
    assert read_byte(vm, "0") == 1
    assert [read_byte(vm, at, "db.qcow2") for at in ("0", "64k")] == [2, 4]
    assert [read_byte(vm, at, "plain.raw", "raw") for at in ("0", "64k")] == [3, 5]
    if not is_on:
        assert content(vm, "demo-uefi.qcow2") == variables
        assert tree(vm.directory / ".qvm/tpm") == keys
    qemu_img(vm, "check", "demo-uefi.qcow2")
    require_nothing_left(vm)
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    twin, report = twin_of(vm, state_name(first))
    assert "its TPM holds the same keys as the one of demo" in report["notes"]
    assert read_byte(twin, "64k", "db.qcow2") == 4
    if not is_on:
        assert content(twin, "twin-uefi.qcow2") == variables
        assert tree(twin.directory / ".qvm/tpm") == keys
    both_run(vm, twin)
    assert "its TPM holds the same keys as the one of demo" in vm.ok("clone", "../mail").out
    mail = Vm(vm.world, vm.world.home / "mail")
    assert content(mail, "mail-uefi.qcow2") == content(vm, "demo-uefi.qcow2")
    assert tree(mail.directory / ".qvm/tpm") == tree(vm.directory / ".qvm/tpm")
    assert read_byte(mail, "64k", "db.qcow2") == 4


def test_restore_keeps_the_variables_that_the_state_did_not_have(blank: Blank) -> None:
    """Archived before its first start, there were none."""
    vm = blank()
    first = make_archive(vm)
    vm.ok("config", "VM_FIRMWARE=uefi")
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    before = content(vm, "demo-uefi.qcow2")
    output = vm.ok("restore", "--force", state_name(first)).out
    assert "demo-uefi.qcow2 is not in that state and stays unchanged" in output
    assert content(vm, "demo-uefi.qcow2") == before
    vm.ok("start", "--no-wait")


@pytest.mark.parametrize("is_on", [False, True])
def test_raw_uefi_variables_by_hand_come_back(blank: Blank, is_on: bool) -> None:
    words = f"-drive if=pflash,format=raw,readonly=on,file={CODE} -drive if=pflash,format=raw,file=vars.fd"
    vm = blank(VM_QEMU_EXTRA=words, VM_MACHINE_MEM="128")
    data = Path(VARIABLES).read_bytes()
    (vm.directory / "vars.fd").write_bytes(data)
    write_byte(vm, 1, "0")
    if is_on:
        vm.ok("start", "--no-wait", "--disposable")  # the firmware writes nothing that counts
        vm.ok("kill")
        vm.ok("start", "--no-wait")
        vm.ok("pause")
    made = make_archive(vm)
    assert not [note for note in made["notes"] if "not in the archive" in note]
    vm.kill()
    row = json.loads(vm.ok("--json", "archive", "--list").out)["states"][0]
    assert row["disks"] == ["main", "extra1"]
    stored = (vm.directory / made["archive"] / "demo-extra1.fd").read_bytes()
    assert len(stored) == len(data)
    assert is_on or stored == data
    (vm.directory / "vars.fd").write_bytes(b"\xff" * len(data))
    vm.ok("restore", "--force", "latest")
    assert (vm.directory / "vars.fd").read_bytes() == stored
    twin, _ = twin_of(vm)
    assert (twin.directory / "vars.fd").read_bytes() == stored
    both_run(vm, twin)
    require_nothing_left(vm)


@pytest.mark.parametrize("is_on", [False, True])
def test_restore_of_disks_of_the_users_arguments_copies_them(blank: Blank, is_on: bool) -> None:
    """By -drive, -hda and -blockdev; inside of the directory and outside; two of one name."""
    node = {"driver": "qcow2", "node-name": "mine", "file": {"driver": "file", "filename": "block, 1.qcow2"}}
    vm = blank()
    words = (
        "-drive 'file=in,,side=a b.raw,format=raw,if=none,id=one' "
        "-device virtio-blk-pci,drive=one,id=one-device "
        "-hdb plain.qcow2 "
        f"-blockdev '{json.dumps(node)}' "
        "-device virtio-blk-pci,drive=mine,id=mine-device "
        "-drive file=../elsewhere/plain.qcow2,format=qcow2,if=none,id=two "
        "-device virtio-blk-pci,drive=two,id=two-device "
        "-drive file=empty.iso,media=cdrom,if=ide"
    )
    vm.ok("config", f"VM_QEMU_EXTRA={words}")
    (vm.world.home / "elsewhere").mkdir()
    (vm.directory / "empty.iso").write_bytes(b"cd" * 1024)
    disks = [
        ("in,side=a b.raw", "raw"), ("plain.qcow2", "qcow2"), ("block, 1.qcow2", "qcow2"),
        ("../elsewhere/plain.qcow2", "qcow2"),
    ]  # fmt: skip
    for at, (name, form) in enumerate(disks, start=1):
        create(vm, name, form)
        write_byte(vm, at, "0", name, form)
    if is_on:
        vm.ok("start", "--no-wait")
        write_live(vm, "-P 21 64k 64k", "one")
        make_archive(vm)
        write_live(vm, "-P 22 128k 64k", "two")
        made = make_archive(vm)
        assert made["incremental"]
        vm.ok("kill")
    else:
        write_byte(vm, 21, "64k", *disks[0])
        write_byte(vm, 22, "128k", *disks[3])
        made = make_archive(vm)
    assert not [note for note in made["notes"] if "not in the archive" in note], made["notes"]
    for name, form in disks:
        write_byte(vm, 99, "0", name, form)
        write_byte(vm, 99, "128k", name, form)
    vm.ok("restore", "--force", state_name(made))
    assert [read_byte(vm, "0", name, form) for name, form in disks] == [1, 2, 3, 4]
    assert read_byte(vm, "64k", *disks[0]) == 21
    assert read_byte(vm, "128k", *disks[3]) == 22
    twin, report = twin_of(vm)
    moved = [note for note in report["notes"] if "is now plain-2.qcow2 in the machine's directory" in note]
    assert moved == [f"{vm.world.home}/elsewhere/plain.qcow2 is now plain-2.qcow2 in the machine's directory"]
    assert read_byte(twin, "128k", "plain-2.qcow2") == 22
    assert "elsewhere" not in twin.value("VM_QEMU_EXTRA")
    assert [read_byte(twin, "0", name, form) for name, form in disks[:3]] == [1, 2, 3]
    both_run(vm, twin)
    twin.ok("start", "--no-wait")
    write_live(twin, "-P 33 0 64k", "two")
    twin.ok("kill")
    assert read_byte(vm, "0", *disks[3]) == 4
    require_nothing_left(vm)


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_machine_without_layers_comes_back(blank: Blank, form: str) -> None:
    vm = blank(has_images=False, VM_USE_SNAPSHOTS="no", VM_FMT=form)
    name = f"demo.{form}"
    create(vm, name, form, "16M")
    write_byte(vm, 1, "0", name, form)
    first = make_archive(vm)
    assert (vm.directory / first["archive"] / name).exists()
    write_byte(vm, 2, "0", name, form)
    second = make_archive(vm)
    assert second["archive"] == first["archive"]
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 3 0 64k")
    third = make_archive(vm)
    write_live(vm, "-P 4 1M 64k")
    fourth = make_archive(vm)
    assert fourth["incremental"]
    vm.ok("kill")
    for report, wanted in ((first, [1, 0]), (second, [2, 0]), (third, [3, 0]), (fourth, [3, 4])):
        vm.ok("restore", "--force", state_name(report))
        assert [read_byte(vm, at, name, form) for at in ("0", "1M")] == wanted
    twin, _ = twin_of(vm, state_name(fourth))
    assert read_byte(twin, "1M", f"twin.{form}", form) == 4
    both_run(vm, twin)
    vm.ok("archive", "--verify", first["archive"])


def test_hardware_by_hand_comes_back(blank: Blank) -> None:
    """The old `vm`'s hardware: QEMU gives the disk its node's name. The ports are the user's own."""
    port = str(free_port())
    vm = blank(
        has_images=False,
        VM_QEMU_ARGS="-M pc -accel tcg -m 64 -hda ../disks/demo.qcow2 -net none -serial chardev:serial",
        VM_SSH_PORT=port,
        VM_NET_MODEL="virtio",
    )
    (vm.world.home / "disks").mkdir()
    create(vm, "../disks/demo.qcow2", size="16M")
    write_byte(vm, 1, "0", "../disks/demo.qcow2")
    off = make_archive(vm)
    vm.ok("start", "--no-wait")
    output = vm.ok("cmd", 'qemu-io ide0-hd0 "write -P 2 0 64k"').out
    assert "rror" not in output
    on = make_archive(vm)
    vm.ok("kill")
    for report, wanted in ((off, 1), (on, 2)):
        vm.ok("restore", "--force", state_name(report))
        assert read_byte(vm, "0", "../disks/demo.qcow2") == wanted
    twin, report = twin_of(vm)
    assert "-hda demo.qcow2" in twin.value("VM_QEMU_ARGS")
    assert twin.value("VM_SSH_PORT") == port
    assert (
        "VM_SSH_PORT is the same as for demo: change it before both run at the same time" in report["notes"]
    )
    assert read_byte(twin, "0", "demo.qcow2") == 2
    for each in (vm, twin):
        each.ok("start", "--no-wait")
        assert each.qvm("status", "-s").out.startswith(f"{each.directory.name}: running")
    twin.ok("kill")


def test_archive_reports_what_is_left_out_and_restores_without(blank: Blank) -> None:
    """A CD, a kernel, a disk that is only read, a shared folder: large, elsewhere, or no file."""
    vm = blank(
        VM_CDROM="install.iso",
        VM_KERNEL="../boot/vmlinuz",
        VM_DISKS="seed.iso:raw:ro\nlarge.raw:raw:ro\n../boot/tools.raw:raw:ro",
        VM_QEMU_EXTRA="-fw_cfg name=opt/x,file=note.txt "
        "-virtfs local,path=shared,mount_tag=s,security_model=none",
        VM_PRE_START="./hook.sh",
        VM_LOG="demo.log",
    )
    (vm.world.home / "boot").mkdir()
    (vm.directory / "shared").mkdir()
    (vm.world.home / "boot/vmlinuz").write_bytes(b"no kernel\n" * 200)
    (vm.directory / "note.txt").write_text("note")
    (vm.directory / "hook.sh").write_text("#!/bin/sh\n")
    (vm.directory / "hook.sh").chmod(0o755)
    for name, size in (("install.iso", "70M"), ("seed.iso", "1M"), ("large.raw", "70M")):
        create(vm, name, "raw", size)
    create(vm, "../boot/tools.raw", "raw")
    made = make_archive(vm)
    home = vm.world.home
    large = "the guest only reads it, and it has more than 64 MiB"
    outside = "it is outside the machine's directory"
    assert sorted(made["notes"]) == sorted(
        [
            "large.raw is not in the archive: the guest only reads it",
            f"{home}/boot/tools.raw is not in the archive: the guest only reads it",
            f"install.iso is not in the archive: {large}",
            f"{home}/boot/vmlinuz is not in the archive: {outside}",
            "shared is not in the archive: it is a folder",
        ]
    )
    output = output_of(vm, "tar", "tf", f"{made['archive']}/demo-settings.tar").split("\n")
    assert {".vmrc", ".qvm/uuid", "seed.iso", "note.txt", "hook.sh"} <= set(output)
    assert "demo.log" not in output
    twin, report = twin_of(vm)
    notes = "\n".join(report["notes"])
    for name in ("install.iso", "large.raw", "shared"):
        assert f"in the new machine it is a link to {vm.directory}/{name}" in notes
        assert (twin.directory / name).readlink() == vm.directory / name
    assert (
        f"{home}/boot/tools.raw is not in the archive: the guest only reads it; the new machine uses" in notes
    )
    assert (twin.directory / "seed.iso").stat().st_size == 1 << 20
    assert (twin.directory / "hook.sh").stat().st_mode & 0o111
    twin.ok("--set", "VM_KERNEL=", "start", "--no-wait")  # it is none that could boot
    twin.ok("kill")
    # into the same machine: what is gone comes back, what is there stays
    (vm.directory / "note.txt").unlink()
    (vm.directory / "hook.sh").write_text("#!/bin/sh\nexit 0\n")
    (vm.directory / "seed.iso").unlink()
    vm.ok("restore", "latest")
    assert (vm.directory / "note.txt").read_text() == "note"
    assert "exit 0" in (vm.directory / "hook.sh").read_text()
    assert (vm.directory / "seed.iso").exists()
    require_nothing_left(vm)


def test_new_machine_from_a_machine_with_ports_of_its_own(blank: Blank) -> None:
    ssh, net, web = (free_port() for _ in range(3))
    vm = blank(
        VM_SSH_PORT=str(ssh), VM_NET_PORT=str(net), VM_HOSTFWD=f"{web}:80", VM_NET_MODEL="virtio",
        VM_QEMU_EXTRA="-fw_cfg name=opt/qvm/hostname,string=demo",
    )  # fmt: skip
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    make_archive(vm)
    twin, report = twin_of(vm, name="Das Zweite")
    number = twin.value("VM_MACHINE_ID")
    assert number != "33"
    assert twin.value("VM_MACHINE_NAME") == "Das Zweite"
    assert twin.value("VM_SSH_PORT") == "auto"
    assert twin.value("VM_NET_PORT") == f"77{number}"
    assert twin.value("VM_QEMU_EXTRA") == "-fw_cfg name=opt/qvm/hostname,string=das-zweite"
    assert f"VM_SSH_PORT is now auto, it was {ssh}" in report["notes"]
    assert f"VM_NET_PORT is now 77{number}, it was {net}" in report["notes"]
    assert "VM_HOSTFWD is the same as for demo: change it before both run at the same time" in report["notes"]
    same = [vm.ok("config", name).out for name in ("VM_MACHINE_ID", "VM_SSH_PORT", "VM_MACHINE_NAME")]
    uuid = (vm.directory / ".qvm/uuid").read_text()
    vm.ok("restore", "latest")
    assert [vm.ok("config", name).out for name in ("VM_MACHINE_ID", "VM_SSH_PORT", "VM_MACHINE_NAME")] == same
    assert (vm.directory / ".qvm/uuid").read_text() == uuid
    vm.ok("start", "--no-wait")
    twin.ok("config", "VM_HOSTFWD=", f"VM_NET_PORT={free_port()}")  # another run may have 77NN
    twin.ok("start", "--no-wait")
    twin.ok("kill")


def test_restore_after_losing_the_qvm_folder_keeps_the_identity(blank: Blank) -> None:
    import shutil

    vm = blank(VM_ARCHIVE="../store", VM_TPM="yes")
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    (vm.directory / ".qvm/known_hosts").write_text("qvm-x ssh-ed25519 AAAA\n")
    write_byte(vm, 1, "0")
    make_archive(vm)
    uuid, keys = (vm.directory / ".qvm/uuid").read_text(), tree(vm.directory / ".qvm/tpm")
    shutil.rmtree(vm.directory / ".qvm")
    for path in vm.directory.glob("demo-*"):
        path.unlink()
    vm.ok("restore", "latest")
    assert read_byte(vm, "0") == 1
    assert (vm.directory / ".qvm/uuid").read_text() == uuid
    assert (vm.directory / ".qvm/known_hosts").read_text() == "qvm-x ssh-ed25519 AAAA\n"
    assert tree(vm.directory / ".qvm/tpm") == keys
    vm.ok("start", "--no-wait")
    require_nothing_left(vm)


def test_snapshots_of_a_restored_machine_have_their_messages(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA="-fw_cfg name=opt/qvm/hostname,string=demo")
    vm.ok("snapshot", "save", "one", "-m", "the first")
    write_byte(vm, 1, "0")
    made = make_archive(vm)
    vm.ok("snapshot", "delete", "one")
    vm.ok("restore", "--force", state_name(made))
    assert "the first" in vm.ok("snapshot", "list").out
    vm.ok("snapshot", "verify", "one")
    twin, _ = twin_of(vm)
    assert "the first" in twin.ok("snapshot", "list").out
    assert "demo" not in (twin.directory / ".qvm/snapshots.json").read_text()
    twin.ok("snapshot", "verify", "one")
    twin.ok("snapshot", "restore", "one")
    assert read_byte(twin, "0", "twin-backing.qcow2") == 0


def test_image_with_its_data_in_another_file_is_refused(blank: Blank) -> None:
    vm = blank(VM_DISKS="split.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-o", "data_file=split.data", "split.qcow2", "1M")
    refused = vm.qvm("archive")
    assert refused.status == 1
    assert "split.qcow2 keeps its data in another file" in refused.err
    assert "hint: `qemu-img convert" in refused.err
    assert not list(vm.directory.glob("demo-2*"))
    require_nothing_left(vm)


@pytest.mark.parametrize("names", [("flat-flat.vmdk", "flat-flat.vmdk"), ("more/flat.vmdk", "more/one.vmdk")])
def test_image_of_several_files_is_refused_before_and_after(blank: Blank, names: tuple[str, str]) -> None:
    """A flat vmdk is a page of text; the guest's data is in its extents."""
    vm = blank(VM_DISKS="flat.vmdk")
    qemu_img(vm, "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "flat.vmdk", "1M")
    flat = (vm.directory / "flat.vmdk").read_bytes()
    (vm.directory / "more").mkdir()
    for name in names:
        (vm.directory / name).write_bytes(b"S" * (1 << 20))
    (vm.directory / "flat.vmdk").write_bytes(flat.replace(b"flat-flat.vmdk", names[0].encode()))
    refused = vm.qvm("archive")
    assert refused.status == 1
    assert "flat.vmdk keeps its data in another file" in refused.err
    qemu_img(vm, "convert", "-O", "vmdk", "flat.vmdk", "one.vmdk")
    vm.set(VM_DISKS="one.vmdk")
    made = make_archive(vm)
    stored = vm.directory / made["archive"] / "demo-disk1.vmdk"
    stored.write_bytes(flat.replace(b"flat-flat.vmdk", bytes(vm.directory / names[1])))
    manifest = vm.directory / made["archive"] / "manifest.json"
    data = json.loads(manifest.read_text())
    for part in data["points"][0]["parts"]:
        if part["role"] == "disk1":
            part.update(xxh128="", stored_bytes=stored.stat().st_size)
    manifest.write_text(json.dumps(data))
    refused = vm.qvm("restore", state_name(made), "../twin")
    assert refused.status == 1
    assert "demo-disk1.vmdk keeps its data in another file" in refused.err
    assert not (vm.world.home / "twin").exists()


def test_archive_that_is_full_is_followed_by_another(blank: Blank) -> None:
    vm = blank()
    first = make_archive(vm)
    manifest = vm.directory / first["archive"] / "manifest.json"
    found = json.loads(manifest.read_text())
    found["points"][0]["parts"][0]["tags"] = [f"{number} {'n' * 1020} 5.0" for number in range(15 << 10)]
    manifest.write_text(json.dumps(found))
    write_byte(vm, 1, "0")
    second = make_archive(vm)
    assert second["archive"] != first["archive"]
    assert f"{first['archive']} is full: started a new archive" in second["notes"]
    write_byte(vm, 2, "0")
    assert make_archive(vm)["archive"] == second["archive"]
    assert len(archived_states(vm)) == 3


def test_archive_of_a_sparse_disk_takes_the_time_of_its_data(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.img:raw")
    path, size, at = vm.directory / "data.img", 8 << 40, 5 << 40
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(at)
        file.write(b"x" * 4096)
    folder = make_archive(vm)["archive"]
    vm.ok("archive", "--verify")
    twin, _ = twin_of(vm)
    with (twin.directory / "data.img").open("rb") as file:
        assert file.seek(0, 2) == size
        assert file.seek(0, 3) == at  # SEEK_DATA
        assert file.read(4096) == b"x" * 4096
    with (vm.directory / folder / "demo-disk1.img").open("r+b") as file:
        file.seek(at + 1)
        file.write(b"y")
    damaged = vm.qvm("archive", "--verify")
    assert damaged.status == 1
    assert "its checksum differs" in damaged.err
