"""archive that fails or is interrupted: what it says is so, and nothing false is left, or lost.

The steps that fail are replaced in a process of the test's own; all else is real.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.support.archives import archived_states, make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, snapshot_names, write_byte, write_live
from tests.support.programs import qemu_img
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, QVM, Blank, Vm

MAIN = """
from qvmsh.__main__ import main

sys.exit(main())
"""

INTERRUPT = """
import os, signal, sys


def interrupt(how):
    if how == "raise":
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGINT)
"""

LISTED = """
from qvmsh.machine.archive.index import ArchiveIndex

how, is_listed, write = sys.argv.pop(1), False, ArchiveIndex.write


def interrupted(self, archive, *words):
    global is_listed
    if is_listed and how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, archive, *words)
    if not is_listed and all(each.is_done for each in archive.points):
        is_listed = True
        interrupt("raise" if how == "kill" else how)


ArchiveIndex.write = interrupted
"""
"""Interrupted when the manifest lists the state as whole; `kill`: and killed when it is changed again."""

NAMED = """
from qvmsh.machine.archive.stores import Folder

how, rename = sys.argv.pop(1), Folder.rename


def interrupted(self, old, new):
    rename(self, old, new)
    Folder.rename = rename
    interrupt(how)


Folder.rename = interrupted
"""
"""Interrupted when the new archive has its name."""

NO_SETTINGS = """
import sys
from qvmsh.errors import QvmError
from qvmsh.machine.archive import writer


def fails(self):
    raise QvmError("the connection to the store was cut off")


writer.Writer._put_settings = fails
"""

NO_ROOM = """
import os, signal, sys
from qvmsh.errors import QvmError
from qvmsh.machine.archive import archive, writer


def fails(self, roles):
    raise QvmError("no room")


writer.Writer.announce_changes = fails
if sys.argv.pop(1) == "kill":
    archive._resume = lambda note: os.kill(os.getpid(), signal.SIGKILL)
else:
    undo = writer.Writer._undo

    def slow(self):
        import subprocess

        print(subprocess.run(["qvm", "status", "-s"], capture_output=True, text=True).stdout)
        undo(self)

    writer.Writer._undo = slow
"""


def run(vm: Vm, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{os.path.dirname(QVM)}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-c", INTERRUPT + script + MAIN, *words], cwd=vm.directory,
        env=vm.world.environ | {"PATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def bitmaps(vm: Vm) -> set[str]:
    return set(re.findall(r"qvm-[0-9a-f]{16}-main", vm.ok("qmp", "query-named-block-nodes").out))


def test_state_being_undone_is_listed_as_incomplete_first(blank: Blank) -> None:
    """Killed then, no later state is backed by what is half removed."""
    vm = blank()
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 1 0 64k")
    first = make_archive(vm)
    write_live(vm, "-P 2 1M 64k")
    done = run(vm, LISTED, "kill", "archive")
    assert done.returncode == -signal.SIGKILL, done.stderr
    write_live(vm, "-P 3 2M 64k")
    second = make_archive(vm)
    vm.ok("archive", "--verify")
    vm.ok("kill")
    vm.ok("restore", "latest", "../twin")
    twin = Vm(vm.world, vm.world.home / "twin")
    assert [read_byte(twin, at, "twin-backing.qcow2") for at in ("0", "1M", "2M")] == [1, 2, 3]
    assert {state_name(first), state_name(second)} <= {
        f"{row['archive']}/{row['stamp']}" for row in archived_states(vm)
    }
    require_nothing_left(vm)


def test_changes_are_not_backed_by_a_missing_or_truncated_file(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 1 0 64k")
    first = make_archive(vm)
    folder = vm.directory / first["archive"]
    path = folder / "demo-backing.qcow2"
    path.write_bytes(path.read_bytes()[:-100])
    second = make_archive(vm)
    assert "copied whole: demo-backing.qcow2 of an earlier state is missing or truncated" in second["notes"]
    (folder / f"demo-backing-{second['stamp']}.qcow2").unlink()
    third = make_archive(vm)
    assert not third["incremental"]
    assert make_archive(vm)["incremental"]
    assert "is good" in vm.ok("archive", "--verify", state_name(third)).out
    vm.ok("kill")


def test_base_that_is_missing_or_truncated_is_archived_again(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    first = make_archive(vm)
    (vm.directory / first["archive"] / "demo-base.qcow2").unlink()
    write_byte(vm, 2, "0")
    second = make_archive(vm)
    assert second["archive"] != first["archive"]
    assert (
        f"demo-base.qcow2 of {first['archive']} is missing or truncated: started a new archive"
        in second["notes"]
    )
    assert "is good" in vm.ok("archive", "--verify", state_name(second)).out


@pytest.mark.parametrize("script", [LISTED, NAMED])
@pytest.mark.parametrize("how", ["signal", "raise"])
def test_interruption_near_the_end_says_what_is_there(blank: Blank, script: str, how: str) -> None:
    """A Ctrl-C finds it whole; whatever else fails takes it back."""
    vm = blank()
    if script == LISTED:
        make_archive(vm)
    write_byte(vm, 1, "0")
    before = archived_states(vm)
    done = run(vm, script, how, "archive")
    assert done.returncode == 130, done.stderr
    after = archived_states(vm)
    if how == "signal":
        assert len(after) == len(before) + 1
        assert f"demo: interrupted; {after[-1]['archive']}/{after[-1]['stamp']} is complete" in done.stderr
    else:
        assert after == before
        assert "interrupted; the machine and its archives did not change" in done.stderr
    require_nothing_left(vm)
    make_archive(vm)
    vm.ok("archive", "--verify")


def test_held_guest_is_resumed_before_anything_is_undone(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    done = run(vm, NO_ROOM, "look", "archive", "--savevm", "x")
    assert done.returncode == 1, done.stderr
    assert "no room" in done.stderr
    assert "demo: running" in done.stdout
    assert vm.ok("status", "-s").out.startswith("demo: running")
    require_nothing_left(vm)
    vm.ok("kill")


def test_held_guest_is_resumed_if_a_failing_archive_is_killed(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    done = run(vm, NO_ROOM, "kill", "archive", "--savevm", "x")
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + DEADLINE_S
    while "running" not in vm.qvm("status", "-s").out:
        assert time.monotonic() < deadline, "the guest stands still"
        time.sleep(0.1)
    vm.ok("kill")


def test_failed_states_leave_no_bitmaps(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    make_archive(vm)
    before = bitmaps(vm)
    assert len(before) == 1
    done = run(vm, NO_SETTINGS, "archive")
    assert done.returncode == 1, done.stderr
    assert bitmaps(vm) == before
    assert make_archive(vm)["incremental"]
    vm.ok("kill")


SSH = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift 2
case "$*" in
*cat\\ \\>*base.qcow2*) touch ~/gone; exec sleep 100 ;;
*rm\\ -rf*) [ ! -e ~/gone ] || { touch ~/hanging; exec sleep 200; } ;;
esac
exec sh -c "$*"
"""  # a host that is gone: ssh waits


def test_host_that_is_gone_does_not_block_a_second_ctrl_c(blank: Blank) -> None:
    vm = blank()
    home = vm.world.home
    (home / "bin").mkdir()
    (home / "bin/ssh").write_text(SSH)
    (home / "bin/ssh").chmod(0o755)
    vm.ok("config", f"VM_ARCHIVE=ssh://far{home}/store")
    env = vm.world.environ | {"PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    child = subprocess.Popen(
        [QVM, "archive"],
        cwd=vm.directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for mark in ("gone", "hanging"):
        while not (home / mark).exists():
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=DEADLINE_S)[0]
    assert child.returncode == 130, said
    assert f"unfinished files are left in ssh://far{home}/store, the next archive removes them" in said
    assert "did not change" not in said
    (home / "gone").unlink()
    (home / "bin/ssh").write_text(SSH.replace("touch ~/gone; exec sleep 100", 'exec sh -c "$*"'))
    vm.ok("archive", env=env)
    assert not [path for path in (home / "store").iterdir() if ".part" in path.name]


@pytest.mark.parametrize("how", ["store", "room", "tag"])
def test_create_that_cannot_archive_drops_no_snapshot(blank: Blank, how: str) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    qemu_img(vm, "snapshot", "-c", "precious", "demo-backing.qcow2")
    write_byte(vm, 2, "0")
    words = ["archive", "--create", "--drop-snapshots"]
    with contextlib.ExitStack() as stack:
        if how == "store":
            vm.set(VM_ARCHIVE="/proc/nowhere")
        elif how == "room":
            (vm.world.home / "store").mkdir()
            stack.enter_context(small_disk(vm.world.home / "store", 1))
            vm.set(VM_ARCHIVE="../store")
        else:
            words += ["--delvm", "precious"]
        refused = vm.qvm(*words)
    assert refused.status == (2 if how == "tag" else 1), str(refused)
    assert "hint:" in refused.err or how == "tag"
    assert snapshot_names(vm) == ["precious"]
    assert read_byte(vm, "0") == 2
    assert read_byte(vm, "0", "demo-base.qcow2") == 0
    require_nothing_left(vm)


def test_create_that_fails_after_the_commit_reports_the_commit(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    refused = vm.qvm("archive", "--create", "--delvm", "nosuch")
    assert refused.status == 3, str(refused)
    assert read_byte(vm, "0", "demo-base.qcow2") == 0  # asked before
    done = run(vm, NO_SETTINGS, "archive", "--create")
    assert done.returncode == 1, done.stderr
    assert "demo-backing.qcow2 was committed into demo-base.qcow2" in done.stderr
    assert read_byte(vm, "0", "demo-base.qcow2") == 1
    require_nothing_left(vm)


def test_snapshot_that_would_be_removed_at_once_is_refused(blank: Blank) -> None:
    refused = blank().qvm("archive", "--savevm", "x", "--delvm", "x")
    assert refused.status == 2
    assert "--savevm and --delvm both name x" in refused.err


@pytest.mark.parametrize("script", [LISTED, NAMED])
def test_state_complete_when_its_archive_was_killed_is_reported(blank: Blank, script: str) -> None:
    vm = blank()
    if script == LISTED:
        make_archive(vm)
        script = script.replace(
            "        is_listed = True\n", "        os.kill(os.getpid(), signal.SIGKILL)\n"
        )
    write_byte(vm, 1, "0")
    done = run(vm, script, "kill", "archive")
    assert done.returncode == -signal.SIGKILL, done.stderr
    row = archived_states(vm)[-1]
    errors = vm.qvm("init").err
    assert f"was interrupted, and was cleaned up: {row['archive']}/{row['stamp']} is complete" in errors
    assert "removed" not in errors
    assert archived_states(vm)[-1] == row
    vm.ok("archive", "--verify")
    require_nothing_left(vm)


def test_killed_archive_on_another_host_is_removed_by_the_next(blank: Blank) -> None:
    vm = blank()
    home = vm.world.home
    (home / "bin").mkdir()
    (home / "bin/ssh").write_text(SSH.replace("touch ~/gone; exec sleep 100", "kill -KILL $PPID"))
    (home / "bin/ssh").chmod(0o755)
    vm.ok("config", f"VM_ARCHIVE=ssh://far{home}/store")
    env = {"PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    assert vm.qvm("archive", env=env).status == -signal.SIGKILL
    output = vm.ok("doctor", "--fix", env=env).out
    assert f"the next archive removes the unfinished files in ssh://far{home}/store" in output
    assert [path for path in (home / "store").iterdir() if ".part" in path.name]
