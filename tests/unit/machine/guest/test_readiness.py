"""How long a guest is waited for: VM_SSH_ATTEMPTS, longer where it is emulated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qvmsh.machine.guest import readiness as ready
from qvmsh.machine.machine import BaseMachine
from tests.support.world import write_vmrc


@pytest.mark.parametrize(
    ("words", "set_to", "seconds"),
    [
        (["-accel", "tcg,thread=multi"], {}, 300.0),
        (["-accel", "kvm"], {}, 60.0),
        (["-machine", "pc,accel=kvm"], {}, 60.0),
        (["-enable-kvm"], {}, 60.0),
        (["-machine", "pc"], {}, 300.0),
        (["-accel", "tcg"], {"VM_SSH_ATTEMPTS": "7"}, 14.0),
    ],
)
def test_deadline_by_default_is_longer_without_kvm(
    tmp_path: Path, words: list[str], set_to: dict[str, str], seconds: float
) -> None:
    write_vmrc(tmp_path, **set_to)
    vm = BaseMachine(tmp_path, environ={})
    sleeper = [sys.executable, "-c", "print(flush=True); input()", *words]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert ready.attempt_seconds(vm, child.pid) == seconds
        assert ready.attempt_seconds(vm, child.pid, 30) == 60.0
        child.communicate(b"\n")
