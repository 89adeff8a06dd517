"""Archiving a guest that works: its pause, and the throughput of the copy; beside how `vm` did it.

    .venv/bin/python benchmarks/archive.py [MIB ...]         # 256 and 4096 MiB of overlay, unless said

The pause is that of two loops in the guest, each of which tells the host of every turn: one only runs, one
writes a file and syncs it, so that a frozen file system shows. The host takes the time, since the guest's
own clock stands still while QEMU holds it. `vm`'s method is QMP `stop`, `cp --sparse=always`, `cont`.

The throughput of `qvm archive` of a machine that is off is compared with `cp --sparse=always` and with
`qemu-img convert` of the same bytes, each synced. What the archive of an empty overlay takes (begin, look,
lock, manifest) is shown, and not counted as copying.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

from guest import qvm
from measure import QVM, environment

ALLOWED_PAUSE_S, ALLOWED = 0.25, 1.1
ROUNDS = 5
RUN = "while :; do echo; usleep 10000; done"
WRITE = "while :; do echo x | dd of=written conv=fsync 2>/dev/null; echo; usleep 10000; done"


class Turns:
    """A loop in the guest, and when each of its turns was seen."""

    def __init__(self, where: Path, loop: str) -> None:
        self._child = subprocess.Popen(
            [QVM, "ssh", loop], cwd=where, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        self._seen: list[float] = []
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        assert self._child.stdout is not None
        while self._child.stdout.readline():
            self._seen.append(time.perf_counter())

    def largest_gap(self) -> float:
        self._child.terminate()
        self._thread.join()
        self._child.wait()
        return max(after - before for before, after in pairwise(self._seen[50:]))


def pauses(where: Path, work: list[str] | None) -> tuple[float, float, float]:
    """The largest gap of a loop that only runs, of one that writes and syncs; and the seconds of `work`.

    Args:
        work: words of a qvm command; None = what `vm` does.
    """
    loops = [Turns(where, RUN), Turns(where, WRITE)]
    time.sleep(3)
    began = time.perf_counter()
    if work is not None:
        qvm(where, *work)
    else:
        qvm(where, "ssh", "sync")
        qvm(where, "pause")
        copy(where)
        qvm(where, "resume")
    took = time.perf_counter() - began
    time.sleep(2)
    gaps = [each.largest_gap() for each in loops]
    return gaps[0], gaps[1], took


def copy(where: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "bench-backing.qcow2", "copy.qcow2"], cwd=where, check=True)
    subprocess.run(["rm", "copy.qcow2"], cwd=where, check=True)


def empty(where: Path) -> float:
    """Least seconds of an archive with next to nothing in it."""
    qvm(where, "archive")
    times = []
    for _ in range(5):
        os.utime(where / "bench-backing.qcow2")
        began = time.perf_counter()
        qvm(where, "archive")
        times.append(time.perf_counter() - began)
    return min(times)


def throughput(where: Path) -> dict[str, float]:
    """Least seconds of each way to copy the overlay of a machine that is off, onto the disk.

    Not the median: on a host that gets its memory late, the same copy takes two times as long now and then.
    """
    times: dict[str, list[float]] = {"qvm archive": [], "cp --sparse": [], "qemu-img convert": []}
    overlay = where / "bench-backing.qcow2"
    ways = {
        "cp --sparse": ["cp", "--sparse=always", overlay.name, "copy"],
        "qemu-img convert": [
            "qemu-img", "convert", "-O", "qcow2", "-B", "./bench-base.qcow2", "-F", "qcow2",
            overlay.name, "copy",
        ],
    }  # fmt: skip
    copy(where)
    for _ in range(ROUNDS):
        for name, argv in ways.items():
            began = time.perf_counter()
            subprocess.run(argv, cwd=where, check=True)
            subprocess.run(["sync", "copy"], cwd=where, check=True)
            times[name].append(time.perf_counter() - began)
            (where / "copy").unlink()
        os.utime(overlay)  # or there is nothing new
        began = time.perf_counter()
        report = json.loads(qvm(where, "--json", "archive"))
        times["qvm archive"].append(time.perf_counter() - began)
        (where / report["archive"] / f"bench-backing-{report['stamp']}.qcow2").unlink()
    return {name: min(each) for name, each in times.items()}


def main() -> int:
    sizes = [int(word) for word in sys.argv[1:]] or [256, 4096]
    folder = Path(tempfile.mkdtemp(prefix="qvm-bench-", dir=os.environ.get("TMPDIR")))
    where = folder / "bench"
    is_good = True
    try:
        qvm(folder, "create", "bench", "--image", "tiny")
        subprocess.run(
            ["qemu-img", "resize", "-q", "bench-backing.qcow2", f"{max(sizes) + 1024}M"],
            cwd=where,
            check=True,
        )
        fixed_s = empty(where)
        for size in sizes:
            qvm(where, "start")
            qvm(where, "archive", "--full")  # the base is in it from here on
            fill(where, size)
            mib = (where / "bench-backing.qcow2").stat().st_blocks // 2048
            rows = {
                "qvm archive": pauses(where, ["archive", "--full"]),
                "qvm archive, changes only": pauses(where, ["archive"]),
                "as vm: pause, cp, resume": pauses(where, None),
                "nothing": pauses(where, ["status", "-s"]),
            }
            for name, (gap, synced, took) in rows.items():
                mark = ""
                if name.startswith("qvm"):
                    is_low = max(gap, synced) <= ALLOWED_PAUSE_S
                    is_good = is_good and is_low
                    mark = f"(allowed {ALLOWED_PAUSE_S:.2f})" + ("" if is_low else "  ABOVE THE LIMIT")
                print(
                    f"{mib:5} MiB  {name:26} guest's largest gap {gap:5.2f} s, of writes {synced:5.2f} s; "
                    f"whole {took:6.2f} s {mark}".rstrip(),
                    flush=True,
                )
            qvm(where, "stop")
            times = throughput(where)
            rival = min(times["cp --sparse"], times["qemu-img convert"])
            ratio = (times["qvm archive"] - fixed_s) / rival
            is_fast = ratio <= ALLOWED
            is_good = is_good and is_fast
            ways = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
            print(
                f"{mib:5} MiB  off: {ways}; without the {fixed_s:.2f} s of an empty archive "
                f"{ratio:.2f}x (allowed {ALLOWED:.2f}){'' if is_fast else '  ABOVE THE LIMIT'}",
                flush=True,
            )
    finally:
        if where.exists():
            subprocess.run([QVM, "kill"], cwd=where, env=environment(), capture_output=True, check=False)
        shutil.rmtree(folder)
    return 0 if is_good else 1


def fill(where: Path, mib: int) -> None:
    """Let the running QEMU write random bytes to the end of the disk, behind the guest's file system."""
    noise = where / "noise"
    with noise.open("wb") as file:
        for _ in range(16):
            file.write(os.urandom(1 << 20))
    device = "/machine/peripheral/disk0-device/virtio-backend"
    for at in range(512, 512 + mib, 16):
        qvm(where, "cmd", f'qemu-io -d {device} "write -q -s noise {at}M 16M"')
    noise.unlink()


if __name__ == "__main__":
    sys.exit(main())
