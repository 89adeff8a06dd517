"""`./scripts/quickstart` ends with a real guest that was created, asked and powered off; twice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.direct_boot import boot_directly
from tests.support.world import ROOT, Vm, World

pytestmark = [pytest.mark.guest]


def quickstart(world: World, checkout: Path, where: Path) -> str:
    """Run it in a checkout; what it prints."""
    done = subprocess.run(
        ["./scripts/quickstart", str(where)],
        cwd=checkout,
        env=world.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert done.returncode == 0, done
    return done.stdout


def test_quickstart_drives_a_real_guest_and_works_again(world: World, tiny: str) -> None:
    where = world.home / "vm/demo"
    try:
        for attempt in ("first", "second"):
            if attempt == "second":
                boot_directly(world, tiny)
            output = quickstart(world, ROOT, where)
            for line in ("$ qvm start", "$ qvm ssh uname -a", "$ ./hello.py", "$ qvm stop", "Type next:"):
                assert line in output, (attempt, line, output)
            assert "VM status: running, up for" in output
            assert "demo: powered off by" in output
        assert world.run("-C", where, "status").out == "demo: stopped\n"
        assert (where / "hello.py").exists()  # the machine is the user's now
    finally:
        Vm(world, where).kill()


@pytest.mark.long
def test_quickstart_sets_up_a_fresh_clone(world: World, tiny: str) -> None:
    clone = world.home / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    where = world.home / "vm/demo"
    try:
        output = quickstart(world, clone, where)
        assert "installing qvm and its Python packages into .venv" in output
        assert "demo: powered off by" in output
    finally:
        Vm(world, where).kill()


@pytest.mark.parametrize(
    ("words", "is_typed_in"), [(["tests/demo"], ROOT), (["../x/demo"], ROOT / "docs"), ([], ROOT)]
)
def test_quickstart_makes_no_machine_inside_the_clone(
    world: World, words: list[str], is_typed_in: Path
) -> None:
    refused = subprocess.run(
        [ROOT / "scripts/quickstart", *words],
        cwd=is_typed_in,
        env=world.environ | {"HOME": str(ROOT / "x")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert refused.returncode == 2, refused
    assert "is inside this clone, where `git clean` would delete it\nhint: " in refused.stderr
    assert not list(ROOT.glob("x")) + list(ROOT.glob("tests/demo"))
