"""`qvm list`, and the several machines that a label means (real QEMU)."""

from __future__ import annotations

import json
import shutil

from tests.support.world import Blank, World


def rows(world: World, *words: str) -> dict[str, tuple[str, ...]]:
    """State and the rest of each machine that `qvm list` shows."""
    result = world.run("list", *words)
    assert result.status == 0, result
    lines = [line.split() for line in result.out.splitlines()[1:] if not line.startswith(" ")]
    return {line[0]: tuple(line[1:]) for line in lines}


def test_list_shows_every_known_machine_with_its_state(blank: Blank, world: World) -> None:
    a, b = blank("a", VM_LABELS="web db"), blank("b")
    a.ok("start", "--no-wait")
    assert rows(world) == {
        "a": ("running", str(a.pid), "web", "db", str(a.directory)),
        "b": ("stopped", "-", "-", str(b.directory)),
    }
    report = json.loads(world.run("--json", "list", "--label", "web").out)
    assert report["command"] == "list"
    (row,) = report["machines"]
    assert (row["machine"], row["state"], row["pid"], row["labels"]) == ("a", "running", a.pid, ["web", "db"])


def test_list_broken_and_missing_machines_are_listed(blank: Blank, world: World) -> None:
    a, b, c = blank("a"), blank("b"), blank("c")
    a.set(VM_FMT="nonsense")
    shutil.rmtree(b.directory)
    moved = c.directory.rename(c.directory.with_name("moved"))
    assert {name: row[0] for name, row in rows(world).items()} == {
        "a": "broken",
        "b": "missing",
        "c": "stopped",
    }
    assert "VM_FMT is 'nonsense'" in world.run("list").out
    assert rows(world)["c"][-1] == str(moved)
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
    assert {row[0] for row in rows(world).values()} == {"stopped"}
    vms[0].ok("start", "--no-wait")
    assert world.run("kill", "--label", "web").status == 3  # b is not running
    assert vms[0].qvm("status").out == "a: stopped\n"


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
