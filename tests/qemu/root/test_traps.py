"""Root runs every verb in another account's directory, full of traps: only that account can be harmed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.owner import Owner
from tests.support.world import DEADLINE_S, World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be lured")

VERBS = [
    "agent guest-ping", "allow", "archive", "archive --list", "archive --verify", "cmd info status",
    "config", "config X=1", "config --check .", "config --check DIR", "clone NEW", "clone NEW --linked",
    "console", "delete -y", "delete -y --now", "create NEW --image ./x-base.qcow2",
    "disk add more.qcow2 1M", "disk check", "disk check --repair", "disk commit", "disk list",
    "disk rebase disk0", "disk resize disk0 32M", "disk trim", "doctor", "doctor --fix", "dryrun", "env",
    "exec true", "exec --via serial true", "put .vmrc /tmp/", "get /etc/hosts got", "get /etc/hosts .qvm/",
    "sync .vmrc :x", "share list", "share add .:work --save", "share remove work", "freeze",
    "info", "init", "init -k", "ip", "kill", "list", "list --label x", "list -l",
    "logs", "logs qvm", "monitor", "move NEW", "pause", "qmp query-status", "reboot", "rename new", "renew",
    "restart", "restore latest", "restore latest NEW", "resume", "run -version", "serial", "set-time",
    "sh -c status", "sh -c 'print(status())'", "snapshot delete s", "snapshot diff s", "snapshot list",
    "forward add 8080:80 --save", "forward list", "forward remove 8080", "ssh-config", "ssh-config --connect",
    "ssh-config --install -y", "ssh --copy-id", "ssh -L 8080:x:80 true",
    "snapshot restore s", "snapshot save t", "snapshot show s", "snapshot verify", "ssh true",
    "start --no-wait", "status", "stderr", "stdout", "stop --force", "stop --savevm z", "suspend", "thaw",
    "wakeup",
]  # fmt: skip
NAMES = [
    "uuid", "running", "qemu.pid", "work.lock", "wait.lock", "freeze.lock", "snapshots.json",
    "snapshot.unfinished", "archive.unfinished", "disk.adding", "settled", "known_hosts", "log",
    "log/qvm.log", "log/serial.log", "log/qemu.stderr", "vmrc.rejected",
]  # fmt: skip
"""What qvm keeps in `.qvm`."""

FOREIGN = """
import fcntl, os, sys, time
fd = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT, 0o644)
fcntl.lockf(fd, fcntl.LOCK_EX)
os.pwrite(fd, b"%d\\n" % os.getpid(), 0)
print("locked", flush=True)
time.sleep(3600)
"""
"""A process that looks like another account's QEMU: it holds a lock on its pid file."""


class Outside:
    """Files of root's and a process of a third account, which must stay as they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o755)
        (folder / "secret").write_text("root's own words\n")
        (folder / "secret").chmod(0o600)
        (folder / "id").write_text("a key\n")
        (folder / "id").chmod(0o600)
        (folder / "x.part4999999").write_text("a backup\n")
        (folder / "dir").mkdir()
        (folder / "dir/file").write_text("x\n")
        for name in ("machine/.qvm/log", "machine/.qvm/tpm"):
            (folder / name).mkdir(parents=True)
        (folder / "machine/.vmrc").write_text("VM_MACHINE_NAME=r\nVM_MACHINE_ID=40\nVM_MACHINE_OWNER=root\n")
        (folder / "machine/.qvm/uuid").write_text("6f6a5ce8-8c02-4f39-9d2e-0a4fd3b1c2a1\n")
        for name in ("base", "backing"):
            disk = folder / f"machine/r-{name}.qcow2"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
        (folder / "third").mkdir()
        os.chown(folder / "third", 1, 1)
        argv = [sys.executable, "-I", "-S", "-c", FOREIGN, "-pidfile", str(folder / "third/qemu.pid")]
        argv[0] = "/usr/bin/python3"
        self.third = subprocess.Popen(argv, user=1, group=1, extra_groups=[], stdout=subprocess.PIPE, env={})
        assert self.third.stdout is not None
        self.third.stdout.readline()
        self.before = self.state()

    def state(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.folder.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = (status.st_uid, status.st_gid, status.st_mode, status.st_size, content)
        return found

    def end(self) -> None:
        self.third.kill()
        self.third.communicate()


@pytest.fixture
def outside() -> Iterator[Outside]:
    folder = Path(tempfile.mkdtemp(prefix="qvmt-outside-"))
    folder.chmod(0o755)
    made = Outside(folder / "outside")
    yield made
    made.end()
    shutil.rmtree(folder)


def set_traps(folder: Path, victim: Path, rest: random.Random) -> list[str]:
    """Fill a machine's directory; what was laid, in words."""
    said = []
    state = folder / ".qvm"

    def put(path: Path) -> None:
        how = rest.choice(["link", "hang", "folder", "fifo", "zero", "giant", "junk"])
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if how in ("link", "hang"):
            there = ["secret", "dir", "dir/file", "third/qemu.pid", "machine", "machine/.qvm/uuid", "id"]
            path.symlink_to(victim / (rest.choice(there) if how == "link" else f"new-{path.name}"))
        elif how == "folder":
            path.mkdir()
        elif how == "fifo":
            os.mkfifo(path)
        elif how == "zero":
            path.symlink_to("/dev/zero")
        elif how == "giant":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        else:
            path.write_bytes(rest.choice([b"\xff" * 999, b"{" * 9999, b"[]", b'{"what": 1}', b"null"]))
        said.append(f"{path.relative_to(folder)}={how}")

    for name in rest.sample(NAMES, rest.choice([1, 1, 2, 4])):
        if (name.startswith("log/") and not (state / "log").is_dir()) or (state / "log").is_symlink():
            continue  # the folder itself is a trap already
        put(state / name)
    if rest.random() < 0.2:
        put(folder / rest.choice(["x-base.qcow2", "x-backing.qcow2", ".vmrc", ".qvmrc.xsh"]))
    if rest.random() < 0.3:
        note = {
            "archive.unfinished": '{"what": "restore", "since": 0, "pid": 1, "is_ready": true, '
            '"swap": [["%s", "%s"]]}',
            "disk.adding": "%s",
            "snapshot.unfinished": '{"what": "commit", "disks": [["disk0", "%s"]], "name": "disk0"}',
        }
        name = rest.choice(list(note))
        target = state / name
        if not target.exists() and not target.is_symlink():
            value = os.path.relpath(victim / "secret", folder)
            one = str(victim / "x.part4999999")
            target.write_text(note[name] % ((f"{value}.restore-new", value) if "swap" in note[name] else one))
            said.append(f"journal {name}")
    vmrc = folder / ".vmrc"
    if vmrc.is_file() and not vmrc.is_symlink():
        lines = [
            f"VM_LOG={victim}/log", f"VM_ARCHIVE={victim}/dir", f"VM_SSH_IDENTITY={victim}/id",
            f"VM_INCLUDE={victim}/secret", f"VM_DISKS={victim}/machine/r-base.qcow2", "VM_PRE_START=./hook",
            "VM_MACHINE_OWNER=root", f"VM_SNAPSHOT_SEEDFILENAME={victim}/secret",
        ]  # fmt: skip
        line = rest.choice(lines)
        with vmrc.open("a") as file:
            file.write(line + "\n")
        said.append(line.partition("=")[0])
    return said


def make(folder: Path, whose: Owner) -> None:
    """A plain machine of the account's."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / ".qvm/log").mkdir(parents=True)
    (folder / ".vmrc").write_text(
        f"VM_MACHINE_NAME=x\nVM_MACHINE_ID=41\nVM_MACHINE_OWNER={whose.name}\nVM_NET_MODEL=none\n"
        "VM_MACHINE_MEM=32\nVM_SHUTDOWN_TIMEOUT=2\n"
    )
    (folder / "hook").write_text("#!/bin/sh\nid -u > ran\nexit 1\n")
    (folder / "hook").chmod(0o755)
    images = [["x-base.qcow2", "1M"], ["-b", "x-base.qcow2", "-F", "qcow2", "x-backing.qcow2"]]
    for words in images:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], cwd=folder, check=True)


def give_all(folder: Path, whose: Owner) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, whose.row.pw_uid, whose.row.pw_gid, follow_symlinks=False)


def lure(world: World, outside: Outside, whose: Owner, home: Path, seed: int) -> None:
    """Root runs one verb in one directory of traps; nothing outside it may change, nothing may hang."""
    rest = random.Random(seed)
    folder = home / "m"
    make(folder, whose)
    said = set_traps(folder, outside.folder, rest)
    give_all(folder, whose)
    words = rest.choice(VERBS)
    words = words.replace("NEW", str(home / f"new{seed}")).replace("DIR", str(home))
    argv = [each.strip("'") for each in __import__("shlex").split(words)]
    result = world.run(*argv, cwd=folder, timeout=400)
    output = f"seed {seed}: {said}\n{result}"
    assert "Traceback" not in result.err + result.out, output
    assert "bug in qvm" not in result.err, output
    assert outside.third.poll() is None, output
    assert outside.state() == outside.before, output
    ran = folder / "ran"
    assert not ran.exists() or ran.read_text() != "0\n", output
    assert not [
        path for path in home.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20
        and path.lstat().st_uid != 0 and b"root's own words" in path.read_bytes()
    ], output  # fmt: skip
    assert not [path for path in home.rglob("*") if path.lstat().st_uid == 0], output
    for pid, line in world.processes().items():
        if "qemu-system" in line:
            assert os.stat(f"/proc/{pid}").st_uid == whose.row.pw_uid, output
            os.kill(pid, signal.SIGKILL)


def test_every_verb_of_root_among_traps(outside: Outside, world: World, owner: Owner) -> None:
    home = Path(owner.row.pw_dir)
    home.chmod(0o755)
    for seed in range(30):
        lure(world, outside, owner, home, seed)


@pytest.mark.long
def test_every_verb_of_root_among_traps_long(
    outside: Outside,
    world: World,
    owner: Owner,
) -> None:
    home = Path(owner.row.pw_dir)
    home.chmod(0o755)
    for seed in [*range(30, 60), *range(1000, 1600)]:
        lure(world, outside, owner, home, seed)


SWAPPER = """
import os, sys
folder, target = sys.argv[1:]
print("swapping", flush=True)
while True:
    os.rename(folder, folder + ".real")
    os.symlink(target, folder)
    os.unlink(folder)
    os.rename(folder + ".real", folder)
"""


@pytest.mark.parametrize(
    "words",
    [
        *("start --no-wait", "doctor --fix", "archive"),
        *(pytest.param(words, marks=pytest.mark.long) for words in ("stop", "snapshot save s", "init -k")),
    ],
)
def test_folder_above_is_swapped_while_root_works(
    outside: Outside,
    world: World,
    owner: Owner,
    words: str,
) -> None:
    """Behind one name stand in turn the owner's machine and one of root's."""
    home = Path(owner.row.pw_dir)
    home.chmod(0o755)
    make(home / "p/machine", owner)
    give_all(home / "p", owner)
    argv = ["/usr/bin/python3", "-I", "-c", SWAPPER, str(home / "p"), str(outside.folder)]
    with subprocess.Popen(
        argv, user=owner.row.pw_uid, group=owner.row.pw_gid, extra_groups=[], stdout=subprocess.PIPE, env={}
    ) as swapper:
        try:
            assert swapper.stdout is not None
            swapper.stdout.readline()
            for _ in range(8):
                result = world.run("-C", str(home / "p/machine"), *words.split(), timeout=DEADLINE_S)
                assert outside.state() == outside.before, str(result)
        finally:
            swapper.kill()
    for pid, line in world.processes().items():
        if "qemu-system" in line:
            assert os.stat(f"/proc/{pid}").st_uid == owner.row.pw_uid
            os.kill(pid, signal.SIGKILL)
