"""`qvm snapshot` with real QEMU and three disks, without a guest system: all disks, or none."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import flush, holds, write_live
from tests.support.programs import qemu_img
from tests.support.snapshots import DISKS, tags, three_disks, write_disks
from tests.support.world import DEADLINE_S, Blank, Vm


def write_all(vm: Vm, pattern: int) -> None:
    is_on = (vm.directory / ".qvm/qemu.pid").exists()
    write_disks(vm, pattern, is_on=is_on)


def all_hold(vm: Vm, pattern: int) -> bool:
    return all(holds(vm, disk, pattern) for disk in DISKS)


def metadata(vm: Vm) -> dict[str, Any]:
    document = json.loads((vm.directory / ".qvm/snapshots.json").read_text())
    return {row["name"]: row for row in document["snapshots"]}


@pytest.fixture
def off(blank: Blank) -> Vm:
    return three_disks(blank)


@pytest.fixture
def on(blank: Blank) -> Vm:
    vm = three_disks(blank)
    vm.ok("start", "--no-wait")
    return vm


def require_clean_disks(vm: Vm) -> None:
    for disk in DISKS:
        qemu_img(vm, "check", "-q", disk)  # leaks count too
    assert not list((vm.directory / ".qvm").glob("*unfinished*"))
    assert not [name for row in tags(vm) for name in row if ".qvm-" in name]


def test_save_restore_delete_while_off(off: Vm) -> None:
    write_all(off, 1)
    output = off.ok("snapshot", "save", "före flytten", "-m", "all is well").out
    assert re.fullmatch(r"demo: saved the snapshot före flytten \(3 disks\) in \d+\.\d s\n", output)
    write_all(off, 2)
    assert off.ok("snapshot", "restore", "före flytten").out.startswith("demo: restored the snapshot före fl")
    assert all_hold(off, 1)
    entry = metadata(off)["före flytten"]
    assert (entry["message"], entry["parent"], entry["memory"]) == ("all is well", None, False)
    assert entry["disks"] == [str(off.directory / disk) for disk in DISKS]
    off.ok("save-disk", "nightly")
    names = tags(off)
    assert names[0] == names[1] == names[2]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-nightly", names[0][1])
    assert metadata(off)[names[0][1]]["parent"] == "före flytten"
    off.ok("delete-disk", "före flytten")
    assert tags(off) == [[names[0][1]]] * 3
    assert metadata(off)[names[0][1]]["parent"] is None
    require_clean_disks(off)


@pytest.mark.both_qemus
def test_save_restore_delete_while_on_keep_process_and_memory(on: Vm) -> None:
    write_all(on, 1)
    pid = on.pid
    saved = json.loads(on.ok("snapshot", "save", "ready", "--json").out)
    assert (saved["disks"], saved["memory"]) == (["disk0", "disk1", "disk2"], True)
    assert saved["vmstate_bytes"] > 100000
    entry = metadata(on)["ready"]
    assert entry["machine"].startswith("pc-i440fx-")
    assert entry["qemu"].count(".") == 2
    assert "-blockdev" in entry["arguments"]
    write_all(on, 2)
    output = on.ok("snapshot", "restore", "ready", "--no-wait").out
    assert "(3 disks and the memory)" in output
    assert on.qvm("status", "-s").out == f"demo: running (pid {pid})\n"
    assert on.pid == pid
    write_live(on, "-P 3 1M 64k", "disk2")  # the guest still writes
    flush(on, "disk2")
    on.ok("pause")
    on.ok("snapshot", "restore", "ready", "--no-wait")
    assert on.qvm("status", "-s").out.startswith("demo: paused")  # as it was found
    on.ok("snapshot", "delete", "ready")
    on.ok("kill")
    assert tags(on) == [[], [], []]
    assert all_hold(on, 1)
    require_clean_disks(on)


def test_save_while_on_is_the_same_as_stop_savevm(on: Vm) -> None:
    on.ok("snapshot", "save", "one")
    on.ok("stop", "--savevm", "two", "--no-suspend")
    assert metadata(on)["two"]["parent"] == "one"
    assert metadata(on)["two"]["vmstate_bytes"] > 0
    output = on.ok("snapshot", "restore", "one").out
    assert "`qvm start --loadvm one` resumes it with its memory" in output
    on.ok("start", "--no-wait", "--loadvm", "one")
    assert on.qvm("status", "-s").out.startswith("demo: running")
    on.ok("snapshot", "restore", "two", "--no-wait")
    on.ok("stop", "--savevm", "two", "--no-suspend")  # takes the place of the older one
    assert tags(on) == [["one", "two"]] * 3
    require_clean_disks(on)


def test_disk_only_while_on_saves_no_memory(on: Vm) -> None:
    write_all(on, 1)
    output = on.ok("snapshot", "save", "disks", "--disk-only").out
    assert "(3 disks, crash-consistent)" in output
    assert metadata(on)["disks"]["frozen"] is False
    write_all(on, 2)
    refused = on.qvm("snapshot", "restore", "disks")
    assert refused.status == 3
    assert "demo: the snapshot disks holds only disks, no memory; the machine is running" in refused.err
    assert "hint: `qvm stop`, then" in refused.err
    on.ok("kill")
    loaded = on.qvm("start", "--no-wait", "--loadvm", "disks")
    assert loaded.status == 3
    assert "holds only disks, no memory" in loaded.err
    on.ok("snapshot", "restore", "disks")
    assert all_hold(on, 1)
    require_clean_disks(on)


def test_save_of_a_name_in_use_is_refused_unless_replaced(off: Vm) -> None:
    off.ok("snapshot", "save", "a")
    write_all(off, 5)
    refused = off.qvm("snapshot", "save", "a")
    assert refused.status == 3
    assert "demo: the snapshot a already exists" in refused.err
    off.ok("snapshot", "save", "a", "--replace")
    write_all(off, 6)
    off.ok("snapshot", "restore", "a")
    assert all_hold(off, 5)
    assert tags(off) == [["a"]] * 3
    require_clean_disks(off)


def test_names_that_qemu_would_misread_are_refused(off: Vm) -> None:
    wrong = {
        "12": "QEMU would read it as a number",
        "": "it is empty",
        "a\nb": "unprintable characters",
        b"\xff\xfe".decode(errors="surrogateescape"): "unprintable characters",
        "x.qvm-back": "qvm itself uses names",
        "x" * 300: "it has 300 bytes, of at most 200",
        "ä" * 101: "it has 202 bytes",
        " a": "begins or ends with a space",
    }
    for name, why in wrong.items():
        refused = off.qvm("snapshot", "save", name)
        assert refused.status == 2, name
        assert why in refused.err, refused.err
        assert "\nhint: " in refused.err
        assert len(refused.err) < 300
    assert tags(off) == [[]] * 3
    for name in ("a/b", "..", "1a", "%s", "a,b=c:d", "日本語 🎉", "ä" * 100):
        off.ok("snapshot", "save", name)
        off.ok("snapshot", "restore", name)
        off.ok("snapshot", "delete", name)
    assert tags(off) == [[]] * 3
    off.ok("snapshot", "save", "-m", "dash", "--", "-d")
    off.ok("snapshot", "restore", "--", "-d")
    qemu_img(off, "snapshot", "-c", "1", DISKS[0])  # by another tool: a name that is a number
    for disk in DISKS[1:]:
        qemu_img(off, "snapshot", "-c", "1", disk)
    write_all(off, 7)
    off.ok("snapshot", "restore", "1")
    assert not any(holds(off, disk, 7) for disk in DISKS)


def test_failure_on_the_third_disk_undoes_the_first_two(off: Vm) -> None:
    """Held open by another process between the check and the work: qemu-img itself fails."""
    write_all(off, 1)
    off.ok("snapshot", "save", "good")
    write_all(off, 2)
    fake = off.world.home / "qemu-img"
    real = subprocess.run(["which", "qemu-img"], capture_output=True, text=True, check=True).stdout.strip()
    fake.write_text(
        "#!/bin/sh\n"
        'case "$1$2$5$4" in snapshot-[ac]*more.qcow2) '
        f'case "$2$3" in $QVM_TEST_FAILS) echo "qemu-img: no luck" >&2; exit 1;; esac;; esac\n'
        f'exec {real} "$@"\n'
    )
    fake.chmod(0o755)
    off.set(VM_QEMU_IMG=str(fake))
    failed = off.qvm("snapshot", "save", "bad", env={"QVM_TEST_FAILS": "-cbad"})
    assert failed.status == 1
    assert "cannot save bad on disk2" in failed.err
    assert "  no luck" in failed.err
    assert "was undone: no disk has it" in failed.err
    assert tags(off) == [["good"]] * 3
    assert "bad" not in metadata(off)
    number = "-a1"
    failed = off.qvm("snapshot", "restore", "good", env={"QVM_TEST_FAILS": number})
    assert failed.status == 1
    assert "was undone: the disks are as before" in failed.err
    assert all_hold(off, 2)
    require_clean_disks(off)


def test_load_that_fails_in_qemu_is_undone_in_the_same_process(on: Vm) -> None:
    """A memory that does not fit this hardware: QEMU finds out when the disks are back already."""
    on.ok("snapshot", "save", "small")
    on.ok("kill")
    on.set(VM_MACHINE_MEM="96")
    on.ok("start", "--no-wait")
    write_all(on, 4)
    pid = on.pid
    refused = on.qvm("snapshot", "restore", "small", "--no-wait")
    assert refused.status == 3
    assert (
        "the hardware differs from that of the snapshot small: VM_MACHINE_MEM was 64, and is 96"
        in refused.err
    )
    failed = on.qvm("snapshot", "restore", "small", "--force", "--no-wait")
    assert failed.status == 1, str(failed)
    assert "was undone: the guest is as before" in failed.err
    assert on.qvm("status", "-s").out == f"demo: running (pid {pid})\n"
    on.ok("kill")
    assert all_hold(on, 4)
    require_clean_disks(on)


def test_restore_of_a_snapshot_missing_on_a_disk_changes_nothing(off: Vm) -> None:
    write_all(off, 1)
    off.ok("snapshot", "save", "a")
    qemu_img(off, "snapshot", "-d", "a", DISKS[1])
    write_all(off, 2)
    refused = off.qvm("snapshot", "restore", "a")
    assert refused.status == 3
    assert "demo: there is no snapshot a on disk1" in refused.err
    assert "hint: `qvm snapshot delete a` removes the rest" in refused.err
    assert all_hold(off, 2)
    off.ok("snapshot", "delete", "a")
    assert tags(off) == [[], [], []]


def test_dirty_bitmaps_are_removed_by_a_restore_and_reported(off: Vm) -> None:
    off.ok("snapshot", "save", "a")
    qemu_img(off, "bitmap", "--add", DISKS[1], "archive")
    output = off.ok("snapshot", "restore", "a").out
    assert "\ndemo: the next incremental archive will be a full one" in output
    off.ok("start", "--no-wait")
    off.ok("snapshot", "save", "b")
    off.ok("qmp", "block-dirty-bitmap-add", "node=disk2", "name=archive", "persistent=true")
    output = off.ok("snapshot", "restore", "b", "--no-wait").out
    assert "\ndemo: the next incremental archive will be a full one" in output


def test_image_in_use_by_another_process_is_refused(off: Vm) -> None:
    argv = ["qemu-io", "-f", "qcow2", DISKS[2]]
    other = subprocess.Popen(argv, cwd=off.directory, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            refused = off.qvm("snapshot", "save", "a")
            if refused.status:
                break
            off.ok("snapshot", "delete", "a")
        assert refused.status == 1
        assert f"demo: more.qcow2 is in use by qemu-io (pid {other.pid}" in refused.err
        assert tags(off) == [[], [], []]
    finally:
        assert other.stdin is not None
        other.stdin.close()
        other.wait(DEADLINE_S)


def test_disposable_machine_takes_no_snapshot(off: Vm) -> None:
    off.ok("start", "--no-wait", "--disposable")
    refused = off.qvm("snapshot", "save", "a")
    assert refused.status == 3
    assert "demo: cannot save a snapshot: it is disposable" in refused.err


def test_blockers_are_all_named_with_their_remedies(off: Vm) -> None:
    qemu_img(off, "create", "-q", "-f", "raw", "plain.raw", "1M")
    Path(off.directory / "vars.fd").write_bytes(bytes(1 << 18))
    with (off.directory / ".vmrc").open("a") as file:
        file.write(
            'VM_QEMU_EXTRA="-drive file=plain.raw,format=raw,if=virtio,id=extra '
            '-drive file=vars.fd,format=raw,if=none,id=vars"\n'
        )
    refused = off.qvm("snapshot", "save", "a")
    assert refused.status == 3
    assert "cannot save a snapshot: the disk plain.raw is raw, which cannot hold snapshots" in refused.err
    assert "(and 1 more)" in refused.err
    assert "`qemu-img convert -f raw -O qcow2 vars.fd vars.qcow2`" in refused.err
    off.ok("start", "--no-wait")
    for words in (["snapshot", "save", "a"], ["stop", "--savevm", "a", "--no-suspend"]):
        refused = off.qvm(*words)
        assert refused.status == 3
        assert "plain.raw is raw, which cannot hold snapshots" in refused.err
    assert off.qvm("status", "-s").out.startswith("demo: running")
    assert tags(off) == [[], [], []]


def test_two_commands_at_once_refuse_the_second_by_name(off: Vm) -> None:
    commands = [off.world.popen("snapshot", "save", f"s{at}", cwd=off.directory) for at in range(4)]
    ended = [(each.communicate(timeout=DEADLINE_S), each.returncode) for each in commands]
    done = [status for _, status in ended if status == 0]
    assert done
    for (_, err), status in ended:
        assert status in (0, 3)
        assert not status or "`qvm snapshot save`, pid " in err, err
    assert len(tags(off)[0]) == len(done)
    require_clean_disks(off)
