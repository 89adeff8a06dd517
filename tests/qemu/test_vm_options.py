"""Every option of `vm` on every verb, in both spellings, with a real QEMU; those that need a guest
that answers are in tests/guest/test_vm_options.py, `archive` is not there yet.

Source: the table of `vm`'s verbs and options.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.support.world import Blank, World

VERBS = ("init", "run", "start", "stop", "kill", "status", "cmd", "sh")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_in_both_spellings(world: World, verb: str) -> None:
    short, long = (world.run(verb, flag) for flag in ("-h", "--help"))
    assert (short.status, short.out) == (0, long.out)
    assert short.out.startswith(f"usage: qvm {verb}")


def test_verbose_in_both_spellings_shows_the_stages(blank: Blank) -> None:
    for flag in ("-v", "--verbose"):
        vm = blank(name=f"demo{len(flag)}")
        assert "starting QEMU" in vm.ok("start", flag, "--no-wait").err
        assert "starting QEMU" not in vm.qvm("start").err
        for words in (["status", flag, "-s"], ["kill", flag], ["init", flag, "-k"]):
            vm.ok(*words)


@pytest.mark.parametrize("flag", ["-t", "--dry-run"])
def test_init_dry_run_says_what_it_would_do_and_does_nothing(blank: Blank, flag: str) -> None:
    vm = blank()
    for name in ("base", "backing"):
        (vm.directory / f"demo-{name}.qcow2").unlink()
    would = vm.ok("init", flag)
    assert would.out.splitlines() == [
        "demo: would create demo-base.qcow2: copied from demo-seed.qcow2",
        "demo: would create demo-backing.qcow2: empty, on demo-base.qcow2",
    ]
    assert sorted(path.name for path in vm.directory.glob("*.qcow2")) == ["demo-seed.qcow2"]
    assert vm.ok("init").out == would.out.replace("would create ", "")


@pytest.mark.parametrize("flag", ["-k", "--clobber-backing"])
def test_init_clobber_backing_makes_a_fresh_overlay(blank: Blank, flag: str) -> None:
    vm = blank()
    overlay, base = vm.directory / "demo-backing.qcow2", vm.directory / "demo-base.qcow2"
    subprocess.run(["qemu-img", "snapshot", "-c", "old", overlay], check=True)
    inode = base.stat().st_ino
    refused = vm.qvm("init")
    assert (refused.status, "already initialised" in refused.err) == (1, True)
    assert vm.ok("init", flag).out == "demo: demo-backing.qcow2: empty, on demo-base.qcow2\n"
    assert b"old" not in subprocess.run(["qemu-img", "snapshot", "-l", overlay], capture_output=True).stdout
    assert base.stat().st_ino == inode
    base.unlink()  # now the overlay is orphaned
    assert "orphaned" in vm.qvm("init").err
    vm.ok("init", flag)
    vm.ok("start", "--no-wait")


@pytest.mark.parametrize("flag", ["-b", "--clobber-base"])
def test_init_clobber_base_makes_a_fresh_base(blank: Blank, flag: str) -> None:
    vm = blank()
    overlay, base = vm.directory / "demo-backing.qcow2", vm.directory / "demo-base.qcow2"
    refused = vm.qvm("init", flag)
    assert (refused.status, "is backed by the base" in refused.err) == (1, True)
    overlay.unlink()
    base.write_bytes(b"spoilt")
    vm.ok("init", flag)
    assert base.read_bytes() == (vm.directory / "demo-seed.qcow2").read_bytes()
    vm.ok("init", flag, "-k")
    vm.ok("start", "--no-wait")


@pytest.mark.parametrize("flag", ["-n", "--nat", "--use-nat"])
def test_nat_is_user_mode_networking(blank: Blank, flag: str) -> None:
    vm = blank()
    vm.ok("start", flag, "--no-wait")
    assert "type=user" in vm.ok("cmd", "info", "network").out
    vm.ok("kill")
    running = vm.world.popen("run", flag, "-S", cwd=vm.directory)
    while "paused" not in vm.qvm("status", "-s").out:
        assert running.poll() is None
    assert "type=user" in vm.ok("cmd", "info", "network").out
    vm.ok("kill")
    running.communicate()


@pytest.mark.parametrize("flag", ["-b", "--base-only"])
def test_run_base_only_runs_the_base(blank: Blank, flag: str) -> None:
    vm = blank()
    running = vm.world.popen("run", flag, "-S", cwd=vm.directory)
    while "paused" not in vm.qvm("status", "-s").out:
        assert running.poll() is None
    blocks = vm.ok("cmd", "info", "block").out
    assert "demo-base.qcow2" in blocks
    assert "demo-backing.qcow2" not in blocks
    vm.ok("kill")
    running.communicate()


@pytest.mark.parametrize("flag", ["-l", "--loadvm"])
def test_run_and_start_loadvm_continue_from_the_state(blank: Blank, flag: str) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    vm.ok("stop", "-s", "here", "-n")
    vm.ok("start", flag, "here", "--no-wait")
    assert vm.qvm("status", "-s").out.startswith("demo: running")
    vm.ok("kill")
    missing = vm.qvm("run", flag, "nothing")
    assert (missing.status, "there is no snapshot nothing" in missing.err) == (3, True)
    running = vm.world.popen("run", flag, "here", cwd=vm.directory)
    while "running" not in vm.qvm("status", "-s").out:
        assert running.poll() is None
    vm.ok("kill")
    assert running.wait(30) == 0
    running.communicate()


@pytest.mark.parametrize("flag", ["-s", "--ssh-attempts"])
def test_start_ssh_attempts_is_the_deadline(blank: Blank, flag: str) -> None:
    vm = blank()
    late = vm.qvm("start", flag, "1")
    assert (late.status, "did not answer ssh within 2 s" in late.err) == (124, True)
    assert vm.qvm("status", "-s").out.startswith("demo: running")
    vm.ok("kill")
    for value in ("0", "-1", "x"):
        assert vm.qvm("start", flag, value).status == 2


@pytest.mark.parametrize("flag", ["-s", "--savevm", "--vm-save"])
@pytest.mark.parametrize("plain", ["-n", "--no-suspend", "--nosuspend"])
def test_stop_savevm_without_suspend_saves_as_it_is(blank: Blank, flag: str, plain: str) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert "demo: state saved as here in " in vm.ok("stop", flag, "here", plain).out
    assert vm.qvm("status").out == "demo: stopped\n"
    tags = subprocess.run(
        ["qemu-img", "snapshot", "-l", vm.directory / "demo-backing.qcow2"], capture_output=True, text=True
    ).stdout
    assert "here" in tags


def test_stop_options_that_exclude_each_other_are_refused(blank: Blank) -> None:
    vm = blank()
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


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
@pytest.mark.parametrize("plain", ["-s", "--no-ssh-check", "--no-ssh-fail"])
def test_status_quiet_and_without_ssh_check_give_only_the_status(blank: Blank, flag: str, plain: str) -> None:
    vm = blank()
    off = vm.qvm("status", flag, plain)
    assert (off.status, off.out, off.err) == (1, "", "")
    vm.ok("start", "--no-wait")
    on = vm.qvm("status", flag, plain)
    assert (on.status, on.out, on.err) == (0, "", "")
    assert vm.qvm("status", flag).status == 1  # no guest answers ssh
    assert vm.qvm("status", plain).out.startswith("demo: running (pid ")


def test_cmd_takes_the_rest_of_the_line_as_it_is(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert "disk0" in vm.ok("cmd", "info", "block", "-v").out
    assert vm.ok("cmd", "info name").out == "demo\n"


def test_kill_quits_by_the_monitor(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
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
    running = vm.world.popen("run", "-l", "here", cwd=vm.directory)
    while "running" not in vm.qvm("status", "-s").out:
        assert running.poll() is None
    vm.ok("kill")
    running.communicate()
    vm.ok("start", "--disposable", "--no-wait")
    vm.ok("kill")
    assert sorted(path.name for path in vm.directory.glob("*.qcow2")) == ["flat.qcow2"]
