"""Shares of machines without a guest: their programs, their faults, and that nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.world import Blank, Vm, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="QEMU's own virtiofsd runs only as root")


@pytest.fixture
def shared(blank: Blank, tmp_path: Path) -> Vm:
    """A machine with a share of each kind, off."""
    folder = tmp_path / "a,b=c\\d"
    folder.mkdir()
    return blank(
        VM_SHARE=f"{folder}:fs:virtiofs\n{folder}:nine:9p:ro\n{folder}:ro-fs:ro:virtiofs", VM_SERIAL="no"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def rows(vm: Vm) -> dict[str, dict[str, str]]:
    return {each["tag"]: each for each in json.loads(vm.ok("--json", "share", "list").out)["shares"]}


def in_file(vm: Vm) -> str:
    return (vm.directory / ".vmrc").read_text()


def is_over(vm: Vm) -> None:
    wait_until(lambda: not vm.world.pids("virtiofsd --fd"))


def test_start_shares_run_and_end_with_qemu(shared: Vm) -> None:
    assert {each["state"] for each in rows(shared).values()} == {"off"}
    shared.ok("start", "--no-wait")
    assert {each["state"] for each in rows(shared).values()} == {"attached"}
    assert not any(each["problem"] for each in rows(shared).values())
    assert len(shared.world.pids("virtiofsd --fd")) >= 2
    assert not list(shared.runtime.glob("fs*"))
    assert "ro-fs: " in shared.qvm("-v", "status").out
    os.kill(shared.pid, signal.SIGKILL)
    is_over(shared)
    shared.ok("start", "--no-wait")  # the crash has left nothing in the way
    shared.ok("kill")
    is_over(shared)


def test_start_killed_leaves_no_virtiofsd(shared: Vm) -> None:
    for moment in ("lock_and_exec", "virtiofsd --fd", "qemu-system"):
        with shared.world.popen("start", "--no-wait", cwd=shared.directory) as started:
            wait_until(lambda text=moment: shared.world.pids(text) or started.poll() is not None)  # type: ignore[misc]
            started.kill()
        wait_until(lambda: shared.qvm("status").out.split(": ")[1].split()[0] != "starting")
        shared.kill()
        is_over(shared)
        shared.world.wait_for_ends()


def test_start_interrupted_leaves_no_virtiofsd(shared: Vm) -> None:
    with shared.world.popen("start", cwd=shared.directory) as started:
        wait_until(lambda: shared.world.pids("virtiofsd --fd"))
        started.send_signal(signal.SIGINT)
        assert started.wait() == 130
    is_over(shared)
    assert "stopped" in shared.qvm("status").out


def test_share_whose_program_ends_is_reported(shared: Vm) -> None:
    shared.ok("start", "--no-wait")
    for pid in shared.world.pids("virtiofsd --fd"):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: rows(shared)["fs"]["state"] == "lost")
    assert rows(shared)["nine"]["state"] == "attached"
    found = shared.qvm("doctor")
    assert "its virtiofsd has ended" in found.out
    for verb in ("remove", "add"):
        refused = shared.qvm("share", verb, "fs")
        assert (refused.status, "its virtiofsd has ended" in refused.err) == (3, True), str(refused)
    shared.ok("kill")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/nowhere/at/all:x", "there is no directory /nowhere/at/all"),
        (".vmrc:x", ".vmrc is not a directory"),
        (".:x:9p", "holds the machine's own .vmrc"),
        ("..:x", "holds the machine's own .vmrc"),
        (".qvm:x:ro", "holds the machine's own state"),
    ],
)
def test_share_that_cannot_work_is_refused(blank: Blank, line: str, why: str) -> None:
    vm = blank(VM_SHARE=line)
    (vm.directory / ".qvm").mkdir(exist_ok=True)
    started = vm.qvm("start", "--no-wait")
    assert (started.status, why in started.err, "hint: " in started.err) == (2, True, True), str(started)
    assert not vm.world.processes()
    checked = vm.ok("config", "--check")
    assert why in checked.out
    assert why in vm.qvm("doctor").out
    assert why in json.loads(vm.qvm("--json", "status").out)["shares"][0]["problem"]


def test_virtiofs_without_its_program_names_9p(
    blank: Blank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qvmsh.machine.guest.shares import plan, virtiofsd

    monkeypatch.setattr(virtiofsd, "FOLDERS", ())
    vm = blank(VM_SHARE=f"{tmp_path}/d:one\n{tmp_path}/d:two:virtiofs")
    (tmp_path / "d").mkdir()
    one, two = plan.configured(vm.library())
    assert one.kind == "9p"
    what, hint = plan.fault(str(vm.directory), vm.world.environ, two)
    assert (what, ":9p" in hint) == ("virtiofsd is not installed", True)


def test_program_that_fails_is_quoted(blank: Blank, folder: Path) -> None:
    program = folder / "bin/virtiofsd"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n[ $1 = --version ] && exec echo virtiofsd 1.13.2\necho no luck >&2\nexit 3\n"
    )
    program.chmod(0o755)
    vm = blank(VM_SHARE=f"{folder}:x:virtiofs:ro", VM_SERIAL="no")
    done = vm.qvm("start", "--no-wait", env={"PATH": f"{program.parent}:{os.environ['PATH']}"})
    assert (done.status, "no luck" in done.err) == (1, True), str(done)
    assert "stopped" in vm.qvm("status").out


def test_share_add_and_remove_while_off_change_the_vmrc(shared: Vm, folder: Path) -> None:
    refused = shared.qvm("share", "add", f"{folder}:new")
    assert (refused.status, "--save" in refused.err) == (3, True), str(refused)
    shared.ok("share", "add", f"{folder}:new:mount=/new", "--save")
    assert f"{folder}:new:mount=/new" in shared.value("VM_SHARE").split("\n")
    assert shared.qvm("share", "add", f"{folder}", "--save").status == 2
    assert shared.qvm("share", "add", f"{folder}:a b", "--save").status == 2
    assert shared.qvm("share", "remove", "other", "--save").status == 2
    other = shared.qvm("share", "add", f"{folder}:new:ro", "--save")
    assert (other.status, "VM_SHARE has another line of that tag" in other.err) == (3, True), str(other)
    over = shared.qvm("share", "add", f"{folder}:over:mount=//new/", "--save")
    assert (over.status, "the share new is mounted at //new/ already" in over.err) == (2, True), str(over)
    nowhere = shared.qvm("share", "add", "/nosuch:a", "--save")
    assert nowhere.err == (
        "qvm: demo: share add: /nosuch:a: there is no directory /nosuch\nhint: name another directory\n"
    )
    shared.ok("share", "remove", "new", "--save")
    assert list(rows(shared)) == ["fs", "nine", "ro-fs"]


@pytest.mark.parametrize("layer", ["--set", "environment"])
def test_share_saved_is_made_of_the_file_only(blank: Blank, folder: Path, layer: str) -> None:
    vm = blank()
    before = in_file(vm) + f'VM_SHARE="\n    {folder}/$SUB:a\n    {folder}:b\n"  # why\n'
    (vm.directory / ".vmrc").write_text(before)
    words = ("--set", f"VM_SHARE={folder}:zz") if layer == "--set" else ()
    env = {} if words else {"VM_SHARE": f"{folder}:zz"}
    assert vm.qvm(*words, "share", "add", "--save", f"{folder}:dat:ro", env=env).status == 0
    assert in_file(vm) == before.replace(":b\n", f":b\n    {folder}:dat:ro\n")
    assert vm.qvm(*words, "share", "remove", "--save", "zz", env=env).status == 2
    assert vm.qvm(*words, "share", "remove", "--save", "b", env=env).status == 0
    assert vm.qvm(*words, "share", "remove", "--save", "dat", env=env).status == 0
    assert in_file(vm) == before.replace(f"    {folder}:b\n", "")


def test_share_of_a_link_to_a_directory_starts(blank: Blank, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    vm = blank(VM_SHARE=f"{tmp_path}/link:x\n{tmp_path}/link:y:ro", VM_SERIAL="no")
    vm.ok("start", "--no-wait")
    assert {each["state"] for each in rows(vm).values()} == {"attached"}
    vm.ok("kill")


@pytest.mark.parametrize(
    ("machine", "kind", "why"),
    [
        ("pc", "9p", "only when it starts"),
        ("pc", "virtiofs", "the guest's memory is its own"),
        ("q35", "9p", "no free place"),
    ],
)
def test_share_add_that_qemu_cannot_take_says_what_to_do(
    blank: Blank, folder: Path, machine: str, kind: str, why: str
) -> None:
    vm = blank(VM_SERIAL="no", VM_QEMU_MACHINE=machine)
    vm.ok("start", "--no-wait")
    done = vm.qvm("share", "add", f"{folder}:x:{kind}")
    assert (done.status != 0, why in done.err, "qvm restart" in done.err) == (True, True, True), str(done)
    assert rows(vm) == {}
    saved = vm.ok("share", "add", "--save", f"{folder}:x:{kind}")
    assert saved.out.startswith("demo: x: added to VM_SHARE; not attached now: "), str(saved)
    assert (why in saved.out, "`qvm restart` attaches it" in saved.out) == (True, True), str(saved)
    again = vm.qvm("share", "add", f"{folder}:x:{kind}")
    assert (again.status != 0, "--save" in again.err) == (True, False), str(again)


def test_dryrun_shows_both_programs(shared: Vm) -> None:
    shown = shared.ok("dryrun").out
    assert "--socket-path=" in shown
    assert "mount_tag" in shown
    assert "\\,b=c\\\\d" in shown  # virtiofsd's own quoting of the name


def test_hardware_by_hand_has_no_shares(blank: Blank, folder: Path) -> None:
    vm = blank(VM_SHARE=f"{folder}:x", VM_QEMU_ARGS="-machine none")
    assert "VM_SHARE" in vm.ok("config", "--check").out
    assert rows(vm) == {}
