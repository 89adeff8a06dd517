"""`kill -9` in the middle of work: at moments drawn at random where something is under way.

Drawn from a verb's begin on, most kills would hit nothing: a verb loads its modules first, and how long the
work takes differs with the host. So four of five wait until the work's journal is there, and what is drawn is
a part of the time that the work took the last times.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

from tests.support.programs import process_status
from tests.support.world import DEADLINE_S, QVM, Vm

SEED = int(os.environ.get("QVM_TEST_SEED", "20261121"))
ROUNDS = int(os.environ.get("QVM_TEST_ROUNDS", "4"))
"""How often a long test kills a machine with a guest, each time half a minute."""


class Killer:
    """Kills qvm, QEMU or both while a verb is at work.

    Args:
        about: what is killed, for the seed and for what is printed.
        has_journal: the work keeps a journal; else its moment is drawn from the verb's begin on.
    """

    def __init__(self, vm: Vm, about: str, *, has_journal: bool = True) -> None:
        self.vm = vm
        self.about = about
        self.chooser = random.Random(f"{SEED} {about}")
        self.has_journal = has_journal
        self.took_s = 0.1 if has_journal else 0.4
        self.count = self.hits = 0

    def kill(self, victim: str, *words: str) -> None:
        """Begin the verb `words`; kill `victim`: qvm, qemu, both, or all (qvm and the programs it runs)."""
        part, is_blind = self.chooser.random(), self.chooser.random() < 0.2 or not self.has_journal
        qemu = self.vm.pid if victim in ("qemu", "both") else 0
        journal = self.vm.directory / ".qvm/snapshot.unfinished"
        child = subprocess.Popen(
            [QVM, *words], cwd=self.vm.directory, env=self.vm.world.environ, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not is_blind and child.poll() is None and not journal.exists():
            time.sleep(0.001)
        seconds = part * self.took_s
        time.sleep(seconds)
        is_hit = journal.exists() if self.has_journal else child.poll() is None
        with contextlib.suppress(ProcessLookupError):
            if victim in ("qvm", "both"):
                child.kill()
            elif victim == "all":
                os.killpg(child.pid, signal.SIGKILL)
        if qemu:
            with contextlib.suppress(ProcessLookupError):
                os.kill(qemu, signal.SIGKILL)
        child.wait(DEADLINE_S)
        where = "from its begin" if is_blind else "into its work"
        at = "in the middle" if is_hit else "when nothing was under way"
        print(f"seed {SEED}: {self.about}: {victim} killed {seconds:.3f} s {where}, {at}")
        self.count += 1
        self.hits += is_hit
        self.took_s = min(self.took_s * 1.25, 3.0) if is_hit else self.took_s * 0.7

    def require_hits(self) -> None:
        """At least every third kill met work."""
        assert self.hits * 3 >= self.count, f"{self.hits} of {self.count} kills of {self.about} met any work"


def kill_after(vm: Vm, seconds: float, *words: str, env: dict[str, str] | None = None) -> None:
    """Begin qvm, kill it after some time (it may have ended by then)."""
    child = subprocess.Popen(
        [QVM, *words],
        cwd=vm.directory,
        env=env or vm.world.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.wait()


HELD = """
import importlib, os, signal, sys

module, _, name = sys.argv[1].partition(":")
owner = importlib.import_module(module)
*outer, last = name.split(".")
for each in outer:
    owner = getattr(owner, each)
original = getattr(owner, last)


def held(*words, **options):
    setattr(owner, last, original)
    os.kill(os.getpid(), signal.SIGSTOP)
    return original(*words, **options)


setattr(owner, last, held)
sys.argv = ["qvm", *sys.argv[2:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


def begin_held(vm: Vm, place: str, *words: str) -> subprocess.Popen[str]:
    """Begin qvm and wait until it stands still before its first call of a function, `module:name`."""
    child = subprocess.Popen(
        [sys.executable, "-c", HELD, place, *words],
        cwd=vm.directory,
        env=vm.world.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE_S
    while not process_status(child.pid, "State").startswith("T"):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, f"qvm has not come to {place}"
        time.sleep(0.01)
    return child
