"""Archives on another host, whose connection is lost in the middle: the next archive continues.

The `ssh` here runs the command on this host, and ends as the test says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.archives import make_archive, state_name
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.programs import qemu_img
from tests.support.world import QVM, Blank, Result

SSH = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift 2
case "$*" in
*mkdir*)
    if [ -e ~/race ]; then
        rm ~/race
        (cd ~/other && exec "$QVM" archive) >&2 </dev/null || exit 9
    fi ;;
esac
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
from qvmsh.machine.archive.index import ArchiveIndex

original = ArchiveIndex.write


def write(self, archive, *words):
    if all(point.is_done for point in archive.points):
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, archive, *words)


ArchiveIndex.write = write
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
        self.url = f"ssh://far{self.store}"
        self.vm.ok("config", f"VM_ARCHIVE={self.url}")
        (self.home / "bin").mkdir()
        (self.home / "bin/ssh").write_text(SSH)
        (self.home / "bin/ssh").chmod(0o755)
        self.env = {"PATH": f"{self.home / 'bin'}:{os.environ['PATH']}", "QVM": QVM}

    def qvm(self, *words: str | Path) -> Result:
        return self.vm.qvm(*words, env=self.env)

    def archive(self, *words: str) -> str:
        return state_name(make_archive(self.vm, *words, env=self.env))

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
def test_archive_interrupted_by_ctrl_c_is_repeated(far: Far, how: str) -> None:
    write_byte(far.vm, 5, "0")
    first = far.archive()
    write_byte(far.vm, 6, "0")
    far.cut_off(how)
    if how == "stay":
        assert far.left() == []
    second = far.archive()
    assert far.left() == []
    assert second.startswith(first.partition("/")[0])
    assert far.qvm("archive", "--verify").status == 0
    for name, value in ((first, 5), (second, 6)):
        assert far.qvm("restore", "--force", name).status == 0
        assert read_byte(far.vm, "0") == value


def test_part_that_no_manifest_names_is_removed(far: Far) -> None:
    first = far.archive()
    folder = far.store / first.partition("/")[0]
    write_byte(far.vm, 6, "0")
    second = far.archive()
    manifest = (folder / "manifest.json").read_text()
    (folder / "demo-backing-20200101000000.qcow2.part").write_text("x")
    write_byte(far.vm, 7, "0")
    third = far.archive()
    assert far.left() == []
    assert len({first, second, third}) == 3
    assert manifest != (folder / "manifest.json").read_text()


def test_changes_of_a_raw_disk_that_were_interrupted_are_removed(far: Far) -> None:
    """They are in another format than the disk; killed between the renames and the last manifest."""
    vm = far.vm
    qemu_img(vm, "create", "-q", "-f", "raw", "./data.img", "4M")
    vm.ok("config", "VM_DISKS=data.img:raw", "VM_ARCHIVE=")
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 1 0 64k", "disk1")
    folder = vm.directory / make_archive(vm)["archive"]
    write_live(vm, "-P 2 0 64k", "disk1")
    whole = make_archive(vm)["stamp"]
    write_live(vm, "-P 3 0 64k", "disk1")
    done = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=vm.directory, env=vm.world.environ, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (cut_off,) = set(folder.glob("demo-disk1-*.qcow2")) - {folder / f"demo-disk1-{whole}.qcow2"}
    while time.strftime("%Y%m%d%H%M%S") <= cut_off.stem.rpartition("-")[2]:  # or the next one had its name
        time.sleep(0.05)
    make_archive(vm)
    assert not cut_off.exists()
    assert (folder / f"demo-disk1-{whole}.qcow2").exists()
    vm.ok("archive", "--verify")
    vm.ok("kill")


def test_archive_of_two_machines_of_one_name_loses_nothing(far: Far, blank: Blank) -> None:
    other = blank(where="other")
    other.ok("config", f"VM_ARCHIVE={far.url}")
    for vm, value in ((far.vm, 0xAA), (other, 0xBB)):
        write_byte(vm, value, "0")
        os.utime(vm.directory / "demo-base.qcow2", ns=(10**18, 10**18))
    (far.home / "race").touch()
    refused = far.qvm("archive")
    assert refused.status == 1, str(refused)
    assert "another command has just created" in refused.err
    assert "try again" in refused.err
    assert len(list(far.store.iterdir())) == 1
    far.archive()
    for vm, value in ((far.vm, 0xAA), (other, 0xBB)):
        write_byte(vm, 1, "0")
        vm.ok("restore", "--force", "latest", env=far.env)
        assert read_byte(vm, "0") == value
    assert far.left() == []


MV = """\
#!/bin/sh
case "$2" in
*.part | *.json | *.part/*) ;;
*) [ ! -e ~/just_now ] || { rm ~/just_now; mkdir "$2"; echo theirs >"$2/theirs"; } ;;
esac
exec /bin/mv "$@"
"""


def test_folder_that_comes_to_be_just_then_is_not_moved_into(far: Far) -> None:
    (far.home / "bin/mv").write_text(MV)
    (far.home / "bin/mv").chmod(0o755)
    write_byte(far.vm, 5, "0")
    os.utime(far.vm.directory / "demo-base.qcow2", ns=(10**18, 10**18))
    (far.home / "just_now").touch()
    refused = far.qvm("archive")
    assert refused.status == 1, str(refused)
    assert "another command has just created" in refused.err
    (theirs,) = far.store.iterdir()
    assert os.listdir(theirs) == ["theirs"]
    assert far.archive().partition("/")[0] != theirs.name
    assert far.left() == []


def test_odd_names_in_an_archive_there_are_in_nobodys_way(far: Far) -> None:
    folder = far.store / far.archive().partition("/")[0]
    for name in ("a\nb", "-n", " x ", ".hidden", "7 7"):
        (folder / name).write_text("x")
    (folder / "gone").symlink_to("nowhere")
    (far.store / "x\ndemo-20200101000000").mkdir()
    write_byte(far.vm, 2, "0")
    far.archive()
    listed = far.qvm("--json", "archive", "--list")
    assert len(json.loads(listed.out)["states"]) == 2
    assert listed.err == ""


def test_image_that_is_missing_is_reported(far: Far) -> None:
    name = far.archive()
    folder = far.store / name.partition("/")[0]
    (folder / "demo-backing.qcow2").unlink()
    for words in (["restore", "--force", name], ["restore", name, "../twin"]):
        refused = far.qvm(*words)
        assert refused.status == 1
        assert "demo-backing.qcow2 is missing" in refused.err
        assert "hint: restore another state" in refused.err


def test_manifest_there_without_end_is_not_read_to_its_end(far: Far) -> None:
    folder = far.store / far.archive().partition("/")[0]
    with (folder / "manifest.json").open("ab") as file:
        file.truncate(1 << 36)
    listed = far.qvm("archive", "--list")
    assert listed.status == 0
    assert "manifest.json cannot be read: it has more than 16 MiB" in listed.err
