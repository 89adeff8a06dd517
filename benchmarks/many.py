"""Many machines: what `list` and `top` cost, and how fast a machine is cloned and packed.

    .venv/bin/python benchmarks/many.py [MIB]         # 1024 MiB of data in the machine that is copied
    TMPDIR=/dev/shm .venv/bin/python benchmarks/many.py     # steadier: without the host's disk

`list` knows 500 machines, of which 20 run; its rival is one `status` of a guest that answers ssh. `clone` is
compared with `cp --sparse=always`, `export` with `tar -S` through the same compressor; half of the data is
random, half is of programs. Each result is synced. What a command takes for an empty disk is not counted as
copying.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
from guest import qvm
from measure import QVM, environment

from qvmsh.host.compression import compressor

KNOWN, RUNNING, FRAMES = 500, 20, 10
ALLOWED_LIST, ALLOWED_TOP, ALLOWED_COPY = 3.0, 0.05, 1 / 0.9
ROUNDS = 5


def shelf(folder: Path) -> None:
    """Machines that are known, and some that run; a tenth of a real one's hardware."""
    rows = []
    for at in range(KNOWN):
        where = folder / f"m{at:03}"
        where.mkdir()
        text = f"VM_MACHINE_NAME={where.name}\nVM_MACHINE_ID=33\nVM_MACHINE_OWNER={owner()}\n"
        (where / ".vmrc").write_text(f"{text}VM_MACHINE_MEM=32\nVM_USE_SNAPSHOTS=no\nVM_SSH_PORT=auto\n")
        status = where.stat()
        rows.append(f"{where.name}\t{status.st_dev}:{status.st_ino}\t{where}\n")
    known = Path(os.environ["XDG_DATA_HOME"]) / "qvm/machines"
    known.parent.mkdir(parents=True)
    known.write_text("".join(rows))
    for at in range(RUNNING):
        where = folder / f"m{at:03}"
        subprocess.run(
            ["qemu-img", "create", "-q", f"m{at:03}.qcow2", "-f", "qcow2", "1M"], cwd=where, check=True
        )
        qvm(where, "start", "--no-wait")


def owner() -> str:
    return subprocess.check_output(["id", "-un"], text=True).strip()


def top_share(folder: Path) -> float:
    """The part of one processor that `top` takes, with 2 machines that run and 100 that do not."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    names = [f"m{at:03}" for at in (0, 1, *range(RUNNING, RUNNING + 100))]
    qvm(folder, "top", "1", "-n", str(FRAMES), *names)
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / took


def fill(disk: Path, mib: int) -> None:
    """Write the data into a raw disk with a hole as long."""
    with disk.open("r+b") as file:
        programs = Path("/usr/lib").rglob("*.so*")
        for at in range(mib // 2):
            file.seek(at * 4 << 20)
            file.write(os.urandom(1 << 20))
        left, at = mib // 2 << 20, mib // 2 * 4 << 20
        for path in programs:
            if left <= 0:
                break
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()[:left]
                file.seek(at)
                file.write(data)
                left, at = left - len(data), at + len(data)


def copying(
    name: str, ours: Callable[[], None], rival: Callable[[], None], empty: Callable[[], None]
) -> bool:
    """Print how long ours takes as a ratio to its rival, without what it takes for an empty disk."""
    times: dict[str, list[float]] = {"ours": [], "rival": [], "empty": []}
    for _ in range(ROUNDS):
        for key, action in (("rival", rival), ("ours", ours), ("empty", empty)):
            began = time.perf_counter()
            action()
            times[key].append(time.perf_counter() - began)
    found = {key: statistics.median(each) for key, each in times.items()}
    ratio = (found["ours"] - found["empty"]) / found["rival"]
    mark = "" if ratio <= ALLOWED_COPY else "  ABOVE THE LIMIT"
    print(
        f"{name:16} {found['ours']:6.2f} s, of it {found['empty']:.2f} s for an empty disk; rival "
        f"{found['rival']:6.2f} s   {ratio:5.2f}x (allowed {ALLOWED_COPY:.2f}){mark}",
        flush=True,
    )
    return not mark


def copies(folder: Path, mib: int) -> bool:
    for name, size in (("full", mib * 4), ("empty", 8)):
        qvm(folder, "create", name, f"{size}M", "--format", "raw")
        qvm(folder / name, "config", "VM_USE_SNAPSHOTS=no")
        for each in (folder / name).glob("*-*.*"):
            each.unlink()
        with (folder / name / f"{name}.raw").open("wb") as file:
            file.truncate(size << 20)
    fill(folder / "full/full.raw", mib)

    def clone(name: str) -> None:
        qvm(folder, "clone", name, "made")
        shutil.rmtree(folder / "made")

    def copied() -> None:
        subprocess.run(["cp", "-r", "--sparse=always", "full", "made"], cwd=folder, check=True)
        subprocess.run(["sync", "made/full.raw"], cwd=folder, check=True)
        shutil.rmtree(folder / "made")

    is_good = copying("clone", lambda: clone("full"), copied, lambda: clone("empty"))
    for kind, program in (("tar", ""), ("tar.zst", "zstd"), ("tar.gz", "gzip")):
        package = folder / f"made.{kind}"

        def export(name: str, package: Path = package) -> None:
            qvm(folder, "export", name, str(package))
            package.unlink()

        def packed(package: Path = package, program: str = program) -> None:
            argv = compressor(program) if program else ["cat"]
            with package.open("wb") as target:
                tar = subprocess.Popen(["tar", "-cS", "full"], cwd=folder, stdout=subprocess.PIPE)
                subprocess.run(argv, stdin=tar.stdout, stdout=target, check=True)
                tar.communicate()
            subprocess.run(["sync", package], check=True)
            package.unlink()

        is_good &= copying(kind, lambda: export("full"), packed, lambda: export("empty"))
    return is_good


def main() -> int:
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    folder = Path(tempfile.mkdtemp(prefix="qvm-bench-", dir=os.environ.get("TMPDIR")))
    os.environ |= {"XDG_DATA_HOME": str(folder / "data"), "XDG_RUNTIME_DIR": str(folder)}
    try:
        shelf(folder)
        qvm(folder, "create", "ready", "--image", "tiny")
        qvm(folder, "start", "ready")
        is_good = measure.compare(
            f"list of {KNOWN}, {RUNNING} running",
            [QVM, "list"],
            {"status of one": [QVM, "-C", str(folder / "ready"), "status"]},
            allowed=ALLOWED_LIST,
            rounds=11,
        )
        qvm(folder, "kill", "ready")
        share = top_share(folder)
        is_good &= share <= ALLOWED_TOP
        print(
            f"top with 2 running and 100 off: {share:.1%} of a processor (allowed {ALLOWED_TOP:.0%})",
            flush=True,
        )
        qvm(folder, "kill", *(f"m{at:03}" for at in range(RUNNING)))
        is_good &= copies(folder, mib)
    finally:
        running = ["ready", *(f"m{at:03}" for at in range(RUNNING))]
        subprocess.run(
            [QVM, "kill", *running], cwd=folder, env=environment(), capture_output=True, check=False
        )
        shutil.rmtree(folder)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
