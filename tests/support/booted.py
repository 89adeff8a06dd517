"""The built-in guest, booted by a plain QEMU command line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import pytest

from qvmsh.host import sshd
from qvmsh.qemu import qmp
from tests.support.direct_boot import kernel_of
from tests.support.programs import free_port
from tests.support.world import DEADLINE_S, World

BOOT_S = DEADLINE_S
STATE = "ready"
HOST_KEY = "/etc/dropbear/dropbear_ed25519_host_key"


class Booted:
    """One QEMU with an overlay on the built-in image, and a key that it accepts."""

    def __init__(self, world: World, image: str, name: str) -> None:
        self.world, self.image, self.name = world, image, name
        self.overlay, self.pulled = world.home / f"{name}.qcow2", world.home / f"{name}-pulled.qcow2"
        self.key = world.home / "id"
        if not self.key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.socket_of = {kind: world.runtime / f"{name}.{kind}" for kind in ("qmp", "ga", "serial")}
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        *,
        public_key: str | None = None,
        hostname: str | None = "demo",
        instance: str = "",
        is_direct: bool = False,
        more: Sequence[str] = (),
    ) -> None:
        """Boot and wait for the banner of ssh; `more` goes to QEMU, which loads the kernel if `is_direct`."""
        if not self.overlay.exists():
            words = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.image]
            subprocess.run(["qemu-img", *words, self.overlay], check=True)
        given = self.world.home / "given.pub"
        given.write_text(self.key.with_suffix(".pub").read_text() if public_key is None else public_key)
        self.port = free_port()
        log = f"logfile={self.world.home}/{self.name}.serial"
        argv = [
            *("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-cpu", "max", "-m", "256"),
            *("-nodefaults", "-display", "none", "-serial", "chardev:serial"),
            *("-chardev", f"socket,id=serial,path={self.socket_of['serial']},server=on,wait=off,{log}"),
            *("-drive", f"file={self.overlay},if=virtio,format=qcow2"),
            *("-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
            *("-device", "virtio-net-pci,netdev=n0", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=ga,path={self.socket_of['ga']},server=on,wait=off"),
            *("-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"),
            *("-qmp", f"unix:{self.socket_of['qmp']},server=on,wait=off"),
            *("-fw_cfg", f"name=opt/qvm/authorized_keys,file={given}"),
        ]
        if hostname is not None:
            argv += ["-fw_cfg", f"name=opt/qvm/hostname,string={hostname}"]
        if instance:
            argv += ["-fw_cfg", f"name=opt/qvm/instance,string={instance}"]
        if is_direct:
            kernel, initrd, command_line = kernel_of(self.image).values()
            argv += ["-kernel", kernel, "-initrd", initrd, "-append", command_line]
        self.process = subprocess.Popen([*argv, *more], env=self.world.environ)
        self._await_banner()

    def _await_banner(self) -> None:
        deadline = time.monotonic() + BOOT_S
        with sshd.Knocking("127.0.0.1", self.port) as knocking:
            while time.monotonic() < deadline:
                assert self.process is not None
                assert self.process.poll() is None, "QEMU ended"
                if knocking.step(-1, 0.5) == "ssh":
                    return
        log = self.world.home / f"{self.name}.serial"
        pytest.fail(f"no ssh within {BOOT_S} s:\n" + (log.read_text() if log.exists() else ""))

    def options(self, port_letter: str = "-p") -> list[str]:
        known = f"UserKnownHostsFile={self.world.home}/known-{self.name}"
        pairs = [
            known,
            "StrictHostKeyChecking=accept-new",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ]
        words = [word for pair in pairs for word in ("-o", pair)]
        return ["-F", "/dev/null", "-i", str(self.key), *words, port_letter, str(self.port)]

    def ssh(self, command: str, user: str = "qvm", **kw: Any) -> subprocess.CompletedProcess[str]:
        """Run a command; dropbear may still count the looks for its banner, and refuse before it runs it."""
        argv = ["ssh", *self.options(), f"{user}@127.0.0.1", command]
        deadline = time.monotonic() + DEADLINE_S
        while True:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, **kw)
            if "kex_exchange_identification" not in done.stderr or time.monotonic() > deadline:
                return done
            time.sleep(0.5)

    def out(self, command: str, user: str = "qvm") -> str:
        done = self.ssh(command, user)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def host_key(self) -> str:
        """Kind and key, without the comment (the host's name at the time)."""
        line = self.out(f"dropbearkey -y -f {HOST_KEY}", user="root").splitlines()[1]
        return line.rpartition(" ")[0]

    def save(self) -> None:
        """Boot, wait for all services, save the state in the overlay, and end QEMU.

        The disk as it is when the first client has seen the host key is kept as `pulled`, as if QEMU had
        been killed at that moment.
        """
        self.start()
        self.first_host_key = self.host_key()
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        shutil.copyfile(self.overlay, self.pulled)
        self.process.send_signal(signal.SIGCONT)
        self.out("until pidof acpid && pidof qemu-ga; do usleep 100000; done")  # ssh is up before them
        assert self.ask("human-monitor-command", {"command-line": f"savevm {STATE}"}) == ""
        assert self.ask("quit") == {}
        assert self.wait() == 0

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """What QEMU answers."""
        return qmp.ask(str(self.socket_of["qmp"]), command, arguments, timeout_s=BOOT_S)

    def load(self, saved: Booted) -> None:
        """Continue from the state that another one, which is off, has saved, on a copy of its disk."""
        assert self.key == saved.key
        shutil.copyfile(saved.overlay, self.overlay)
        self.start(more=["-loadvm", STATE])

    def wait(self, timeout_s: float = 60) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End QEMU at once; it leaves its sockets, as it must, and they are removed."""
        if self.process:
            self.process.kill()
            self.process.wait()
        for path in self.socket_of.values():
            path.unlink(missing_ok=True)
