"""`export`: what a package holds, off and while QEMU runs, and when it is refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.support.archives import require_nothing_left
from tests.support.counting import NO_WAITING
from tests.support.disks import flush, holds, write_byte, write_live
from tests.support.packages import export, manifest_of, members_of
from tests.support.programs import qemu_img, qemu_io
from tests.support.world import DEADLINE_S, QVM, Blank, Vm


@pytest.fixture
def vm(blank: Blank) -> Vm:
    """Off, with 7 at 1M."""
    made = blank(**NO_WAITING)
    write_byte(made, 7, "1M")
    return made


def unpacked(package: Path, folder: Path) -> Path:
    """What GNU tar makes of a package."""
    folder.mkdir()
    subprocess.run(["tar", "-x", "-f", package, "-C", folder], check=True)
    return folder


def test_export_packs_the_machine_with_its_manifest_first(vm: Vm) -> None:
    qemu_img(vm, "snapshot", "-c", "ready", "demo-backing.qcow2")
    report = export(vm, "demo.tar.gz")
    package = vm.directory / "demo.tar.gz"
    assert list(members_of(package)) == ["qvm.json", ".vmrc", "demo-backing.qcow2", "demo-base.qcow2"]
    found = manifest_of(package)
    assert (found["machine"], found["snapshots"], found["consistency"]) == ("demo", ["ready"], "off")
    assert found["uuid"] == (vm.directory / ".qvm/uuid").read_text().strip()
    assert [row["role"] for row in found["files"]] == ["settings", "main", "base of main"]
    for row in found["files"]:
        content = (vm.directory / row["name"]).read_bytes()
        assert (row["size"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert report["bytes"] == package.stat().st_size
    assert report["left_out"] == []


def test_export_twice_gives_the_same_bytes(vm: Vm) -> None:
    for kind in ("gz", "zst", "xz"):
        export(vm, f"one.tar.{kind}")
        os.utime(vm.directory / ".vmrc", (1, 1))
        export(vm, f"two.tar.{kind}")
        one, two = ((vm.directory / f"{name}.tar.{kind}").read_bytes() for name in ("one", "two"))
        assert one == two
    assert export(vm, "one.tar")["files"]
    plain = gzip.decompress((vm.directory / "one.tar.gz").read_bytes())
    assert plain == (vm.directory / "one.tar").read_bytes()


def test_export_is_unpacked_by_gnu_tar(vm: Vm, tmp_path: Path) -> None:
    export(vm, "demo.tar.zst")
    folder = unpacked(vm.directory / "demo.tar.zst", tmp_path / "out")
    for name in ("demo-base.qcow2", "demo-backing.qcow2", ".vmrc"):
        assert (folder / name).read_bytes() == (vm.directory / name).read_bytes()
    qemu_io(folder, "-r", "-c", "read -P 7 1M 64k", "demo-backing.qcow2")


def test_export_of_an_empty_disk_is_small(blank: Blank) -> None:
    made = blank(VM_USE_SNAPSHOTS="no", VM_FMT="raw", has_images=False)
    qemu_img(made, "create", "-q", "-f", "raw", "demo.raw", "7680M")
    export(made, "demo.tar")
    package = made.directory / "demo.tar"
    assert package.stat().st_size < 1 << 20
    folder = unpacked(package, made.world.home / "out")
    assert (folder / "demo.raw").stat().st_size == 7680 << 20
    assert (folder / "demo.raw").stat().st_blocks <= 128  # qemu-img writes the first sector
    made.world.run("import", package, "twin")
    assert (made.world.home / "twin/twin.raw").stat().st_size == 7680 << 20


def test_export_takes_disks_and_bases_from_elsewhere(vm: Vm, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    qemu_img(far, "create", "-q", "-f", "qcow2", "base.qcow2", "16M")
    qemu_io(far, "-f", "qcow2", "-c", "write -P 9 2M 64k", "base.qcow2")
    words = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", f"{far}/base.qcow2", "data.qcow2"]
    qemu_img(far, *words)
    qemu_img(far, "create", "-q", "-f", "raw", "more.raw", "4M")
    extra = f"{vm.value('VM_QEMU_EXTRA')} -drive file={far}/more.raw,format=raw,if=virtio"
    vm.set(VM_DISKS=f"{far}/data.qcow2:qcow2", VM_QEMU_EXTRA=extra)
    export(vm, "demo.tar")
    folder = unpacked(vm.directory / "demo.tar", tmp_path / "out")
    assert {path.name for path in (folder / "disks").iterdir()} == {"base.qcow2", "data.qcow2", "more.raw"}
    text = (folder / ".vmrc").read_text()
    assert "VM_DISKS=disks/data.qcow2:qcow2" in text
    assert "file=disks/more.raw" in text
    assert str(far) not in text
    (far / "base.qcow2").rename(far / "gone.qcow2")
    qemu_io(folder / "disks", "-r", "-c", "read -P 9 2M 64k", "data.qcow2")
    require_nothing_left(vm)


def test_export_leaves_keys_and_records_of_runs_out(vm: Vm) -> None:
    state = vm.directory / ".qvm"
    (state / "id_ed25519").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (state / "id_ed25519.pub").write_text("ssh-ed25519 AAAA\n")
    (vm.directory / "web.pem").write_text("# ours\nsubject=x\n-----BEGIN RSA PRIVATE KEY-----\n")
    vm.set(VM_SSH_IDENTITY="web.pem")
    (state / "known_hosts").write_text("qvm-x ssh-ed25519 AAAA\n")
    (state / "tpm").mkdir()
    (state / "tpm/tpm2-00.permall").write_bytes(b"keys of the TPM")
    (state / "tpm/.lock").touch()
    (vm.directory / ".qvmrc.xsh").write_text("print(1)\n")
    report = export(vm, "demo.tar.gz")
    assert sorted(row["name"] for row in report["left_out"]) == [".qvm/id_ed25519", "web.pem"]
    names = list(members_of(vm.directory / "demo.tar.gz"))
    assert [name for name in names if name.startswith(".qvm")] == [".qvm/tpm/tpm2-00.permall", ".qvmrc.xsh"]
    report = export(vm, "keys.tar.gz", "--with-keys")
    assert report["left_out"] == []
    assert {".qvm/id_ed25519", ".qvm/id_ed25519.pub"} <= set(members_of(vm.directory / "keys.tar.gz"))


def test_export_has_snapshots_without_host_keys(vm: Vm) -> None:
    (vm.directory / ".qvm/known_hosts").write_text("qvm-x ssh-ed25519 SECRET\n")
    vm.ok("snapshot", "save", "ready")
    export(vm, "demo.tar.gz")
    text = members_of(vm.directory / "demo.tar.gz")[".qvm/snapshots.json"].decode()
    assert "SECRET" not in text
    assert str(vm.directory) not in json.dumps(json.loads(text)["snapshots"][0]["disks"])


def test_export_to_an_existing_file_is_refused(vm: Vm) -> None:
    (vm.directory / "demo.tar.gz").write_text("mine")
    result = vm.qvm("export")
    assert result.status == 3
    assert "demo.tar.gz already exists" in result.err
    assert (vm.directory / "demo.tar.gz").read_text() == "mine"
    vm.ok("export", "--force")
    assert members_of(vm.directory / "demo.tar.gz")
    require_nothing_left(vm)


def test_export_without_a_disk_is_a_broken_machine(vm: Vm) -> None:
    (vm.directory / "demo-base.qcow2").unlink()
    result = vm.qvm("export")
    assert result.status == 2
    assert "demo-base.qcow2 is missing" in result.err
    assert not list(vm.directory.glob("*.tar*"))


def test_export_of_a_machine_named_by_a_word(vm: Vm) -> None:
    home = vm.world.home
    for words in (("demo", "one.tar"), ("-M", "demo", "two.tar"), ("-C", "demo", "three.tar"), ("demo",)):
        result = vm.world.run("export", *words)
        assert result.status == 0, str(result)
    names = {path.name for path in home.glob("*.tar*")}
    assert names == {"one.tar", "two.tar", "three.tar", "demo.tar.gz"}
    assert vm.world.run("export", "-M", "demo", "demo").status == 2
    assert vm.world.run("export", "a.tar", "b.tar").status == 2
    assert vm.world.run("export", "demo", "x.zip").status == 2
    assert vm.world.run("export", "demo", "x.tar.gz", "-z", "xz").status == 2


def test_export_to_standard_output_is_the_package(vm: Vm) -> None:
    done = subprocess.run(
        [QVM, "export", "-"], cwd=vm.directory, env=vm.world.environ, stdin=subprocess.DEVNULL,
        capture_output=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"exported to standard output" in done.stderr
    export(vm, "demo.tar.gz")
    assert done.stdout == (vm.directory / "demo.tar.gz").read_bytes()
    assert vm.qvm("--json", "export", "-").status == 2


def test_export_to_a_terminal_is_refused(vm: Vm) -> None:
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [QVM, "export", "-"], cwd=vm.directory, env=vm.world.environ, stdin=subprocess.DEVNULL,
            stdout=follower, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S,
        )  # fmt: skip
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 2
    assert "a package is not written to a terminal" in done.stderr


def test_export_of_a_running_machine_is_of_one_moment(vm: Vm, tmp_path: Path) -> None:
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 8 2M 64k")
    flush(vm)
    report = export(vm, "demo.tar.gz")
    assert report["consistency"] == "crash-consistent"
    write_live(vm, "-P 9 2M 64k")
    folder = unpacked(vm.directory / "demo.tar.gz", tmp_path / "out")
    qemu_io(folder, "-r", "-c", "read -P 7 1M 64k", "-c", "read -P 8 2M 64k", "demo-backing.qcow2")
    require_nothing_left(vm)
    vm.kill()
    assert holds(vm, "demo-backing.qcow2", 9, "2M")


def test_export_that_cannot_be_written_leaves_nothing(vm: Vm) -> None:
    script = f"ulimit -f 1; trap '' XFSZ; exec {QVM} export big.tar"
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=vm.directory, env=vm.world.environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "cannot export to big.tar: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(vm.directory.glob("big*"))
