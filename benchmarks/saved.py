"""Saved state of a real guest: `stop --savevm` and `start --loadvm`, beside raw QEMU, QMP and ssh.

    .venv/bin/python benchmarks/saved.py [ROUNDS]

The rival does by hand what must be done: `systemctl suspend` by ssh, wait for SUSPEND, hold the guest
as QEMU 7.2 needs it, `snapshot-save`, quit; and `-loadvm` with a tight loop of ssh until it answers.
What `stop --savevm` takes besides is its own: allowed are 0.5 s.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from guest import SSH, qvm
from measure import QVM, environment

ALLOWED_S, ALLOWED = 0.5, 1.2


class Qmp:
    """The least that speaks QMP."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        deadline = time.perf_counter() + 30
        while self._socket.connect_ex(path) and time.perf_counter() < deadline:
            pass
        self._file = self._socket.makefile("rw")
        self.read()
        self.ask({"execute": "qmp_capabilities"})

    def read(self) -> Any:
        return json.loads(self._file.readline())

    def send(self, text: str) -> None:
        self._file.write(text + "\n")
        self._file.flush()

    def ask(self, request: dict[str, Any]) -> Any:
        self.send(json.dumps(request))
        while "return" not in (reply := self.read()):
            assert "error" not in reply, reply
        return reply["return"]

    def until(self, event: str, **data: str) -> None:
        while True:
            reply = self.read()
            if reply.get("event") == event and all(reply["data"].get(k) == v for k, v in data.items()):
                return

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Raw:
    """QEMU with the machine's own command line, driven by hand."""

    def __init__(self, where: Path, tag: str) -> None:
        self.where = where
        argv = json.loads(qvm(where, "--json", "dryrun"))["argv"]
        self.port = (
            next(word for word in argv if "hostfwd" in word).partition("127.0.0.1:")[2].partition("-")[0]
        )
        self.qmp = next(word for word in argv if "id=qmp," in word).partition("path=")[2].partition(",")[0]
        self._argv = [*argv, "-loadvm", tag]

    def load(self) -> float:
        """Seconds from executing QEMU to the first ssh that succeeds."""
        began = time.perf_counter()
        self.child = subprocess.Popen(
            self._argv, cwd=self.where, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while self.ssh("true"):
            pass
        return time.perf_counter() - began

    def ssh(self, command: str) -> int:
        argv = [*SSH, "-p", self.port, "qvm@127.0.0.1", command]
        return subprocess.run(argv, cwd=self.where, stdin=subprocess.DEVNULL, capture_output=True).returncode

    def save(self, tag: str) -> tuple[float, float]:
        """Seconds of the guest's suspend; and of the job and QEMU's end."""
        monitor = Qmp(self.qmp)
        began = time.perf_counter()
        self.ssh("sudo -n systemctl suspend")
        monitor.until("SUSPEND")
        suspended = time.perf_counter()
        monitor.send('{"execute": "system_wakeup"}\n{"execute": "stop"}')
        monitor.until("STOP")
        job = {"job-id": "j", "tag": tag, "vmstate": "disk0", "devices": ["disk0"]}
        monitor.send(json.dumps({"execute": "snapshot-save", "arguments": job}))
        monitor.until("JOB_STATUS_CHANGE", id="j", status="concluded")
        monitor.send('{"execute": "quit"}')
        self.child.wait()
        ended = time.perf_counter()
        monitor.close()
        return suspended - began, ended - suspended


def saved(where: Path, tag: str) -> tuple[float, float]:
    """Seconds of `stop --savevm`: the guest's own suspend, as it reports it; and all the rest."""
    began = time.perf_counter()
    report = json.loads(qvm(where, "--json", "stop", "--savevm", tag))
    took = time.perf_counter() - began
    return report["suspend_seconds"], took - report["suspend_seconds"]


def timed(where: Path, *words: str) -> float:
    began = time.perf_counter()
    qvm(where, *words)
    return time.perf_counter() - began


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    folder = Path(tempfile.mkdtemp(prefix="qvm-bench-"))
    where = folder / "bench"
    rows: dict[str, list[float]] = {
        name: [] for name in ("suspend", "save", "replace", "load", "raw suspend", "raw save", "raw load")
    }
    try:
        qvm(folder, "create", "bench", "--image", "tiny")
        qvm(where, "start")
        qvm(where, "stop", "--savevm", "s0")
        for turn in range(rounds):
            rows["load"].append(timed(where, "start", "--loadvm", f"s{turn}"))
            times = saved(where, f"s{turn + 1}")
            rows["suspend"].append(times[0])
            rows["save"].append(times[1])
            raw = Raw(where, f"s{turn + 1}")
            rows["raw load"].append(raw.load())
            times = raw.save(f"raw{turn}")
            rows["raw suspend"].append(times[0])
            rows["raw save"].append(times[1])
            qvm(where, "start", "--loadvm", f"s{turn + 1}")
            rows["replace"].append(saved(where, f"s{turn + 1}")[1])
        medians = {name: statistics.median(values) for name, values in rows.items()}
    finally:
        if where.exists():
            subprocess.run([QVM, "kill"], cwd=where, env=environment(), capture_output=True, check=False)
        shutil.rmtree(folder)
    more, ratio = medians["save"] - medians["raw save"], medians["load"] / medians["raw load"]
    print(
        f"qvm stop --savevm   {medians['save']:6.2f} s   QMP: job, quit       {medians['raw save']:6.2f} s   "
        f"{more:+5.2f} s (allowed +{ALLOWED_S:.1f} s)"
    )
    print(f"   suspend, not counted: {medians['suspend']:.2f} s, by hand {medians['raw suspend']:.2f} s")
    print(f"   replacing a state {medians['replace']:6.2f} s   (it is saved twice: QEMU cannot rename one)")
    print(
        f"qvm start --loadvm  {medians['load']:6.2f} s   -loadvm, ssh loop    {medians['raw load']:6.2f} s   "
        f"{ratio:5.2f}x (allowed {ALLOWED:.2f})"
    )
    return 0 if more <= ALLOWED_S and ratio <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
