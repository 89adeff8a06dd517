"""VM_LIMIT_MEM and VM_LIMIT_CPUS held by a real systemd, which the test runs in namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import DEADLINE_S, QVM, Blank, Vm

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the namespaces for a systemd"),
    pytest.mark.skipif(
        Path("/run/systemd/system").is_dir(), reason="a systemd runs this host: test_around_qemu uses it"
    ),
    pytest.mark.skipif(
        not Path("/lib/systemd/systemd").exists() or not shutil.which("unshare"),
        reason="systemd or unshare is not installed",
    ),
]

INIT = """\
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system /run/lock
printf '[Unit]\\nDefaultDependencies=no\\n' > /run/systemd/system/qvmt.target
umount -l /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
cd /sys/fs/cgroup
mkdir unified systemd memory
mount -t cgroup2 none unified
mount -t cgroup -o none,name=systemd none systemd
mount -t cgroup -o memory none memory
mount -t proc proc /proc
exec env -i PATH="$PATH" container=unshare /lib/systemd/systemd --system --unit=qvmt.target \
    --log-target=console --show-status=no
"""

SLICES = ("init.scope", "system.slice", "user.slice", "machine.slice")


class Systemd:
    """A systemd as process 1 of its own namespaces."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            spaces = ["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child"]
            self.child = subprocess.Popen(
                ["unshare", *spaces, "bash", "-c", INIT],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + DEADLINE_S
        while self.run("systemctl", "is-system-running").stdout.strip() not in ("running", "degraded"):
            if self.child.poll() is not None or time.monotonic() > deadline:
                self.end()
                reason = f"no systemd in namespaces here: {log.read_text()[-300:]}"
                pytest.skip(reason)
            time.sleep(0.1)

    def run(self, *words: str, vm: Vm | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program beside that systemd."""
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        pid = children[0] if children else str(self.child.pid)
        return subprocess.run(
            ["nsenter", "--target", pid, "--mount", "--pid", "--cgroup", "--wd=" + os.getcwd(), *words]
            if vm is None
            else [
                "nsenter",
                "--target",
                pid,
                "--mount",
                "--pid",
                "--cgroup",
                QVM,
                "-C",
                vm.directory,
                *words,
            ],
            env=vm.world.environ if vm else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        for hierarchy in ("systemd", "unified", "memory", "pids", "devices"):
            for name in SLICES:
                for _ in range(50):
                    with contextlib.suppress(OSError):
                        os.rmdir(f"/sys/fs/cgroup/{hierarchy}/{name}")
                        break
                    if not os.path.isdir(f"/sys/fs/cgroup/{hierarchy}/{name}"):
                        break
                    time.sleep(0.1)


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    made = Systemd(tmp_path_factory.mktemp("systemd") / "systemd.log")
    yield made
    made.end()


def test_start_limits_are_held_by_a_scope_of_systemd(blank: Blank, systemd: Systemd) -> None:
    vm = blank(VM_LIMIT_MEM="512", VM_LIMIT_CPUS="1.5")
    started = systemd.run("start", "--no-wait", vm=vm)
    try:
        assert started.returncode == 0, started
        assert "cannot enforce" not in started.stderr
        pid = (vm.directory / ".qvm/qemu.pid").read_text().strip()
        groups = systemd.run("cat", f"/proc/{pid}/cgroup").stdout
        (scope,) = {line.rpartition("/")[2] for line in groups.splitlines() if "name=systemd" in line}
        assert scope.startswith("qvm-demo-")
        assert scope.endswith(".scope")
        shown = systemd.run("systemctl", "show", scope, "-p", "MemoryMax", "-p", "CPUQuotaPerSecUSec").stdout
        assert sorted(shown.split()) == ["CPUQuotaPerSecUSec=1.500000s", f"MemoryMax={512 << 20}"]
        held = systemd.run("cat", f"/sys/fs/cgroup/memory/system.slice/{scope}/memory.limit_in_bytes")
        assert held.stdout == f"{512 << 20}\n"
        assert systemd.run("status", "-s", vm=vm).stdout == f"demo: running (pid {pid})\n"
        assert systemd.run("cmd", "info", "name", vm=vm).stdout == "demo\n"
    finally:
        ended = systemd.run("kill", vm=vm)
    assert ended.returncode == 0, ended
    assert scope not in systemd.run("systemctl", "list-units", "--all", "--plain").stdout
    assert vm.qvm("status").out == "demo: stopped\n"


def test_start_limit_that_systemd_refuses_shows_its_message(blank: Blank, systemd: Systemd) -> None:
    vm = blank(VM_LIMIT_CPUS="1")
    program = vm.directory / "systemd-run"
    program.write_text('#!/bin/sh\nexec /usr/bin/systemd-run -p Nonsense=1 "$@"\n')
    program.chmod(0o755)
    environ = vm.world.environ | {"PATH": f"{vm.directory}:{os.environ['PATH']}"}
    children = Path(f"/proc/{systemd.child.pid}/task/{systemd.child.pid}/children").read_text().split()
    done = subprocess.run(
        [
            "nsenter",
            "--target",
            children[0],
            "--mount",
            "--pid",
            "--cgroup",
            QVM,
            "-C",
            vm.directory,
            "start",
        ],
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 1
    assert "QEMU exited immediately (exit status 1)" in done.stderr
    assert "Nonsense" in done.stderr
    assert vm.qvm("status").out == "demo: stopped\n"
