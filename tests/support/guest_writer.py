"""A guest of two disks that writes all the time, and what must be found on its disks afterwards.

The guest counts: each number goes to the system's disk, then to the data disk, is synced, and only then
printed to the host over an ssh connection that stays open. So the host knows what must never be lost, and
every state of the disks shows whether they are of one moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.programs import output_of, qemu_img
from tests.support.world import DEADLINE_S, Vm

DATA = "data.qcow2"
SLOTS = 256
"""Records of 4 KiB that are overwritten in place, one after the other, on each disk."""
MOUNT = "sudo -n sh -c 'mkdir -p /mnt/d; mount /dev/vdb /mnt/d && chmod 777 /mnt/d'"

UMOUNT = "sync; sudo -n umount /mnt/d"

LOOP = f"""
cd; echo $$ > /tmp/writer; n=$(grep -c . count 2>/dev/null); n=${{n:-0}}
while :; do
  n=$((n+1))
  for d in . /mnt/d; do
    echo $n >> $d/count
    printf '%-4095s\\n' $n | dd of=$d/ring bs=4096 seek=$((n % {SLOTS})) conv=notrunc 2>/dev/null
  done
  sync
  echo $n
done
"""

LOOK = """
cd
for d in . /mnt/d; do cat $d/count 2>/dev/null; echo --; tr -d ' \\000' < $d/ring 2>/dev/null; echo --; done
"""


def add_data_disk(vm: Vm, size: str) -> None:
    """Give the machine a second disk with an ext4."""
    raw = vm.directory / "new.raw"
    output_of(vm, "mke2fs", "-q", "-t", "ext4", raw.name, size)
    qemu_img(vm, "convert", "-f", "raw", "-O", "qcow2", raw.name, DATA)
    raw.unlink()
    vm.ok("disk", "add", DATA)


BEGUN: list[subprocess.Popen[str]] = []
"""What these helpers began; a test that fails leaves it to `two_disks`."""


@contextlib.contextmanager
def two_disks(guest: Vm, size: str = "64M") -> Iterator[Vm]:
    """The machine with its data disk; what a failed test has begun is ended when the block ends.

    It has one processor: on a busy host tcg may starve the timers of a second one, once in many starts.
    """
    guest.set(VM_MACHINE_CPUS="1")
    add_data_disk(guest, size)
    try:
        yield guest
    finally:
        end_begun()


def end_begun() -> None:
    """End what a failed test has begun."""
    for child in BEGUN:
        child.kill()
        child.wait()
        for stream in (child.stdout, child.stderr):
            if stream:
                stream.close()
    BEGUN.clear()


def boot(vm: Vm, *words: str) -> str:
    """Start the guest, or load it if it is saved, and mount its data disk; what `start` warned of."""
    errors = (vm.load() if vm.is_saved else vm.start(*words)).err
    vm.ok("ssh", MOUNT)
    return errors


class Writer:
    """The loop in the guest; `acked` is the last number that it printed."""

    def __init__(self, vm: Vm, acked: int = 0) -> None:
        self.vm = vm
        self.acked = acked
        self._ssh = vm.world.popen("ssh", LOOP, cwd=vm.directory)
        BEGUN.append(self._ssh)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.more()

    def _read(self) -> None:
        assert self._ssh.stdout is not None
        with contextlib.suppress(ValueError):  # closed under it, of a test that failed
            for line in self._ssh.stdout:
                assert int(line) == self.acked + 1, (line, self.acked)
                self.acked = int(line)

    def more(self, count: int = 3) -> int:
        """Wait until the guest has written that much more; the last number."""
        wanted = self.acked + count
        deadline = time.monotonic() + DEADLINE_S
        while self.acked < wanted:
            assert time.monotonic() < deadline, f"the guest does not write any more, it is at {self.acked}"
            assert self._reader.is_alive(), f"the loop in the guest ended at {self.acked}: {self._words()}"
            time.sleep(0.01)
        return self.acked

    def _words(self) -> str:
        return "" if self._ssh.stderr is None or self._ssh.poll() is None else self._ssh.stderr.read()

    def end(self) -> int:
        """End the loop in the guest, or what is left of it after QEMU's end; the last number."""
        if self.vm.qvm("status", "-s").status == 0:
            self.vm.ok("ssh", "p=$(cat /tmp/writer); kill $p; while [ -d /proc/$p ]; do usleep 20000; done")
        return self.lost()

    def lost(self) -> int:
        """The guest is gone and prints no more; the last number."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._ssh.wait(timeout=DEADLINE_S)
        if self._ssh.poll() is None:
            self._ssh.kill()
        self._ssh.wait()
        self._reader.join()
        for stream in (self._ssh.stdout, self._ssh.stderr):
            if stream:
                stream.close()
        return self.acked


@dataclass
class Disk:
    """What one disk of a guest holds: how far it has counted, and the records."""

    count: int
    ring: list[int]


def look(vm: Vm, *, is_clean: bool = False) -> list[Disk]:
    """Read both disks in the guest; what stands there must be whole.

    Args:
        is_clean: the guest's file systems were written out: nothing may be half there.
    """
    fields = vm.ok("ssh", LOOK).out.split("--\n")
    found = [_disk(fields[at], fields[at + 1], is_clean=is_clean) for at in (0, 2)]
    _require_one_moment(found, is_clean=is_clean)
    return found


def _require_one_moment(found: list[Disk], *, is_clean: bool) -> None:
    """Numbers go to the system first and are synced one by one: two disks of one moment are this near."""
    system, data = found
    assert (0 if is_clean else -1) <= system.count - data.count <= 1, found


def _disk(count: str, ring: str, *, is_clean: bool) -> Disk:
    numbers = [line.strip("\0") for line in count.split("\n")][:-1]
    right = 0
    while right < len(numbers) and numbers[right] == str(right + 1):
        right += 1
    # the last one may have been under way: its length is on the disk, its bytes are not
    assert len(numbers) - right <= (0 if is_clean else 1), numbers[-5:]
    records = sorted(int(line) for line in ring.split())
    for number in range(max(1, right - SLOTS + 2), right):
        assert number in records, (right, number, records)
    assert not records or records[-1] <= right + 1, (right, records[-3:])
    return Disk(right, records)


def counted(vm: Vm, *, is_clean: bool = False) -> int:
    """The number up to which both disks are whole."""
    return min(each.count for each in look(vm, is_clean=is_clean))


def require_numbers(vm: Vm, acked: int) -> int:
    """Everything that was printed is on both disks, and hardly more; returns how far the guest counted."""
    found = look(vm)
    assert all(acked <= each.count <= acked + 2 for each in found), (acked, [each.count for each in found])
    return max(each.count for each in found)


def align(vm: Vm, acked: int) -> int:
    """After a boot: let both disks end at the same number, from which the next loop continues."""
    last = require_numbers(vm, acked)
    script = (
        f"cd; for d in . /mnt/d; do seq 1 {last} > $d/count; "
        f"printf '%-4095s\\n' {last} | dd of=$d/ring bs=4096 seek=$(({last} % {SLOTS})) conv=notrunc; "
        "done 2>/dev/null; sync"
    )
    vm.ok("ssh", script)
    return last


# The disks seen from outside


def _program(name: str) -> str:
    """A program of e2fsprogs, which is often beside the user's path."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if found is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextlib.contextmanager
def file_system(vm: Vm, name: str, *, is_clean: bool = True) -> Iterator[str]:
    """The name of a copy of a disk's ext4 (of the partition that Linux is on, if it has some).

    Args:
        is_clean: it was unmounted or frozen; else its journal is replayed, as a boot would do.
    """
    raw = vm.directory / "look.raw"
    qemu_img(vm, "convert", "-O", "raw", name, raw.name)
    try:
        with raw.open("rb") as file:
            data = file.read(512)
        entries = [data[446 + 16 * n :][:16] for n in range(4)] if data[510:] == b"\x55\xaa" else []
        begins = [int.from_bytes(each[8:12], "little") for each in entries if each[4] == 0x83]
        if begins:  # e2fsck forgets an `?offset=` once it has replayed a journal
            part = raw.with_suffix(".part")
            words = ["bs=1M", f"skip={begins[0] * 512}", "iflag=skip_bytes", "conv=sparse", "status=none"]
            output_of(vm, "dd", f"if={raw.name}", f"of={part.name}", *words)
            part.rename(raw)
        if not is_clean:
            argv = [_program("e2fsck"), "-p", raw.name]
            done = subprocess.run(argv, cwd=vm.directory, capture_output=True, text=True)
            assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: it was put right
        yield raw.name
    finally:
        raw.unlink(missing_ok=True)


def fsck(vm: Vm, name: str) -> None:
    """A file system of a machine that is off, looked at from outside; it must be clean."""
    with file_system(vm, name) as found:
        _require_sound(vm, found)


def _require_sound(vm: Vm, found: str) -> None:
    output = output_of(vm, _program("e2fsck"), "-f", "-n", found)
    assert "journal" not in output, output


def text_off(vm: Vm, disk: str, *paths: str, is_clean: bool = True) -> list[str]:
    """What files on a disk of a machine that is off hold; its file system is sound."""
    with file_system(vm, disk, is_clean=is_clean) as found:
        _require_sound(vm, found)
        return [output_of(vm, _program("debugfs"), "-R", f"cat {path}", found) for path in paths]


def names_off(vm: Vm, disk: str, folder: str) -> set[str]:
    """The names in a folder on a disk of a machine that is off."""
    with file_system(vm, disk) as raw:
        lines = output_of(vm, _program("debugfs"), "-R", f"ls -p {folder}/", raw).splitlines()
    return {line.split("/")[5] for line in lines if line.startswith("/")}


def look_off(vm: Vm, name: str = "demo", *, is_clean: bool = True) -> list[Disk]:
    """As `look`, for a machine that is off."""
    found = []
    for disk, folder in ((f"{name}-backing.qcow2", "/home/qvm"), (DATA, "")):
        paths = f"{folder}/count", f"{folder}/ring"
        count, ring = text_off(vm, disk, *paths, is_clean=is_clean)
        found.append(_disk(count, ring.replace("\0", "").replace(" ", ""), is_clean=is_clean))
    _require_one_moment(found, is_clean=is_clean)
    return found


def require_numbers_off(vm: Vm, acked: int) -> None:
    """As `require_numbers`, for a machine that is off, however it came to be so."""
    found = look_off(vm, is_clean=False)
    assert all(acked <= each.count <= acked + 2 for each in found), (acked, [each.count for each in found])


def fsck_both(vm: Vm, name: str = "demo") -> None:
    fsck(vm, f"{name}-backing.qcow2")
    fsck(vm, DATA)
