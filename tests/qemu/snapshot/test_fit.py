"""Whether a snapshot fits the machine as it is now: disks, moment, base, hardware."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time

import pytest

from tests.support.disks import holds, write_byte
from tests.support.programs import qemu_img
from tests.support.world import QVM, Blank, Vm

MAIN, DATA, MORE = "demo-backing.qcow2", "data.qcow2", "more.qcow2"


def disk(vm: Vm, name: str) -> None:
    qemu_img(vm, "create", "-q", "-f", "qcow2", name, "16M")


def later_second() -> None:
    """Until the clock shows another second: dates of snapshots have no parts of one."""
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.02)


def row(vm: Vm, name: str) -> dict[str, object]:
    found = json.loads(vm.ok("snapshot", "list", "--json").out)["snapshots"]
    return next(each for each in found if each["name"] == name)


@pytest.fixture
def two(blank: Blank) -> Vm:
    vm = blank(VM_DISKS=DATA)
    disk(vm, DATA)
    return vm


def test_disk_that_was_added_later_is_left_as_it_is_if_wished(two: Vm) -> None:
    write_byte(two, 1, "1M", DATA)
    two.ok("snapshot", "save", "old")
    write_byte(two, 2, "1M", DATA)
    two.ok("disk", "add", MORE, "16M")
    write_byte(two, 3, "1M", MORE)
    assert (row(two, "old")["missing"], row(two, "old")["without"]) == (["disk2"], ["disk2"])
    assert "disk0 disk1; taken without disk2" in two.ok("snapshot", "list").out
    refused = two.qvm("snapshot", "restore", "old")
    assert refused.status == 3
    assert (
        "demo: the snapshot old was taken without disk2, more.qcow2\n"
        "hint: `qvm snapshot restore --force old` restores the others"
    ) in refused.err
    assert "delete" not in refused.err
    assert holds(two, DATA, 2)
    loaded = two.qvm("start", "--no-wait", "--loadvm", "old")
    assert loaded.status == 3
    assert "was taken without disk2" in loaded.err
    output = two.ok("snapshot", "restore", "old", "--force").out
    assert "(2 disks)" in output
    assert "; disk2 was left unchanged" in output
    assert holds(two, DATA, 1)
    assert holds(two, MORE, 3)
    judged = two.qvm("snapshot", "verify", "old")
    assert (judged.status, judged.out) == (
        1, "demo: old: cannot be trusted\n  it was taken without disk2, more.qcow2\n",
    )  # fmt: skip
    two.ok("snapshot", "save", "new")  # and a new one has them all
    assert row(two, "new")["missing"] == []


def test_disk_that_was_plugged_in_since_is_left_after_a_stop(two: Vm) -> None:
    """The memory cannot be loaded with a part of the disks: the hint names the way that works."""
    write_byte(two, 1, "1M", DATA)
    two.ok("start", "--no-wait")
    two.ok("snapshot", "save", "old one")
    two.ok("disk", "add", MORE, "16M")
    for words in (["old one"], ["--force", "old one"]):
        refused = two.qvm("snapshot", "restore", *words)
        assert refused.status == 3
        assert (
            "demo: the snapshot old one was taken without disk2, more.qcow2\n"
            "hint: `qvm stop`, then `qvm snapshot restore --force 'old one'` restores the others"
        ) in refused.err
    two.ok("kill")
    write_byte(two, 2, "1M", DATA)
    forced = two.ok("snapshot", "restore", "--force", "old one")
    assert "; disk2 was left unchanged" in forced.out
    assert f"VM_DISKS was {DATA}, and is {DATA}, {MORE}:qcow2: the memory" in forced.err
    assert holds(two, DATA, 1)


def test_raw_disk_that_was_added_later_is_left_too(two: Vm) -> None:
    two.ok("snapshot", "save", "old")
    qemu_img(two, "create", "-q", "-f", "raw", "plain.raw", "1M")
    two.set(VM_DISKS=f"{DATA}\nplain.raw:raw")
    refused = two.qvm("snapshot", "restore", "old")
    assert "the disk plain.raw is raw" in refused.err
    assert "disk2 was left unchanged" in two.ok("snapshot", "restore", "old", "--force").out


def test_disk_no_longer_of_the_machine_is_reported(two: Vm) -> None:
    write_byte(two, 1, "1M", MAIN)
    two.ok("snapshot", "save", "old")
    write_byte(two, 2, "1M", MAIN)
    two.set(VM_DISKS="")
    refused = two.qvm("snapshot", "restore", "old")
    assert refused.status == 3
    assert f"includes {two.directory / DATA}, which is no longer a disk of the machine" in refused.err
    assert f"changed:  {two.directory / DATA} was a disk at the time" in two.ok("snapshot", "show", "old").out
    assert holds(two, MAIN, 2)
    two.ok("snapshot", "restore", "old", "--force")
    assert holds(two, MAIN, 1)


def test_other_machine_type_refused_while_on_warned_of_while_off(two: Vm) -> None:
    two.ok("start", "--no-wait")
    two.ok("snapshot", "save", "pc")
    two.ok("kill")
    two.set(VM_QEMU_MACHINE="q35")
    two.ok("start", "--no-wait")
    pid = two.pid
    refused = two.qvm("snapshot", "restore", "pc", "--no-wait")
    assert refused.status == 3
    assert "the hardware differs from that of the snapshot pc: the machine type was pc-i440fx-" in refused.err
    assert ", and is pc-q35-" in refused.err
    assert "VM_QEMU_MACHINE was pc, and is q35" in refused.err
    assert two.qvm("status", "-s").out == f"demo: running (pid {pid})\n"
    two.ok("kill")
    result = two.ok("snapshot", "restore", "pc")  # the disks fit any hardware
    assert "VM_QEMU_MACHINE was pc, and is q35: the memory of pc will not load" in result.err
    refused = two.qvm("start", "--no-wait", "--loadvm", "pc")
    assert refused.status == 3
    assert "the hardware differs from that of the snapshot pc: the machine type was pc-i440fx-" in refused.err
    assert "VM_QEMU_MACHINE was pc, and is q35" in refused.err
    failed = two.qvm("start", "--no-wait", "--force", "--loadvm", "pc")
    assert failed.status == 1
    assert "cannot load the snapshot pc" in failed.err
    assert two.qvm("status", "-s").out == "demo: stopped\n"
    two.set(VM_QEMU_MACHINE="pc")
    two.ok("start", "--no-wait", "--loadvm", "pc")


def test_snapshots_of_several_moments_are_not_put_together(two: Vm) -> None:
    """Another tool has replaced the one of the second disk, under the same name."""
    two.ok("snapshot", "save", "a")
    write_byte(two, 2, "1M", MAIN)
    write_byte(two, 2, "1M", DATA)
    later_second()
    qemu_img(two, "snapshot", "-d", "a", DATA)
    qemu_img(two, "snapshot", "-c", "a", DATA)
    refused = two.qvm("snapshot", "restore", "a")
    assert refused.status == 3
    assert (
        "demo: the disks of the snapshot a are from different moments: on disk1 it is another" in refused.err
    )
    assert "`qvm snapshot verify a` shows more" in refused.err
    assert two.qvm("snapshot", "verify", "a").status == 1
    assert holds(two, MAIN, 2)
    result = two.ok("snapshot", "restore", "a", "--force")
    assert "demo: a: on disk1 it is another snapshot" in result.err
    assert not holds(two, MAIN, 2)
    assert holds(two, DATA, 2)


def test_two_disks_of_one_file_name_are_distinguished(blank: Blank) -> None:
    vm = blank(VM_DISKS=f"o/{MAIN}")
    (vm.directory / "o").mkdir()
    disk(vm, f"o/{MAIN}")
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "s")
    vm.ok("snapshot", "verify", "s")
    vm.ok("snapshot", "restore", "--no-wait", "s")
    vm.ok("kill")
    (vm.directory / "p").mkdir()
    vm.ok("disk", "add", f"p/{MAIN}", "16M")
    assert (row(vm, "s")["missing"], row(vm, "s")["without"]) == (["disk2"], ["disk2"])
    moved = vm.directory.rename(vm.directory.parent / "elsewhere")
    there = Vm(vm.world, moved)
    assert row(there, "s")["without"] == ["disk2"]
    there.ok("snapshot", "restore", "--force", "s")


def test_memory_of_another_moment_is_not_loaded(two: Vm) -> None:
    """Made by HMP, so that there is no metadata; QEMU gives the snapshots of one moment one date."""
    two.ok("start", "--no-wait")
    two.ok("cmd", "savevm h")
    two.ok("snapshot", "restore", "h", "--no-wait")
    assert two.ok("snapshot", "verify", "h").out.startswith("demo: h: no fault found\n")
    assert row(two, "h")["foreign"] is True
    two.ok("kill")
    later_second()
    qemu_img(two, "snapshot", "-d", "h", DATA)
    qemu_img(two, "snapshot", "-c", "h", DATA)
    result = two.qvm("snapshot", "verify", "h")
    assert result.status == 1
    assert "  its memory is from 20" in result.out
    loaded = two.qvm("start", "--no-wait", "--loadvm", "h")
    assert loaded.status == 3
    assert "the disks of the snapshot h are from different moments: its memory is from" in loaded.err
    assert two.qvm("status", "-s").out == "demo: stopped\n"
    two.ok("start", "--no-wait")
    pid = two.pid
    refused = two.qvm("snapshot", "restore", "h", "--no-wait")
    assert refused.status == 3
    assert "are from different moments" in refused.err
    assert two.qvm("status", "-s").out == f"demo: running (pid {pid})\n"


def test_restore_by_a_name_that_is_also_a_number_is_refused(two: Vm) -> None:
    two.ok("start", "--no-wait")
    two.ok("cmd", "savevm first")
    two.ok("cmd", "savevm 1")
    before = (two.directory / ".qvm/log/qvm.log").read_text()
    refused = two.qvm("snapshot", "restore", "1", "--no-wait")
    assert refused.status == 3
    assert "demo: the name 1 is also the number of another snapshot on disk0" in refused.err
    assert "undone" not in (two.directory / ".qvm/log/qvm.log").read_text().removeprefix(before)
    two.ok("snapshot", "delete", "1")  # by name: not the first
    two.ok("kill")
    assert [each["name"] for each in json.loads(two.ok("snapshot", "list", "--json").out)["snapshots"]] == [
        "first"
    ]


def test_restore_of_a_snapshot_on_one_disk_hints_at_that_disk(two: Vm) -> None:
    qemu_img(two, "snapshot", "-c", "mine", DATA)
    refused = two.qvm("snapshot", "restore", "mine")
    assert refused.status == 3
    assert f"demo: there is no snapshot mine on disk0, {MAIN}\n" in refused.err
    assert f"`qemu-img snapshot -a mine {DATA}` restores only {DATA}" in refused.err
    output = two.ok("snapshot", "diff", "mine").out
    assert output == "demo: from mine to now\n  disk0    has no snapshot mine\n  disk1    unchanged\n"


def test_disk_on_which_another_image_stands_is_not_put_back(two: Vm) -> None:
    two.ok("snapshot", "save", "old")
    qemu_img(two, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "demo-backing.qcow2", "clone.qcow2")
    refused = two.qvm("snapshot", "restore", "old")
    assert refused.status == 1
    assert "cannot restore a snapshot: clone.qcow2 is backed by demo-backing.qcow2" in refused.err
    assert "--disposable" not in refused.err
    two.ok("snapshot", "restore", "--force", "old")


def test_base_moved_away_while_on_is_not_an_obstacle(two: Vm) -> None:
    two.ok("start", "--no-wait")
    base, away = two.directory / "demo-base.qcow2", two.directory / "away.qcow2"
    base.rename(away)
    two.ok("snapshot", "save", "x")
    assert two.qvm("status", "-s").out.startswith("demo: running")
    two.ok("stop", "--savevm", "y", "--no-suspend")
    assert not (two.directory / ".qvm/snapshot.unfinished").exists()
    away.rename(base)
    two.ok("start", "--no-wait", "--loadvm", "y")


def test_base_that_was_written_to_since_is_warned_of(two: Vm) -> None:
    two.ok("snapshot", "save", "a")
    assert two.ok("snapshot", "restore", "a").err == ""
    write_byte(two, 9, "1M", "demo-base.qcow2")
    output = two.ok("snapshot", "restore", "a").err
    assert "demo: a: the size of the base demo-base.qcow2 of disk0 has changed since: data that" in output
    assert two.qvm("snapshot", "verify", "a").status == 1
    os.rename(two.directory / "demo-base.qcow2", two.directory / "x")
    output = two.qvm("snapshot", "verify", "a").out
    assert "the base demo-base.qcow2 of disk0 is missing" in output


def test_verify_says_no_more_of_a_base_than_is_known(two: Vm) -> None:
    """Written to with its date put back, or only touched or copied: no record shows which."""
    base, copy = two.directory / "demo-base.qcow2", two.directory / "copy"
    two.ok("snapshot", "save", "a")
    assert two.ok("snapshot", "verify", "a").out == "demo: a: whole\n"
    dates = base.stat()
    write_byte(two, 9, "1M", base.name)
    os.utime(base, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    doubt = "the base demo-base.qcow2 of disk0 has the same size and date, but its file was touched since"
    if base.stat().st_size == dates.st_size:
        assert doubt in two.ok("snapshot", "verify", "a").out
    two.ok("snapshot", "save", "b")
    shutil.copy2(base, copy)
    copy.rename(base)
    output = two.ok("snapshot", "verify", "b").out
    assert output.startswith("demo: b: no fault found\n  " + doubt)
    os.utime(base)
    judged = two.qvm("snapshot", "verify", "b")
    assert judged.status == 1
    assert "the date of the base demo-base.qcow2 of disk0 has changed since" in judged.out
    assert "written to" not in judged.out


def test_verify_of_a_base_on_another_image_reports_what_is_left(two: Vm) -> None:
    disk(two, "lowest.qcow2")
    qemu_img(two, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "lowest.qcow2", "demo-base.qcow2")
    two.ok("snapshot", "save", "a")
    output = two.ok("snapshot", "verify", "a").out
    assert output.startswith("demo: a: no fault found\n")
    assert "is backed by another image, which may have been written to since" in output


@pytest.mark.parametrize("is_on", [False, True])
def test_verify_after_a_resize_says_how_much_was_read(two: Vm, is_on: bool) -> None:
    write_byte(two, 5, "12M", DATA)
    two.ok("snapshot", "save", "middle")
    two.ok("disk", "resize", DATA, "32M")
    two.ok("snapshot", "save", "large")
    two.ok("snapshot", "verify", "middle")
    two.ok("disk", "resize", "--shrink", DATA, "8M")
    if is_on:
        two.ok("start", "--no-wait")
    output = two.ok("snapshot", "verify").out
    for name, size in (("middle", 16), ("large", 32)):
        assert re.search(rf"^demo: {name}: no fault found$", output, re.M)
        assert f"only 8.0 MiB of its {size}.0 MiB on disk1 were read: the disk is smaller now" in output
    if not is_on:
        two.ok("snapshot", "restore", "middle")
        assert holds(two, DATA, 5, at="12M")
        assert two.ok("snapshot", "verify", "middle").out == "demo: middle: whole\n"


def test_disk_that_is_missing_is_reported_by_each_verb(two: Vm) -> None:
    two.ok("snapshot", "save", "a")
    os.rename(two.directory / DATA, two.directory / "x")
    assert f"disk1    {DATA} (it is missing)" in two.ok("snapshot", "list").out
    assert "it is missing" in json.loads(two.ok("snapshot", "list", "--json").out)["disks"][1]["problem"]
    assert "  disk1:    missing" in two.ok("snapshot", "show", "a").out
    judged = two.qvm("snapshot", "verify", "a")
    assert judged.status == 1
    assert f"  {DATA} is missing" in judged.out
    for words in (["save", "b"], ["restore", "a"], ["delete", "a"]):
        refused = two.qvm("snapshot", *words)
        assert refused.status == 1
        assert f"demo: {DATA} is missing\nhint: put it back" in refused.err
    os.rename(two.directory / "x", two.directory / DATA)
    assert two.ok("snapshot", "verify", "a").out == "demo: a: whole\n"


def test_host_keys_that_were_pinned_come_back_with_the_snapshot(two: Vm) -> None:
    """A guest from before its first boot makes new keys; one from after it has those of its time."""
    keys = two.directory / ".qvm/known_hosts"
    keys.unlink(missing_ok=True)
    two.ok("snapshot", "save", "fresh")
    keys.write_text("demo ssh-ed25519 AAAA\n")
    two.ok("start", "--no-wait")
    two.ok("snapshot", "save", "booted")
    two.ok("kill")
    two.ok("snapshot", "restore", "fresh")
    assert not keys.exists()
    keys.write_text("demo ssh-ed25519 BBBB\n")
    two.ok("start", "--no-wait", "--loadvm", "booted")
    assert keys.read_text() == "demo ssh-ed25519 AAAA\n"


def test_uefi_variables_are_one_of_the_disks(blank: Blank) -> None:
    vm = blank(VM_FIRMWARE="uefi", VM_DISKS=DATA)
    disk(vm, DATA)
    vm.ok("start", "--no-wait")
    saved = json.loads(vm.ok("snapshot", "save", "on", "--json").out)
    assert saved["disks"] == ["disk0", "disk1", "uefi-variables"]
    vm.ok("snapshot", "restore", "on", "--no-wait")
    vm.ok("kill")
    variables = "demo-uefi.qcow2"
    write_byte(vm, 1, "1M", DATA)
    vm.ok("snapshot", "save", "off")
    write_byte(vm, 5, "64k", variables)
    write_byte(vm, 5, "1M", DATA)
    assert "(3 disks)" in vm.ok("snapshot", "restore", "off").out
    assert holds(vm, DATA, 1)
    assert not holds(vm, variables, 5, at="64k")
    assert vm.ok("snapshot", "verify").out == "demo: off: whole\ndemo: on: whole\n"
    vm.ok("start", "--no-wait", "--loadvm", "on")
    vm.ok("snapshot", "delete", "on", "off")
    assert row_count(vm) == 0


def row_count(vm: Vm) -> int:
    return len(json.loads(vm.ok("snapshot", "list", "--json").out)["snapshots"])


def hint_run(vm: Vm, output: str) -> None:
    """Run the command that the hint names, as it stands."""
    (command,) = re.findall(r"^hint: `([^`]+)`", output, re.M)
    path = f"{os.path.dirname(QVM)}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, cwd=vm.directory, env=vm.world.environ | {"PATH": path}, check=True)


@pytest.mark.parametrize("is_on", [False, True])
def test_two_snapshots_of_one_name_are_distinguished_and_kept(two: Vm, is_on: bool) -> None:
    """As `qemu-img` makes them; no verb takes both, or one of them in silence."""
    two.ok("snapshot", "save", "my own")
    for pattern in (1, 2):
        write_byte(two, pattern, "1M", DATA)
        qemu_img(two, "snapshot", "-c", "my own", DATA)
    if is_on:
        two.ok("start", "--no-wait")
    listed = two.ok("snapshot", "list").out
    assert listed.count("my own") == 3
    assert listed.count("another snapshot of that name") == 2
    found = json.loads(two.ok("snapshot", "list", "--json").out)["snapshots"]
    assert [(each["name"], each["double"]) for each in found] == [
        ("my own", False), ("my own", True), ("my own", True),
    ]  # fmt: skip
    assert "disk1 has 3 snapshots named my own, from 20" in two.ok("snapshot", "show", "my own").err
    judged = two.qvm("snapshot", "verify")
    assert judged.status == 1
    assert "  disk1 has 3 snapshots named my own, from 20" in judged.out
    assert "has 3 snapshots named my own, from 20" in two.qvm("archive", "--delvm", "my own").err
    for words in (["delete"], ["restore"], ["restore", "--force"], ["save", "--replace"]):
        refused = two.qvm("snapshot", *words, "my own")
        assert refused.status == 3, str(refused)
        assert "demo: ambiguous name: disk1 has 3 snapshots named my own, from 20" in refused.err
        assert listed == two.ok("snapshot", "list").out
    if not is_on:
        assert two.qvm("start", "--no-wait", "--loadvm", "my own").status == 3
    for left in (2, 1):
        hint_run(two, refused.err)
        refused = two.qvm("snapshot", "restore", "my own")
        assert two.ok("snapshot", "list").out.count("my own") == left
    if not is_on:  # what is left is another one than that of the first disk, if it is of another second
        two.ok("snapshot", "restore", "--force", "my own")
        assert holds(two, DATA, 2)
    two.ok("snapshot", "delete", "my own")
    assert row_count(two) == 0


def test_snapshots_of_other_tools_seconds_apart_are_separate(two: Vm) -> None:
    qemu_img(two, "snapshot", "-c", "x", MAIN)
    for _ in range(2):
        later_second()
    write_byte(two, 3, "1M", DATA)
    qemu_img(two, "snapshot", "-c", "x", DATA)
    write_byte(two, 4, "1M", DATA)
    judged = two.qvm("snapshot", "verify")
    assert judged.status == 1
    assert re.search(r"^  another tool saved disk0 at 20.*, disk1 at 20", judged.out, re.M)
    refused = two.qvm("snapshot", "restore", "x")
    assert refused.status == 3
    assert (
        "the disks of the snapshot x are from different moments: another tool saved disk0 at 20"
        in refused.err
    )
    assert holds(two, DATA, 4)
    assert "another tool saved disk0" in two.ok("snapshot", "restore", "--force", "x").err
    assert holds(two, DATA, 3)


def test_snapshot_on_another_disk_of_that_name_is_separate(two: Vm) -> None:
    """Ours is of one disk; another tool has given the second one a snapshot of the same name later."""
    two.set(VM_DISKS="")
    two.ok("snapshot", "save", "x")
    two.set(VM_DISKS=DATA)
    for _ in range(2):
        later_second()
    qemu_img(two, "snapshot", "-c", "x", DATA)
    refused = two.qvm("snapshot", "restore", "x")
    assert refused.status == 3
    assert "are from different moments: on disk1 it is another snapshot of that name" in refused.err


def test_state_of_an_older_qemu_loads_on_its_machine_type(blank: Blank) -> None:
    vm = blank(VM_MACHINE_MEM="64M")
    old = vm.directory / "old-qemu"
    old.write_text(
        "#!/bin/bash\n"  # its alias pc is an older type
        'a=(); for w; do [ "$w" = pc ] && w=pc-i440fx-6.2; a+=("$w"); done\n'
        'exec qemu-system-x86_64 "${a[@]}"\n'
    )
    old.chmod(0o755)
    vm.ok("--set", "VM_QEMU_BIN=./old-qemu", "start", "--no-wait")
    vm.ok("snapshot", "save", "then")
    vm.ok("kill")
    for words in ([], ["--set", "VM_MACHINE_MEM=64"], ["--set", "VM_QEMU_MACHINE=pc-i440fx-6.2"]):
        errors = vm.ok(*words, "start", "--no-wait", "--loadvm", "then").err
        is_alias = not words or "MEM" in words[1]
        assert ("demo: runs as pc-i440fx-6.2" in errors) == is_alias, errors
        vm.ok("kill")
    refused = vm.qvm("--set", "VM_MACHINE_MEM=128", "start", "--no-wait", "--loadvm", "then")
    assert refused.status == 3
    assert "`qvm --set VM_MACHINE_MEM=64M start --loadvm then` starts with its hardware" in refused.err
    vm.ok("start", "--no-wait")
    refused = vm.qvm("snapshot", "restore", "then")
    assert refused.status == 3
    assert "the machine type was pc-i440fx-6.2, and is pc-i440fx-" in refused.err
    assert "hint: `qvm stop`, then `qvm start --loadvm then`" in refused.err
