"""`with Machine.open(d).running() as vm:` with a real guest."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.direct_boot import boot_directly
from tests.support.world import SAVED, Vm

pytestmark = pytest.mark.guest


def test_running_stops_what_it_started_also_after_an_exception(loadable: Vm, tiny: str) -> None:
    with loadable.library().running(loadvm=SAVED) as vm:
        assert vm.ssh("uname") == "Linux\n"
        vm.ssh("echo kept > kept; sync")
    assert vm.status().state == "stopped"
    boot_directly(loadable, tiny)
    with pytest.raises(ZeroDivisionError), loadable.library().running(disposable=True) as vm:
        1 / int(vm.ssh("grep -vc kept kept || true"))
    assert vm.status().state == "stopped"


def test_running_leaves_a_running_machine_running(running: Vm) -> None:
    pid = running.pid
    with pytest.raises(ZeroDivisionError), running.library().running() as vm:
        1 / int(vm.ssh("echo 0"))
    assert running.pid == pid


def test_running_interrupted_leaves_nothing(loadable: Vm, tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import sys, time\nfrom qvmsh.here import vm\n"
        f"with vm.running(loadvm={SAVED!r}):\n    print('ready', flush=True)\n    time.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-P", script], cwd=loadable.directory, env=loadable.world.environ,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=200)
    assert child.returncode == -signal.SIGINT
    assert loadable.qvm("status", "-s").out == "demo: stopped\n"
