"""`config edit` with real programs as editors, and `config --check` of directory trees."""

from __future__ import annotations

import json
import stat
import time

import pytest

from tests.support.tmux_terminal import Terminal
from tests.support.world import DEADLINE_S, QVM, Blank, Result, Vm, World, write_vmrc


@pytest.fixture
def vm(blank: Blank) -> Vm:
    return blank(has_images=False)


def editor(vm: Vm, script: str) -> str:
    """A program that does `script` with the file `$1`."""
    path = vm.world.home / "my editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"'{path}' --wait"


def edit(vm: Vm, script: str, *words: str, **env: str) -> Result:
    program = editor(vm, f"[ $1 = --wait ] || exit 9; shift\n{script}")
    return vm.qvm(*words, "config", "edit", env={"VISUAL": program, "EDITOR": "false"} | env)


def test_config_edit_takes_a_right_text_and_keeps_every_byte(vm: Vm) -> None:
    path = vm.directory / ".vmrc"
    path.write_bytes(path.read_bytes() + b"# caf\xe9 \xff\r\n")
    path.chmod(0o640)
    done = edit(vm, "printf 'VM_MACHINE_CPUS=2' >> $1; test $(stat -c %a $1) = 600")
    assert (done.status, done.out) == (0, ".vmrc: changed\n")
    assert path.read_bytes().endswith(b"# caf\xe9 \xff\r\nVM_MACHINE_CPUS=2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert vm.ok("config", "VM_MACHINE_CPUS").out == "2\n"


def test_config_edit_unchanged_does_not_touch_the_file(vm: Vm) -> None:
    before = (vm.directory / ".vmrc").stat()
    done = edit(vm, "touch $1")
    assert (done.status, done.out) == (0, ".vmrc: nothing was changed\n")
    after = (vm.directory / ".vmrc").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert json.loads(edit(vm, "true", "--json").out)["changed"] is False


def test_config_edit_broken_keeps_the_old_file_and_the_text(vm: Vm) -> None:
    before = (vm.directory / ".vmrc").read_bytes()
    done = edit(vm, "printf 'VM_MACHINE_MEM=lots\\nVM_FMT=$(rm -rf /)\\n' >> $1")
    assert done.status == 2
    assert "nothing was changed" in done.err
    assert ".vmrc:5:" in done.err
    assert ".vmrc:6:" in done.err
    assert "hint: your text is in .qvm/vmrc.rejected" in done.err
    assert (vm.directory / ".vmrc").read_bytes() == before
    rejected = vm.directory / ".qvm/vmrc.rejected"
    assert rejected.read_bytes() == before + b"VM_MACHINE_MEM=lots\nVM_FMT=$(rm -rf /)\n"


def test_config_edit_repairs_a_file_that_is_broken(vm: Vm) -> None:
    (vm.directory / ".vmrc").write_text((vm.directory / ".vmrc").read_text() + "VM_MACHINE_CPUS=none\n")
    assert vm.qvm("config", "--check").status == 2
    assert edit(vm, "sed -i s/none/2/ $1").status == 0
    vm.ok("config", "--check")


def test_config_edit_problem_of_another_file_does_not_stop_it(vm: Vm) -> None:
    (vm.world.home / "global-vmrc").write_text("VM_QEMU_CPU=$(x)\n")
    assert edit(vm, "echo VM_MACHINE_CPUS=2 >> $1").status == 0


def test_config_edit_change_by_another_program_is_noticed(vm: Vm) -> None:
    path = vm.directory / ".vmrc"
    done = edit(vm, f"echo VM_MACHINE_CPUS=2 >> $1; {QVM} config VM_MACHINE_MEM=77")
    assert done.status == 2
    assert "it was changed in the meantime, and not overwritten" in done.err
    assert "VM_MACHINE_MEM=77" in path.read_text()
    assert "CPUS" not in path.read_text()
    assert "VM_MACHINE_CPUS=2" in (vm.directory / ".qvm/vmrc.rejected").read_text()


def test_config_edit_follows_a_link(vm: Vm) -> None:
    real = vm.world.home / "shared-vmrc"
    (vm.directory / ".vmrc").rename(real)
    (vm.directory / ".vmrc").symlink_to(real)
    assert edit(vm, "echo VM_MACHINE_CPUS=2 >> $1").status == 0
    assert (vm.directory / ".vmrc").is_symlink()
    assert real.read_text().endswith("VM_MACHINE_CPUS=2\n")


def test_config_edit_failed_or_missing_editor_changes_nothing(vm: Vm) -> None:
    before = (vm.directory / ".vmrc").read_bytes()
    (vm.world.home / "tmp").mkdir()
    failed = edit(vm, "echo x=1 >> $1; exit 3", TMPDIR=str(vm.world.home / "tmp"))
    assert not list((vm.world.home / "tmp").iterdir())
    assert failed.status == 1
    assert "ended with status 3; nothing was changed" in failed.err
    missing = vm.qvm("config", "edit", env={"EDITOR": "no-such-editor -x"})
    assert missing.status == 1
    assert "cannot run the editor no-such-editor" in missing.err
    none = vm.qvm("config", "edit", env={"PATH": "/nothing"})
    assert (none.status, "no editor is installed" in none.err) == (1, True)
    removed = edit(vm, "rm $1")
    assert (removed.status, "nothing was changed" in removed.err) == (2, True)
    assert (vm.directory / ".vmrc").read_bytes() == before


def test_config_edit_on_a_terminal_offers_to_edit_again(vm: Vm) -> None:
    script = "grep -q turn $1 && sed -i s/lots/99/ $1 || printf '# turn\\nVM_MACHINE_MEM=lots\\n' >> $1"
    program = editor(vm, f"shift\n{script}")
    terminal = Terminal([QVM, "config", "edit"], vm.directory, vm.world.environ | {"EDITOR": program})
    try:
        wait_for(terminal, "[e]dit again, or [d]iscard")
        assert ".vmrc:6:" in terminal.text
        terminal._tmux("send-keys", "e", "Enter")
        deadline = time.monotonic() + DEADLINE_S
        while "=99" not in (vm.directory / ".vmrc").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        terminal.close()
    assert (vm.directory / ".vmrc").read_text().endswith("# turn\nVM_MACHINE_MEM=99\n")
    before = (vm.directory / ".vmrc").read_bytes()
    program = editor(vm, "shift\necho 'VM_FMT=$(date)' >> $1")
    shell = f"{QVM} config edit; echo status $?; sleep 60"
    terminal = Terminal(["sh", "-c", shell], vm.directory, vm.world.environ | {"EDITOR": program})
    try:
        wait_for(terminal, "[e]dit again, or [d]iscard")
        shown = terminal.text.replace("\n", "")
        assert "$(...)" in shown, shown
        assert "hint:" not in shown, "the line above has it already"
        terminal._tmux("send-keys", "d", "Enter")
        wait_for(terminal, ".vmrc: nothing was changed\nstatus 0")
    finally:
        terminal.close()
    assert (vm.directory / ".vmrc").read_bytes() == before


def wait_for(terminal: Terminal, text: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while text not in terminal.text:
        assert time.monotonic() < deadline, terminal.text
        time.sleep(0.05)


def test_config_check_of_trees_reports_all_problems_of_all_files(world: World) -> None:
    for name in ("one", "two/inner", "two", "three"):
        write_vmrc(world.home / "vms" / name, name.rpartition("/")[2])
    for name, line in (("one", "VM_FMT=bad"), ("two/inner", "VM_MACHINE_MEM=lots\nVM_DISK_BUS=x")):
        with (world.home / "vms" / name / ".vmrc").open("a") as file:
            file.write(line + "\n")
    (world.home / "vms/three/.qvm").mkdir()
    (world.home / "vms/three/.qvm/.vmrc").write_text("not looked at\n")
    done = world.run("config", "--check", "vms")
    assert done.status == 2
    for place in ("vms/one/.vmrc:5:", "vms/two/inner/.vmrc:5:", "vms/two/inner/.vmrc:6:"):
        assert place in done.out
    assert done.out.endswith("4 files: 3 problems, in 2 of them\n")
    value = json.loads(world.run("--json", "config", "--check", "vms").out)
    assert value["ok"] is False
    assert [len(each["problems"]) for each in value["machines"]] == [1, 0, 0, 2]
    good = world.run("config", "--check", "vms/three", "vms/two/.vmrc", "vms/three", cwd=world.home)
    assert good.status == 2  # two/.vmrc means the directory, with what is below
    assert world.run("config", "--check", "vms/three").out == "1 file: ok\n"


def test_config_check_without_a_tree_of_machines_is_refused(world: World) -> None:
    (world.home / "empty").mkdir()
    for word, text in (
        ("empty", "there is no .vmrc in or below empty"),
        ("nothing", "there is no directory nothing"),
        ("VM_FMT=raw", "takes directories, not values"),
    ):
        done = world.run("config", "--check", word)
        assert done.status == 2
        assert text in done.err
    unreadable = world.home / "link"
    unreadable.mkdir()
    (unreadable / ".vmrc").symlink_to("/nowhere")
    done = world.run("config", "--check", "link")
    assert done.status == 2
    assert "it is a broken link" in done.out
    alone = world.run("config", "--check")
    assert (alone.status, "no .vmrc in" in alone.err) == (2, True)
