"""`qvm snapshot list|show|verify|diff`: what is seen of snapshots, on and off, ours and others'."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

from tests.support.disks import two_disks
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm, World

DISKS = ["demo-backing.qcow2", "data.qcow2"]


def rows(vm: Vm) -> dict[str, dict[str, Any]]:
    found = json.loads(vm.ok("snapshot", "list", "--json").out)
    return {row["name"]: row for row in found["snapshots"]}


def test_list_is_a_tree_of_what_the_images_hold(blank: Blank) -> None:
    vm = two_disks(blank)
    assert vm.ok("snapshot", "list").out.endswith("demo: no snapshots\n")
    vm.ok("snapshot", "save", "base", "-m", "fresh\ninstall")
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "live")
    vm.ok("stop", "--savevm", "later", "--no-suspend")
    vm.ok("snapshot", "restore", "base")
    vm.ok("snapshot", "save", "other")
    qemu_img(vm, "snapshot", "-c", "foreign", "data.qcow2")
    qemu_img(vm, "snapshot", "-d", "live", "data.qcow2")
    for is_on in (False, True):
        if is_on:
            vm.ok("start", "--no-wait")
        lines = [line.rstrip() for line in vm.ok("list-disk").out.splitlines()]
        assert lines[0] == "disk0    demo-backing.qcow2 (16.0 MiB)"
        assert lines[1] == "disk1    data.qcow2 (16.0 MiB)"
        shown = [line.partition("  20")[0].rstrip() for line in lines[3:]]
        assert shown == ["base", "  live", "    later", "  other *", "foreign"]
        assert lines[3].endswith("  fresh ...")  # the rest is in `show`
        found = rows(vm)
        assert found["live"]["missing"] == ["disk1"]
        assert found["live"]["vmstate_bytes"] > 0
        assert (found["foreign"]["foreign"], found["foreign"]["missing"]) == (True, ["disk0"])
        assert found["base"]["message"] == "fresh\ninstall"
        assert not any(row["stale"] for row in found.values())
    vm.ok("kill")
    for disk in DISKS:
        qemu_img(vm, "snapshot", "-d", "other", disk)
    assert rows(vm)["other"]["stale"] is True
    assert "stale: no image has it" in vm.ok("snapshot", "list").out
    vm.ok("snapshot", "delete", "other")
    assert "other" not in rows(vm)
    # deleted in the middle: what came from it comes from its parent
    vm.ok("snapshot", "delete", "live")
    assert rows(vm)["later"]["parent"] == "base"


def test_show_has_all_and_diff_what_was_written(blank: Blank) -> None:
    vm = two_disks(blank)
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "ready", "-m", "with all services")
    vm.ok("kill")
    argv = ["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "data.qcow2"]
    subprocess.run(argv, cwd=vm.directory, capture_output=True, check=True)
    vm.ok("snapshot", "save", "second")
    vm.set(VM_MACHINE_MEM="80")
    output = vm.ok("snapshot", "show", "ready").out
    for part in ("with all services", "machine:  pc-i440fx-", "QEMU:", "of memory", "VM_MACHINE_MEM was 64"):
        assert part in output
    known = json.loads(vm.ok("snapshot", "show", "ready", "--json").out)["known"]
    assert known["arguments"][0].endswith("qemu-system-x86_64")
    output = vm.ok("snapshot", "diff", "ready", "second").out
    assert output == "demo: from ready to second\n  disk0    unchanged\n  disk1    1.0 MiB written\n"
    output = vm.ok("snapshot", "diff", "second").out
    assert output.startswith("demo: from second to now\n  disk0    unchanged\n  disk1    unchanged\n")
    assert output.endswith("  VM_MACHINE_MEM was 64, and is 80\n")
    refused = vm.qvm("snapshot", "diff", "ready", "nosuch")
    assert refused.status == 3
    assert "hint: there are: ready, second" in refused.err


def test_verify_finds_what_makes_a_snapshot_wrong(blank: Blank) -> None:
    vm = two_disks(blank)
    for name in ("a", "b", "c"):
        vm.ok("snapshot", "save", name)
    assert vm.ok("snapshot", "verify").out == "demo: a: whole\ndemo: b: whole\ndemo: c: whole\n"
    qemu_img(vm, "snapshot", "-d", "b", "data.qcow2")
    qemu_img(vm, "snapshot", "-d", "c", "data.qcow2")
    os.utime(vm.directory / "data.qcow2")
    qemu_img(vm, "snapshot", "-c", "c", "data.qcow2")
    path = vm.directory / ".qvm/snapshots.json"
    document = json.loads(path.read_text())
    for row in document["snapshots"]:
        row["images"][1]["date_s"] -= 60
    path.write_text(json.dumps(document))
    found = vm.qvm("snapshot", "verify", "b", "c")
    assert found.status == 1
    assert "demo: b: cannot be trusted\n  it is missing on disk1, data.qcow2" in found.out
    assert "demo: c: cannot be trusted\n  on disk1 it is another snapshot of that name" in found.out
    base = ["qemu-io", "-f", "qcow2", "-c", "write -P 9 0 64k", "demo-base.qcow2"]
    subprocess.run(base, cwd=vm.directory, capture_output=True, check=True)
    output = vm.qvm("snapshot", "verify", "a").out
    assert "the size of the base demo-base.qcow2 of disk0 has changed since" in output


def test_verify_finds_a_damaged_image(blank: Blank) -> None:
    vm = two_disks(blank)
    argv = ["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "data.qcow2"]
    subprocess.run(argv, cwd=vm.directory, capture_output=True, check=True)
    vm.ok("snapshot", "save", "a")
    from qvmsh.qemu import qcow2

    path = vm.directory / "data.qcow2"
    at = qcow2.snapshots(str(path))[0].l1_offset
    with path.open("r+b") as file:
        file.seek(at)
        file.write((1 << 40).to_bytes(8, "big"))
    found = vm.qvm("snapshot", "verify", "a")
    assert found.status == 1
    assert "data.qcow2 is damaged: " in found.out


def test_views_of_a_disposable_machine_show_its_images(blank: Blank) -> None:
    vm = blank()
    vm.ok("snapshot", "save", "ready")
    refused = vm.qvm("start", "--no-wait", "--disposable", "--loadvm", "ready")
    assert refused.status == 2
    assert "--disposable and --loadvm exclude each other" in refused.err
    vm.ok("start", "--no-wait", "--disposable")
    for words in (["list"], ["show", "ready"], ["diff", "ready"], ["verify"]):
        result = vm.ok("snapshot", *words)
        assert "demo is disposable: this shows its images, which do not change" in result.err
        assert "ready" in result.out
        assert "stale" not in result.out


def test_bare_word_and_its_help_list_the_verbs(world: World) -> None:
    shown = world.run("snapshot", "--help")
    assert shown.status == 0
    verbs = [line.split()[1] for line in shown.out.splitlines() if line.startswith("  snapshot ")]
    assert verbs == ["delete", "diff", "list", "prune", "restore", "save", "show", "verify"]
    bare = world.run("snapshot")
    assert (bare.status, bare.out) == (2, "")
    assert bare.err.startswith(
        "qvm: snapshot: a verb is missing\nhint: `qvm snapshot delete`, `qvm snapshot diff`, "
    )
    assert world.run("snapshots", "--help").status == 2
    for family in ("snapshot", "disk"):
        wrong = world.run(family, "foo")
        assert wrong.status == 2
        assert wrong.err.startswith(f"qvm: {family} has no verb 'foo'\nhint: `qvm {family} ")


def test_every_verb_has_its_json_and_the_old_spellings_work(blank: Blank) -> None:
    vm = two_disks(blank)

    def report_of(*words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(vm.ok(*words, "--json").out)
        assert (found["version"], found["machine"]) == (1, "demo")
        return found

    assert report_of("snapshot", "save", "a", "-m", "x")["snapshot"] == "a"
    stamped = report_of("snapshot", "save")["snapshot"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", stamped)
    again = report_of("snapshot", "save", "b", "--timestamp")["snapshot"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-b", again)
    for words in (["list-disk"], ["snapshot", "list-disk"], ["snapshot", "list"]):
        found = report_of(*words)
        assert found["head"] == found["snapshots"][-1]["name"]
        assert [row["id"] for row in found["disks"]] == ["disk0", "disk1"]
        assert found["work"] is None
    for words in (["restore-disk"], ["snapshot", "restore-disk"], ["snapshot", "restore"]):
        assert (report_of(*words, "a")["snapshot"], report_of("list-disk")["head"]) == ("a", "a")
    assert report_of("snapshot", "show", "a")["known"]["message"] == "x"
    assert report_of("snapshot", "verify", "a")["snapshots"] == [{"name": "a", "problems": [], "unsure": []}]
    assert [row["changed_bytes"] for row in report_of("snapshot", "diff", "a", stamped)["disks"]] == [0, 0]
    assert report_of("delete-disk", stamped)["snapshots"] == [stamped]
    assert report_of("snapshot", "delete-disk", "a")["disks"] == ["disk0", "disk1"]
    refused = vm.qvm("snapshot", "restore", "a", "--json")
    assert refused.status == 3
    assert json.loads(refused.out)["error"]["kind"] == "StateError"


def test_verify_and_diff_while_on_say_what_they_could_not_see(blank: Blank) -> None:
    vm = two_disks(blank)
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "a")
    assert vm.ok("snapshot", "verify").out == (
        "demo: a: no fault found\n  the machine is on: the tables of its images were not checked\n"
    )
    output = vm.ok("snapshot", "diff", "a").out
    assert output.endswith("  the machine is on: data that QEMU has not written yet is not counted\n")
    from qvmsh.qemu import qcow2

    at = qcow2.snapshots(str(vm.directory / "data.qcow2"))[0].l1_offset
    with (vm.directory / "data.qcow2").open("r+b") as file:
        file.seek(at)
        file.write((1 << 63 | 1 << 40 | 512).to_bytes(8, "big"))  # no cluster begins there
    found = vm.qvm("snapshot", "verify", "a")  # what a snapshot holds is read beside QEMU, too
    assert (found.status, "it cannot be read on disk1" in found.out) == (1, True), found.out
