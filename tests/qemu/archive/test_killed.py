"""archive and restore interrupted at any moment: by `kill -9` of qvm, of QEMU, of both, or by a full disk.

After it the next command works, nothing that was written is lost, and nothing is left lying about.
The seed is printed; QVM_TEST_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.archives import archived_states, make_archive, require_nothing_left, state_name
from tests.support.counting import SEED, last_number, require_all, wait_for_more, wait_until_off
from tests.support.disks import check_images, flush, read_byte, read_bytes, write_byte, write_live
from tests.support.killer import begin_held
from tests.support.programs import qemu_img, qemu_io
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, Blank, Vm

LONG = 20


def check_live(vm: Vm, whom: str, count: int) -> None:
    chooser = random.Random(f"{SEED} {whom} {count}")
    note = vm.directory / ".qvm/archive.unfinished"
    make_archive(vm)
    for turn in range(1, count + 1):
        words = ["archive", *chooser.choice([[], ["--full"], ["--full", "-z", "gzip"], ["--savevm", "m"]])]
        seconds = chooser.uniform(0.0, 0.4)
        print(f"seed {SEED}: {' '.join(words)}, kill {whom} {seconds:.3f} s after its note, turn {turn}")
        child = vm.world.popen(*words, cwd=vm.directory)
        deadline = time.monotonic() + DEADLINE_S
        while not note.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(seconds)
        if whom in ("qvm", "both"):
            child.kill()
        if whom in ("qemu", "both"):
            os.kill(vm.pid, signal.SIGKILL)
        _, words_of_it = child.communicate(timeout=DEADLINE_S)
        assert "Traceback" not in words_of_it, words_of_it
        if whom == "qvm":
            wait_for_more(vm)  # without any other command
            vm.ok("pause")
            vm.ok("resume")
        else:
            wait_until_off(vm)
            least = last_number(vm)
            vm.ok("doctor", "--fix")
            require_all(vm.directory, "demo", least)
            vm.ok("start", "--no-wait")
        assert not note.exists()
        wait_for_more(vm)
        before = last_number(vm)
        report = make_archive(vm)
        vm.ok("archive", "--verify", state_name(report))
        vm.ok("restore", state_name(report), "../twin")
        require_all(vm.world.home / "twin", "twin", before)
        shutil.rmtree(vm.world.home / "twin")
        require_nothing_left(vm)


def require_all_at_the_end(vm: Vm) -> None:
    vm.ok("kill")
    require_all(vm.directory, "demo", last_number(vm))
    check_images(vm)
    require_nothing_left(vm)


def test_archive_killed_loses_nothing(counting: Vm) -> None:
    """Once of each kind; `--all` has many of them, test_killed_steps.py all steps."""
    for whom in ("qvm", "qemu", "both"):
        check_live(counting, whom, 1)
    require_all_at_the_end(counting)


@pytest.mark.long
@pytest.mark.parametrize("whom", ["qvm", "qemu", "both"])
def test_archive_killed_loses_nothing_long(counting: Vm, whom: str) -> None:
    check_live(counting, whom, LONG)
    require_all_at_the_end(counting)


def check_off(vm: Vm, count: int) -> None:
    """`archive`, `archive --create` and `restore` of a machine that is off."""
    chooser = random.Random(f"{SEED} off {count}")
    write_byte(vm, 1, "0")
    old = state_name(make_archive(vm))
    for turn in range(2, count + 2):
        for words in (["archive"], ["archive", "--create"], ["restore", "--force", old]):
            seconds = chooser.uniform(0.03, 0.35)
            print(f"seed {SEED}: {' '.join(words)} killed after {seconds:.3f} s")
            write_byte(vm, turn, "0")
            write_byte(vm, turn, "8M")
            child = vm.world.popen(*words, cwd=vm.directory)
            time.sleep(seconds)
            child.kill()
            _, errors = child.communicate(timeout=DEADLINE_S)
            assert "Traceback" not in errors, errors
            vm.ok("start", "--no-wait")  # the next command
            vm.ok("kill")
            found = read_bytes(vm, "0", "8M")
            assert found == [turn, turn] or (words[0] == "restore" and found == [1, 0]), words
            qemu_img(vm, "check", "demo-backing.qcow2")
            report = make_archive(vm)
            vm.ok("archive", "--verify", state_name(report))
            require_nothing_left(vm)
            if words[0] == "restore":
                vm.ok("restore", "latest")
                assert read_bytes(vm, "0", "8M") == found


def test_archive_and_restore_off_killed_lose_nothing(blank: Blank) -> None:
    check_off(blank(), 1)


@pytest.mark.long
def test_archive_and_restore_off_killed_lose_nothing_long(blank: Blank) -> None:
    check_off(blank(), LONG)


def held(vm: Vm, *words: str) -> subprocess.Popen[str]:
    """An `archive` that is stopped while it copies the disks, and not yet joining them.

    A write by the monitor (`write_live`) while QEMU holds the disk still for the join would hang QEMU.
    """
    child = begin_held(vm, "qvmsh.machine.archive.writer:Writer.put_top", "archive", *words)
    assert "qvm-cut0" in vm.ok("qmp", "query-block").out
    assert "qvm-join" not in vm.ok("qmp", "query-jobs").out
    return child


def test_archive_killed_during_the_copy_is_undone_by_start(blank: Blank) -> None:
    """The moment that chance might miss: what the guest wrote last is in the overlay only."""
    vm = blank()
    vm.ok("start", "--no-wait")
    child = held(vm)
    write_live(vm, "-P 7 1M 64k")
    flush(vm)
    child.kill()
    os.kill(vm.pid, signal.SIGKILL)
    child.communicate()
    wait_until_off(vm)
    assert read_byte(vm, "1M") == 0
    cut = list(vm.directory.glob(".qvm/cut-*"))
    assert len(cut) == 1
    started = vm.ok("start", "--no-wait")
    assert (
        "was interrupted, and was cleaned up: what the guest wrote last is in demo-backing.qcow2"
        in started.err
    )
    vm.ok("kill")
    assert read_byte(vm, "1M") == 7
    require_nothing_left(vm)


def test_archive_killed_during_the_copy_is_undone_by_doctor_fix(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    child = held(vm)
    write_live(vm, "-P 7 1M 64k")
    child.kill()
    child.communicate()
    output = vm.qvm("doctor", "--fix").out
    assert "the running guest's disks are joined again" in output
    assert "qvm-cut" not in vm.ok("qmp", "query-named-block-nodes").out
    vm.ok("kill")
    assert read_byte(vm, "1M") == 7
    require_nothing_left(vm)


def disks_of(vm: Vm) -> str:
    """What `disk list` says, without how full they are, and what the archive has open for a moment."""
    return re.sub(r"[\d.]+ .iB used| +in use by qvm \(pid .*\n", "", vm.ok("disk", "list").out)


def test_disk_list_during_an_archive_shows_the_real_disks(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "16M")
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "keep", "-m", "precious")
    before = disks_of(vm)
    child = held(vm, "--full")
    output = vm.ok("snapshot", "list").out
    assert f"is in progress: `qvm archive`, pid {child.pid}, since " in output
    assert "stale" not in output
    assert "missing" not in output
    assert "cut" not in output
    assert "precious" in vm.ok("snapshot", "show", "keep").out
    assert "no fault found" in vm.ok("snapshot", "verify").out
    vm.ok("snapshot", "diff", "keep")
    assert disks_of(vm) == before
    child.kill()
    os.kill(vm.pid, signal.SIGKILL)
    child.communicate()
    wait_until_off(vm)
    output = vm.ok("snapshot", "list").out
    assert re.search(
        r"the archive, begun \S+ \S+, was interrupted, and what the guest wrote since is in .qvm/cut-", output
    )
    vm.ok("start", "--no-wait")
    assert "interrupted" not in vm.ok("snapshot", "list").out
    vm.ok("kill")
    require_nothing_left(vm)


THROUGH_LINK = """
import os, signal, subprocess, sys
from qvmsh.host import locks
from qvmsh.machine.archive import archive, live_copy
from qvmsh.machine.machine import BaseMachine

vm = BaseMachine(sys.argv[1])
enter = live_copy.LiveCopy.__enter__


def killed(self):
    enter(self)
    for word in ("write -P 7 1M 64k", "flush"):
        device = "/machine/peripheral/disk1-device/virtio-backend"
        words = [sys.executable, "-m", "qvmsh", "cmd", f'qemu-io -d {device} "{word}"']
        subprocess.run(words, cwd=sys.argv[1], check=True, capture_output=True)
    os.kill(locks.holder(vm.files.pid_file), signal.SIGKILL)
    os._exit(9)


if sys.argv[2] == "killed":
    live_copy.LiveCopy.__enter__ = killed
archive.archive(vm, archive.Wish())
"""


def test_archive_through_a_link_with_a_disk_outside_is_recovered(blank: Blank, tmp_path: Path) -> None:
    """A relative path through the link would lead to another folder, where a file of that name may be."""
    vm = blank()
    (tmp_path / "there").mkdir()
    link = tmp_path / "there/link"
    link.symlink_to(vm.directory)
    data, other = tmp_path / "there/data.qcow2", vm.directory.parent / "data.qcow2"
    for path in (data, other):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "16M"], check=True)
    before = other.read_bytes()
    vm.ok("config", f"VM_DISKS={data}:qcow2")
    vm.ok("start", "--no-wait")
    for how, status in (("killed", 9), ("whole", 0)):
        done = subprocess.run(
            [sys.executable, "-c", THROUGH_LINK, link, how],
            cwd=tmp_path,
            env=vm.world.environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        if status:
            wait_until_off(vm)
            assert "what the guest wrote last is in" in vm.ok("start", "--no-wait").err
    vm.ok("kill")
    assert read_byte(vm, "1M", "../../there/data.qcow2") == 7
    assert other.read_bytes() == before
    require_nothing_left(vm)


def test_archive_interrupted_by_ctrl_c_changes_nothing(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    make_archive(vm)
    before = archived_states(vm)
    child = held(vm, "--full")
    write_live(vm, "-P 7 1M 64k")
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGCONT)
    child.communicate(timeout=DEADLINE_S)
    assert child.returncode in (130, 0)
    assert not (vm.directory / ".qvm/archive.unfinished").exists()
    assert "qvm-cut" not in vm.ok("qmp", "query-named-block-nodes").out
    assert child.returncode == 0 or archived_states(vm) == before
    vm.ok("kill")
    assert read_byte(vm, "1M") == 7
    require_nothing_left(vm)


def test_archive_on_a_full_disk_changes_nothing(blank: Blank) -> None:
    vm = blank(VM_ARCHIVE="../store")
    noise = os.urandom(3 << 20)
    (vm.directory / "noise").write_bytes(noise)
    qemu_img(vm, "convert", "-f", "raw", "-O", "raw", "noise", "noise.raw")
    write_byte(vm, 1, "0")
    with small_disk(vm.world.home / "store", 2):
        first = make_archive(vm)
        before = archived_states(vm)
        qemu_io(vm, "-f", "qcow2", "-c", "write -s noise 1M 3M", "demo-backing.qcow2")
        for words, status in (
            (["archive"], "not enough free space"),
            (["archive", "-z", "lz4"], "No space left"),
        ):
            result = vm.qvm(*words)
            assert result.status == 1
            assert status in result.err, result
            assert "hint: " in result.err
            assert archived_states(vm) == before
        vm.ok("start", "--no-wait")
        result = vm.qvm("archive", "-z", "lz4")
        assert result.status == 1
        assert "No space left" in result.err
        assert vm.ok("status", "-s").out.startswith("demo: running")
        vm.ok("kill")
        names = {path.name for path in (vm.world.home / "store" / first["archive"]).iterdir()}
        assert names == {"demo-base.qcow2", "demo-backing.qcow2", "demo-settings.tar", "manifest.json"}
        assert archived_states(vm) == before
        vm.ok("restore", "--force", "latest")
        assert read_byte(vm, "0") == 1
    require_nothing_left(vm)


def test_archive_with_the_machines_disk_full_keeps_its_data(blank: Blank) -> None:
    """There is no space to commit what the guest wrote meanwhile: it stays where it is until there is."""
    world = blank(name="other", has_images=False).world
    with small_disk(world.home / "demo", 6):
        vm = blank(VM_ARCHIVE="../elsewhere")
        vm.ok("start", "--no-wait")
        child = held(vm)
        write_live(vm, "-P 7 1M 256k")
        flush(vm)
        filler = vm.directory / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        child.send_signal(signal.SIGCONT)
        _, errors = child.communicate(timeout=DEADLINE_S)
        assert child.returncode == 1, errors
        assert "cannot commit what the guest wrote" in errors
        assert "hint: nothing is lost" in errors
        refused = vm.qvm("archive")
        assert refused.status == 1
        assert "was interrupted and cannot be recovered" in refused.err
        assert vm.qvm("stop", "--savevm", "x", "--no-suspend").status == 3
        filler.unlink()
        assert "disks are joined again" in vm.qvm("doctor", "--fix").out
        vm.ok("archive")
        vm.ok("kill")
        assert read_byte(vm, "1M") == 7
        qemu_img(vm, "check", "demo-backing.qcow2")
        require_nothing_left(vm)
