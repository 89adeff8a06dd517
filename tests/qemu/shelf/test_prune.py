"""`qvm prune`, interrupted: it says what went, and what was begun is no machine any more."""

from __future__ import annotations

import json
import os
import re
import shutil

from tests.support.kill_steps import interrupted_at
from tests.support.small_disk import small_disk
from tests.support.world import World


def test_prune_interrupted_at_each_step_says_what_went(world: World) -> None:
    names, step, seen = ("a", "b", "c"), 0, set[int]()
    while True:
        for name in names:
            if not (world.home / name).exists():
                assert world.run("create", name, "1M").status == 0
            assert world.run("delete", name, "-y").status == 0
        done = interrupted_at(world, step, "prune", "-y", "--older", "0")
        if done.returncode == 0:
            break
        listed = json.loads(world.run("--json", "undelete", "--list").out)["machines"]
        left = [row["machine"] for row in listed]
        said = re.search(r"interrupted; removed: (.*)", done.stderr)
        if said:
            parts = dict(each.split(": ") for each in f"removed: {said[1]}".split("; "))
            assert parts.get("still in the trash", "").split(", ") == (sorted(left) or [""]), done.stderr
            seen.add(len(left))
        else:
            assert sorted(left) == list(names), done.stderr
        for name in left:
            assert world.run("undelete", name).status == 0
        step += 7
    assert seen >= {1, 2}


def test_prune_continues_on_another_file_system(world: World) -> None:
    far, trash = world.home / "far", world.home / ".local/share/qvm/trash"
    with small_disk(far, 64):
        step, half = 0, 0
        while True:
            assert world.run("create", "far/web", "1M").status == 0
            assert world.run("delete", "web", "-y").status == 0
            done = interrupted_at(world, step, "prune", "-y", "--older", "0")
            if done.returncode == 0:
                break
            if "partly removed" in done.stderr:
                half += 1
                assert world.run("undelete", "web").status == 2
            elif "removed: web" not in done.stderr:
                assert world.run("undelete", "web").status == 0
                shutil.rmtree(far / "web")
            assert "not mounted" not in world.run("prune", "-y").out
            assert (os.listdir(far / f".trash-{os.geteuid()}"), os.listdir(trash)) == ([], [])
            step += 1
        assert half > 3
