"""Obstacles to a snapshot in a real QEMU, and failures in the middle: reported, and nothing half done."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvmsh.machine.snapshot import obstacles as blockers
from qvmsh.machine.storage.volumes import Volume
from tests.support.programs import qemu_img
from tests.support.small_disk import small_disk
from tests.support.snapshots import DISKS, tags, three_disks
from tests.support.world import QVM, Blank, Vm

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"


def extra(vm: Vm, words: str) -> None:
    with (vm.directory / ".vmrc").open("a") as file:
        file.write(f'VM_QEMU_EXTRA="{words}"\n')


# Blockers


def test_device_that_cannot_be_saved_allows_disks_alone(blank: Blank) -> None:
    vm = blank(VM_DISK_BUS="nvme")
    vm.ok("start", "--no-wait")
    for words in (["snapshot", "save", "a"], ["stop", "--savevm", "a", "--no-suspend"]):
        refused = vm.qvm(*words)
        assert refused.status == 3
        assert (
            "QEMU cannot save the state of nvme disks\nhint: `qvm config VM_DISK_BUS=virtio` and"
            in refused.err
        )
    assert vm.qvm("status", "-s").out.startswith("demo: running")
    assert tags(vm, DISKS[0]) == [[]]
    vm.ok("snapshot", "save", "a", "--disk-only")
    assert tags(vm, DISKS[0]) == [["a"]]


def run_as_typed(vm: Vm, command: str, where: Path | None = None) -> None:
    """Run a command of a hint by a shell, as it stands."""
    path = f"{os.path.dirname(QVM)}:{os.environ['PATH']}"
    env = vm.world.environ | {"PATH": path}
    done = subprocess.run(
        command, shell=True, cwd=where or vm.directory, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)


KINDS = {
    "raw elsewhere": ("../po ol/data.raw", "raw", ""),
    "raw with the suffix of qcow2": ("it's.qcow2", "raw", ""),
    "raw, the new name is taken": ("data.raw", "raw", ""),
    "another format": ("-data.vmdk", "vmdk", ""),
    "data in another file": ("x.qcow2", "qcow2", "data_file=x.data"),
}


@pytest.mark.parametrize(
    ("kind", "is_beside"),
    [
        *((kind, True) for kind in KINDS),
        ("raw elsewhere", False),
        *(pytest.param(kind, False, marks=pytest.mark.long) for kind in list(KINDS)[1:]),
    ],
)
def test_remedy_for_a_disk_without_snapshots_works_as_typed(
    blank: Blank, tmp_path: Path, kind: str, is_beside: bool
) -> None:
    name, form, options = KINDS[kind]
    vm = blank(VM_DISKS="x")
    (vm.directory / "../po ol").mkdir()
    (vm.directory / "data.qcow2").touch()
    vm.ok("config", f"VM_DISKS={name}:{form}")
    qemu_img(vm, "create", "-q", "-f", form, *(["-o", options] if options else []), f"./{name}", "8M")
    where = vm.directory if is_beside else tmp_path
    refused = vm.world.run("-C", vm.directory, "snapshot", "save", "a", cwd=where)
    assert refused.status == 3, str(refused)
    assert "undone" not in refused.err
    (command,) = re.findall(r"^hint: `([^`]+)`", refused.err, re.M)
    before = {path: path.stat().st_mtime_ns for path in vm.directory.parent.rglob("*") if path.is_file()}
    run_as_typed(vm, command, where)
    assert all(path.stat().st_mtime_ns == date for path, date in before.items() if path.exists())
    (made,) = {path for path in vm.directory.parent.rglob("*.qcow2") if path.is_file()} - before.keys()
    vm.ok("config", f"VM_DISKS={made}:qcow2")
    vm.ok("snapshot", "save", "a")


def test_remedy_for_a_disk_of_a_running_machine_works_as_typed(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.raw:raw")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.raw", "8M")
    vm.ok("start", "--no-wait")
    refused = vm.qvm("snapshot", "save", "a")
    commands = re.findall(r"`([^`]+)`", refused.err)
    assert commands[0] == "qvm stop"
    vm.ok("kill")
    run_as_typed(vm, commands[1])


def test_remedies_for_memory_work_as_typed(blank: Blank) -> None:
    vm = blank(VM_READY="none")  # `qvm restart` is one of them
    found = [blockers._in_words(each) for each in REASONS]
    found += blockers.of_accelerator(["-accel", "hvf"])
    found += blockers.of_room(Volume("disk0", str(vm.directory / DISKS[0]), "qcow2"), 1 << 60)
    commands = {command for each in found for command in re.findall(r"`([^`]+)`", each.remedy)}
    assert len(commands) > 2
    for command in sorted(commands):
        run_as_typed(vm, command)


REASONS = (
    "Migration is disabled when VirtFS export path '/srv/x' is mounted in the guest using mount_tag 'sh'",
    "non-migratable device: 0000:00:04.0/vhost-user-fs",
    "non-migratable device: 0000:00:05.0/vfio-pci",
    "non-migratable device: 0000:00:04.0/nvme",
    "State blocked by non-migratable CPU device (invtsc flag)",
    "NVMM does not support migration",
)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[str]:
    """The socket of a running virtiofsd."""
    if not os.path.exists(VIRTIOFSD):
        if os.environ.get("CI"):
            pytest.fail(f"{VIRTIOFSD} is not there")
        pytest.skip(f"{VIRTIOFSD} is not there")
    (tmp_path / "shared").mkdir()
    socket = str(tmp_path / "fs.sock")
    argv = [
        VIRTIOFSD,
        f"--socket-path={socket}",
        "-o",
        f"source={tmp_path / 'shared'}",
        "-o",
        "sandbox=chroot",
    ]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        try:
            while not os.path.exists(socket):
                if child.poll() is not None:
                    pytest.skip(f"virtiofsd does not run here: {child.stderr and child.stderr.read()}")
            yield socket
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()


def test_virtiofs_share_is_named(blank: Blank, share: str) -> None:
    vm = blank(VM_QEMU_SANDBOX="off")
    extra(
        vm,
        "-object memory-backend-memfd,id=m,size=64M,share=on -numa node,memdev=m "
        f"-chardev socket,id=v,path={share} -device vhost-user-fs-pci,chardev=v,tag=sh",
    )
    vm.ok("start", "--no-wait")
    refused = vm.qvm("snapshot", "save", "a")
    if refused.status == 3:
        assert "demo: cannot save a snapshot: a virtiofs share is attached" in refused.err
        assert "hint: start without it" in refused.err
    else:  # since QEMU 8.2, a newer virtiofsd can save its state: QEMU asks it
        assert "does not support migration through qemu" in refused.err
        assert "was undone: no disk has it" in refused.err
    vm.ok("snapshot", "save", "a", "--disk-only")


def test_disks_of_the_users_arguments_are_saved_and_restored(blank: Blank) -> None:
    vm = blank()
    qemu_img(vm, "create", "-q", "-f", "qcow2", "own.qcow2", "16M")
    extra(vm, "-drive file=own.qcow2,format=qcow2,if=virtio,id=own")
    vm.ok("snapshot", "save", "off")
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "on")
    vm.ok("snapshot", "restore", "on", "--no-wait")
    vm.ok("kill")
    assert tags(vm, DISKS[0], "own.qcow2") == [["off", "on"]] * 2
    vm.ok("snapshot", "restore", "off")
    vm.ok("start", "--no-wait", "--loadvm", "on")
    vm.ok("snapshot", "delete", "off", "on")
    assert tags(vm, DISKS[0], "own.qcow2") == [[], []]


@contextlib.contextmanager
def overlay_on_small_disk(vm: Vm, mib: int) -> Iterator[Path]:
    """A tmpfs with the machine's own overlay."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    small = vm.directory / "small"
    with small_disk(small, mib):
        try:
            base = str(vm.directory / "demo-base.qcow2")
            moved = small / "demo-backing.qcow2"
            qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, str(moved))
            (vm.directory / "demo-backing.qcow2").unlink()
            (vm.directory / "demo-backing.qcow2").symlink_to("small/demo-backing.qcow2")
            yield small
        finally:
            vm.kill()


def test_disk_that_vanishes_with_qemu_holds_no_snapshot(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA="-drive file=scratch.qcow2,if=virtio,snapshot=on")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "scratch.qcow2", "16M")
    vm.ok("start", "--no-wait")
    for words in (["stop", "--savevm", "x", "--no-suspend"], ["snapshot", "save", "x"]):
        refused = vm.qvm(*words)
        assert refused.status == 3
        assert ": changes to the disk virtio0 are lost when QEMU ends" in refused.err
        assert "hint: start it without -snapshot and snapshot=on" in refused.err
    assert vm.qvm("status", "-s").out.startswith("demo: running")


def test_too_little_space_is_reported_before_anything_is_done(blank: Blank) -> None:
    vm = blank()
    with overlay_on_small_disk(vm, 8) as small:
        vm.ok("snapshot", "save", "a")
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        for words in (["save", "b"], ["restore", "a"]):
            refused = vm.qvm("snapshot", *words)
            assert refused.status in (1, 3)
            assert "demo-backing.qcow2 would grow by up to 4.0 MiB, but only 0 B is free" in refused.err, (
                words
            )
            assert "hint: free space in " in refused.err
        refused = vm.qvm("snapshot", "delete", "a")
        assert refused.status == 3
        assert (
            "demo-backing.qcow2 needs 256.0 KiB free for its new tables, but only 0 B is free" in refused.err
        )
        assert "no snapshot was changed" in refused.err
        os.truncate(filler, filler.stat().st_size - (300 << 10))  # that much is enough to make room
        vm.ok("snapshot", "delete", "a")
        filler.unlink()
        vm.ok("start", "--no-wait")
        with filler.open("wb") as file:
            file.write(bytes(7 << 20))
        refused = vm.qvm("snapshot", "save", "b")
        assert refused.status == 3
        assert "cannot save a snapshot: demo-backing.qcow2 would grow by up to " in refused.err
        assert tags(vm, DISKS[0]) == [[]]


# Failures in the middle


def failing_qemu_img(vm: Vm) -> dict[str, str]:
    """A qemu-img that fails where QVM_TEST_FAILS says: option and file. Gives the environment for it."""
    fake = vm.world.home / "qemu-img"
    real = subprocess.run(["which", "qemu-img"], capture_output=True, text=True, check=True).stdout.strip()
    fake.write_text(
        "#!/bin/sh\n"
        'case "$1$2 $4" in "snapshot$QVM_TEST_FAILS") echo "qemu-img: no luck" >&2; exit 1;; esac\n'
        f'exec {real} "$@"\n'
    )
    fake.chmod(0o755)
    vm.set(VM_QEMU_IMG=str(fake))
    return {name: f"-d {vm.directory / name}" for name in DISKS}


def test_delete_that_fails_before_a_disk_has_lost_it_is_undone(blank: Blank) -> None:
    vm = three_disks(blank)
    fails = failing_qemu_img(vm)
    vm.ok("snapshot", "save", "a", "-m", "kept")
    failed = vm.qvm("snapshot", "delete", "a", env={"QVM_TEST_FAILS": fails["more.qcow2"]})
    assert failed.status == 1
    assert "cannot delete a on disk2\n  no luck\n" in failed.err
    assert "was undone: all disks have it" in failed.err
    assert tags(vm) == [["a"]] * 3
    assert json.loads(vm.ok("snapshot", "list", "--json").out)["snapshots"][0]["message"] == "kept"
    vm.ok("snapshot", "restore", "a")


def test_delete_that_fails_on_a_later_disk_is_completed(
    blank: Blank,
) -> None:
    vm = three_disks(blank)
    fails = failing_qemu_img(vm)
    env = {"QVM_TEST_FAILS": fails["data.qcow2"]}
    vm.ok("snapshot", "save", "a")
    vm.ok("snapshot", "save", "b")
    failed = vm.qvm("snapshot", "delete", "a", env=env)
    assert failed.status == 1
    assert (
        "cannot delete a on disk1\n  no luck\n  a is left on disk0, disk1 and cannot be restored"
        in failed.err
    )
    assert tags(vm) == [["a", "b"], ["a", "b"], ["b"]]
    output = vm.ok("snapshot", "list").out
    assert "the deletion of the snapshot a, begun 20" in output
    assert "was interrupted: the next command that changes the machine recovers it" in output
    assert "disk0 disk1; missing on disk2" in output
    refused = vm.qvm("snapshot", "save", "c", env=env)
    assert refused.status == 1
    assert "was interrupted and cannot be recovered: cannot delete a on disk1\n  no luck\n" in refused.err
    started = vm.ok("start", "--no-wait", env=env)  # the disks as they are now are whole
    assert "was interrupted and cannot be recovered" in started.err
    vm.ok("kill", env=env)
    assert "recovered: cannot delete a on disk1" in vm.ok("doctor", "--fix", env=env).out
    output = vm.ok("snapshot", "save", "c").err
    assert "the deletion of the snapshot a, begun 20" in output
    assert "was completed: no disk has it" in output
    assert tags(vm) == [["b", "c"]] * 3


def failing_disk(vm: Vm, name: str, event: str) -> None:
    """A third disk whose file fails once at some event of qcow2's, by QEMU's own blkdebug."""
    third = {
        "driver": "qcow2",
        "node-name": "third",
        "file": {
            "driver": "blkdebug",
            "image": {"driver": "file", "filename": name},
            "inject-error": [{"event": event, "errno": 28, "once": True}],
        },
    }
    words = json.dumps(third).replace('"', '\\"')
    extra(vm, f"-blockdev '{words}' -device virtio-blk-pci,drive=third")


@pytest.mark.parametrize("kind", ["memory", "disks"])
def test_save_that_fails_on_the_third_disk_while_on_is_undone(blank: Blank, kind: str) -> None:
    vm = blank(VM_DISKS="data.qcow2")
    for name in ("data.qcow2", "third.qcow2"):
        qemu_img(vm, "create", "-q", "-f", "qcow2", name, "16M")
    failing_disk(vm, "third.qcow2", "cluster_alloc")
    vm.ok("start", "--no-wait")
    pid = vm.pid
    failed = vm.qvm("snapshot", "save", "a", *(["--disk-only"] if kind == "disks" else []))
    assert failed.status == 1, str(failed)
    assert "was undone: no disk has it" in failed.err
    assert vm.qvm("status", "-s").out == f"demo: running (pid {pid})\n"
    assert tags(vm, DISKS[0], "data.qcow2", "third.qcow2") == [[], [], []]
    assert vm.ok("snapshot", "list").out.endswith("demo: no snapshots\n")
    vm.ok("snapshot", "save", "a")  # the fault was for once
    vm.ok("snapshot", "restore", "a", "--no-wait")


def test_delete_that_fails_while_on_is_ended_by_a_later_command(blank: Blank) -> None:
    """QEMU forgets the snapshot whose table it could not write; the file still has it."""
    vm = blank(VM_DISKS="data.qcow2")
    files = [DISKS[0], "data.qcow2", "third.qcow2"]
    for name in files[1:]:
        qemu_img(vm, "create", "-q", "-f", "qcow2", name, "16M")
    vm.ok("snapshot", "save", "a")
    vm.ok("snapshot", "save", "b")
    for name in ("a", "b"):
        qemu_img(vm, "snapshot", "-c", name, "third.qcow2")
    failing_disk(vm, "third.qcow2", "cluster_alloc")
    vm.ok("start", "--no-wait")
    failed = vm.qvm("snapshot", "delete", "a")  # QEMU takes the last disk first
    assert failed.status == 1, str(failed)
    assert "Could not delete snapshot 'a' on 'third'" in failed.err
    assert "a is left on third and cannot be restored; the next command recovers it" in failed.err
    assert tags(vm, *files) == [["b"], ["b"], ["a", "b"]]
    refused = vm.qvm("stop", "--savevm", "c", "--no-suspend")  # its journal would take the other's place
    assert refused.status == 3
    assert "demo: the deletion of the snapshot a, begun 20" in refused.err
    assert "was interrupted and has not been recovered\nhint: `qvm doctor --fix`" in refused.err
    assert vm.qvm("status", "-s").out.startswith("demo: running")
    errors = vm.ok("kill").err + vm.ok("start", "--no-wait").err
    assert "was completed: no disk has it" in errors
    vm.ok("kill")
    assert tags(vm, *files) == [["b"]] * 3
    qemu_img(vm, "check", "-q", "third.qcow2")
