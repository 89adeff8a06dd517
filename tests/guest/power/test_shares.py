"""Shares in a real guest: files of any name, snapshots, and devices that come and go."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import generic
from tests.support.world import SAVED, Vm, World, copy_of, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="QEMU's own virtiofsd runs only as root")

KINDS = ("virtiofs", "9p")
TAGS = {"virtiofs": "fs", "9p": "nine"}
ALL = {"fs", "nine", "fixed"}
NAMED = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name)
ODD = [
    b" ",
    b"a b",
    b"'",
    b'"',
    b"\n",
    b"-rf",
    b"--",
    b"*",
    b"$(x)",
    b"\\",
    b"x" * 255,
    "é".encode(),
    b"\xff\xfe",
    b"~",
]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directories of the host, by the kind of share."""
    top = tmp_path_factory.mktemp("host")
    for name in (*KINDS, "fixed"):
        (top / name).mkdir()
    (top / "fixed/file").write_text("of the host\n")
    return top


@pytest.fixture(scope="module")
def vm(module_world: World, host: Path) -> Iterator[Vm]:
    """A guest with 9p and virtiofs, running; tests leave its shares mounted."""
    made = generic.create(module_world)
    lines = [f"{host / kind}:{TAGS[kind]}:{kind}:mount=/mnt/{kind} dir" for kind in KINDS]
    made.set(VM_SHARE="\n".join([*lines, f"{host}/fixed:fixed:ro:virtiofs:mount=/mnt/fixed"]))
    report = json.loads(made.ok("--json", "start").out)
    assert {each["tag"]: each["problem"] for each in report["shares"]} == dict.fromkeys(ALL, "")
    yield made
    made.kill()


def mounted(vm: Vm) -> set[str]:
    lines = vm.ok("exec", "--", "cat", "/proc/mounts").out.splitlines()
    return {line.split()[0] for line in lines if line.split()[2] in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_share_files_of_any_name_both_ways(vm: Vm, host: Path, kind: str) -> None:
    folder = host / kind

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(NAMED, max_size=120, unique=True))
    def check(names: list[bytes]) -> None:
        given, copied = f"in-{uuid.uuid4()}", f"out-{uuid.uuid4()}"  # the guest remembers names for a second
        (folder / given).mkdir()
        written = {each: each[::-1] for each in (*ODD, *names) if each not in (b".", b"..")}
        for name, data in written.items():
            with open(os.fsencode(folder / given) + b"/" + name, "wb") as file:
                file.write(data)
        vm.ok(
            "exec",
            "--user",
            "root",
            "--",
            "cp",
            "-a",
            f"/mnt/{kind} dir/{given}",
            f"/mnt/{kind} dir/{copied}",
        )
        assert read(folder / copied) == written

    check()


def read(folder: Path) -> dict[bytes, bytes]:
    found = {}
    for name in os.listdir(os.fsencode(folder)):
        with open(os.fsencode(folder) + b"/" + name, "rb") as file:
            found[name] = file.read()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_share_keeps_modes_links_and_sparse_files(vm: Vm, host: Path, kind: str) -> None:
    line = (
        f"cd '/mnt/{kind} dir' && mkdir kept && cd kept && echo x >plain && chmod 640 plain && "
        "ln -s plain link && ln plain hard && truncate -s 1G sparse && mkdir -m 1777 folder"
    )
    vm.ok("exec", "--user", "root", "--shell", line)
    kept = host / kind / "kept"
    assert (kept / "plain").stat().st_mode & 0o7777 == 0o640
    assert os.readlink(kept / "link") == "plain"
    assert (kept / "hard").stat().st_ino == (kept / "plain").stat().st_ino
    assert (kept / "folder").stat().st_mode & 0o7777 == 0o1777
    assert ((kept / "sparse").stat().st_size, (kept / "sparse").stat().st_blocks < 4096) == (1 << 30, True)


def test_read_only_share_is_held_by_the_host(vm: Vm, host: Path) -> None:
    again = "umount /mnt/fixed; mount -t virtiofs -o rw fixed /mnt/fixed"
    line = f"{again}; echo x >/mnt/fixed/file; cat /mnt/fixed/file"
    done = vm.qvm("exec", "--user", "root", "--shell", line)
    assert ("Read-only file system" in done.err, done.out) == (True, "of the host\n"), str(done)
    assert (host / "fixed/file").read_text() == "of the host\n"


def test_snapshot_names_the_shares_and_puts_them_aside(vm: Vm) -> None:
    refused = vm.qvm("snapshot", "save", "one")
    assert (refused.status, "the 9p share nine" in refused.err) == (3, True), str(refused)
    assert "virtiofs shares fixed, fs" in refused.err
    vm.ok("snapshot", "save", "--unmount-shares", "one")
    assert mounted(vm) == ALL
    vm.ok("snapshot", "restore", "one")
    assert mounted(vm) == ALL
    failed = vm.qvm("snapshot", "save", "--unmount-shares", "one")
    assert (failed.status, "already exists" in failed.err) == (3, True), str(failed)
    assert mounted(vm) == ALL
    vm.ok("snapshot", "delete", "one")


def test_share_in_use_is_not_unmounted(vm: Vm) -> None:
    vm.ok(
        "exec",
        "--user",
        "root",
        "--shell",
        "cd '/mnt/9p dir' && (sleep 1000 >/dev/null 2>&1 & echo $! >/tmp/pid)",
    )
    done = vm.qvm("snapshot", "save", "--unmount-shares", "one")
    assert (done.status, "cannot unmount the share nine" in done.err) == (3, True), str(done)
    assert mounted(vm) == ALL
    assert vm.qvm("share", "remove", "nine").status == 3
    vm.ok("exec", "--user", "root", "--shell", "kill $(cat /tmp/pid)")


def test_share_removed_and_added_again(vm: Vm, host: Path) -> None:
    before = len(vm.world.pids("virtiofsd --fd"))
    for tag in TAGS.values():
        vm.ok("share", "remove", tag)
        assert tag not in mounted(vm)
        assert vm.ok("share", "remove", tag).out.endswith("is not attached\n")
        vm.ok("share", "add", tag)
        assert tag in mounted(vm)
    other = vm.qvm("share", "add", f"{host}/fixed:twin:virtiofs:mount=/mnt/fixed")
    assert (other.status, "the share fixed is mounted at /mnt/fixed already" in other.err) == (2, True)
    (host / "new").mkdir(exist_ok=True)
    (host / "new/x y").touch()
    vm.ok("share", "add", f"{host}/new:new:virtiofs:mount=/mnt/new")
    assert vm.ok("exec", "--", "ls", "/mnt/new").out == "x y\n"
    vm.ok("share", "remove", "new")
    wait_until(lambda: len(vm.world.pids("virtiofsd --fd")) == before)


def test_savevm_interrupted_puts_shares_back(vm: Vm) -> None:
    with vm.world.popen("-v", "stop", "--savevm", "two", "--unmount-shares", cwd=vm.directory) as stopping:
        assert stopping.stderr is not None
        for line in stopping.stderr:
            if "unmounting" in line:
                stopping.send_signal(signal.SIGINT)
                break
        stopping.stderr.read()
    if "running" in vm.qvm("status").out:
        assert mounted(vm) == ALL
    else:  # it was quicker
        vm.ok("start", "--loadvm", "two")


def test_savevm_and_loadvm_bring_shares_back(vm: Vm) -> None:
    assert vm.qvm("stop", "--savevm", "three").status == 3
    vm.ok("stop", "--savevm", "three", "--unmount-shares")
    wait_until(lambda: not vm.world.pids("virtiofsd"))
    vm.ok("start", "--loadvm", "three")
    assert mounted(vm) == ALL
    vm.ok("reboot")
    assert mounted(vm) == ALL


def test_suspend_that_fails_names_the_virtiofs_share(vm: Vm) -> None:
    done = vm.qvm("suspend", "--timeout", "3")
    assert (done.status, "`qvm share remove f" in done.err) == (124, True), str(done)


def test_older_state_gets_shares_and_a_missing_kind_is_named(
    world: World, saved: Path, tmp_path: Path
) -> None:
    """The kernel of the built-in guest has virtiofs, and no 9p; the state is older than the shares."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/hello").touch()
    vm = copy_of(world, saved)
    vm.set(VM_SHARE="\n".join(f"{tmp_path}/folder:{TAGS[kind]}:{kind}:mount=/mnt/{kind}" for kind in KINDS))
    try:
        done = vm.ok("start", "--loadvm", SAVED)
        assert "its kernel has no 9p; `:virtiofs`" in done.err
        assert vm.ok("exec", "--", "ls", "/mnt/virtiofs").out == "hello\n"
        assert vm.ok("share", "list").out.count(" attached") == 2
    finally:
        vm.kill()
