"""`kill -9` in the middle of `disk commit` and `disk rebase`, on and off: qvm, QEMU, qemu-img, all of them.

After each the disk holds what it held, on whatever it stands, every image is sound, and the verb can be done
again. The seed is printed; QVM_TEST_SEED repeats a run.
"""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.support.disks import check_images, flush, write_live
from tests.support.killer import Killer
from tests.support.programs import qemu_img, qemu_io
from tests.support.world import Blank, Vm

LONG = 20
DISK, BASE = "demo-backing.qcow2", "demo-base.qcow2"
DEVICE = "/machine/peripheral/disk0-device/virtio-backend"
PART = 4 << 20
"""The disk is three of these: what the base had, what each turn writes, what only the overlay has."""


def write(vm: Vm, file: str, pattern: int, at: int) -> None:
    area = f"-P {pattern} {at * PART} {PART}"
    if file == DISK and vm.qvm("status", "-s").out.startswith("demo: running"):
        write_live(vm, area)
        flush(vm)
        return
    qemu_io(vm, "-f", "qcow2", "-c", f"write {area}", file)


def holds(vm: Vm, *patterns: int) -> bool:
    """The disk, with all that it is backed by, has these patterns in its parts."""
    words = []
    for at, pattern in enumerate(patterns):
        words += ["-c", f"read -P {pattern} {at * PART} {PART}"]
    argv = ["qemu-io", "-U", "-r", "-f", "qcow2", *words, DISK]
    done = subprocess.run(argv, cwd=vm.directory, capture_output=True, text=True)
    assert done.stdout.count(f"read {PART}/{PART}") == len(patterns), done.stderr
    return "verification failed" not in done.stdout + done.stderr


def make(blank: Blank, *, is_on: bool) -> Vm:
    vm = blank()
    write(vm, BASE, 1, 0)
    write(vm, BASE, 2, 1)
    if is_on:
        vm.ok("start", "--no-wait")
    write(vm, DISK, 3, 2)
    return vm


def require_recovered(vm: Vm) -> None:
    vm.ok("doctor", "--fix")
    assert not (vm.directory / ".qvm/snapshot.unfinished").exists()
    assert not list(vm.directory.glob("*.part*"))


def stands_on(vm: Vm) -> str:
    return str(json.loads(qemu_img(vm, "info", "-U", "--output=json", DISK)).get("backing-filename", ""))


def check_commit(blank: Blank, count: int, *, is_on: bool) -> None:
    vm = make(blank, is_on=is_on)
    killer = Killer(vm, f"disk commit while {'on' if is_on else 'off'}", has_journal=is_on)
    for turn in range(count):
        victim = ("qvm", "both", "qemu")[turn % 3] if is_on else ("qvm", "all")[turn % 2]
        if is_on and not vm.qvm("status", "-s").out.startswith("demo: running"):
            vm.ok("start", "--no-wait")
        pattern = 10 + turn
        write(vm, DISK, pattern, 1)
        killer.kill(victim, "disk", "commit")
        require_recovered(vm)
        if is_on and victim == "qvm":  # the guest continues, on the overlay
            output = vm.qvm("status", "-s").out
            assert output.startswith("demo: running"), output
            assert vm.ok("qmp", "query-jobs").out == "[]\n"
            write(vm, DISK, pattern + 100, 1)
            pattern += 100
            vm.ok("kill")
        assert holds(vm, 1, pattern, 3)
        assert stands_on(vm).endswith(BASE)
        check_images(vm, DISK, BASE)
        vm.ok("disk", "commit")
        assert holds(vm, 1, pattern, 3)
    if count == LONG:
        killer.require_hits()


def check_rebase(blank: Blank, count: int, *, is_on: bool) -> None:
    """Let it stand alone: all that the base holds is copied first."""
    vm = make(blank, is_on=is_on)
    killer = Killer(vm, f"disk rebase while {'on' if is_on else 'off'}")
    for turn in range(count):
        victim = ("qvm", "both", "qemu")[turn % 3] if is_on else ("qvm", "all")[turn % 2]
        if is_on and not vm.qvm("status", "-s").out.startswith("demo: running"):
            vm.ok("start", "--no-wait")
        killer.kill(victim, "disk", "rebase", "disk0")
        require_recovered(vm)
        if is_on and victim == "qvm":
            output = vm.qvm("status", "-s").out
            assert output.startswith("demo: running"), output
            assert vm.ok("qmp", "query-jobs").out == "[]\n"
            vm.ok("kill")
        assert holds(vm, 1, 2, 3)
        assert stands_on(vm) in ("", BASE, f"./{BASE}")
        check_images(vm, DISK, BASE)
        if stands_on(vm):
            vm.ok("disk", "rebase", "disk0")  # it is simply done again
        assert stands_on(vm) == ""
        assert holds(vm, 1, 2, 3)
        (vm.directory / DISK).unlink()
        qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", f"./{BASE}", DISK)
        write(vm, DISK, 3, 2)
    if count == LONG:
        killer.require_hits()


OFF, ON = 2, 3
"""How often each is killed: once for each victim."""
STATES = pytest.mark.parametrize("is_on", [False, True], ids=["off", "on"])


@STATES
def test_commit_killed(blank: Blank, is_on: bool) -> None:
    check_commit(blank, ON if is_on else OFF, is_on=is_on)


@pytest.mark.long
@STATES
def test_commit_killed_long(blank: Blank, is_on: bool) -> None:
    check_commit(blank, LONG, is_on=is_on)


@STATES
def test_rebase_killed(blank: Blank, is_on: bool) -> None:
    check_rebase(blank, ON if is_on else OFF, is_on=is_on)


@pytest.mark.long
@STATES
def test_rebase_killed_long(blank: Blank, is_on: bool) -> None:
    check_rebase(blank, LONG, is_on=is_on)


def cut_off_at_the_pivot(vm: Vm) -> None:
    """Let QEMU work on the base, as where `disk commit` was killed before it had put an overlay on it."""
    vm.ok("qmp", "block-commit", "job-id=x", "device=disk0")
    for _ in range(100):
        if '"ready"' in vm.ok("qmp", "query-jobs").out:
            break
        time.sleep(0.1)
    vm.ok("pause")
    vm.ok("qmp", "job-complete", "id=x")
    journal = {
        "what": "commit", "name": "disk0", "phase": "pivot", "was_running": True, "has_memory": False,
        "is_frozen": False, "entry": None, "disks": [["disk0", DISK]], "pid": 1,
        "since": "2026-11-21 10:00:00", "device": DEVICE, "node": "disk0",
    }  # fmt: skip
    (vm.directory / ".qvm/snapshot.unfinished").write_text(json.dumps(journal))


@pytest.mark.parametrize("is_link", [False, True])
def test_commit_killed_when_qemu_works_on_the_base_is_finished(blank: Blank, is_link: bool) -> None:
    """The moment that chance would not find: what the guest wrote now would be lost at the next start."""
    vm = make(blank, is_on=False)
    if is_link:
        (vm.directory / DISK).rename(vm.directory.parent / "elsewhere.qcow2")
        (vm.directory / DISK).symlink_to("../elsewhere.qcow2")
    vm.ok("start", "--no-wait")
    cut_off_at_the_pivot(vm)
    errors = vm.qvm("resume").err
    assert "the commit of disk0, begun 2026-11-21 10:00:00, was interrupted, and was completed" in errors
    assert vm.qvm("status", "-s").out.startswith("demo: running")
    write(vm, DISK, 9, 1)
    vm.ok("kill")
    assert holds(vm, 1, 9, 3)
    assert stands_on(vm).endswith(BASE)
    assert (vm.directory / DISK).is_symlink() == is_link


def test_commit_that_cannot_be_ended_holds_the_guest(blank: Blank) -> None:
    """QEMU works on the base: what the guest wrote there, no start would see."""
    vm = make(blank, is_on=True)
    fake = vm.world.home / "qemu-img"
    real = subprocess.run(["which", "qemu-img"], capture_output=True, text=True, check=True).stdout.strip()
    fails = '[ "$1" != create ] || { echo "No space left on device" >&2; exit 1; }'
    fake.write_text(f'#!/bin/sh\n{fails}\nexec {real} "$@"\n')
    fake.chmod(0o755)
    vm.set(VM_QEMU_IMG=str(fake))
    failed = vm.qvm("disk", "commit")
    assert failed.status == 1
    assert "nothing was changed" in failed.err  # what is needed later is made first
    assert vm.qvm("status", "-s").out.startswith("demo: running")
    assert holds(vm, 1, 2, 3)
    cut_off_at_the_pivot(vm)
    verbs = (["resume"], ["stop", "-t", "1"], ["stop", "--force"], ["stop", "--savevm", "x", "--no-suspend"])
    for words in (*verbs, ["reboot", "--force"], ["snapshot", "save", "x"]):
        refused = vm.qvm(*words)
        assert refused.status == 1, words
        assert "the guest is paused and must not be resumed: anything it writes would be lost" in refused.err
        assert "hint: free space if the disk is full, then `qvm doctor --fix`" in refused.err
        assert vm.qvm("status", "-s").out.startswith("demo: paused")
    output = vm.qvm("status").out
    assert "a commit was interrupted, and the guest must not be resumed" in output
    assert "hint: free space if the disk is full, then `qvm doctor --fix`" in output
    assert (vm.directory / ".qvm/snapshot.unfinished").exists()
    assert "has ended: the content of the disk is the same" in vm.ok("kill").err
    vm.ok("start", "--no-wait")
    assert holds(vm, 1, 2, 3)


def test_commit_killed_while_it_empties_the_overlay_is_repaired(blank: Blank) -> None:
    """The moment that chance rarely finds: the image is marked, and its clusters are not counted."""
    vm = make(blank, is_on=False)
    vm.ok("disk", "commit")
    with (vm.directory / DISK).open("r+b") as file:
        file.seek(79)
        file.write(b"\1")
        file.seek(2 * 65536)
        file.write(bytes(8))
    assert "counts 4 corruptions" in vm.qvm("doctor").out
    require_recovered(vm)
    assert holds(vm, 1, 2, 3)
    check_images(vm, DISK)


def test_rebase_killed_between_header_and_tables_is_recovered(blank: Blank) -> None:
    """The moment that chance would not find: the data from below would be lost."""
    vm = make(blank, is_on=False)
    journal = {
        "what": "rebase", "name": "disk0", "phase": "begin", "was_running": False, "has_memory": False,
        "is_frozen": False, "entry": None, "disks": [["disk0", DISK]], "pid": 1,
        "since": "2026-11-21 10:00:00", "backing": f"./{BASE}", "backing_format": "qcow2",
    }  # fmt: skip
    (vm.directory / ".qvm/snapshot.unfinished").write_text(json.dumps(journal))
    qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-b", "", DISK)
    assert not holds(vm, 1, 2, 3)
    errors = vm.ok("start", "--no-wait").err
    assert "the rebase of disk0, begun 2026-11-21 10:00:00, was interrupted, and was undone: " in errors
    assert holds(vm, 1, 2, 3)
    assert stands_on(vm).endswith(BASE)


def test_rebase_that_fails_stands_where_it_stood(blank: Blank) -> None:
    vm = make(blank, is_on=False)
    fake = vm.world.home / "qemu-img"
    real = subprocess.run(["which", "qemu-img"], capture_output=True, text=True, check=True).stdout.strip()
    fake.write_text(
        f'#!/bin/sh\nif [ "$1 $2" = "rebase -q" ]; then {real} rebase -u -f qcow2 -b "" {DISK}; '
        f'echo "qemu-img: no luck" >&2; exit 1; fi\nexec {real} "$@"\n'
    )
    fake.chmod(0o755)
    vm.set(VM_QEMU_IMG=str(fake))
    failed = vm.qvm("disk", "rebase", "disk0")
    assert failed.status == 1
    assert "demo: cannot rebase demo-backing.qcow2\n  no luck\n" in failed.err
    assert "was undone: the disk has its old base" in failed.err
    assert holds(vm, 1, 2, 3)
    require_recovered(vm)
