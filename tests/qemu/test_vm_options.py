"""Every option of `vm` on every verb, in both spellings, with a real QEMU; those that need a guest
that answers are in tests/guest/test_vm_options.py, `archive` is not there yet.

Source: the table of `vm`'s verbs and options.
"""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.support.world import DEADLINE_S, Blank, Vm, World

VERBS = ("init", "run", "start", "stop", "kill", "status", "cmd", "sh")


@pytest.fixture
def vm(blank: Blank) -> Vm:
    """A machine with an empty disk, off."""
    return blank()


def running_in(vm: Vm, state: str, *words: str) -> subprocess.Popen[str]:
    """Begin a command that runs QEMU in the foreground; wait for the machine's state."""
    running = vm.world.popen(*words, cwd=vm.directory)
    while state not in vm.qvm("status", "-s").out:
        assert running.poll() is None
        time.sleep(0.1)
    return running


def test_help_of_every_verb_in_both_spellings(world: World) -> None:
    for verb in VERBS:
        short, long = (world.run(verb, flag) for flag in ("-h", "--help"))
        assert (short.status, short.out) == (0, long.out)
        assert short.out.startswith(f"usage: qvm {verb}")


def test_verbose_in_both_spellings_shows_the_stages(vm: Vm) -> None:
    for flag in ("-v", "--verbose"):
        assert "starting QEMU" in vm.ok("start", flag, "--no-wait").err
        assert "starting QEMU" not in vm.qvm("start").err
        for words in (["status", flag, "-s"], ["kill", flag], ["init", flag, "-k"]):
            vm.ok(*words)


def test_init_dry_run_says_what_it_would_do_and_does_nothing(vm: Vm) -> None:
    for name in ("base", "backing"):
        (vm.directory / f"demo-{name}.qcow2").unlink()
    would = vm.ok("init", "-t")
    assert would.out.splitlines() == [
        "demo: would create demo-base.qcow2: copied from demo-seed.qcow2",
        "demo: would create demo-backing.qcow2: empty, on demo-base.qcow2",
    ]
    assert vm.ok("init", "--dry-run").out == would.out
    assert sorted(path.name for path in vm.directory.glob("*.qcow2")) == ["demo-seed.qcow2"]
    assert vm.ok("init").out == would.out.replace("would create ", "")


def test_init_clobber_backing_makes_a_fresh_overlay(vm: Vm) -> None:
    overlay, base = vm.directory / "demo-backing.qcow2", vm.directory / "demo-base.qcow2"
    inode = base.stat().st_ino
    refused = vm.qvm("init")
    assert (refused.status, "already initialized" in refused.err) == (1, True)
    for flag in ("-k", "--clobber-backing"):
        subprocess.run(["qemu-img", "snapshot", "-c", "old", overlay], check=True)
        assert vm.ok("init", flag).out == "demo: demo-backing.qcow2: empty, on demo-base.qcow2\n"
        listed = subprocess.run(["qemu-img", "snapshot", "-l", overlay], capture_output=True).stdout
        assert b"old" not in listed, flag
        assert base.stat().st_ino == inode
    base.unlink()  # now the overlay is orphaned
    assert "orphaned" in vm.qvm("init").err
    vm.ok("init", "-k")
    vm.ok("start", "--no-wait")


def test_init_clobber_base_makes_a_fresh_base(vm: Vm) -> None:
    overlay, base = vm.directory / "demo-backing.qcow2", vm.directory / "demo-base.qcow2"
    for flag in ("-b", "--clobber-base"):
        refused = vm.qvm("init", flag)
        assert (refused.status, "is backed by the base" in refused.err) == (1, True)
        overlay.unlink()
        base.write_bytes(b"spoilt")
        vm.ok("init", flag)
        assert base.read_bytes() == (vm.directory / "demo-seed.qcow2").read_bytes(), flag
        vm.ok("init", flag, "-k")
    vm.ok("start", "--no-wait")


def test_nat_is_user_mode_networking(vm: Vm) -> None:
    for flag in ("-n", "--nat", "--use-nat"):
        vm.ok("start", flag, "--no-wait")
        assert "type=user" in vm.ok("cmd", "info", "network").out, flag
        vm.ok("kill")
        running = running_in(vm, "paused", "run", flag, "-S")
        assert "type=user" in vm.ok("cmd", "info", "network").out, flag
        vm.ok("kill")
        running.communicate()


def test_run_base_only_runs_the_base(vm: Vm) -> None:
    for flag in ("-b", "--base-only"):
        running = running_in(vm, "paused", "run", flag, "-S")
        blocks = vm.ok("cmd", "info", "block").out
        assert "demo-base.qcow2" in blocks, flag
        assert "demo-backing.qcow2" not in blocks, flag
        vm.ok("kill")
        running.communicate()


def test_run_and_start_loadvm_continue_from_the_state(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    vm.ok("stop", "-s", "here", "-n")
    for flag in ("-l", "--loadvm"):
        vm.ok("start", flag, "here", "--no-wait")
        assert vm.qvm("status", "-s").out.startswith("demo: running")
        vm.ok("kill")
        missing = vm.qvm("run", flag, "nothing")
        assert (missing.status, "there is no snapshot nothing" in missing.err) == (3, True)
        running = running_in(vm, "running", "run", flag, "here")
        vm.ok("kill")
        assert running.wait(DEADLINE_S) == 0, flag
        running.communicate()


def test_start_ssh_attempts_is_the_deadline(vm: Vm) -> None:
    for flag in ("-s", "--ssh-attempts"):
        late = vm.qvm("start", flag, "1")
        assert (late.status, "did not answer ssh within 2 s" in late.err) == (124, True)
        assert vm.qvm("status", "-s").out.startswith("demo: running")
        vm.ok("kill")
        for value in ("0", "-1", "x"):
            assert vm.qvm("start", flag, value).status == 2


def test_stop_savevm_without_suspend_saves_as_it_is(vm: Vm) -> None:
    flags, plains = ("-s", "--savevm", "--vm-save"), ("-n", "--no-suspend", "--nosuspend")
    for name, flag, plain in zip(("one", "two", "three"), flags, plains, strict=True):
        vm.ok("start", "--no-wait")
        assert f"demo: state saved as {name} in " in vm.ok("stop", flag, name, plain).out
        assert vm.qvm("status").out == "demo: stopped\n"
        tags = subprocess.run(
            ["qemu-img", "snapshot", "-l", vm.directory / "demo-backing.qcow2"],
            capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert name in tags


def test_stop_options_that_exclude_each_other_are_refused(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    for words in (
        ["-p", "-r"],
        ["--poweroff", "--reboot"],
        ["-s", "x", "-p"],
        ["-s", "x", "-r"],
        ["-s", "x", "-f"],
    ):
        refused = vm.qvm("stop", *words)
        assert (refused.status, "exclude each other" in refused.err) == (2, True)
    for plain in ("-n", "--nosuspend"):
        refused = vm.qvm("stop", plain)
        assert (refused.status, "requires --savevm" in refused.err) == (2, True)
    assert vm.qvm("status", "-s").out.startswith("demo: running")
    for words in (["-p"], ["--poweroff", "-n"]):  # -p implies -n, so both may stand
        assert "powered off by quit" in vm.ok("stop", *words, "-t", "1", "--force").out
        vm.ok("start", "--no-wait")


def test_status_quiet_and_without_ssh_check_give_only_the_status(vm: Vm) -> None:
    rows = [
        (flag, plain) for flag in ("-q", "--quiet") for plain in ("-s", "--no-ssh-check", "--no-ssh-fail")
    ]
    for words in rows:
        off = vm.qvm("status", *words)
        assert (off.status, off.out, off.err) == (1, "", ""), words
    vm.ok("start", "--no-wait")
    for words in rows:
        on = vm.qvm("status", *words)
        assert (on.status, on.out, on.err) == (0, "", ""), words
        assert vm.qvm("status", words[1]).out.startswith("demo: running (pid "), words
    for flag in ("-q", "--quiet"):
        assert vm.qvm("status", flag).status == 1  # no guest answers ssh


def test_cmd_takes_the_rest_and_kill_quits_by_the_monitor(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    assert "disk0" in vm.ok("cmd", "info", "block", "-v").out
    assert vm.ok("cmd", "info name").out == "demo\n"
    assert vm.ok("kill").out.startswith("demo: killed by quit in ")
    assert vm.qvm("kill").status == 3


def test_use_snapshots_no_every_verb_knows_the_one_image(blank: Blank) -> None:
    vm = blank("flat", VM_USE_SNAPSHOTS="no", has_images=False)
    image = vm.directory / "flat.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    for words in (["-b"], ["--clobber-base", "-k"], ["-t"], []):
        refused = vm.qvm("init", *words)
        assert (refused.status, "VM_USE_SNAPSHOTS=no turns them off" in refused.err) == (2, True)
    vm.ok("start", "-n", "--no-wait")
    assert "flat.qcow2" in vm.ok("cmd", "info", "block").out
    assert vm.qvm("status", "-q", "-s").status == 0
    vm.ok("pause")
    vm.ok("resume")
    vm.ok("stop", "-s", "here", "-n")
    vm.ok("start", "-l", "here", "--no-wait")
    vm.ok("restart", "--force", "-t", "1", "--no-wait")
    assert vm.qvm("start", "-l", "here").status == 3
    assert "powered off by quit" in vm.ok("stop", "--force", "-t", "1").out
    running = running_in(vm, "running", "run", "-l", "here")
    vm.ok("kill")
    running.communicate()
    vm.ok("start", "--disposable", "--no-wait")
    vm.ok("kill")
    assert sorted(path.name for path in vm.directory.glob("*.qcow2")) == ["flat.qcow2"]
