"""What a hostile review found, and what must never come back (real QEMU)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.world import DEADLINE_S, QVM, Blank, Vm, World, write_vmrc


def test_start_record_of_a_foreign_folder_removes_nothing(blank: Blank, tmp_path: Path) -> None:
    vm = blank()
    victim = tmp_path / "qvm" / "precious"
    victim.mkdir(parents=True, mode=0o700)
    (victim / "file").touch()
    place = f"{vm.directory.stat().st_dev}:{vm.directory.stat().st_ino}"
    (vm.directory / ".qvm/running").write_text(f"runtime {victim}\ndirectory {place}\n")
    vm.ok("start", "--no-wait")
    assert (victim / "file").exists()


def test_copy_of_a_running_machine_is_another_machine(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    shutil.copytree(vm.directory, vm.directory.with_name("copy"), symlinks=True)
    copy = Vm(vm.world, vm.directory.with_name("copy"))
    try:
        assert copy.qvm("status").out == "demo: stopped\n"
        copy.ok("start", "--no-wait")
        assert copy.pid != vm.pid
        vm.ok("cmd", "info", "status")  # the original keeps its sockets
        copy.ok("kill")
        vm.ok("status", "-s")
    finally:
        copy.kill()


def test_new_machine_at_the_old_place_of_a_moved_one_is_apart(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    old = vm.directory
    vm.directory = vm.directory.rename(vm.directory.with_name("moved"))
    other = blank()
    assert other.directory == old
    other.ok("start", "--no-wait")
    vm.ok("kill")  # its QEMU removes the pid file at its old place: the other machine's
    assert "its pid file was removed" in other.qvm("status", "-s").out
    other.ok("cmd", "info", "status")
    assert other.qvm("start").status == 3
    other.ok("kill")
    assert other.qvm("status").out == "demo: stopped\n"


def test_init_image_in_use_by_another_qemu_is_refused(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    other = Vm(vm.world, vm.directory.with_name("other"))
    write_vmrc(other.directory)
    for name in ("base", "backing"):
        (other.directory / f"demo-{name}.qcow2").symlink_to(vm.directory / f"demo-{name}.qcow2")
    result = other.qvm("init", "-k")
    assert result.status == 1
    assert "demo-backing.qcow2 is in use by machine demo, pid " in result.err


def test_kill_two_ways_of_naming_a_machine_are_refused(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    for words in (("-M", "demo"), ("-C", "demo")):
        for command in ([*words, "kill", "./other"], ["kill", *words, "./other"]):
            result = vm.world.run(*command)
            assert result.status == 2, command
            assert "which machine" in result.err, command
    for empty in (("-M", ""), ("-C", "")):
        assert vm.qvm(*empty, "kill").status == 2
    vm.ok("status", "-s")


def test_create_side_by_side_makes_it_once(world: World, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    makers = [world.popen("create", "twin", "--image", disk) for _ in range(6)]
    results = [(*each.communicate(), each.returncode) for each in makers]
    assert [status for *_, status in results].count(0) == 1, results
    for _, err, status in results:
        assert status in (0, 2), err
        assert "Traceback" not in err
    assert {".vmrc", ".qvm", "twin-base.qcow2", "twin-backing.qcow2"} == {
        p.name for p in (world.home / "twin").iterdir()
    }
    assert not list(world.home.glob(".twin.part-*"))


def test_create_in_the_empty_current_directory(world: World, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    (world.home / "here").mkdir()
    result = world.run("create", ".", "--image", disk, cwd=world.home / "here")
    assert result.status == 0, result
    assert result.out.endswith("here: `qvm start` starts it\n")
    assert world.run("status", cwd=world.home / "here").out == "here: stopped\n"


def test_status_many_at_once_all_get_an_answer(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    asked = [vm.world.popen("cmd", "info", "name", cwd=vm.directory) for _ in range(20)]
    results = [(*each.communicate(), each.returncode) for each in asked]
    assert {(out, status) for out, _, status in results} == {("demo\n", 0)}


def test_start_log_that_cannot_be_written_costs_a_warning_only(blank: Blank) -> None:
    vm = blank(VM_LOG="/dev/full")
    result = vm.ok("start", "--no-wait")
    assert "cannot write the log /dev/full: No space left on device" in result.err
    os.mkfifo(vm.directory / "fifo")
    vm.ok("kill")
    vm.ok("--set", "VM_LOG=fifo", "start", "--no-wait")


def test_closed_standard_streams_change_nothing_else(blank: Blank) -> None:
    """But for the result that cannot be written."""
    vm = blank()

    def shell(line: str) -> int:
        return subprocess.run(
            ["bash", "-c", line], cwd=vm.directory, env=vm.world.environ, timeout=DEADLINE_S
        ).returncode

    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        written = 1 if ">&-" in closed.replace("2>&-", "") else 0
        assert shell(f"{QVM} start --no-wait {closed}") == written, closed
        assert shell(f"{QVM} status -s {closed}") == written, closed
        assert shell(f"{QVM} status --nonsense {closed}") == 2, closed
        vm.ok("cmd", "info", "status")
        vm.ok("kill")


def test_stop_short_time_is_kept_and_the_button_pressed(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    result = vm.qvm("stop", "--timeout", "1")
    assert result.status == 124
    assert "ACPI power button: asked, still on after " in result.err
    assert " -" not in result.err.partition("after")[2].partition("hint")[0]


def test_status_after_a_load_that_failed_is_not_running(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert vm.qvm("cmd", "loadvm", "nothing").status == 1
    result = vm.qvm("status", "-s")
    assert result.status == 1
    assert result.out.startswith("demo: paused")


def test_deleted_current_directory_is_named(world: World, blank: Blank) -> None:
    vm = blank()
    line = f"mkdir '{world.home}/gone'; cd '{world.home}/gone'; rmdir '{world.home}/gone'; {QVM} "

    def run(words: str) -> subprocess.CompletedProcess[str]:
        argv = ["bash", "-c", line + words]
        return subprocess.run(argv, env=world.environ, capture_output=True, text=True)

    assert run(f"-C '{vm.directory}' status").stdout == "demo: stopped\n"
    assert "the current directory is gone" in run("status").stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second account")
def test_account_without_home_makes_no_folder_called_tilde(world: World) -> None:
    """An account that is not in the list of accounts has no home, and no list of machines."""
    folder = Path(tempfile.mkdtemp(prefix="qvmt-homeless-"))
    env = {"PATH": os.environ["PATH"], "QVM_TEST_MARK": world.mark}
    user = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", QVM]
    try:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "disk.qcow2", "1M"], check=True)
        subprocess.run(["chown", "-R", "12345:12345", folder], check=True)
        create = [*user, "create", "machine", "--image", "disk.qcow2"]
        done = subprocess.run(create, cwd=folder, env=env, capture_output=True, text=True)
        assert "12345" in done.stderr or done.returncode == 0, done  # an owner without a name may be refused
        assert "~" not in os.listdir(folder)
    finally:
        shutil.rmtree(folder)


def test_json_of_a_failing_guest_command_has_its_output(blank: Blank) -> None:
    from qvmsh.errors import CommandError
    from qvmsh.qemu.qmp import dumps

    error = CommandError("failed", status=3, stdout="hi \udcff\n", stderr="no\n")
    report = json.loads(dumps(error.as_json()))
    assert (report["stdout"], report["stderr"], report["status"]) == ("hi \ufffd\n", "no\n", 3)
