"""The built-in guest itself, booted by a plain QEMU command line: ssh, sftp, keys, agent, power."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.booted import Booted
from tests.support.world import World

pytestmark = pytest.mark.guest


class Qmp:
    """A QMP connection, just enough for a test."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("r")
        json.loads(self.file.readline())
        self.ask("qmp_capabilities")

    def ask(self, command: str) -> Any:
        self.socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        for line in self.file:
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                return answer.get("return", answer.get("error"))
        return None

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture(scope="module")
def booted(module_world: World, tiny: str) -> Iterator[Booted]:
    """A guest that the tests of this module share; they leave it as it was."""
    one = Booted(module_world, tiny, "shared")
    one.start()
    yield one
    one.kill()
    _forget_sockets(one)


@pytest.fixture
def fresh(world: World, tiny: str) -> Iterator[Callable[[str], Booted]]:
    """Makes guests of the test's own, off; one at a time is to run."""
    made: list[Booted] = []

    def make(name: str) -> Booted:
        made.append(Booted(world, tiny, name))
        return made[-1]

    yield make
    for one in made:
        one.kill()
        _forget_sockets(one)


def _forget_sockets(one: Booted) -> None:
    """A killed QEMU leaves its sockets, as it must."""
    for path in one.socket_of.values():
        path.unlink(missing_ok=True)


def test_boot_passes_the_keys_to_both_accounts(booted: Booted) -> None:
    assert booted.out("id -un; hostname; pwd") == "qvm\ndemo\n/home/qvm\n"
    assert booted.out("id -u; pwd", user="root") == "0\n/root\n"


def test_ssh_without_the_key_is_refused(booted: Booted, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    argv = [str(other) if word == str(booted.key) else word for word in booted.options()]
    for user in ("qvm", "root"):
        done = subprocess.run(["ssh", *argv, f"{user}@127.0.0.1", "true"], capture_output=True, text=True)
        assert done.returncode == 255
        assert "Permission denied (publickey)" in done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("sudo -n id -un", "root"),
        ("sudo -u qvm id -un", "qvm"),
        ("sudo -nu root -- sh -c 'echo \"$1 $#\"' x 'a  b' c", "a  b 2"),
        ("sudo A='1 2' sh -c 'echo $A'", "1 2"),
        ("sudo -n sh -c 'exit 7' || echo $?", "7"),
        ("echo in | sudo -n cat", "in"),
    ],
)
def test_sudo_needs_no_password_and_keeps_words(booted: Booted, command: str, says: str) -> None:
    assert booted.out(command) == f"{says}\n"


def test_sudo_unknown_option_is_refused(booted: Booted) -> None:
    assert booted.ssh("sudo -Z id").returncode == 1


def test_root_file_system_belongs_to_root_but_the_home(booted: Booted) -> None:
    foreign = booted.out("find / -xdev ! -user root -o -xdev ! -group root", user="root").split()
    assert sorted(foreign) == ["/home/qvm", "/home/qvm/.ssh", "/home/qvm/.ssh/authorized_keys"]
    modes = booted.out(
        "stat -c '%a %n' /bin/busybox /etc/shadow /home/qvm/.ssh /root /tmp /etc /bin/sudo", user="root"
    )
    assert [line.split()[0] for line in modes.splitlines()] == [
        "4755",
        "600",
        "700",
        "700",
        "1777",
        "755",
        "755",
    ]


@pytest.mark.parametrize("flags", [[], ["-O"]], ids=["sftp", "legacy"])
def test_scp_random_file_round_trip_is_the_same(booted: Booted, tmp_path: Path, flags: list[str]) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "there").write_bytes(data)
    target = "qvm@127.0.0.1:/home/qvm/copied file"
    scp = ["scp", "-q", *flags, *booted.options("-P")]
    if flags:
        target = target.replace(" ", "\\ ")  # the old protocol has the guest's shell read the name
    subprocess.run([*scp, tmp_path / "there", target], check=True, timeout=120)
    digest = booted.out("sha256sum < '/home/qvm/copied file'").split()[0]
    assert digest == hashlib.sha256(data).hexdigest()
    subprocess.run([*scp, target, tmp_path / "back"], check=True, timeout=120)
    assert (tmp_path / "back").read_bytes() == data
    booted.out("rm '/home/qvm/copied file'")


def test_sftp_batch_makes_renames_and_lists(booted: Booted, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "there").write_bytes(data)
    batch = f"mkdir d\nput {tmp_path}/there d/a\nrename d/a d/b\nget d/b {tmp_path}/back\n"
    batch += "ls -1 d\nrm d/b\nrmdir d\n"
    argv = ["sftp", "-b", "-", *booted.options("-P"), "qvm@127.0.0.1"]
    done = subprocess.run(argv, input=batch, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "d/b" in done.stdout
    assert (tmp_path / "back").read_bytes() == data


def test_plumbum_upload_and_download_are_the_same(booted: Booted, tmp_path: Path) -> None:
    from plumbum import SshMachine

    (tmp_path / "up").write_bytes(os.urandom(70_000))
    options = booted.options()[:-2]
    with SshMachine(
        "127.0.0.1", user="qvm", port=booted.port, ssh_opts=tuple(options), scp_opts=tuple(options)
    ) as guest:
        guest.upload(str(tmp_path / "up"), "/tmp/up")
        guest.download("/tmp/up", str(tmp_path / "down"))
        assert guest["wc"]["-c", "/tmp/up"]().split()[0] == "70000"
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


def test_guest_agent_answers_and_runs_a_program(booted: Booted) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.settimeout(30)
        agent.connect(str(booted.socket_of["ga"]))
        reader = agent.makefile("r")

        def ask(command: str, **arguments: object) -> Any:
            agent.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            return json.loads(reader.readline())["return"]

        assert ask("guest-sync", id=4711) == 4711
        assert ask("guest-ping") == {}
        assert ask("guest-get-osinfo")["id"] == "tiny"
        assert ask("guest-get-host-name") == {"host-name": "demo"}
        pid = ask("guest-exec", path="/bin/id", arg=["-u"], **{"capture-output": True})["pid"]
        deadline = time.monotonic() + 30
        while not (status := ask("guest-exec-status", pid=pid))["exited"]:
            assert time.monotonic() < deadline
        assert status["exitcode"] == 0
        assert status["out-data"] == "MAo="  # "0\n"
        reader.close()


def test_pty_session_is_a_login_shell_with_its_status(booted: Booted) -> None:
    argv = ["ssh", "-tt", *booted.options(), "qvm@127.0.0.1"]
    done = subprocess.run(argv, input="tty; exit 5\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 5
    assert "qvm@demo:~$ " in done.stdout
    assert re.search(r"^/dev/pts/\d+$", done.stdout, re.MULTILINE), done.stdout


def test_host_key_is_each_disk_s_own_and_survives_a_pulled_plug(fresh: Callable[[str], Booted]) -> None:
    one, two = fresh("one"), fresh("two")
    one.start()
    first = one.host_key()
    one.kill()  # at once: what a client has seen must be on the disk
    one.start(hostname=None)
    assert one.host_key() == first
    assert one.out("hostname") == "tiny\n"
    one.kill()
    two.start()
    assert two.host_key() != first
    two.kill()
    one.start(instance="a copy")  # the host says that it is another machine's now
    copy = one.host_key()
    assert copy != first
    one.kill()
    one.start(instance="a copy")
    assert one.host_key() == copy


def test_keys_of_another_boot_replace_only_the_earlier_ones(
    fresh: Callable[[str], Booted], tmp_path: Path
) -> None:
    one = fresh("one")
    one.start()
    mine = (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB added in the guest"
    )
    one.out(f"echo '{mine}' >> ~/.ssh/authorized_keys; sync")
    one.kill()
    old = one.key.with_suffix(".pub").read_text().strip()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "new"], check=True)
    new = (tmp_path / "new.pub").read_text().strip()
    one.key = tmp_path / "new"
    one.start(public_key=f"{new}\n\n{new} again")  # no newline at the end
    assert one.out("cat ~/.ssh/authorized_keys").splitlines() == [new, f"{new} again", mine]
    assert one.out("cat ~/.ssh/authorized_keys", user="root").splitlines() == [new, f"{new} again"]
    assert one.out("stat -c '%a %U' ~/.ssh ~/.ssh/authorized_keys") == "700 qvm\n600 qvm\n"
    assert old not in one.out("cat /etc/qvm.keys")


@pytest.mark.parametrize("way", ["button", "agent", "ssh"])
def test_power_every_way_off_is_clean(fresh: Callable[[str], Booted], way: str) -> None:
    one = fresh("one")
    one.start()
    one.ssh("until pidof acpid && pidof qemu-ga; do usleep 100000; done")  # ssh is up before them
    assert one.out("echo kept > note && cat note") == "kept\n"  # not synced: the way down must do it
    if way == "button":
        qmp = Qmp(one.socket_of["qmp"])
        assert qmp.ask("system_powerdown") == {}
        qmp.close()
    elif way == "agent":
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(str(one.socket_of["ga"]))
            agent.sendall(b'{"execute": "guest-shutdown"}\n')
            assert select.select([agent], [], [], 60)[0]
    else:
        assert one.ssh("sudo -n systemctl poweroff").returncode == 0
    assert one.wait() == 0
    assert "needs_recovery" not in _superblock(one)
    one.start()
    assert one.out("cat note") == "kept\n"


def _superblock(one: Booted) -> str:
    """What dumpe2fs says of the root file system of a guest that is off."""
    raw = one.world.home / "raw.img"
    subprocess.run(["qemu-img", "convert", "-O", "raw", one.overlay, raw], check=True)
    with raw.open("rb") as file:
        file.seek(446 + 16 + 8)
        start = int.from_bytes(file.read(4), "little") * 512
    part = one.world.home / "part.img"
    with raw.open("rb") as source, part.open("wb") as target:
        source.seek(start)
        while block := source.read(1 << 22):
            target.write(block)
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(
        ["dumpe2fs", "-h", part], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    raw.unlink()
    part.unlink()
    return done.stdout


def test_console_logs_in_without_a_password(fresh: Callable[[str], Booted]) -> None:
    one = fresh("one")
    one.socket_of["serial"] = one.world.runtime / "one.serial"
    one.start()
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(60)
        console.connect(str(one.socket_of["serial"]))
        console.sendall(b"\n")
        _expect(console, b"demo login: ")
        console.sendall(b"qvm\n")
        _expect(console, b"qvm@demo:~$ ")
        console.sendall(b"id -un; sudo -n id -un; stty -a | wc -l\n")
        _expect(console, b"qvm\r\nroot\r\n")


def _expect(console: socket.socket, words: bytes) -> None:
    """Read until `words` have come; a time-out of the socket says that they did not."""
    seen = b""
    while words not in seen:
        try:
            seen += console.recv(4096)
        except TimeoutError:
            pytest.fail(f"no {words!r} in {seen!r}")
