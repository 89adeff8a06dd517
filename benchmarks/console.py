"""The serial console under a guest that writes as fast as it can, beside QEMU's own `-serial file:`.

    .venv/bin/python benchmarks/console.py [ROUNDS]

A boot sector writes to COM1 for ever, under tcg. In turn: QEMU writes to a file; qvm's machine, nobody
looking; the same with a console attached. Allowed are 5 % less than the file. The time of the cpu
that QEMU takes is shown beside it, since it does not depend on what else the host does.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import QVM, environment

from qvmsh.host import console_keeper as keeper

ALLOWED = 0.95
SECONDS = 4.0
WRITER = bytes.fromhex("fa 31 db ba fd 03 ec a8 20 74 fb ba f8 03 88 d8 24 3f 04 20 ee 43 eb eb")
"""Wait for the UART, write the next of 64 characters, for ever."""
MACHINE = ["-machine", "pc,graphics=off", "-accel", "tcg", "-m", "64"]


def rate(log: Path, pid: int) -> tuple[float, float]:
    """Bytes a second that the log grows by, and QEMU's seconds of cpu for each MB."""
    while not log.exists() or log.stat().st_size < 100_000:
        time.sleep(0.05)
    size, cpu, began = logged(log), cpu_s(pid), time.monotonic()
    time.sleep(SECONDS)
    grown, spent = logged(log) - size, time.monotonic() - began
    return grown / spent, (cpu_s(pid) - cpu) / (grown / 1e6)


def logged(log: Path) -> int:
    """How many bytes were ever written to the log, which may have been cut."""
    with log.open("rb") as file:
        missing = keeper.left_out(file.fileno())
        size = os.fstat(file.fileno()).st_size
    return size + missing - keeper.MARK_BYTES if missing else size


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def plain(image: Path) -> tuple[float, float]:
    log = image.with_name("plain.log")
    log.unlink(missing_ok=True)
    drive = f"file={image},format=qcow2,if=virtio,snapshot=on"
    words = [*MACHINE, "-nodefaults", "-display", "none", "-drive", drive, "-serial", f"file:{log}"]
    qemu = subprocess.Popen(["qemu-system-x86_64", *words])
    try:
        return rate(log, qemu.pid)
    finally:
        qemu.kill()
        qemu.wait()


def ours(home: Path, *, has_console: bool) -> tuple[float, float]:
    env = environment()
    subprocess.run([QVM, "-q", "start", "--no-wait"], cwd=home, env=env, check=True, capture_output=True)
    console = None
    try:
        if has_console:
            console = subprocess.Popen(
                [QVM, "console", "--watch"],
                cwd=home,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        return rate(home / ".qvm/log/serial.log", int((home / ".qvm/qemu.pid").read_text()))
    finally:
        subprocess.run([QVM, "-q", "kill"], cwd=home, env=env, check=True, capture_output=True)
        if console:
            console.wait()


def machine(home: Path) -> Path:
    """A machine whose disk is the boot sector."""
    account = __import__("pwd").getpwuid(os.geteuid()).pw_name
    values = f"VM_MACHINE_NAME=demo\nVM_MACHINE_ID=33\nVM_MACHINE_OWNER={account}\nVM_MACHINE_MEM=64\n"
    (home / ".vmrc").write_text(values + "VM_QEMU_MACHINE=pc,graphics=off\nVM_NET_MODEL=none\n")
    raw, seed = home / "raw", home / "demo-seed.qcow2"
    raw.write_bytes(WRITER.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, seed], check=True)
    subprocess.run([QVM, "-q", "init"], cwd=home, env=environment(), check=True, capture_output=True)
    return seed


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    home = Path(tempfile.mkdtemp(prefix="qvm-console-"))
    found: dict[str, list[tuple[float, float]]] = {"-serial file:": [], "qvm": [], "qvm, a console": []}
    try:
        image = machine(home)
        for _ in range(rounds):
            found["-serial file:"].append(plain(image))
            found["qvm"].append(ours(home, has_console=False))
            found["qvm, a console"].append(ours(home, has_console=True))
    finally:
        shutil.rmtree(home)
    median = {name: statistics.median(rate for rate, _ in rows) for name, rows in found.items()}
    is_good = True
    for name, rows in found.items():
        share = median[name] / median["-serial file:"]
        mark = "" if share >= ALLOWED else "  BELOW THE LIMIT"
        cpu = statistics.median(cpu for _, cpu in rows)
        print(
            f"{name:15} {median[name] / 1e3:7.0f} kB/s  {share:6.1%}  {cpu:5.2f} s of cpu for each MB{mark}"
        )
        is_good &= not mark
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
