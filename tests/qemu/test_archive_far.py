"""Archives on another host, whose connection is cut off in the middle: the next archive goes on.

The `ssh` here runs the command on this host, and ends as the test says.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, Vm
from test_archive import archived, byte, img, name_of, write, write_live

Blank = Callable[..., Vm]

SSH = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift 2
[ ! -e ~/gone ] || { echo "ssh: connect to host far: No route to host" >&2; exit 255; }
case "$*" in
*cat\\ \\>*qcow2.part*)
    if [ -e ~/cut ]; then
        head -c 100000 | sh -c "$*"
        how=$(cat ~/cut)
        rm ~/cut
        [ "$how" = stay ] || touch ~/gone
        kill -INT $PPID
        exec sleep 100
    fi ;;
esac
exec sh -c "$*"
"""

KILLED = """
import os, signal, sys
from qvmsh.machine.shelf import Shelf

original = Shelf.write


def write(self, archive, *words):
    if all(point.is_done for point in archive.points):
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, archive, *words)


Shelf.write = write
from qvmsh.__main__ import main

sys.argv = ["qvm", "archive"]
main()
"""  # killed before the last manifest, when the images have their names already


class Far:
    """A machine whose archives are on another host."""

    def __init__(self, blank: Blank) -> None:
        self.vm = blank()
        self.home = self.vm.world.home
        self.store = self.home / "store of another"
        self.vm.ok("config", f"VM_ARCHIVE=ssh://far{self.store}")
        (self.home / "bin").mkdir()
        (self.home / "bin/ssh").write_text(SSH)
        (self.home / "bin/ssh").chmod(0o755)
        self.env = {"PATH": f"{self.home / 'bin'}:{os.environ['PATH']}"}

    def qvm(self, *words: str | Path) -> Result:
        return self.vm.qvm(*words, env=self.env)

    def archived(self, *words: str) -> str:
        return name_of(archived(self.vm, *words, env=self.env))

    def cut_off(self, how: str) -> None:
        (self.home / "cut").write_text(how)
        result = self.qvm("archive")
        assert result.status == 130, str(result)
        assert not (self.home / "cut").exists()
        (self.home / "gone").unlink(missing_ok=True)

    def left(self) -> list[str]:
        return [path.name for path in self.store.rglob("*.part*")]


@pytest.fixture
def far(blank: Blank) -> Far:
    return Far(blank)


@pytest.mark.parametrize("how", ["stay", "gone"])
def test_archive_cut_off_by_ctrl_c_is_repeated(far: Far, how: str) -> None:
    write(far.vm, 5, "0")
    first = far.archived()
    write(far.vm, 6, "0")
    far.cut_off(how)
    if how == "stay":
        assert far.left() == []
    second = far.archived()
    assert far.left() == []
    assert second.startswith(first.partition("/")[0])
    assert far.qvm("archive", "--verify").status == 0
    for name, value in ((first, 5), (second, 6)):
        assert far.qvm("restore", "--force", name).status == 0
        assert byte(far.vm, "0") == value


def test_part_that_no_manifest_names_is_in_nobodys_way_and_is_removed(far: Far) -> None:
    first = far.archived()
    folder = far.store / first.partition("/")[0]
    write(far.vm, 6, "0")
    second = far.archived()
    manifest = (folder / "manifest.json").read_text()
    (folder / "demo-backing-20200101000000.qcow2.part").write_text("x")
    write(far.vm, 7, "0")
    third = far.archived()
    assert far.left() == []
    assert len({first, second, third}) == 3
    assert manifest != (folder / "manifest.json").read_text()


def test_changes_of_a_raw_disk_that_were_cut_off_are_removed(far: Far) -> None:
    """They are in another format than the disk; killed between the renames and the last manifest."""
    vm = far.vm
    img(vm, "qemu-img", "create", "-q", "-f", "raw", "./data.img", "4M")
    vm.ok("config", "VM_DISKS=data.img:raw", "VM_ARCHIVE=")
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 1 0 64k", "disk1")
    folder = vm.directory / archived(vm)["archive"]
    write_live(vm, "-P 2 0 64k", "disk1")
    whole = archived(vm)["stamp"]
    write_live(vm, "-P 3 0 64k", "disk1")
    done = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=vm.directory, env=vm.world.environ, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (cut_off,) = set(folder.glob("demo-disk1-*.qcow2")) - {folder / f"demo-disk1-{whole}.qcow2"}
    archived(vm)
    assert not cut_off.exists()
    assert (folder / f"demo-disk1-{whole}.qcow2").exists()
    vm.ok("archive", "--verify")
    vm.ok("kill")
