"""The built-in guest, booted by a plain QEMU command line."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from typing import Any

import pytest

from tests.support.programs import free_port
from tests.support.world import World

BOOT_S = 120


HOST_KEY = "/etc/dropbear/dropbear_ed25519_host_key"


class Booted:
    """One QEMU with an overlay on the built-in image, and a key that it accepts."""

    def __init__(self, world: World, image: str, name: str) -> None:
        self.world, self.image, self.name = world, image, name
        self.overlay = world.home / f"{name}.qcow2"
        self.key = world.home / "id"
        if not self.key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.socket_of = {kind: world.runtime / f"{name}.{kind}" for kind in ("qmp", "ga")}
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self, *, public_key: str | None = None, hostname: str | None = "demo", instance: str = ""
    ) -> None:
        """Boot and wait for the banner of ssh."""
        if not self.overlay.exists():
            words = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.image]
            subprocess.run(["qemu-img", *words, self.overlay], check=True)
        given = self.world.home / "given.pub"
        given.write_text(self.key.with_suffix(".pub").read_text() if public_key is None else public_key)
        self.port = free_port()
        log = f"file:{self.world.home}/{self.name}.serial"
        serial = f"unix:{self.socket_of['serial']},server=on,wait=off" if "serial" in self.socket_of else log
        argv = [
            *("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-cpu", "max", "-m", "256"),
            *("-nodefaults", "-display", "none", "-serial", serial),
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
        self.process = subprocess.Popen(argv, env=self.world.environ)
        self._await_banner()

    def _await_banner(self) -> None:
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, "QEMU ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.settimeout(0.5)
                if probe.recv(4) == b"SSH-":
                    return
            time.sleep(0.1)
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
        argv = ["ssh", *self.options(), f"{user}@127.0.0.1", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, **kw)

    def out(self, command: str, user: str = "qvm") -> str:
        done = self.ssh(command, user)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def host_key(self) -> str:
        """Kind and key, without the comment (the host's name at the time)."""
        line = self.out(f"dropbearkey -y -f {HOST_KEY}", user="root").splitlines()[1]
        return line.rpartition(" ")[0]

    def wait(self, timeout_s: float = 60) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
