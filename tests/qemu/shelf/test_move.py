"""`qvm move` and `undelete`: what a machine's files lead to, and another file system on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.errors import require_error
from tests.support.kill_steps import killed_at
from tests.support.killer import begin_held
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, QVM, Blank, Vm, World

STEPS = 200
MAKE = ["qemu-img", "create", "-q", "-f", "qcow2"]


def files(folder: Path) -> dict[str, bytes | str]:
    """What the user's files and the images in a machine's directory hold, by name."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not name.startswith(".qvm"):
            found[name] = (
                os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            )
    return found


def hidden(folder: Path) -> list[str]:
    """What a killed command may have left in a folder."""
    return [
        path.name
        for path in folder.iterdir()
        if path.name.startswith(".") and not path.name.startswith(".trash-")
    ]


def cut(world: World) -> list[Path]:
    return [*(world.home / ".local/share/qvm").glob("making/*")]


# What leads to other files


def test_move_keeps_what_leads_into_the_directory(blank: Blank, world: World) -> None:
    vm = blank("web")
    here = vm.directory
    subprocess.run([*MAKE, here / "gold.qcow2", "1M"], check=True)
    for name, base in (("abs", here / "gold.qcow2"), ("around", "../web/gold.qcow2")):
        subprocess.run([*MAKE, "-F", "qcow2", "-b", base, f"{name}.qcow2"], cwd=here, check=True)
    (here / "way").symlink_to(here / "gold.qcow2")
    (here / "self").symlink_to("../web")
    (here / "more").write_text("VM_CDROM=$VM_HOME/a.iso\n")
    (here / "a.iso").write_bytes(bytes(2048))
    (here / "web-x.raw").write_bytes(bytes(1 << 20))
    with (here / ".vmrc").open("a") as file:
        file.write(
            f'VM_DISKS="{here}/abs.qcow2:qcow2\n../web/around.qcow2"\nVM_INCLUDE={here}/more\n'
            f'VM_QEMU_EXTRA="$VM_QEMU_EXTRA -drive file={here}/web-x.raw,format=raw,if=virtio"\n'
        )
    (world.home / "deep/er").mkdir(parents=True)
    assert world.run("move", "web", "deep/er").status == 0
    new = Vm(world, world.home / "deep/er/web")
    assert not here.exists()
    assert new.ok("disk", "check").out.count(": sound") == 5
    new.ok("start", "--no-wait")
    new.ok("kill")
    assert (new.directory / "way").resolve() == new.directory / "gold.qcow2"
    assert (new.directory / "self").resolve() == new.directory
    assert new.value("VM_CDROM") == f"{new.directory}/a.iso"


def refused(world: World, says: str, hint: str) -> None:
    before = files(world.home / "web")
    require_error(world.run("move", "web", "deep/er"), 3, f"web: cannot move: {says}", hint)
    assert files(world.home / "web") == before


def test_move_refuses_each_layer_and_link_that_leads_elsewhere(blank: Blank, world: World) -> None:
    vm = blank("web")
    here, shared = vm.directory, world.home / "shared"
    shared.mkdir()
    (world.home / "deep/er").mkdir(parents=True)
    subprocess.run([*MAKE, shared / "gold.qcow2", "16M"], check=True)
    rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b"]
    subprocess.run([*rebase, "../shared/gold.qcow2", "web-base.qcow2"], cwd=here, check=True)
    gold = f"-b {shared}/gold.qcow2 {here}/web-base.qcow2"
    refused(world, "the image web-base.qcow2 names ../shared/gold.qcow2, which would be another file", gold)
    subprocess.run([*rebase, shared / "gold.qcow2", "web-base.qcow2"], cwd=here, check=True)
    (here / "way").symlink_to("../shared/gold.qcow2")
    refused(world, "the link way names ../shared/gold.qcow2", f"`ln -sfn {shared}/gold.qcow2 {here}/way`")
    (here / "way").unlink()
    (here / "lost").symlink_to("../nowhere")  # leads nowhere, here as there
    subprocess.run([*MAKE, "-F", "qcow2", "-b", here / "web-seed.qcow2", shared / "over.qcow2"], check=True)
    vm.set(VM_DISKS=str(shared / "over.qcow2"))
    refused(world, f"{shared}/over.qcow2 is backed by web-seed.qcow2", "disk rebase over.qcow2` copies")
    vm.set(VM_DISKS="", VM_LOG="../shared/log")
    refused(world, "VM_LOG names ../shared/log", f"{shared}/log")
    vm.set(VM_LOG="")
    assert world.run("move", "web", "deep/er").status == 0
    Vm(world, world.home / "deep/er/web").ok("disk", "check")


# Another file system


def test_move_copies_again_what_is_written_to_meanwhile(blank: Blank, world: World, tmp_path: Path) -> None:
    vm = blank("web")
    for name in ("changed", "gone", "replaced"):
        (vm.directory / name).write_text("before")
    far = tmp_path / "far"
    with small_disk(far, 64):
        child = begin_held(vm, "qvmsh.machine.shelf.across:aside", "move", str(far))
        (vm.directory / "changed").write_text("after!")
        (vm.directory / "gone").unlink()
        (vm.directory / "new/er").mkdir(parents=True)
        (vm.directory / "new/er/file").write_text("new")
        (vm.directory / "other").write_text("after!")
        os.utime(vm.directory / "other", ns=(0, (vm.directory / "replaced").stat().st_mtime_ns))
        (vm.directory / "other").rename(vm.directory / "replaced")
        wanted = files(vm.directory)
        child.send_signal(signal.SIGCONT)
        said = child.communicate(timeout=DEADLINE_S)
        assert child.returncode == 0, said
        assert files(far / "web") == wanted
        assert not vm.directory.exists()
        assert not cut(world)
        assert [path.name for path in far.iterdir()] == ["web"]


def test_move_refuses_what_cannot_be_copied(blank: Blank, world: World, tmp_path: Path) -> None:
    vm = blank("web")
    far = tmp_path / "far"
    os.mkfifo(vm.directory / "pipe")
    with small_disk(far, 64):
        before = sorted(os.listdir(vm.directory))
        says = f"cannot move: {vm.directory}/pipe is a FIFO, which cannot be copied to another file system"
        require_error(world.run("move", "web", far), 3, says, f"`rm {vm.directory}/pipe`")
        assert sorted(os.listdir(vm.directory)) == before
        assert os.listdir(far) == []
        (vm.directory / "pipe").unlink()
        (vm.directory / "big").write_bytes(bytes(60 << 20))
        require_error(world.run("move", "web", far), 1, "is free there", "free some space")
        assert os.listdir(far) == []


def test_move_across_killed_at_each_step_is_in_one_place(blank: Blank, world: World, tmp_path: Path) -> None:
    vm, other, far = blank("web"), blank("other"), tmp_path / "far"
    (vm.directory / "sub").mkdir()
    (vm.directory / "sub/file").write_text("text")
    (vm.directory / "way").symlink_to("sub/file")
    before = files(vm.directory)
    outcomes = set()
    with small_disk(far, 64):
        places = [vm.directory, far / "web"]
        for step in range(STEPS):
            is_over = killed_at(world, step, "move", "web", str(places[1])) == 0
            said = other.ok("disk", "check").err
            outcomes |= {each for each in ("where it was", "has been completed") if each in said}
            there = [path for path in places if path.exists()]
            assert len(there) == 1, step
            assert files(there[0]) == before, step
            left = [*hidden(far), *(path for path in hidden(world.home) if ".web." in path), *cut(world)]
            assert not left, step
            rows = json.loads(world.run("--json", "list").out)["machines"]
            assert [row["directory"] for row in rows if row["machine"] == "web"] == [str(there[0])], step
            for path in there[0].glob(".qvm/*.part*"):  # each would be steps more
                path.unlink()
            if there[0] != places[0]:
                places.reverse()
            if is_over:
                break
        else:
            pytest.fail("it never came to its end")
        assert outcomes == {"where it was", "has been completed"}
        assert world.run("move", "web", vm.directory).status in (0, 2)


@pytest.mark.parametrize("place", ["host.files:copy", "machine.shelf.across:_Copy.finish"])
def test_move_across_interrupted_is_where_it_was(
    blank: Blank, world: World, tmp_path: Path, place: str
) -> None:
    vm, far = blank("web"), tmp_path / "far"
    before = files(vm.directory)
    with small_disk(far, 64):
        child = begin_held(vm, f"qvmsh.{place}", "move", str(far))
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGCONT)
        assert "web: interrupted; it is where it was" in child.communicate(timeout=DEADLINE_S)[1]
        assert child.returncode == 130
        assert (os.listdir(far), cut(world)) == ([], [])
        assert files(vm.directory) == before


# The trash


@pytest.mark.parametrize("has_foreign", [False, True])
def test_undelete_to_another_file_system_copies_it(blank: Blank, world: World, has_foreign: bool) -> None:
    vm = blank("web", where="par/web")
    before = files(vm.directory)
    assert world.run("delete", "-y", vm.directory).status == 0
    with small_disk(world.home / "par", 64):
        if has_foreign:
            vm.directory.mkdir()
            (vm.directory / "mine").write_text("mine")
            before["mine"] = b"mine"
        result = world.run("undelete", "web")
        assert (result.status, result.out) == (0, f"web: back in {vm.directory}\n"), result
        assert files(vm.directory) == before
        assert not (vm.directory / ".qvm/deleted").exists()
        assert world.run("undelete", "--list").out == ""
        assert not cut(world)
        vm.ok("disk", "check")


@pytest.mark.parametrize("has_foreign", [False, True])
def test_undelete_across_killed_at_each_step_is_in_one_place(
    blank: Blank, world: World, has_foreign: bool
) -> None:
    vm, other = blank("web", where="par/web"), blank("other")
    trash = world.home / ".local/share/qvm/trash"
    before = files(vm.directory)
    assert world.run("delete", "-y", vm.directory).status == 0
    kept = trash / os.listdir(trash)[0]
    subprocess.run(["cp", "-a", kept, world.home / "kept"], check=True)
    outcomes = set()
    with small_disk(world.home / "par", 64):
        for step in range(STEPS):
            if has_foreign:
                vm.directory.mkdir(exist_ok=True)
                (vm.directory / "mine").write_text("mine")
            is_over = killed_at(world, step, "undelete", "web") == 0
            said = other.ok("disk", "check").err
            outcomes |= {each for each in ("still in the trash", "has been completed") if each in said}
            assert not cut(world), step
            is_back = (vm.directory / ".vmrc").exists()
            assert os.listdir(trash) == ([] if is_back else [kept.name]), step
            found = files(vm.directory if is_back else kept)
            assert found.pop("mine", b"mine") == b"mine"
            assert found == before, step
            if is_over:
                break
            subprocess.run(["rm", "-rf", vm.directory, kept], check=True)  # once more
            subprocess.run(["cp", "-a", world.home / "kept", kept], check=True)
        else:
            pytest.fail("it never came to its end")
    assert outcomes == {"still in the trash", "has been completed"}


def test_undelete_without_room_keeps_it_in_the_trash(blank: Blank, world: World) -> None:
    vm = blank("web", where="par/web")
    assert world.run("delete", "-y", vm.directory).status == 0
    with small_disk(world.home / "par", 8):
        require_error(world.run("undelete", "web"), 1, "web: cannot undelete: it takes", "free some space")
        assert os.listdir(world.home / "par") == []
    assert world.run("undelete", "web").status == 0


def test_trash_that_is_not_mounted_is_named(world: World) -> None:
    far = world.home / "far"
    with small_disk(far, 64):
        assert world.run("create", far / "web", "1M").status == 0
        assert world.run("delete", "-y", "web").status == 0
        below = f"{far}/.trash-{os.geteuid()}"
        name = os.listdir(below)[0]
        assert world.run("undelete", "--list").out.startswith("web: deleted")
    for words in (("prune",), ("undelete", "--list"), ("undelete", "web")):
        result = world.run(*words)
        assert f"not to be seen in the trash: {below}/{name}" in result.out + result.err, result
    result = world.run("--json", "prune")
    link = world.home / f".local/share/qvm/trash/{name}"
    assert json.loads(result.out)["unseen"] == {str(link): f"{below}/{name}"}
    assert "0 machines in the trash, and 1 that cannot be seen" in world.run("prune").out


def test_move_where_a_folder_cannot_be_written_says_which(blank: Blank, world: World) -> None:
    vm = blank("web")
    (world.home / "far").mkdir()
    powerless = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else ["env"]
    for folder in (world.home, world.home / "far", vm.directory):
        folder.chmod(0o555)
        result = world.run(*powerless[1:], QVM, "-M", "web", "move", "far/web", program=powerless[0])
        folder.chmod(0o755)
        said = f"cannot move: you cannot write to {folder}\nhint: `chmod u+w {folder}` first"
        assert (result.status, said in result.err) == (1, True), result
    assert world.run("move", "web", "far/web").status == 0
