"""`kill -9` in the middle of snapshot work, of qvm, of QEMU, of both; a full disk; and Ctrl-C.

After each the next command reports the interrupted work; the disks are all in the old or all in the new
state, every image is sound, and nothing is left over. The seed is printed; QVM_TEST_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.killer import SEED, Killer
from tests.support.programs import qemu_img
from tests.support.small_disk import unmount
from tests.support.snapshots import DISKS, patterns_of, tags, three_disks, write_disks
from tests.support.world import DEADLINE_S, QVM, Blank, Vm

USUAL, LONG = 2, 20
MOST_S = 0.6
"""What a verb takes here when nothing else runs, and somewhat more."""


def begin(vm: Vm, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [QVM, *words], cwd=vm.directory, env=vm.world.environ,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def require_recovered(vm: Vm) -> None:
    """The next command recovers it: all disks have the same snapshots, and nothing is left."""
    vm.ok("doctor", "--fix")
    found = tags(vm)
    assert found[0] == found[1] == found[2], found
    assert not [name for name in found[0] if ".qvm-back" in name]
    assert not (vm.directory / ".qvm/snapshot.unfinished").exists()
    assert not list(vm.directory.glob("*.part*"))


def check_off(blank: Blank, verb: str, count: int) -> None:
    vm = three_disks(blank)
    killer = Killer(vm, f"snapshot {verb} while off")
    write_disks(vm, 1, is_on=False)
    vm.ok("snapshot", "save", "one")
    for turn in range(count):
        write_disks(vm, 2, is_on=False)
        name = {"save": f"new{turn}", "replace": "one", "restore": "one", "delete": f"old{turn}"}[verb]
        if verb == "delete":
            vm.ok("snapshot", "save", name)
        words = ["snapshot", "save", name, "--replace"] if verb == "replace" else ["snapshot", verb, name]
        killer.kill(("qvm", "all")[turn % 2], *words)
        require_recovered(vm)
        for disk in DISKS:
            qemu_img(vm, "check", "-q", disk)
        assert len(set(patterns_of(vm, [1, 2]))) == 1
        if verb != "restore":
            assert set(patterns_of(vm, [1, 2])) == {2}
        there = tags(vm)[0]
        assert "one" in there or "one.qvm-new" in there
        vm.ok("snapshot", "restore", "one")
        if verb != "replace":
            assert set(patterns_of(vm, [1, 2])) == {1}
    vm.ok("start", "--no-wait")
    if count == LONG:
        killer.require_hits()


@pytest.mark.parametrize("verb", ["save", "replace", "restore", "delete"])
def test_killed_while_off(blank: Blank, verb: str) -> None:
    check_off(blank, verb, USUAL)


@pytest.mark.long
@pytest.mark.parametrize("verb", ["save", "replace", "restore", "delete"])
def test_killed_while_off_long(blank: Blank, verb: str) -> None:
    check_off(blank, verb, LONG)


def check_on(blank: Blank, verb: str, victim: str, count: int) -> None:
    vm = three_disks(blank)
    killer = Killer(vm, f"snapshot {verb} while on")
    vm.ok("start", "--no-wait")
    write_disks(vm, 1, is_on=True)
    vm.ok("snapshot", "save", "one")
    for turn in range(count):
        write_disks(vm, 2, is_on=True)
        name = {"save": f"new{turn}", "replace": "one", "restore": "one", "delete": f"old{turn}"}[verb]
        if verb == "delete":
            vm.ok("snapshot", "save", name)
        words = ["snapshot", "save", name, "--replace"] if verb == "replace" else ["snapshot", verb, name]
        if verb == "restore":
            words.append("--no-wait")
        killer.kill(victim, *words)
        require_recovered(vm)
        if victim == "qvm":  # the same process continues, with a guest that runs
            output = vm.qvm("status", "-s").out
            assert output.startswith("demo: running"), output
            assert vm.qvm("qmp", "query-jobs").out == "[]\n"
            vm.ok("kill")
        assert len(set(patterns_of(vm, [1, 2]))) == 1
        for disk in DISKS:
            assert subprocess.run(["qemu-img", "check", "-q", disk], cwd=vm.directory).returncode in (0, 3)
        resolved = vm.qvm("start", "--no-wait", "--loadvm", "one")
        if resolved.status == 3 and verb == "replace" and victim == "qemu":
            assert "the snapshot one holds only disks" in resolved.err  # QEMU had ended before it was saved
            vm.ok("start", "--no-wait")
            vm.ok("snapshot", "save", "one", "--replace")
            continue
        assert resolved.status == 0, str(resolved)
        if verb != "replace":
            assert set(patterns_of(vm, [1, 2])) == {1}
    vm.ok("kill")
    if count == LONG:
        killer.require_hits()


VERBS, VICTIMS = ("save", "replace", "restore", "delete"), ("qvm", "qemu", "both")
CASES = [(verb, victim) for verb in VERBS for victim in VICTIMS]


@pytest.mark.parametrize(
    ("verb", "victim"), [("save", "both"), ("restore", "qvm"), ("restore", "both"), ("delete", "both")]
)
def test_killed_while_on(blank: Blank, verb: str, victim: str) -> None:
    check_on(blank, verb, victim, USUAL)


@pytest.mark.long
@pytest.mark.parametrize(("verb", "victim"), CASES)
def test_killed_while_on_long(blank: Blank, verb: str, victim: str) -> None:
    check_on(blank, verb, victim, LONG)


def journal(vm: Vm, **data: object) -> None:
    """The journal that a killed command leaves, at a moment that chance would not find."""
    given = {
        "phase": "begin", "was_running": False, "has_memory": False, "is_frozen": False, "entry": None,
        "disks": [[f"disk{at}", str(vm.directory / disk)] for at, disk in enumerate(DISKS)],
        "pid": 1, "since": "2026-11-21 10:00:00",
    } | data  # fmt: skip
    (vm.directory / ".qvm/snapshot.unfinished").write_text(json.dumps(given))


def test_restore_killed_between_two_disks_goes_back_on_all(blank: Blank) -> None:
    vm = three_disks(blank)
    write_disks(vm, 1, is_on=False)
    vm.ok("snapshot", "save", "one")
    write_disks(vm, 2, is_on=False)
    for disk in DISKS:
        qemu_img(vm, "snapshot", "-c", ".qvm-back", disk)
    qemu_img(vm, "snapshot", "-a", "one", DISKS[0])
    journal(vm, what="restore", name="one", phase="load")
    assert set(patterns_of(vm, [1, 2])) == {1, 2}
    errors = vm.ok("start", "--no-wait").err
    assert (
        "the restore of the snapshot one, begun 2026-11-21 10:00:00, was interrupted, and was undone"
        in errors
    )
    assert set(patterns_of(vm, [1, 2])) == {2}
    assert tags(vm) == [["one"]] * 3


def test_delete_killed_between_two_disks_is_finished(blank: Blank) -> None:
    vm = three_disks(blank)
    vm.ok("snapshot", "save", "one")
    qemu_img(vm, "snapshot", "-d", "one", DISKS[2])
    journal(vm, what="delete", name="one")
    assert "work on snapshots was interrupted" in vm.qvm("doctor").out
    assert "the deletion of the snapshot one" in vm.ok("doctor", "--fix").out
    assert tags(vm) == [[]] * 3
    assert not json.loads((vm.directory / ".qvm/snapshots.json").read_text())["snapshots"]


@pytest.mark.parametrize("is_on_all", [True, False])
def test_replace_killed_before_it_has_begun_leaves_the_older_one(blank: Blank, is_on_all: bool) -> None:
    vm = three_disks(blank)
    vm.ok("snapshot", "save", "one", "-m", "Monday")
    if not is_on_all:  # a disk that was added later has none
        qemu_img(vm, "snapshot", "-d", "one", DISKS[2])
    before = tags(vm)
    entry = json.loads((vm.directory / ".qvm/snapshots.json").read_text())["snapshots"][0]
    journal(vm, what="save", name="one", phase="replace", entry=entry | {"message": "Tuesday"})
    output = vm.ok("doctor", "--fix").out
    assert "was undone: the older snapshot of that name was kept" in output
    assert tags(vm) == before
    assert "Tuesday" not in vm.ok("snapshot", "list").out


def test_replace_interrupted_early_keeps_the_older_one(blank: Blank) -> None:
    """Before anything is taken a guest writes out what it holds back, which may last."""
    vm = three_disks(blank)
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "one", "--disk-only", "--no-freeze", "-m", "Monday")
    child = begin(vm, "snapshot", "save", "one", "--disk-only", "--replace", "-m", "Tuesday")
    path = vm.directory / ".qvm/snapshot.unfinished"
    phase = ""
    while child.poll() is None and not phase:
        with contextlib.suppress(FileNotFoundError):
            phase = json.loads(path.read_text())["phase"]
    child.kill()
    child.wait(DEADLINE_S)
    assert phase == "replace"
    vm.ok("doctor", "--fix")
    assert tags(vm) == [["one"]] * 3
    assert "Tuesday" not in vm.ok("snapshot", "list").out


def test_replace_killed_before_the_rename_is_completed(blank: Blank) -> None:
    vm = three_disks(blank)
    write_disks(vm, 3, is_on=False)
    for disk in DISKS:
        qemu_img(vm, "snapshot", "-c", "one.qvm-new", disk)
    qemu_img(vm, "snapshot", "-c", "one", DISKS[0])
    journal(vm, what="save", name="one", phase="again")
    write_disks(vm, 4, is_on=False)
    errors = vm.ok("snapshot", "restore", "one").err
    assert "the save of the snapshot one" in errors
    assert set(patterns_of(vm, [3, 4])) == {3}
    assert "\none *  " in vm.ok("snapshot", "list").out
    vm.ok("snapshot", "save", "one", "--replace")
    assert tags(vm) == [["one"]] * 3


def test_restore_killed_while_qemu_loads_is_undone(blank: Blank) -> None:
    """QEMU is paused with disks and memory that may not fit: no command resumes it."""
    vm = three_disks(blank)
    vm.ok("start", "--no-wait")
    write_disks(vm, 1, is_on=True)
    vm.ok("snapshot", "save", "one")
    write_disks(vm, 2, is_on=True)
    vm.ok("pause")
    vm.ok("snapshot", "save", "back")
    for name in (".qvm-back",):
        arguments = {"job-id": "x", "tag": name, "vmstate": "disk0", "devices": ["disk0", "disk1", "disk2"]}
        vm.ok("qmp", json.dumps({"execute": "snapshot-save", "arguments": arguments}))
    vm.ok("qmp", "job-dismiss", "id=x")
    arguments = {"job-id": "y", "tag": "one", "vmstate": "disk0", "devices": ["disk0", "disk1", "disk2"]}
    vm.ok("qmp", json.dumps({"execute": "snapshot-load", "arguments": arguments}))
    vm.ok("qmp", "job-dismiss", "id=y")
    note = vm.directory / ".qvm/running"
    note.write_text(note.read_text().replace("loading \n", "loading one\n"))
    journal(vm, what="restore", name="one", phase="load", was_running=True, has_memory=True)
    output = vm.qvm("status", "-s").out
    assert "demo: broken" in output
    assert (
        "the `qvm snapshot restore` that was loading one was interrupted; do not resume the guest" in output
    )
    output = vm.qvm("resume").err
    assert (
        "the restore of the snapshot one, begun 2026-11-21 10:00:00, was interrupted, and was undone"
        in output
    )
    assert vm.qvm("status", "-s").out.startswith("demo: running")
    assert set(patterns_of(vm, [1, 2])) == {2}
    assert tags(vm) == [["one", "back"]] * 3


def test_ctrl_c_in_the_middle_leaves_all_or_nothing(blank: Blank) -> None:
    chooser = random.Random(f"{SEED} ctrl-c")
    vm = three_disks(blank)
    write_disks(vm, 1, is_on=False)
    vm.ok("snapshot", "save", "one")
    vm.ok("start", "--no-wait")
    for verb in ("save", "restore", "delete"):
        write_disks(vm, 2, is_on=True)
        seconds = chooser.uniform(0.1, MOST_S)
        print(f"seed {SEED}: {verb} interrupted after {seconds:.3f} s")
        if verb != "save":
            vm.ok("snapshot", "save", "x", "--replace")
        child = begin(vm, "snapshot", verb, "x", *(["--no-wait"] if verb == "restore" else []))
        time.sleep(seconds)
        child.send_signal(signal.SIGINT)
        child.wait(DEADLINE_S)
        found = tags(vm)
        assert found[0] == found[1] == found[2]
        assert not [name for name in found[0] if ".qvm-" in name]
        assert not (vm.directory / ".qvm/snapshot.unfinished").exists()
        assert vm.qvm("status", "-s").out.startswith("demo: running")


def test_full_disk_undoes_the_save_and_resumes_the_guest(blank: Blank) -> None:
    """A small tmpfs under one of the disks: what it cannot hold is reported before, or undone after."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    vm = blank(VM_MACHINE_MEM="256")
    small = vm.directory / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], capture_output=True)
    if done.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"no tmpfs: {done.stderr!r}")
        pytest.skip("this host mounts no tmpfs")
    try:
        moved = small / "demo-backing.qcow2"
        base = str(vm.directory / "demo-base.qcow2")
        qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, str(moved))
        (vm.directory / "demo-backing.qcow2").unlink()
        (vm.directory / "demo-backing.qcow2").symlink_to("small/demo-backing.qcow2")
        vm.ok("start", "--no-wait")
        vm.ok("snapshot", "save", "fits")
        filler = small / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(os.urandom(7 << 20))
        failed = vm.qvm("snapshot", "save", "too much")
        assert failed.status in (1, 3), str(failed)
        output = vm.qvm("status", "-s").out
        assert output.startswith("demo: running"), output
        filler.unlink()
        shown = vm.ok("snapshot", "list").out
        assert "fits" in shown
        assert "too much" not in shown
        vm.ok("snapshot", "restore", "fits", "--no-wait")
        vm.ok("kill")
        assert Path(moved).exists()
        qemu_img(vm, "check", "-q", "small/demo-backing.qcow2")
    finally:
        vm.kill()
        unmount(small)
