"""`qvm list`, and the several machines that a label means (real QEMU)."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

from tests.support.world import Blank, World


def rows(world: World, *words: str) -> dict[str, dict[str, Any]]:
    """Each machine that `qvm list` shows, by name."""
    result = world.run("--json", "list", *words)
    assert result.status == 0, result
    report = json.loads(result.out)
    assert report["command"] == "list"
    return {row["machine"]: row for row in report["machines"]}


def states(world: World, *words: str) -> dict[str, str]:
    return {name: row["state"] for name, row in rows(world, *words).items()}


def test_list_shows_every_known_machine_with_its_facts(blank: Blank, world: World) -> None:
    a, b = blank("a", VM_LABELS="web db"), blank("b", VM_MACHINE_MEM="96", VM_MACHINE_CPUS="3")
    a.ok("start", "--no-wait")
    one, two = (" ".join(line.split()) for line in world.run("list").out.splitlines()[1:])
    assert re.fullmatch(
        rf"a running {a.pid} \d+ \d+ MiB tcg \d+ \d+ (s|min) {re.escape(str(a.directory))}", one
    )
    assert two == f"b stopped - 3 96 MiB - - - {b.directory}"
    row = rows(world)["a"]
    assert (row["pid"], row["labels"], row["accelerator"]) == (a.pid, ["web", "db"], "tcg")
    assert row["uptime_s"] > 0
    assert row["ssh_port"] == json.loads(a.qvm("--json", "status", "-s").out)["ssh_port"]
    assert rows(world)["b"]["uptime_s"] is None
    assert states(world, "--state", "running") == {"a": "running"}
    assert list(rows(world, "b", "--label", "web")) == []


def test_list_long_shows_disks_and_the_tree_of_snapshots(blank: Blank, world: World) -> None:
    vm = blank("a", VM_LABELS="web")
    vm.ok("snapshot", "save", "first")
    vm.ok("snapshot", "save", "second")
    text = world.run("list", "-l").out
    assert text.startswith("a: stopped\n")
    lines = [line.split(maxsplit=1) for line in text.splitlines()[1:]]
    found = {words[0]: words[-1] for words in lines}
    assert found["labels"] == "web"
    assert found["directory"] == str(vm.directory)
    assert "(qcow2): " in found["disk0"]
    assert "    second" in text or "  second" in text
    row = rows(world, "-l")["a"]
    assert [each["name"] for each in row["snapshots"]] == ["first", "second"]
    assert row["disks"][0]["size_bytes"] > 0
    assert rows(world)["a"]["disks"] is None


def test_list_broken_and_missing_machines_are_listed(blank: Blank, world: World) -> None:
    a, b, c = blank("a"), blank("b"), blank("c")
    a.set(VM_FMT="nonsense")
    shutil.rmtree(b.directory)
    moved = c.directory.rename(c.directory.with_name("moved"))
    assert states(world) == {"a": "broken", "b": "missing", "c": "stopped"}
    assert "VM_FMT is 'nonsense'" in world.run("list").out
    assert rows(world)["c"]["directory"] == str(moved)
    assert "b" not in rows(world, "--prune")


def test_list_of_nothing_prints_nothing(world: World) -> None:
    assert world.run("list").out == ""


def test_label_means_several_machines_for_start_status_and_kill(blank: Blank, world: World) -> None:
    vms = [blank(name, VM_MACHINE_ID=f"4{at}", VM_LABELS="web") for at, name in enumerate("ab")]
    other = blank("c")
    result = world.run("start", "--label", "web", "--no-wait")
    assert result.status == 0, result
    assert {line.partition(":")[0] for line in result.out.splitlines()} == {"a", "b"}
    assert other.qvm("status").out == "c: stopped\n"
    report = json.loads(world.run("--json", "status", "-s", "--label", "web").out)
    assert {row["machine"]: row["state"] for row in report["machines"]} == {"a": "running", "b": "running"}
    assert world.run("stop", "--label", "web", "--force", "--timeout", "0").status == 0
    assert set(states(world).values()) == {"stopped"}
    vms[0].ok("start", "--no-wait")
    assert world.run("kill", "a", "b").status == 3  # b is not running
    vms[0].ok("start", "--no-wait")
    assert re.fullmatch(r"a: killed by quit in \S+ s\n", world.run("kill", "--label", "web").out)
    assert world.run("kill", "[ab]").out == ""
    assert vms[0].qvm("status").out == "a: stopped\n"


def test_start_and_stop_follow_what_machines_require(blank: Blank, world: World) -> None:
    vms = {name: blank(name, VM_MACHINE_ID=f"5{at}") for at, name in enumerate(("db", "cache", "web"))}
    vms["web"].set(VM_REQUIRES="db cache")
    for name, vm in vms.items():  # each notes when it was begun and ended
        vm.set(VM_PRE_START=f'sh -c "echo up {name} >> ../order"')
        vm.set(VM_POST_STOP=f'sh -c "echo down {name} >> ../order"')
    assert world.run("start", "--all", "--no-wait", "--parallel", "2").status == 0
    assert set(states(world).values()) == {"running"}
    assert world.run("stop", "--all", "--force", "--timeout", "0").status == 0
    order = (vms["db"].directory.parent / "order").read_text().splitlines()
    assert order[2] == "up web"
    assert order[3] == "down web"
    assert sorted(order[:2]) == ["up cache", "up db"]
    nothing = world.run("stop", "--all")
    assert (nothing.status, nothing.out) == (0, "")
    assert nothing.err == "qvm: stop: nothing to do for any of the machines that are meant\n"
    vms["db"].ok("start", "--no-wait")
    done = world.run("start", "db", "web", "--no-wait")  # db runs already, which is what web requires
    assert (done.status, done.out.count("QEMU runs")) == (3, 1), done
    vms["web"].ok("kill")
    done = world.run("stop", "db", "web", "--force", "--timeout", "0")
    assert (done.status, done.out.startswith("db: powered off")) == (3, True), done


def test_start_whose_requirement_fails_is_left_out(blank: Blank, world: World) -> None:
    db, web, other = (blank(name, VM_MACHINE_ID=f"5{at}") for at, name in enumerate(("db", "web", "other")))
    web.set(VM_REQUIRES="db")
    db.set(VM_PRE_START='sh -c "exit 7"')
    result = world.run("--json", "start", "--no-wait", "web", "db", "other")
    assert result.status == 3
    found = json.loads(result.out)["machines"]
    assert [each.get("error", {}).get("machine") for each in found] == ["db", None, "web"]
    assert "cannot start: db, which is required (VM_REQUIRES), failed" in result.err
    assert "`qvm -C ./web start` does it all the same" in result.err
    assert states(world) == {"db": "stopped", "web": "stopped", "other": "running"}
    assert other.qvm("status", "-s").status == 0


def test_several_machines_exit_status_is_the_worst(blank: Blank, world: World) -> None:
    one, two = blank("one"), blank("two")
    two.set(VM_FMT="nonsense")
    result = world.run("status", "one", "two")
    assert (result.status, "VM_FMT" in result.out + result.err) == (1, True)
    result = world.run("kill", "two", "one")
    assert result.status == 3  # not 2: both failed, and it is the larger
    assert "one: cannot kill" in result.err
    assert one.directory.is_dir()


def test_label_that_no_machine_has_is_refused(blank: Blank, world: World) -> None:
    blank("a", VM_LABELS="web")
    result = world.run("kill", "--label", "mail")
    assert result.status == 2
    assert "no known machine has the label mail" in result.err
    assert "labels in use: web" in result.err


def test_label_and_a_name_together_are_refused(blank: Blank, world: World) -> None:
    vm = blank("a", VM_LABELS="web")
    vm.ok("start", "--no-wait")
    for words in (["kill", "--label", "web", "a"], ["-C", "a", "kill", "--label", "web"]):
        result = world.run(*words)
        assert result.status == 2
        assert "which machine" in result.err
    vm.ok("status", "-s")


def test_label_is_in_the_help_of_the_verbs_that_take_several(world: World) -> None:
    assert "--label LABEL" in world.run("stop", "--help").out
    assert "--label" not in world.run("ssh", "--help").out
    assert world.run("ssh", "--label", "x").status == 2


def test_name_of_two_machines_ends_neither_but_the_one_here(blank: Blank, world: World) -> None:
    far, near = (
        blank("web", f"{folder}/web", VM_MACHINE_ID=number) for folder, number in (("a", "41"), ("b", "42"))
    )
    far.ok("start", "--no-wait")
    for verb in ("kill", "stop"):
        result = world.run(verb, "web", cwd=near.directory.parent)
        assert (result.status, "stopped" in result.err) == (3, True), result
    (world.home / "c").mkdir()
    for words in (["kill", "web"], ["-M", "web", "kill"], ["status", "web"], ["sh", "-c", "use('web')"]):
        result = world.run(*words, cwd=world.home / "c")
        assert result.status == 2, result
        assert str(far.directory) in result.err
        assert str(near.directory) in result.err
    output = world.run("sh", "-c", "use('web'); print(vm.directory)", cwd=near.directory.parent)
    assert output.out.strip().splitlines()[-1] == str(near.directory)
    assert sorted(line.split()[1] for line in world.run("list").out.splitlines()[1:]) == [
        "running",
        "stopped",
    ]
    far.ok("status", "-s")
