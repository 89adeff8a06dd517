"""The built-in guest itself, booted by a plain QEMU command line: ssh, sftp, keys, agent, power."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.booted import HOST_KEY, Booted
from tests.support.root_file_system import files, look, root_file_system
from tests.support.world import DEADLINE_S, World

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def saved(module_world: World, tiny: str) -> Booted:
    """A guest that is off, with the saved state of its first boot in its disk."""
    one = Booted(module_world, tiny, "saved")
    one.save()
    return one


@pytest.fixture(scope="module")
def booted(saved: Booted) -> Iterator[Booted]:
    """A guest that the tests of this module share; they leave it as it was."""
    one = Booted(saved.world, saved.image, "shared")
    one.load(saved)
    yield one
    one.kill()


@pytest.fixture
def fresh(world: World, tiny: str) -> Iterator[Booted]:
    """A guest of the test's own, off."""
    one = Booted(world, tiny, "one")
    yield one
    one.kill()


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


def test_clock_is_not_counted_by_the_tsc(booted: Booted) -> None:
    """Whose frequency a kernel that boots on a busy host measures wrong by several times."""
    source = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    assert booted.out(f"cat {source}") == "acpi_pm\n"


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
    subprocess.run([*scp, tmp_path / "there", target], check=True, timeout=DEADLINE_S)
    digest = booted.out("sha256sum < '/home/qvm/copied file'").split()[0]
    assert digest == hashlib.sha256(data).hexdigest()
    subprocess.run([*scp, target, tmp_path / "back"], check=True, timeout=DEADLINE_S)
    assert (tmp_path / "back").read_bytes() == data
    booted.out("rm '/home/qvm/copied file'")


def test_sftp_batch_makes_renames_and_lists(booted: Booted, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "there").write_bytes(data)
    batch = f"mkdir d\nput {tmp_path}/there d/a\nrename d/a d/b\nget d/b {tmp_path}/back\n"
    batch += "ls -1 d\nrm d/b\nrmdir d\n"
    argv = ["sftp", "-b", "-", *booted.options("-P"), "qvm@127.0.0.1"]
    done = subprocess.run(argv, input=batch, capture_output=True, text=True, timeout=DEADLINE_S)
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
        agent.settimeout(DEADLINE_S)
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
        deadline = time.monotonic() + DEADLINE_S
        while not (status := ask("guest-exec-status", pid=pid))["exited"]:
            assert time.monotonic() < deadline
        assert status["exitcode"] == 0
        assert status["out-data"] == "MAo="  # "0\n"
        reader.close()


def test_pty_session_is_a_login_shell_with_its_status(booted: Booted) -> None:
    argv = ["ssh", "-tt", *booted.options(), "qvm@127.0.0.1"]
    done = subprocess.run(argv, input="tty; exit 5\n", capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 5
    assert "qvm@demo:~$ " in done.stdout
    assert re.search(r"^/dev/pts/\d+$", done.stdout, re.MULTILINE), done.stdout


MINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB added in the guest"


def test_host_key_and_keys_of_users_from_boot_to_boot(saved: Booted, fresh: Booted, tmp_path: Path) -> None:
    """The host key is each disk's own; keys of another boot replace only the earlier ones."""
    one, first = fresh, saved.first_host_key
    with root_file_system(saved.image, one.world.home) as image:
        assert HOST_KEY not in files(image)  # it is made at the first boot
    shutil.copyfile(saved.pulled, one.overlay)  # what a client has seen must be on the disk
    one.start(hostname=None, is_direct=True)
    assert one.host_key() == first
    assert one.out("hostname") == "tiny\n"
    one.out(f"echo '{MINE}' >> ~/.ssh/authorized_keys; sync")
    one.kill()
    old = one.key.with_suffix(".pub").read_text().strip()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "new"], check=True)
    new = (tmp_path / "new.pub").read_text().strip()
    one.key = tmp_path / "new"
    given = f"{new}\n\n{new} again"  # no newline at the end
    # the host says that it is another machine's now
    one.start(instance="a copy", public_key=given, is_direct=True)
    copy = one.host_key()
    assert copy != first
    assert one.out("cat ~/.ssh/authorized_keys").splitlines() == [new, f"{new} again", MINE]
    assert one.out("cat ~/.ssh/authorized_keys", user="root").splitlines() == [new, f"{new} again"]
    assert one.out("stat -c '%a %U' ~/.ssh ~/.ssh/authorized_keys") == "700 qvm\n600 qvm\n"
    assert old not in one.out("cat /etc/qvm.keys")
    one.kill()
    one.start(instance="a copy", public_key=given, is_direct=True)
    assert one.host_key() == copy
    assert one.out("cat ~/.ssh/authorized_keys").splitlines() == [new, f"{new} again", MINE]


def _press_button(one: Booted) -> None:
    assert one.ask("system_powerdown") == {}


def _ask_agent(one: Booted) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.connect(str(one.socket_of["ga"]))
        agent.sendall(b'{"execute": "guest-shutdown"}\n')
        assert select.select([agent], [], [], 60)[0]


def _ask_ssh(one: Booted) -> None:
    assert one.ssh("sudo -n systemctl poweroff").returncode == 0


@pytest.mark.parametrize("power_off", [_press_button, _ask_agent, _ask_ssh], ids=["button", "agent", "ssh"])
def test_power_every_way_off_is_clean(saved: Booted, power_off: Callable[[Booted], None]) -> None:
    one = Booted(saved.world, saved.image, "off")
    one.overlay.unlink(missing_ok=True)
    try:
        one.load(saved)
        assert one.out("echo kept > note && cat note") == "kept\n"  # not synced: the way down must do it
        power_off(one)
        assert one.wait() == 0
    finally:
        one.kill()
    with root_file_system(one.overlay, one.world.home) as image:
        assert "Filesystem features:" in (superblock := look("dumpe2fs", "-h", image))
        assert "needs_recovery" not in superblock
        assert look("debugfs", "-R", "cat /home/qvm/note", image) == "kept\n"


def test_console_logs_in_without_a_password(booted: Booted) -> None:
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(DEADLINE_S)
        console.connect(str(booted.socket_of["serial"]))
        console.sendall(b"\n")
        _expect(console, b"demo login: ")
        console.sendall(b"qvm\n")
        _expect(console, b"qvm@demo:~$ ")
        console.sendall(b"id -un; sudo -n id -un; stty -a | wc -l; exit\n")
        _expect(console, b"qvm\r\nroot\r\n")
        _expect(console, b"demo login: ")


def _expect(console: socket.socket, words: bytes) -> None:
    """Read until `words` have come; a time-out of the socket says that they did not."""
    seen = b""
    while words not in seen:
        try:
            seen += console.recv(4096)
        except TimeoutError:
            pytest.fail(f"no {words!r} in {seen!r}")
