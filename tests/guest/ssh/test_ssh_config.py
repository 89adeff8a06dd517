"""`qvm ssh-config`: plain ssh, scp, rsync and Ansible reach the guest; the file of the user."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guests.debian import DebianImage
from tests.support.pty_terminal import PtyTerminal
from tests.support.world import DEADLINE_S, REAL_CACHE, Vm, copy_of, create_debian

pytestmark = pytest.mark.guest

ANSIBLE = "ansible-core==2.17.*"


def plain(vm: Vm, *argv: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Another program than qvm, in the machine's environment."""
    return subprocess.run(
        argv, cwd=vm.world.home, env=vm.world.environ | more, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=DEADLINE_S * 2,
    )  # fmt: skip


def written(vm: Vm) -> Path:
    path = vm.world.home / "config"
    path.write_text(vm.ok("ssh-config").out)
    return path


def test_ssh_config_serves_ssh_and_scp(running: Vm) -> None:
    config = written(running)
    done = plain(running, "ssh", "-F", config, "demo", "echo out; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "")
    source, back = running.world.home / "a b", running.world.home / "back"
    source.write_bytes(os.urandom(100_000))
    for words in ((source, "demo:sent"), ("demo:sent", back)):
        done = plain(running, "scp", "-q", "-O", "-F", config, *words)
        assert (done.returncode, done.stderr) == (0, "")
    assert back.read_bytes() == source.read_bytes()


def test_ssh_config_of_a_new_guest_holds_over_restarts(world: object, saved: Path) -> None:
    """Its host key is not pinned, its port another one each time, and its directory's name is odd."""
    vm = copy_of(world, saved)  # type: ignore[arg-type]  # the fixture's
    folder = vm.directory.parent / 'it\'s 100% "odd"'
    folder.mkdir()
    vm.directory = vm.directory.rename(folder / "demo")
    try:
        config = written(vm)
        off = plain(vm, "ssh", "-F", config, "demo", "true")
        assert off.returncode == 255
        assert "qvm: demo: cannot reach the guest: it is stopped" in off.stderr
        known = vm.directory / ".qvm/known_hosts"
        known.unlink(missing_ok=True)
        vm.load()
        known.unlink()
        subprocess.run(["ssh", "-O", "exit", "-S", vm.runtime / "ssh", "x"], capture_output=True)
        done = plain(vm, "ssh", "-F", config, "demo", "echo in")
        assert (done.returncode, done.stdout, done.stderr) == (0, "in\n", "")
        assert known.read_text()
    finally:
        vm.kill()


def test_ssh_config_takes_options_of_the_file(running: Vm) -> None:
    lines = "ServerAliveInterval=60\n-A -w 1 -i /keys/a"
    result = running.ok("--set", f"VM_SSH_OPTIONS={lines}", "ssh-config")
    rows = [line.split() for line in result.out.splitlines()]
    assert ["ServerAliveInterval", "60"] in rows
    assert ["ServerAliveInterval", "15"] not in rows
    assert ["ForwardAgent", "yes"] in rows
    assert rows.index(["IdentityFile", "/keys/a"]) == 3
    assert result.err == "qvm: demo: VM_SSH_OPTIONS: -w has no keyword in ssh_config, and is left out\n"


def test_ssh_config_relays_for_a_program_without_descriptors(running: Vm) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "qvmsh", "ssh-config", "--connect"],
        cwd=running.directory, env=running.world.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.read(4) == b"SSH-"
        child.stdin.write(b"nonsense\r\n")
        child.stdin.close()
        child.stdout.read()
        assert child.wait(DEADLINE_S) == 0


def test_ssh_config_with_cached_connections_of_the_user(running: Vm) -> None:
    """A connection that ssh itself caches for one machine never serves another one."""
    off = Vm(running.world, running.world.home / "off")
    off.directory.mkdir()
    (off.directory / ".vmrc").write_text((running.directory / ".vmrc").read_text())
    off.set(VM_MACHINE_NAME="off")
    config = running.world.home / "config"
    text = running.ok("ssh-config", running.directory, off.directory).out
    cache = running.world.runtime / "c-%C"
    config.write_text(f"{text}\nHost *\n ControlMaster auto\n ControlPath {cache}\n ControlPersist 60\n")
    try:
        for _ in range(2):
            assert plain(running, "ssh", "-F", config, "demo", "echo in").stdout == "in\n"
        assert list(running.world.runtime.glob("c-*"))
        done = plain(running, "ssh", "-F", config, "off", "echo in")
        assert (done.returncode, done.stdout) == (255, ""), done.stderr
    finally:
        plain(running, "ssh", "-F", config, "-O", "exit", "demo")


def test_ssh_config_install_asks_and_includes(running: Vm) -> None:
    home = running.world.home
    config = home / ".ssh/config"
    config.parent.mkdir(exist_ok=True)
    config.write_text("Host other\n    User x")
    refused = running.qvm("ssh-config", "--install")
    assert refused.status == 2
    assert "there is no terminal to ask on" in refused.err
    for answer, status in (("n", 1), ("y", 0)):
        terminal = PtyTerminal(running, "ssh-config", "--install")
        terminal.until(r"\[y/N\]")
        os.write(terminal.master, f"{answer}\n".encode())
        assert terminal.end() == status, terminal.text
        assert config.read_text().startswith("Include ") is (answer == "y")
    assert config.read_text() == f"Include {home}/.config/qvm/ssh_config\nHost other\n    User x"
    again = json.loads(running.ok("--json", "ssh-config", "--install").out)
    assert (again["added"], again["hosts"]) == (False, ["demo"])
    assert config.read_text().count("Include") == 1
    assert (home / ".config/qvm/ssh_config").stat().st_mode & 0o777 == 0o600
    done = plain(running, "ssh", "-F", config, "demo", "echo in")
    assert (done.returncode, done.stdout) == (0, "in\n")


@pytest.fixture(scope="module")
def debian_running(module_world: object, debian: DebianImage) -> Iterator[Vm]:
    vm = create_debian(module_world, debian, "big")  # type: ignore[arg-type]  # the fixture's
    vm.ok("start", "--ssh-attempts", "120", timeout=300)
    yield vm
    vm.kill()


def test_ssh_config_serves_rsync(debian_running: Vm) -> None:
    config, folder = written(debian_running), debian_running.world.home / "tree"
    (folder / "a b").mkdir(parents=True)
    (folder / "a b/file").write_text("content\n")
    words = ("rsync", "-a", "-e", f"ssh -F {config}")
    done = plain(debian_running, *words, f"{folder}/", "big:sent/")
    assert (done.returncode, done.stderr) == (0, "")
    done = plain(debian_running, *words, "big:sent/", f"{folder}-back/")
    assert (done.returncode, done.stderr) == (0, "")
    assert (debian_running.world.home / "tree-back/a b/file").read_text() == "content\n"


def ansible() -> Path:
    """Ansible in a venv of the tests' own, in the cache."""
    folder = Path(REAL_CACHE, "qvm/test-tools", f"{ANSIBLE.strip('*.=')}-{sys.version_info[1]}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            pip = [str(folder / "bin/pip"), "install", "-q", "--disable-pip-version-check", ANSIBLE]
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode and not os.environ.get("CI"):
                pytest.skip(f"{ANSIBLE} cannot be installed: {done.stderr.splitlines()[-1]}")
            assert done.returncode == 0, done.stderr
            (folder / "whole").touch()
    return folder / "bin/ansible"


@pytest.mark.long
def test_ssh_config_serves_ansible(debian_running: Vm) -> None:
    config = written(debian_running)
    program = ansible()
    short = {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(debian_running.world.runtime / "cp"), "ANSIBLE_NOCOLOR": "1"}
    done = plain(
        debian_running, program, "all", "-i", "big,", "-m", "ping",
        "--ssh-common-args", f"-F {config} -o ControlPersist=no", LC_ALL="C.UTF-8", **short,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"ping": "pong"' in done.stdout
