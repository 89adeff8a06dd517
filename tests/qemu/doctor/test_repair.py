"""`doctor --fix` with real images and a real QEMU: what it repairs, what it leaves, twice."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess

import pytest

from tests.support.foreign_qemu import qemu_with
from tests.support.world import Blank, Vm


def fix(vm: Vm, *words: str) -> list[dict[str, str]]:
    """What `doctor --fix` says that it did."""
    fixed: list[dict[str, str]] = json.loads(vm.qvm("--json", "doctor", "--fix", *words).out)["fixed"]
    assert all(set(each) == {"name", "level", "finding", "hint"} for each in fixed)
    return fixed


def findings(fixed: list[dict[str, str]], level: str = "fixed") -> str:
    return "\n".join(each["finding"] for each in fixed if each["level"] == level)


def test_doctor_fix_of_a_sound_machine_does_nothing(blank: Blank) -> None:
    vm = blank()
    assert fix(vm) == []
    text = vm.qvm("doctor", "--fix").out
    assert text.startswith("nothing to repair\n")
    assert json.loads(vm.qvm("--json", "doctor").out)["fixed"] is None


def test_doctor_fix_after_a_crash_removes_its_traces(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    folder = vm.runtime
    os.kill(vm.pid, 9)
    while "crashed" not in vm.qvm("status").out:
        pass
    (vm.directory / ".qvm/disposable-12.qcow2").touch()
    (vm.directory / ".qvm/uuid.part7").touch()
    text = findings(fix(vm))
    for name in (".qvm/qemu.pid", ".qvm/running", ".qvm/disposable-12.qcow2", ".qvm/uuid.part7", str(folder)):
        assert name in text
    assert "ended unexpectedly" in text
    assert not folder.exists()
    assert vm.qvm("status").out == "demo: stopped\n"
    assert fix(vm) == []
    vm.ok("start", "--no-wait")


def test_doctor_fix_removes_incomplete_copies_only(blank: Blank) -> None:
    vm = blank()
    ours = ["demo-base.qcow2.part", "demo-backing.qcow2.part", "..vmrc.part999999999"]
    users = ["film.part", "demo-notes.part", f"..vmrc.part{os.getpid()}"]  # the last: one that still writes
    for name in (*ours, *users):
        (vm.directory / name).touch()
    before = vm.qvm("doctor").out
    assert all(name in before for name in ours)
    assert "film.part" not in before
    text = findings(fix(vm))
    assert all(name in text for name in ours)
    left = os.listdir(vm.directory)
    assert not set(ours) & set(left)
    assert set(users) <= set(left)
    assert fix(vm) == []


def journal(vm: Vm, **data: object) -> None:
    """The journal that a killed command leaves."""
    given = {
        "was_running": False, "has_memory": False, "is_frozen": False, "entry": None, "pid": 1,
        "since": "2026-11-21 10:00:00",
    } | data  # fmt: skip
    (vm.directory / ".qvm/snapshot.unfinished").write_text(json.dumps(given))


def test_doctor_fix_recovers_the_disks_that_are_left(blank: Blank) -> None:
    vm = blank()
    image = vm.directory / "demo-backing.qcow2"
    subprocess.run(["qemu-img", "snapshot", "-c", "x", image], check=True)
    disks = [["disk0", image.name], ["disk1", "data.qcow2"]]
    journal(vm, what="save", name="x", phase="begin", disks=disks)
    vm.set(VM_DISKS="data.qcow2")
    left = fix(vm)
    assert "data.qcow2" in findings(left, "left")  # it is to be one still
    vm.set(VM_DISKS="")
    text = findings(fix(vm))
    assert "the save of the snapshot x" in text
    assert "data.qcow2 is missing and is no longer a disk of the machine" in text
    vm.ok("start", "--no-wait")


def test_doctor_names_leftovers_of_snapshots_without_a_journal(blank: Blank) -> None:
    vm = blank()
    image = vm.directory / "demo-backing.qcow2"
    for tag in ("a", "a.qvm-new", "alone.qvm-new", ".qvm-back"):
        subprocess.run(["qemu-img", "snapshot", "-c", tag, image], check=True)
    output = vm.qvm("doctor").out
    assert "holds a.qvm-new, .qvm-back: left by interrupted work on snapshots" in output
    assert "`qvm snapshot delete a.qvm-new .qvm-back` removes it" in output
    vm.ok("snapshot", "delete", "a.qvm-new", ".qvm-back")
    assert "interrupted" not in vm.qvm("doctor").out
    shown = vm.ok("snapshot", "list").out
    assert "\na " in shown
    assert "\nalone " in shown  # the only one of its name: it is what a load finds


def test_doctor_fix_of_a_running_machine_leaves_it_alone(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    (vm.directory / "demo-base.qcow2.part").touch()
    (vm.directory / ".qvm/uuid").chmod(0o666)
    folder = vm.runtime
    os.utime(folder, (0, 0))
    assert [each["name"] for each in fix(vm)] == ["rights"]
    vm.ok("cmd", "info", "status")
    assert (vm.directory / "demo-base.qcow2.part").exists()
    assert folder.is_dir()


def test_doctor_fix_while_a_command_is_at_work_does_nothing(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    (vm.directory / ".qvm/uuid").chmod(0o666)
    stopping = vm.world.popen("stop", "--timeout", "100", cwd=vm.directory)
    try:
        while not (vm.directory / ".qvm/work.lock").read_text().startswith(f"{stopping.pid} "):
            assert stopping.poll() is None
        fixed = fix(vm)
        assert f"`qvm stop`, pid {stopping.pid}" in fixed[0]["finding"]
        assert fixed[0]["level"] == "left"
        assert stat.S_IMODE((vm.directory / ".qvm/uuid").stat().st_mode) == 0o666
    finally:
        stopping.terminate()
        stopping.communicate()


def test_doctor_fix_closes_what_is_open_to_others(blank: Blank) -> None:
    vm = blank(VM_SSH_IDENTITY="key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", vm.directory / "key"], check=True)
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    known = vm.directory / ".qvm/known_hosts"
    known.touch()
    for path, mode in ((vm.directory / "key", 0o644), (known, 0o666), (vm.directory / ".qvm", 0o777)):
        path.chmod(mode)
    (vm.directory / "demo-base.qcow2").chmod(0o666)
    (vm.world.runtime / "qvm").chmod(0o755)
    text = findings(fix(vm))
    assert "key has mode 600 now, it was 644" in text
    assert ".qvm/known_hosts has mode 644 now, it was 666" in text
    assert ".qvm has mode 750 now, it was 777" in text
    assert "demo-base.qcow2 has mode 660 now, it was 666" in text
    assert "was open to others: closed" in text
    assert stat.S_IMODE((vm.world.runtime / "qvm").stat().st_mode) == 0o700
    assert fix(vm) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_doctor_fix_by_root_gives_files_back_to_the_owner(blank: Blank) -> None:
    vm = blank()
    (vm.directory / ".qvm").mkdir(exist_ok=True)
    (vm.directory / ".qvm/known_hosts").touch()
    os.chown(vm.directory / ".qvm/known_hosts", 65534, 65534)
    assert ".qvm/known_hosts now belongs to root" in findings(fix(vm))
    assert (vm.directory / ".qvm/known_hosts").stat().st_uid == 0


def test_doctor_fix_known_hosts_that_is_a_folder(blank: Blank) -> None:
    vm = blank()
    known = vm.directory / ".qvm/known_hosts"
    known.mkdir(parents=True)
    (known / "mine").touch()
    assert ".qvm/known_hosts is a folder, and not empty" in findings(fix(vm), "left")
    (known / "mine").unlink()
    assert ".qvm/known_hosts was an empty folder: removed" in findings(fix(vm))
    assert fix(vm) == []


def test_doctor_fix_removes_sockets_of_machines_that_are_gone(blank: Blank) -> None:
    """Folders without a listener or foreign files; one in use, and one that is young, stay."""
    vm = blank()
    base = vm.world.runtime / "qvm"
    base.mkdir(mode=0o700, exist_ok=True)
    folders = {name: base / name for name in ("dead", "alive", "young", "foreign", "elsewhere")}
    for folder in folders.values():
        folder.mkdir(mode=0o700)
    for name in ("dead", "alive", "foreign", "elsewhere"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(folders[name] / "qmp"))
    (folders["dead"] / "dir").symlink_to("/nowhere")
    (folders["foreign"] / "notes").touch()
    (folders["elsewhere"] / "dir").symlink_to(vm.directory)
    (folders["alive"] / "qmp").unlink()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folders["alive"] / "qmp"))
    listener.listen(1)
    with listener:
        done = vm.world.run("--json", "doctor", "--fix")  # no machine here: the user's folder alone
        text = findings(json.loads(done.out)["fixed"])
        assert {name for name, folder in folders.items() if folder.exists()} == {"alive", "young", "foreign"}
        assert f"removed {folders['dead']}, the sockets, whose machine is gone; not in use" in text
        assert f"removed {folders['elsewhere']}, the sockets of the machine in {vm.directory}" in text
        assert json.loads(vm.world.run("--json", "doctor", "--fix").out)["fixed"] == []
    shutil.rmtree(base)


def test_doctor_fix_leaves_an_image_in_use_by_another_program(blank: Blank) -> None:
    vm = blank()
    image = vm.directory / "demo-backing.qcow2"
    for tag in ("ready", "ready.qvm-new"):
        subprocess.run(["qemu-img", "snapshot", "-c", tag, image], check=True)
    with qemu_with(image) as other:
        journal(vm, what="save", name="ready", phase="new", disks=[["disk0", image.name]])
        done = vm.qvm("--json", "doctor", "--fix")
        value = json.loads(done.out)
        whose = f"demo-backing.qcow2 is in use by qemu-system-x86 (pid {other.pid}, "
        assert whose in findings(value["fixed"], "left")
        assert any(str(other.pid) in each["finding"] and each["level"] == "error" for each in value["checks"])
    assert "was undone: the older snapshot of that name was kept" in findings(fix(vm))
