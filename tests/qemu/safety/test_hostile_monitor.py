"""Every verb on a machine whose monitor drips, floods or lies: it ends, in bounded memory, in order."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.world import QVM, World, write_vmrc

MONITOR = """
import fcntl, json, os, socket, sys, threading, time
folder, runtime, mode = sys.argv[2:5]
fd = os.open(folder + "/.qvm/qemu.pid", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.lockf(fd, fcntl.LOCK_EX)
os.pwrite(fd, b"%d\\n" % os.getpid(), 0)
at = os.stat(folder)
with open("/proc/sys/kernel/random/boot_id") as file:
    boot = file.read().strip()
with open(folder + "/.qvm/running", "w") as note:
    note.write(
        f"runtime {runtime}\\nboot {boot}\\nssh_port 0\\nuser x\\ndisposable no\\n"
        f"directory {at.st_dev}:{at.st_ino}\\nbase_only no\\nloading \\n"
    )
GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\\n'

def answer(client, value):
    client.sendall(GREETING)
    for line in client.makefile("rb"):
        client.sendall(json.dumps({"return": value, "id": json.loads(line).get("id")}).encode() + b"\\n")

def serve(client):
    try:
        if mode == "drip":
            while True:
                client.sendall(b"A")
                time.sleep(1)
        elif mode == "flood":
            while True:
                client.sendall(b"A" * 65536)
        elif mode == "events":
            client.sendall(GREETING)
            while True:
                client.sendall(b'{"event": "X"}\\n' * 10)
                time.sleep(0.05)
        elif mode == "late drip":
            client.sendall(GREETING + b'{"return": {')
            while True:
                client.sendall(b" ")
                time.sleep(1)
        elif mode == "lists":
            client.sendall(b"[]\\n5\\n")
        elif mode == "deep":
            client.sendall(b"[" * 1000000 + b"\\n")
        elif mode == "error":
            client.sendall(GREETING + b'{"error": 5}\\n')
        elif mode == "list as answer":
            answer(client, [1])
        elif mode == "escapes":
            answer(client, {"status": "\\x1b]0;x\\x07\\x1b[2Jx"})
        time.sleep(3)
    except OSError:
        pass
    finally:
        client.close()

for name in ("qmp", "session", "events", "monitor"):
    server = socket.socket(socket.AF_UNIX)
    server.bind(runtime + "/" + name)
    server.listen(50)
    def accept(server=server):
        while True:
            threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
print("ready", flush=True)
time.sleep(3600)
"""
MODES = [
    "drip", "flood", "events", "late drip", "lists", "deep", "error", "list as answer", "escapes",
]  # fmt: skip
VERBS = [
    "archive", "archive --list", "cmd info status", "console", "disk check", "disk commit", "disk list",
    "disk resize disk0 32M", "disk trim", "doctor", "doctor --fix", "init", "kill", "list", "monitor",
    "pause", "qmp query-status", "reboot --timeout 5", "restart --timeout 5", "resume", "run", "sh -c status",
    "snapshot list", "snapshot restore a", "snapshot save a", "snapshot verify", "start", "status",
    "stop --force --timeout 5", "stop --savevm x", "stop --timeout 5", "suspend", "wakeup",
]  # fmt: skip
MEMORY_BYTES = 1500 << 20


def ask(world: World, number: int, mode: str, verb: str) -> None:
    folder = world.home / f"m{number}"
    write_vmrc(folder, "x", VM_NET_MODEL="none")
    (folder / ".qvm/log").mkdir(parents=True)
    for words in (["x-base.qcow2", "1M"], ["-b", "x-base.qcow2", "-F", "qcow2", "x-backing.qcow2"]):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], cwd=folder, check=True)
    runtime = Path(world.runtime) / str(number)
    runtime.mkdir(0o700)
    monitor = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", MONITOR, "-pidfile", folder, runtime, mode],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert monitor.stdout is not None
        assert monitor.stdout.readline()
        limit = ["prlimit", f"--as={MEMORY_BYTES}:{MEMORY_BYTES}", QVM]
        done = world.run(*limit[1:], *verb.split(), cwd=folder, program=limit[0], timeout=600)
        assert done.status in (0, 1, 2, 3, 124), f"{mode}: {done}"
        assert "Traceback" not in done.err + done.out, f"{mode}: {done}"
        assert "\x1b]" not in done.err + done.out, f"{mode}: {done}"
    finally:
        monitor.kill()
        monitor.communicate()
        world.run("kill", cwd=folder)  # `restart` may have come to a real QEMU
        shutil.rmtree(runtime, ignore_errors=True)


def ask_all(world: World, pairs: list[tuple[str, str]]) -> None:
    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(ask, world, number, *pair) for number, pair in enumerate(pairs)]:
            each.result()


PAIRS = [(mode, verb) for mode in MODES for verb in VERBS]


def test_verbs_end_where_the_monitor_is_hostile(world: World) -> None:
    ask_all(world, random.Random(7).sample(PAIRS, 24))


@pytest.mark.long
def test_verbs_end_where_the_monitor_is_hostile_long(world: World) -> None:
    ask_all(world, PAIRS)
