"""What a name means: `./NAME`, else the one known machine that is called so, else nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvmsh import api
from qvmsh.cli.complete import Surroundings, complete
from qvmsh.errors import UsageError
from qvmsh.machine import registry as known
from qvmsh.machine.machine import BaseMachine
from tests.support.world import write_vmrc

NAMES, FOLDERS = ("web", "db"), ("a", "b", "c")
STEPS = ("make", "make unknown", "use", "rename", "move", "copy", "swap", "remove", "link", "call", "empty")
STEP = st.tuples(st.sampled_from(STEPS), *[st.sampled_from(FOLDERS), st.sampled_from(NAMES)] * 2)
FIRST = st.tuples(
    *[st.sampled_from(("make", "make", "make unknown", "empty"))] * 4, *[st.sampled_from(NAMES)] * 4
)


class World:
    """Machines in folders, and what must be known of them: the directory, and what it is called."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.environ = {"HOME": str(top), "VM_GLOBAL_CONFIG": "/dev/null"}
        self.known: set[Path] = set()
        for folder in FOLDERS:
            (top / folder).mkdir()

    def use(self, directory: Path) -> None:
        known.remember(BaseMachine(directory, environ=self.environ))
        self.known.add(directory.resolve())

    def step(self, what: str, folder: str, name: str, folder2: str, name2: str) -> None:
        one, two = self.top / folder / name, self.top / folder2 / name2
        is_machine, is_free = (one / ".vmrc").exists(), not os.path.lexists(two)
        if what.startswith("make") and not os.path.lexists(one):
            write_vmrc(one, name2)
            if what == "make":
                self.use(one)
        elif what == "empty" and not os.path.lexists(one):
            one.mkdir()
        elif what == "use" and is_machine:
            self.use(one)
        elif what == "call" and is_machine:
            write_vmrc(one, name2)
        elif what == "link" and is_machine and is_free:
            two.symlink_to(one)
        elif what == "copy" and is_machine and is_free:
            shutil.copytree(one, two)
        elif what == "remove" and one.is_symlink():
            one.unlink()
        elif what == "remove" and one.is_dir():
            shutil.rmtree(one)
            self.known.discard(one)
        elif one.is_dir() and not one.is_symlink():
            self._move(what, one, two)

    def _move(self, what: str, one: Path, two: Path) -> None:
        if (
            what == "swap"
            and one.parent == two.parent
            and two.is_dir()
            and not two.is_symlink()
            and one != two
        ):
            aside = one.with_name("aside")
            one.rename(aside)
            two.rename(one)
            aside.rename(two)
            swapped = {one: two, two: one}
            self.known = {swapped.get(each, each) for each in self.known}
        elif what in ("rename", "move") and not os.path.lexists(two):
            is_known = one in self.known
            one.rename(two)
            self.known.discard(one)
            if is_known and one.parent == two.parent:
                self.known.add(two)

    def called(self, name: str) -> tuple[set[str], set[str]]:
        """The machines called `name` that must be known, and all that are called so."""
        every = {each.parent.resolve() for each in self.top.glob("?/*/.vmrc")}
        so = {each for each in every if f"VM_MACHINE_NAME='{name}'" in (each / ".vmrc").read_text()}
        return {str(each) for each in so & self.known}, {str(each) for each in so}


def meaning(name: str, world: World, *, by_option: bool) -> tuple[str | None, set[str]]:
    """The directory that a name means, or the several that are listed instead."""
    try:
        found = (known.find if by_option else known.resolve)(name, world.environ)
    except UsageError as error:
        return None, set(error.details)
    return os.path.realpath(found), set()


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(FIRST, st.lists(STEP, max_size=6))
def test_name_among_several_directories_means_the_documented_one(
    first: tuple[str, ...], steps: list[tuple[str, ...]]
) -> None:
    spots = [(folder, name) for folder in FOLDERS[:2] for name in NAMES]
    begin = [(what, *spot, "", name) for what, spot, name in zip(first[:4], spots, first[4:], strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder).resolve())
        for step in (*begin, *steps):
            world.step(*step)
        for here in (*(world.top / each for each in FOLDERS), world.top):
            with contextlib.chdir(here):
                for name in NAMES:
                    for by_option in (False, True):
                        check(world, here, name, by_option=by_option)


def check(world: World, here: Path, name: str, *, by_option: bool) -> None:
    must, may = world.called(name)
    found, listed = meaning(name, world, by_option=by_option)
    if not by_option and (here / name / ".vmrc").exists():
        assert found == os.path.realpath(here / name)
    elif len(must) > 1:
        assert found is None
        assert must <= listed <= may
    elif must:
        assert {found} == must if found else must < listed <= may
    else:  # a directory at a known place may have come back from a backup
        is_empty = not by_option and found == str((here / name).resolve()) and (here / name).is_dir()
        assert found is None or found in may or is_empty


def test_two_of_one_name_are_listed_and_neither_is_taken(tmp_path: Path) -> None:
    world = World(tmp_path)
    for folder in "ab":
        world.step("make", folder, "web", folder, "web")
    both = [str(tmp_path / "a/web"), str(tmp_path / "b/web")]
    with contextlib.chdir(tmp_path / "c"):
        for by_option in (False, True):
            assert meaning("web", world, by_option=by_option) == (None, set(both))
    with contextlib.chdir(tmp_path / "b"):
        assert known.resolve("web", world.environ) == "./web"
        with pytest.raises(UsageError, match="2 known machines are called 'web'") as caught:
            known.find("web", world.environ)
    assert caught.value.hint == f"name the directory: `qvm -C {both[0]} ...`"
    assert sorted(vm.directory for vm in api.Machine.known(environ=world.environ)) == both
    world.step("use", "a", "web", "a", "web")  # the one that was used last is not preferred
    world.step("call", "b", "web", "b", "db")
    with contextlib.chdir(tmp_path / "c"):
        assert meaning("web", world, by_option=True) == (both[0], set())
        assert meaning("db", world, by_option=False) == (both[1], set())


def test_machine_whose_place_another_has_taken_is_still_known(tmp_path: Path) -> None:
    world = World(tmp_path)
    for what, name in (("make", "web"), ("rename", "web"), ("make unknown", "web")):
        world.step(what, "a", name, "a", "db")
    write_vmrc(tmp_path / "a/db", "web")
    assert known.find("web", world.environ) == str(tmp_path / "a/db")
    world.step("use", "a", "web", "a", "web")
    assert known.find("db", world.environ) == str(tmp_path / "a/web")
    assert known.find("web", world.environ) == str(tmp_path / "a/db")


def test_completion_offers_no_name_of_two_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    for folder in "ab":
        world.step("make", folder, "web", folder, "web")
    world.step("make", "a", "db", "a", "db")
    monkeypatch.chdir(tmp_path / "c")
    around = Surroundings(world.environ)
    assert [row[0] for row in complete(["-M", ""], around).rows] == ["db"]
    monkeypatch.chdir(tmp_path / "b")
    assert complete(["kill", ""], around).rows == [("db", str(tmp_path / "a/db")), ("web", "in this folder")]
    assert [row[0] for row in complete(["-M", ""], around).rows] == ["db"]
