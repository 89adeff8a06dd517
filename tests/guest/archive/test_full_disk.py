"""The machine's disk becomes full during an archive, while the guest writes.

QEMU is started without `werror`, so it takes its default, `enospc`: a guest whose write finds no space is
stopped, and the write is done again once it is resumed. So nothing that the guest saw completed is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import check_images
from tests.support.guest_moments import held, messages, note_of, require_nothing_under_way, seen, wait_for_end
from tests.support.guest_writer import Writer, boot, end_begun, require_numbers_off
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, Vm, World

pytestmark = [pytest.mark.guest]


@pytest.fixture
def vm(world: World, saved_with_data: Path) -> Iterator[Vm]:
    """A guest of two disks whose directory is a file system of its own; archives go elsewhere."""
    with small_disk(world.home / "demo", 300):
        made = Vm(world, world.home / "demo")
        subprocess.run(["cp", "-a", "--sparse=always", f"{saved_with_data}/.", made.directory], check=True)
        made.set(VM_ARCHIVE="../store")
        yield made
        end_begun()
        made.kill()


def fill(vm: Vm) -> Path:
    """Take all the free space."""
    path = vm.directory / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return path


def filled(vm: Vm, writer: Writer) -> tuple[subprocess.Popen[str], Path]:
    """An archive that stands still in its copy, and the full disk on which QEMU has stopped the guest."""
    cut = held(vm, lambda now: now.is_cut and not now.note["is_frozen"] and not now.join, "archive", "--full")
    writer.more()  # into the overlays of the cut
    fresh = f"fresh{writer.acked}"  # to join it needs space on both disks; what the writer overwrites may not
    vm.ok("ssh", f"for d in . /mnt/d; do dd if=/dev/urandom of=$d/{fresh} bs=1M count=2; done 2>&1; sync")
    filler = fill(vm)
    deadline = time.monotonic() + DEADLINE_S
    while seen(vm).status != "io-error":
        assert time.monotonic() < deadline, "QEMU does not stop the guest"
        time.sleep(0.05)
    assert "QEMU paused the guest after an I/O error; is the host's disk full?" in vm.qvm("status").out
    return cut, filler


def test_archive_on_a_full_disk_pauses_the_guest_without_loss(vm: Vm) -> None:
    """Once with space again in time, once with the power lost, so that `start` finds the disk still full."""
    boot(vm)
    writer = Writer(vm)
    vm.ok("archive")
    child, filler = filled(vm, writer)
    child.send_signal(signal.SIGCONT)
    out, err = child.communicate(timeout=200)
    assert child.returncode == 1, out + err
    assert "demo: cannot commit what the guest wrote in the meantime to demo-backing.qcow2: No space" in err
    assert "hint: nothing is lost: free space, then `qvm doctor --fix`; `qvm resume`" in err
    require_refused_while_full(vm)
    filler.unlink()
    assert "the running guest's disks are joined again" in messages(vm.qvm("doctor", "--fix"))
    vm.ok("resume")
    writer.more()
    vm.ok("archive")
    require_nothing_under_way(vm)
    child, filler = filled(vm, writer)
    child.kill()
    lose_power(vm, writer)
    child.communicate()
    refused = vm.qvm("start")
    assert refused.status == 1, str(refused)
    assert "was interrupted and cannot be recovered: " in refused.err
    assert "No space left" in refused.err
    assert "hint: the disk is full: free some space, then try again" in refused.err
    assert "left     archive " in vm.qvm("doctor", "--fix").out
    filler.unlink()
    output = messages(vm.qvm("doctor", "--fix"))
    assert "what the guest wrote last is in demo-backing.qcow2, data.qcow2" in output
    require_nothing_under_way(vm)
    check_images(vm)
    require_numbers_off(vm, writer.acked)
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    require_nothing_under_way(vm)
    for folder in (vm.world.home / "store").glob("demo-*/"):
        assert "is good" in vm.ok("archive", "--verify", folder.name).out


def require_refused_while_full(vm: Vm) -> None:
    for words in (["archive"], ["snapshot", "save", "x"]):
        refused = vm.qvm(*words)
        assert refused.status == 1, str(refused)
        assert "was interrupted and cannot be recovered: " in refused.err
    still = vm.qvm("resume")
    assert still.status == 3, str(still)
    assert "QEMU paused it again after another I/O error" in still.err
    still = vm.qvm("stop")  # a guest that cannot answer is not waited for
    assert still.status == 3, str(still)
    assert "cannot power off: QEMU has paused the guest after an I/O error" in still.err
    assert note_of(vm)["cuts"]


def lose_power(vm: Vm, writer: Writer) -> None:
    pid = vm.pid
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    writer.lost()
