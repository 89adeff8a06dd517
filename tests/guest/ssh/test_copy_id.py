"""`qvm ssh --copy-id` where no key is in the guest: by agent, console and password; and the port of its sshd.

The guest is tiny; `VM_SSH_GUEST_PORT` is one where nothing listens until `open_door`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pty_terminal import PtyTerminal
from tests.support.world import QVM, SAVED, Vm, copy_of, wait_until

pytestmark = pytest.mark.guest

PORT = "2022"
KEYS = ".ssh/authorized_keys"
AGENT = (
    "/usr/sbin/qemu-ga -d -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -f /run/ga2"
)


@pytest.fixture(scope="module")
def closed(module_world: object, saved: Path) -> Iterator[Vm]:
    """A running guest that ssh cannot reach yet."""
    vm = copy_of(module_world, saved)  # type: ignore[arg-type]  # the fixture's
    vm.set(VM_SSH_GUEST_PORT=PORT, VM_READY="none")
    vm.ok("start", "--loadvm", SAVED)
    yield vm
    vm.kill()


@pytest.fixture(scope="module")
def opened(closed: Vm) -> Vm:
    """The same guest with an sshd that takes passwords, and without an agent."""
    open_door(closed)
    root(closed, "killall qemu-ga; true")
    return closed


def new_key(vm: Vm, name: str) -> Path:
    path = vm.world.home / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "my 'own' é", "-f", path], check=True
    )
    return path


def root(vm: Vm, line: str) -> str:
    """Run a line in the guest, on its console."""
    return vm.ok("exec", "--via", "serial", "--shell", line).out


def count(vm: Vm, key: Path) -> int:
    """How often the guest has the key."""
    body = key.with_suffix(".pub").read_text().split()[1]
    return root(vm, f"cat /home/qvm/{KEYS}").split().count(body)


def open_door(vm: Vm) -> None:
    """Begin an sshd at the port, which takes passwords, too."""
    root(vm, "(echo pass-word; echo pass-word) | passwd qvm")
    key = "/etc/dropbear/dropbear_ed25519_host_key"
    root(vm, f"pidof -s dropbear; test -e /run/door || dropbear -r {key} -p {PORT} -P /run/door")


def close_connections(vm: Vm) -> None:
    for path in [each for each in vm.runtime.glob("ssh*") if each.is_socket()]:
        subprocess.run(["ssh", "-O", "exit", "-S", path, "x"], capture_output=True)
    wait_until(lambda: not [each for each in vm.runtime.glob("ssh*") if each.is_socket()])


def test_copy_id_by_the_agent_is_idempotent(closed: Vm) -> None:
    key = new_key(closed, "by-agent")
    first = json.loads(closed.ok("--json", "ssh", "--copy-id", key).out)
    assert (first["via"], first["added"], first["user"], first["key"]) == ("agent", True, "qvm", str(key))
    again = closed.ok("ssh", "--copy-id", f"{key}.pub").out
    assert again == f"demo: key {key}.pub is there already for account qvm, by the guest agent\n"
    assert count(closed, key) == 1


def test_copy_id_by_an_agent_without_that_command(closed: Vm) -> None:
    key = new_key(closed, "by-shell")
    blocked = "guest-ssh-add-authorized-keys,guest-ssh-get-authorized-keys"
    root(closed, f"killall qemu-ga; while pidof qemu-ga; do usleep 100000; done; {AGENT} -b {blocked}")
    closed.wait_for_agent()
    assert closed.ok("ssh", "--copy-id", key).out.endswith("was added for account qvm, by the guest agent\n")
    assert closed.ok("ssh", "--copy-id", key).out.endswith(
        "is there already for account qvm, by the guest agent\n"
    )
    assert count(closed, key) == 1
    assert root(closed, f"stat -c %U:%a /home/qvm/{KEYS}") == "qvm:600\n"


def test_copy_id_on_the_console_makes_the_file(closed: Vm) -> None:
    key = new_key(closed, "by-console")
    root(closed, "killall qemu-ga; rm -r /home/qvm/.ssh")
    result = closed.ok("--set", f"VM_SSH_IDENTITY={key}", "ssh", "--copy-id")
    assert result.out == f"demo: key {key} was added for account qvm, on the serial console\n"
    assert closed.ok("ssh", "--copy-id", key).out.endswith(
        "is there already for account qvm, on the serial console\n"
    )
    assert count(closed, key) == 1
    assert root(closed, "stat -c %U:%a /home/qvm/.ssh") == "qvm:700\n"


def test_copy_id_with_a_password_on_the_terminal(closed: Vm) -> None:
    open_door(closed)
    key = new_key(closed, "by-password")
    terminal = PtyTerminal(closed, "--set", f"VM_SSH_IDENTITY={key}", "ssh", "--copy-id")
    terminal.until("password:")
    os.write(terminal.master, b"pass-word\n")
    assert terminal.end() == 0
    assert "was added for account qvm, over ssh" in terminal.text
    close_connections(closed)
    assert closed.ok("--set", f"VM_SSH_IDENTITY={key}", "ssh", "echo in").out == "in\n"
    assert count(closed, key) == 1


ASKING = (
    "ssh true", "ssh -o BatchMode=no true", "ssh -t true", "ssh -L 1:x:1 true", "ssh --copy-id",
    "forward add 1:1 --via ssh", "exec --via ssh true",
)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "place"),
    [
        *((line, "</dev/null | cat") for line in ASKING),
        *((line, "| cat") for line in ("ssh true", "ssh -o IPQoS=none true", "ssh --copy-id", ASKING[5])),
        ("ssh true", ">out"),
        ("ssh true", "& wait $!"),
    ],
)
def test_no_password_is_asked_for_in_a_pipe(opened: Vm, line: str, place: str) -> None:
    close_connections(opened)
    key = new_key(opened, f"unknown-{'-'.join(re.findall('[a-z]+', line + place))}")
    words = f"{QVM} --set VM_SSH_IDENTITY={key} --set VM_CONSOLE_USER=nobody {line} {place}"
    terminal = PtyTerminal(opened, "-o", "pipefail", "-m", "-c", words, program="bash")
    assert terminal.end() != 0
    assert "assword:" not in terminal.text, terminal.text
    assert "Permission denied" in terminal.text or "refused the ssh key" in terminal.text, terminal.text


def test_login_that_waits_for_its_user_is_not_waited_for(opened: Vm) -> None:
    close_connections(opened)
    key = new_key(opened, "unanswered")
    terminal = PtyTerminal(opened, "--set", f"VM_SSH_IDENTITY={key}", "ssh", "echo in")
    terminal.until("password:")
    for words in (("ssh", "true"), ("exec", "--via", "ssh", "true"), ("ssh", "--copy-id", str(key))):
        result = opened.qvm("--set", "VM_CONSOLE_USER=nobody", *words)
        assert result.status == 125, str(result)
        assert "another login waits for a password on its terminal (pid " in result.err
    os.write(terminal.master, b"pass-word\n")
    assert terminal.end() == 0
    assert opened.ok("ssh", "echo in").out == "in\n"


def test_another_machine_at_the_port_gets_nothing(closed: Vm) -> None:
    open_door(closed)
    key = new_key(closed, "not-for-others")
    close_connections(closed)
    known = closed.directory / ".qvm/known_hosts"
    uuid = (closed.directory / ".qvm/uuid").read_text().strip()
    other = " ".join(Path(f"{key}.pub").read_text().split()[:2])
    before = known.read_bytes() if known.exists() else None
    config = closed.world.home / "config"
    known.write_text(f"qvm-{uuid} {other}\n")
    try:
        config.write_text(closed.ok("ssh-config").out)
        for words in (
            ("ssh", "true"), ("ssh", "-o", "Compression=yes", "true"), ("ssh", "-L", "2:x:2", "true"),
            ("ssh", "--copy-id", str(key)), ("forward", "add", "1:1", "--via", "ssh"),
        ):  # fmt: skip
            result = closed.qvm(*words)
            assert result.status in (1, 125), str(result)
            assert "another machine answers at 127.0.0.1:" in result.err
        plain = subprocess.run(["ssh", "-F", config, "demo", "true"], capture_output=True, text=True)
        assert plain.returncode == 255
        assert "Host key verification failed" in plain.stderr
    finally:
        known.unlink()
        if before is not None:
            known.write_bytes(before)
    assert count(closed, key) == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("/etc/passwd",), "ssh: --copy-id /etc/passwd: it holds no public key"),
        (("nothing-here",), "ssh: --copy-id nothing-here: No such file or directory"),
        (
            ("locked",),
            "ssh: --copy-id locked: it is a private key that cannot be read without its passphrase",
        ),
        (("a", "b"), "ssh: --copy-id takes one file with a key"),
    ],
)
def test_copy_id_of_no_key_is_refused(closed: Vm, words: tuple[str, ...], why: str) -> None:
    locked = closed.directory / "locked"
    locked.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked], check=True)
    locked.with_suffix(".pub").unlink()
    result = closed.qvm("ssh", "--copy-id", *words)
    assert result.status == 2
    assert why in result.err


def test_copy_id_without_any_key_says_how_to_make_one(closed: Vm) -> None:
    result = closed.qvm("--set", "VM_SSH_IDENTITY=", "ssh", "--copy-id", env={"SSH_AUTH_SOCK": ""})
    assert result.status == 2
    assert result.err.endswith(
        "ssh: --copy-id: you have no ssh key\nhint: `ssh-keygen -t ed25519` makes one\n"
    )
