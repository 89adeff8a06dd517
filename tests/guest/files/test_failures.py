"""`put` and `get` when something dies, stops or is full in the middle: an error, and no half file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.odd_names import seen
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, Vm, wait_until

pytestmark = pytest.mark.guest

BIG_BYTES = 32 << 20
SERVER = "dropbear -s -r /etc/dropbear/dropbear_ed25519_host_key -W 1048576"
AGENT = "/usr/sbin/qemu-ga -d -m virtio-serial -p /dev/vport*p1 -f /run/qga.pid -t /run"
FILL = "dd if=/dev/zero of=/tmp/fill bs=1M count=$(($(df -m /tmp | tail -1 | awk '{print $4}') - 2)) 2>&1"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes a guest some seconds."""
    path = tmp_path_factory.mktemp("big") / "big"
    path.write_bytes(os.urandom(1 << 20) * (BIG_BYTES >> 20))
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that takes a guest some seconds too."""
    top = tmp_path_factory.mktemp("many") / "many"
    top.mkdir()
    for at in range(8):
        (top / f"f{at}").write_bytes(os.urandom(1 << 20) * 4)
    return top


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "running" in request.fixturenames:
        vm: Vm = request.getfixturevalue("running")
        if vm.qvm("status", "-s").status == 0:
            asked(vm, "rm -rf /tmp/* /tmp/.[!.]*")


def asked(vm: Vm, line: str) -> str:
    return vm.ok("exec", "--via", "agent", "--shell", line).out


@contextlib.contextmanager
def begun(vm: Vm, is_moving: Callable[[], bool], *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A copy in its middle."""
    with vm.world.popen(*words, cwd=vm.directory, start_new_session=True) as child:
        try:
            wait_until(lambda: is_moving() or child.poll() is not None)
            assert child.poll() is None, child.communicate()
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def is_arriving(vm: Vm) -> Callable[[], bool]:
    """True once something of a copy is in the guest's /tmp."""
    return lambda: bool(asked(vm, "find /tmp -name '.*.part-*' -size +64k -o -path '*/.put.part-*/*'"))


def is_coming(folder: Path) -> Callable[[], bool]:
    """True once something of a copy is in a folder here."""
    return lambda: any(
        path.is_file() and path.stat().st_size for path in folder.rglob("*") if ".part-" in str(path)
    )


def ended(child: subprocess.Popen[str], status: int, said: str) -> str:
    out, err = child.communicate(timeout=DEADLINE_S)
    assert (child.returncode, said in err) == (status, True), (child.returncode, out, err)
    assert "Traceback" not in err
    return err


def end_sessions(vm: Vm) -> None:
    """The guest's ssh server ends with all its connections, and a new one begins."""
    asked(vm, "killall dropbear; while pidof dropbear; do usleep 50000; done; "
          f"setsid {SERVER} >/dev/null 2>&1 </dev/null &")  # fmt: skip
    vm.answering()


@pytest.mark.parametrize("way", ["ssh", "sftp"])
def test_put_whose_ssh_server_dies_says_so_and_resumes(running: Vm, big: Path, way: str) -> None:
    with begun(running, is_arriving(running), "put", "--via", way, big, "/tmp/big") as child:
        end_sessions(running)
        err = ended(child, 125, "the connection to the guest was lost")
    assert "`qvm put --resume` continues it" in err
    assert "big" not in asked(running, "ls /tmp").split()
    done = json.loads(running.ok("--json", "put", "--via", way, "--resume", big, "/tmp/big").out)
    assert 0 < done["resumed_bytes"] < BIG_BYTES
    wanted = hashlib.sha256(big.read_bytes()).hexdigest()
    assert asked(running, "sha256sum </tmp/big").split()[0] == wanted
    assert asked(running, "ls -A /tmp") == "big\n"


def test_get_whose_ssh_server_dies_says_so_and_resumes(running: Vm, big: Path, tmp_path: Path) -> None:
    running.ok("put", big, "/tmp/big")
    with begun(running, is_coming(tmp_path), "get", "/tmp/big", tmp_path) as child:
        end_sessions(running)
        err = ended(child, 125, "the connection to the guest was lost")
    assert "`qvm get --resume` continues it" in err
    assert not (tmp_path / "big").exists()
    done = json.loads(running.ok("--json", "get", "--resume", "/tmp/big", tmp_path).out)
    assert 0 < done["resumed_bytes"] < BIG_BYTES
    assert (tmp_path / "big").read_bytes() == big.read_bytes()
    assert os.listdir(tmp_path) == ["big"]


def test_put_and_get_tree_whose_ssh_server_dies_leave_nothing(
    running: Vm, many: Path, tmp_path: Path
) -> None:
    with begun(running, is_arriving(running), "put", many, "/tmp") as child:
        end_sessions(running)
        ended(child, 125, "the connection to the guest was lost")
    assert "many" not in asked(running, "ls /tmp").split()
    running.ok("put", many, "/tmp/")
    with begun(running, is_coming(tmp_path), "get", "/tmp/many", tmp_path) as child:
        end_sessions(running)
        ended(child, 125, "the connection to the guest was lost")
    assert os.listdir(tmp_path) == []
    running.ok("get", "/tmp/many", tmp_path)
    assert seen(tmp_path / "many") == seen(many)


def test_put_interrupted_by_ctrl_c_ends_at_once_and_resumes(running: Vm, big: Path) -> None:
    with begun(running, is_arriving(running), "put", big, "/tmp/big") as child:
        os.killpg(child.pid, signal.SIGINT)
        ended(child, 130, "")
    assert "big" not in asked(running, "ls /tmp").split()
    running.ok("put", "--resume", big, "/tmp/big")
    assert asked(running, "stat -c %s /tmp/big") == f"{BIG_BYTES}\n"


def test_second_put_of_a_file_at_once_is_refused(running: Vm, big: Path) -> None:
    with begun(running, is_arriving(running), "put", big, "/tmp/big") as child:
        os.kill(child.pid, signal.SIGSTOP)  # else it may have ended by then
        result = running.qvm("put", big, "/tmp/big")
        assert (result.status, "another process copies the same file" in result.err) == (1, True), str(result)
        os.kill(child.pid, signal.SIGCONT)
        ended(child, 0, "")
    wanted = hashlib.sha256(big.read_bytes()).hexdigest()
    assert asked(running, "sha256sum </tmp/big").split()[0] == wanted


def test_put_killed_resumes_by_less_than_all(running: Vm, big: Path) -> None:
    with begun(running, is_arriving(running), "put", big, "/tmp/big") as child:
        child.kill()
    assert "big" not in asked(running, "ls /tmp").split()
    done = json.loads(running.ok("--json", "put", "--resume", big, "/tmp/big").out)
    assert 0 < done["resumed_bytes"] < BIG_BYTES


@pytest.mark.parametrize("way", ["ssh", "sftp", "agent"])
def test_put_and_get_of_a_paused_guest_end_in_time(running: Vm, big: Path, way: str) -> None:
    words = ["put", "--via", way, "--timeout", "20", str(big), "/tmp/big"]
    moving = (
        is_arriving(running) if way != "agent" else lambda: bool(asked(running, "find /tmp -name stream"))
    )
    with begun(running, moving, *words) as child:
        running.ok("pause")
        try:
            ended(child, 124, "")
            result = running.qvm("put", big, "/tmp/big")
            assert (result.status, "paused" in result.err) == (3, True), str(result)
        finally:
            running.ok("resume")
    running.answering()
    assert "big" not in asked(running, "ls /tmp").split()
    running.ok("ssh", "true")


@pytest.mark.parametrize("way", ["ssh", "sftp", "agent"])
def test_put_to_a_full_disk_says_so_and_leaves_nothing(running: Vm, big: Path, many: Path, way: str) -> None:
    asked(running, FILL)
    for source in (big, many):
        result = running.qvm("put", "--via", way, source, "/tmp/")
        assert result.status in (1, 125), str(result)
        assert "space" in result.err or "shows whether a disk is full" in result.err, str(result)
        assert asked(running, "ls -A /tmp") == "fill\n"


@pytest.mark.parametrize("way", ["ssh", "sftp"])
def test_get_to_a_full_disk_says_so_and_leaves_nothing(
    running: Vm, big: Path, many: Path, tmp_path: Path, way: str
) -> None:
    running.ok("put", big, many, "/tmp/")
    small = tmp_path / "small"
    with small_disk(small, 4):
        before = sorted(os.listdir(small))
        for name in ("big", "many"):
            result = running.qvm("get", "--via", way, f"/tmp/{name}", f"{small}/")
            assert result.status == 1, str(result)
            assert "No space left on device" in result.err
            assert sorted(os.listdir(small)) == before


def test_put_by_an_agent_that_is_stopped_says_so(running: Vm, many: Path) -> None:
    running.ok("ssh", "sudo killall -STOP qemu-ga")
    try:
        result = running.qvm("put", "--via", "agent", many, "/tmp/")
        assert (result.status, "agent: no answer" in result.err) == (125, True), str(result)
    finally:
        running.ok("ssh", "sudo killall -CONT qemu-ga")
    running.wait_for_agent()


def test_put_whose_agent_dies_says_so(running: Vm, big: Path) -> None:
    moving = lambda: bool(running.ok("ssh", "sudo find /tmp -name stream").out)  # noqa: E731
    with begun(running, moving, "put", "--via", "agent", "--timeout", "30", big, "/tmp/big") as child:
        running.ok("ssh", "sudo killall qemu-ga; while pidof qemu-ga; do usleep 50000; done")
        child.wait(DEADLINE_S)
        assert child.returncode in (124, 125), child.communicate()
    running.ok("ssh", f"pidof qemu-ga || sudo sh -c '{AGENT}'")
    running.wait_for_agent()
    assert "big" not in asked(running, "ls /tmp").split()


def test_put_and_get_when_qemu_is_killed_say_so(running: Vm, big: Path, many: Path, tmp_path: Path) -> None:
    """The last one: the guest is gone. What was put before is there, in full."""
    running.ok("put", big, "/tmp/big")
    running.ok("put", many, "kept")
    running.ok("put", "--via", "sftp", big, "by-sftp")
    running.ok("put", big, "by-ssh")
    with begun(running, is_coming(tmp_path), "get", "/tmp/big", tmp_path) as child:
        os.kill(running.pid, signal.SIGKILL)
        ended(child, 125, "the connection to the guest was lost")
    assert not (tmp_path / "big").exists()
    for words in (
        ["put", str(big), "/tmp/"],
        ["get", "/tmp/big", str(tmp_path)],
        ["sync", str(big), ":/tmp/"],
    ):
        result = running.qvm(*words)
        assert (result.status, "it is " in result.err) == (3, True), str(result)
    running.ok("start")  # it clears away what the dead one left
    sums = running.ok("ssh", "cat by-ssh | sha256sum; cat by-sftp | sha256sum; cat kept/f* | sha256sum").out
    whole = hashlib.sha256(big.read_bytes()).hexdigest()
    tree = hashlib.sha256(b"".join((many / f"f{at}").read_bytes() for at in range(8))).hexdigest()
    assert [row.split()[0] for row in sums.splitlines()] == [whole, whole, tree]
