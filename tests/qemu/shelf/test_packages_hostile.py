"""Packages that somebody tampered with: refused with the reason, nothing outside, nothing left."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qvmsh.host import tar_format
from qvmsh.host.tar_writer import Writer
from tests.support.counting import NO_WAITING
from tests.support.packages import (
    Forged,
    Members,
    everything,
    export,
    members_of,
    of_members,
    require_refused,
    sparse,
    with_manifest,
    write_package,
)
from tests.support.programs import qemu_img
from tests.support.world import Vm, World, copy_of, create_blank


@pytest.fixture(scope="module")
def packed(module_world: World) -> Path:
    """A machine with its package."""
    made = create_blank(module_world, **NO_WAITING)
    export(made, "demo.tar.gz")
    return made.directory


@pytest.fixture
def vm(world: World, packed: Path) -> Vm:
    return copy_of(world, packed)


@pytest.fixture
def package(vm: Vm) -> Path:
    return vm.directory / "demo.tar.gz"


def forged(package: Path, *more: Forged, first: Forged | None = None) -> Path:
    """A package with members before or behind those of another."""
    rows = [*([first] if first else []), *of_members(members_of(package)), *more]
    return write_package(package.with_name("forged.tar.gz"), rows)


MEMBERS = {
    "absolute": (Forged("/tmp/qvm-evil", b"x"), "absolute"),
    "above": (Forged("../evil", b"x"), "outside"),
    "above-inside": (Forged("disks/../../evil", b"x"), "outside"),
    "link": (Forged("evil", kind=tarfile.SYMTYPE, link="/etc/passwd"), "a symbolic link"),
    "link-inside": (Forged("evil", kind=tarfile.SYMTYPE, link=".vmrc"), "a symbolic link"),
    "hard-link": (Forged("evil", kind=tarfile.LNKTYPE, link=".vmrc"), "a hard link"),
    "hard-link-outside": (Forged("evil", kind=tarfile.LNKTYPE, link="/etc/passwd"), "a hard link"),
    "fifo": (Forged("evil", kind=tarfile.FIFOTYPE), "a FIFO"),
    "device": (Forged("evil", kind=tarfile.CHRTYPE), "a device"),
    "disk": (Forged("evil", kind=tarfile.BLKTYPE), "a device"),
    "odd": (Forged("evil", kind=b"Z"), "unknown kind"),
    "twice": (Forged(".vmrc", b"VM_PRE_START=x\n"), "twice"),
    "case": (Forged("Demo-base.qcow2", b"x"), "case"),
    "long-name": (Forged("x" * 300, b"x"), "too long"),
    "long-path": (Forged("a/" * 600 + "x", b"x"), "more than 16 folders"),
    "control": (Forged("a\x1b[2Jb", b"x"), "cannot be printed"),
    "not-utf-8": (Forged("a\udcffb", b"x"), "UTF-8"),
    "below-file": (Forged(".vmrc/x", b"x"), "a file is where it needs a folder"),
    "not-named": (Forged("more.txt", b"x"), "which its manifest does not name"),
    "mark": (Forged(".qvm/running", b"x"), "which its manifest does not name"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMBERS)
def test_member_that_a_package_must_not_hold_is_refused(vm: Vm, package: Path, name: str) -> None:
    member, reason = MEMBERS[name]
    require_refused(vm, forged(package, member), reason)
    require_refused(vm, forged(package, first=member))
    assert not Path("/tmp/qvm-evil").exists()


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in ("not-named", "mark", "case")])
def test_member_of_a_packed_directory_is_refused_too(vm: Vm, name: str) -> None:
    member, reason = MEMBERS[name]
    rows = [Forged(".vmrc", (vm.directory / ".vmrc").read_bytes()), member]
    require_refused(vm, write_package(vm.directory / "dir.tar.gz", rows), reason)


def test_names_in_two_unicode_forms_are_refused(vm: Vm) -> None:
    rows = [Forged("disk.s2e", bytes(512)), Forged("disk.s2e.ö", b"a"), Forged("disk.s2e.o\u0308", b"b")]
    require_refused(vm, write_package(vm.directory / "s2e.tar.gz", rows), "Unicode form")


def test_package_cut_off_anywhere_is_refused(vm: Vm, package: Path) -> None:
    whole = package.read_bytes()
    plain = gzip.decompress(whole)
    cut = package.with_name("cut.tar")
    for data in (whole, plain):
        for part in range(10):
            cut.write_bytes(data[: len(data) * part // 10 + (part > 0)])
            require_refused(vm, cut, "truncated", "damaged", "no file", "empty")
    cut.write_bytes(plain[:-512])
    require_refused(vm, cut, "truncated")
    cut.write_bytes(whole[:-1])
    require_refused(vm, cut, "truncated")


def test_package_with_damaged_bytes_is_refused(vm: Vm, package: Path) -> None:
    plain = bytearray(gzip.decompress(package.read_bytes()))
    at = plain.index(b"QFI\xfb") + 65536
    plain[at] ^= 1
    package.with_name("x.tar").write_bytes(plain)
    require_refused(vm, package.with_name("x.tar"), "its checksum differs")


def change_item(item: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    def change(found: dict[str, Any]) -> None:
        next(row for row in found["files"] if row["name"] == item).update(values)

    return change


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "size": (change_item("demo-base.qcow2", size=1), "but the manifest says 1"),
    "sum": (change_item("demo-base.qcow2", sha256="0" * 64), "its checksum differs"),
    "kind-of-sum": (change_item("demo-base.qcow2", sha256="data:" + "0" * 64), "its checksum differs"),
    "missing": (
        lambda found: found["files"].append(
            {"name": "x", "size": 1, "sha256": "0" * 64, "role": "file", "format": ""}
        ),
        "x is missing",
    ),
    "no-vmrc": (lambda found: found["files"].pop(0), "no .vmrc"),
    "version": (lambda found: found.update(qvm_package=99), "version 99"),
    "records": (change_item("demo-base.qcow2", name=".qvm/running"), "not a file of a machine"),
    "mark": (change_item("demo-base.qcow2", name=".qvm/unaccepted"), "not a file of a machine"),
    "journal": (change_item("demo-base.qcow2", name=".qvm/archive.unfinished"), "not a file of a machine"),
    "outside": (change_item("demo-base.qcow2", name="../x"), "outside"),
    "machine": (change_item("demo-base.qcow2", name="sub/.vmrc"), "not a file of a machine"),
    "archive": (
        change_item("demo-base.qcow2", name="x-20260101000000/x-settings.tar"),
        "not a file of a machine",
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_that_does_not_fit_is_refused(vm: Vm, package: Path, name: str) -> None:
    change, reason = MANIFESTS[name]
    found = with_manifest(members_of(package), change)
    require_refused(vm, write_package(package, of_members(found)), reason)


@pytest.mark.parametrize("machine", ["../evil", "/tmp/evil", "", "..", "-x", ".x", "a\nb", "x" * 300])
def test_name_in_the_manifest_that_leads_outside_is_refused(vm: Vm, package: Path, machine: str) -> None:
    found = with_manifest(members_of(package), lambda manifest: manifest.update(machine=machine))
    write_package(package, of_members(found))
    before = everything(vm)
    folder = vm.world.home / "sub"
    folder.mkdir()
    result = vm.world.run("import", package, cwd=folder)
    assert result.status in (1, 2), str(result)
    assert "Traceback" not in result.err
    folder.rmdir()
    assert everything(vm) == before


@pytest.mark.parametrize("data", [b"[" * 200_000, b" " * (9 << 20), b'{"files": [' + b"{}," * 100_000])
def test_manifest_that_is_huge_or_deep_is_refused(vm: Vm, package: Path, data: bytes) -> None:
    found: Members = members_of(package) | {"qvm.json": data}
    require_refused(vm, write_package(package, of_members(found)), "its manifest")


# Bombs


def test_member_larger_than_the_free_space_is_refused(vm: Vm, package: Path) -> None:
    head = tar_format.header("disk.s2e", 1 << 60, mode=0o600)
    package.with_name("x.tar").write_bytes(head + bytes(1 << 20))
    require_refused(vm, package.with_name("x.tar"), "not enough free space for disk.s2e")


def test_bomb_of_compressed_zeros_is_refused(vm: Vm, package: Path) -> None:
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as file:
        file.write(tar_format.header("disk.s2e", 1 << 50, mode=0o600))
        for _ in range(64):
            file.write(bytes(1 << 20))
    package.write_bytes(stream.getvalue())
    require_refused(vm, package, "not enough free space")


def test_bomb_behind_the_end_is_refused(vm: Vm, package: Path) -> None:
    plain = gzip.decompress(package.read_bytes())
    package.write_bytes(gzip.compress(plain + bytes(64 << 20)))
    require_refused(vm, package, "does not end")


def test_sparse_bomb_is_refused(vm: Vm, package: Path) -> None:
    found = members_of(package)
    huge = (1 << 62) + 512
    sized = with_manifest(found, change_item("demo-base.qcow2", size=huge))
    stream = io.BytesIO()
    writer = Writer(stream.write)
    for name, data in sized.items():
        if name != "demo-base.qcow2":
            writer.text(name, data, mode=0o600)
    stream.write(sparse("demo-base.qcow2", huge, [(0, 512), (huge, 0)], bytes(512)) + bytes(1024))
    package.with_name("x.tar").write_bytes(stream.getvalue())
    require_refused(vm, package.with_name("x.tar"), "has holes of")


def test_package_of_a_million_members_is_refused(vm: Vm, package: Path) -> None:
    block = tar_format.header("a", 0, mode=0o600, kind=tar_format.FOLDER)
    package.write_bytes(gzip.compress(block * 1_000_000, 1))
    require_refused(vm, package, "more than 10000 files")


# Images


def repacked(vm: Vm, package: Path, name: str) -> Path:
    """The package with the image `name` as it is in the machine now."""
    found = members_of(package) | {name: (vm.directory / name).read_bytes()}
    return write_package(package, of_members(with_manifest(found)))


BACKINGS = ["/etc/passwd", "../other.qcow2", "nbd://localhost/x", 'json:{"driver": "file", "filename": "/x"}']


@pytest.mark.parametrize("backing", BACKINGS)
@pytest.mark.parametrize("name", ["demo-base.qcow2", "demo-backing.qcow2", "other.img"])
def test_image_backed_by_a_file_outside_is_refused(vm: Vm, package: Path, backing: str, name: str) -> None:
    words = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, name, "16M"]
    qemu_img(vm, *words)
    require_refused(vm, repacked(vm, package, name), "outside the package", "backed by")


def test_image_in_the_folder_of_the_tpm_is_looked_at(vm: Vm, package: Path) -> None:
    qemu_img(vm, "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", "evil.qcow2", "16M")
    text = (vm.directory / ".vmrc").read_bytes() + b"VM_DISKS=.qvm/tpm/evil.qcow2\n"
    found = members_of(package) | {".vmrc": text}
    found[".qvm/tpm/evil.qcow2"] = (vm.directory / "evil.qcow2").read_bytes()
    require_refused(vm, write_package(package, of_members(with_manifest(found))), "outside the package")


def test_image_with_its_data_in_another_file_is_refused(vm: Vm, package: Path) -> None:
    words = ["create", "-q", "-f", "qcow2", "-o", "data_file=secret.raw", "demo-base.qcow2", "16M"]
    qemu_img(vm, *words)
    require_refused(vm, repacked(vm, package, "demo-base.qcow2"), "keeps its data in another file")


@pytest.mark.parametrize("option", ["data_file=secret.raw", "backing_file=/etc/passwd,backing_fmt=raw"])
def test_image_that_one_of_two_drives_calls_raw_is_looked_at(vm: Vm, package: Path, option: str) -> None:
    """The guest of a raw drive may have written the header that the other drive then follows."""
    (vm.directory / "secret.raw").write_bytes(bytes(16 << 20))
    qemu_img(vm, "create", "-q", "-u", "-f", "qcow2", "-o", option, "evil.img", "16M")
    found = members_of(package) | {"demo-backing.qcow2": (vm.directory / "evil.img").read_bytes()}
    found[".vmrc"] += b"VM_DISKS=demo-backing.qcow2:raw\n"
    require_refused(vm, write_package(package, of_members(with_manifest(found))), "another file", "outside")


def test_image_whose_base_is_not_in_the_package_is_refused(vm: Vm, package: Path) -> None:
    found = with_manifest({k: v for k, v in members_of(package).items() if k != "demo-base.qcow2"})
    require_refused(vm, write_package(package, of_members(found)), "demo-base.qcow2 is missing", "missing")


def test_settings_that_cannot_be_used_are_refused(vm: Vm, package: Path) -> None:
    for text in (b"VM_MACHINE_MEM=lots\n", b"$(touch /tmp/qvm-evil)\n", b"\0" * 300_000):
        found = with_manifest(members_of(package) | {".vmrc": text})
        require_refused(vm, write_package(package, of_members(found)))
    assert not Path("/tmp/qvm-evil").exists()


def test_arguments_of_a_packed_snapshot_are_not_believed(vm: Vm, package: Path) -> None:
    vm.ok("snapshot", "save", "ready")
    export(vm, "new.tar.gz")
    found = members_of(vm.directory / "new.tar.gz")
    document = json.loads(found[".qvm/snapshots.json"])
    document["snapshots"][0] |= {"arguments": ["-drive", "file=/etc/passwd"], "machine": "pc,dumpdtb=/tmp/x"}
    found[".qvm/snapshots.json"] = json.dumps(document).encode()
    result = vm.world.run("import", write_package(package, of_members(with_manifest(found))), "victim")
    assert result.status == 0, str(result)
    text = (vm.world.home / "victim/.qvm/snapshots.json").read_text()
    assert "passwd" not in text
    assert str(vm.directory) not in text
    assert f"{vm.world.home}/victim/victim-backing.qcow2" in text


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"[" * 100_000, b'{"snapshots": [7, {"images": 3}]}'])
def test_snapshots_that_are_invalid_are_left_out(vm: Vm, package: Path, text: bytes) -> None:
    found = with_manifest(members_of(package) | {".qvm/snapshots.json": text})
    result = vm.world.run("import", write_package(package, of_members(found)), "victim")
    assert result.status == 0, str(result)
    victim = Vm(vm.world, vm.world.home / "victim")
    assert "Traceback" not in victim.ok("snapshot", "list").err
