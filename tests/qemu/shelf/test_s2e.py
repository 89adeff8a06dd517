"""S2E's document "Managing VMs", with `qvm` for `ctl vm`: each of its lines, on packages made by hand.

Its lists show `asdföklj` where its other lines have `asdfölkj`; here it is `asdföklj` throughout.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest

from tests.support.errors import require_error
from tests.support.world import Vm, World

MIB = 1 << 20
Form = Literal["NFC", "NFD"]
NAMES = ["asdföklj", "base", "ready"]


def box(world: World, name: str = "MyBox") -> Vm:
    """A machine of S2E with the three snapshots of the document; S2E's own QEMU writes them."""
    assert world.run("create", "--s2e", name, "7680M").status == 0
    vm = Vm(world, world.home / name)
    with (vm.directory / "disk.s2e").open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"data written before")
    for each in NAMES:
        (vm.directory / f"disk.s2e.{each}").write_text(f"the state {each}")
    return vm


def listed(world: World) -> dict[str, tuple[list[int], list[str]]]:
    """What `qvm list -l` shows: the sizes of the disks, in bytes, and the names of the snapshots."""
    rows = json.loads(world.run("--json", "list", "-l").out)["machines"]
    return {
        row["machine"]: (
            [disk["size_bytes"] for disk in row["disks"]],
            sorted(each["name"] for each in row["snapshots"]),
        )
        for row in rows
    }


def require_same(vm: Vm, names: list[str] = NAMES) -> None:
    """Disk and snapshots are those of `box`, to the byte, and the disk has its holes."""
    files = {path.name for path in vm.directory.iterdir() if path.name.startswith("disk")}
    assert files == {"disk.s2e", *(f"disk.s2e.{each}" for each in names)}
    with (vm.directory / "disk.s2e").open("rb") as file:
        file.seek(5 * MIB)
        assert file.read(19) == b"data written before"
    status = (vm.directory / "disk.s2e").stat()
    assert status.st_size == 7680 * MIB
    assert status.st_blocks * 512 < 10 * MIB
    for each in names:
        assert (vm.directory / f"disk.s2e.{each}").read_text() == f"the state {each}"


def test_document_with_ctl(world: World, tmp_path: Path) -> None:
    made = world.run("create", "--s2e", "MyBox", "7680M")
    assert made.status == 0, made
    assert listed(world) == {"MyBox": ([7680 * MIB], [])}
    shown = world.run("list", "-l").out
    assert "disk0        disk.s2e (raw): 7.5 GiB" in shown
    assert world.run("delete", "-y", "--now", "MyBox").status == 0

    vm = box(world)
    done = world.run("clone", "MyBox", "MyClonedBox")
    assert done.status == 0, done
    both = ([7680 * MIB], NAMES)
    assert listed(world) == {"MyBox": both, "MyClonedBox": both}
    require_same(Vm(world, world.home / "MyClonedBox"))

    done = world.run("export", "MyBox")
    assert done.out.startswith("MyBox: exported to MyBox.tar.gz")
    assert (world.home / "MyBox.tar.gz").stat().st_size < MIB
    done = world.run("import", "MyBox.tar.gz", "AnImportedBox")
    assert done.status == 0, done
    assert listed(world) == {"MyBox": both, "MyClonedBox": both, "AnImportedBox": both}
    require_same(Vm(world, world.home / "AnImportedBox"))

    done = world.run("delete", "-y", "MyBox:asdföklj")
    assert done.out == "MyBox: deleted the snapshot asdföklj\n"
    require_same(vm, ["base", "ready"])
    done = world.run("delete", "-y", "MyBox")
    assert done.status == 0, done
    assert not vm.directory.exists()
    assert sorted(listed(world)) == ["AnImportedBox", "MyClonedBox"]


def test_document_manually(world: World) -> None:
    directory = world.home / "MyBox"
    directory.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", directory / "disk.s2e", "7680M"], check=True)
    for each in NAMES:
        (directory / f"disk.s2e.{each}").write_text(f"the state {each}")
    with (directory / "disk.s2e").open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"data written before")
    subprocess.run("tar czSf MyBox.tar.gz disk.s2e*", shell=True, cwd=directory, check=True)
    (directory / "MyBox.tar.gz").rename(world.home / "MyBox.tar.gz")
    done = world.run("import", "MyBox.tar.gz", "AnotherBox")
    assert done.status == 0, done
    assert f"only S2E loads them: {', '.join(NAMES)}" in done.err + done.out
    vm = Vm(world, world.home / "AnotherBox")
    require_same(vm)
    subprocess.run(["cp", "-r", "AnotherBox", "Copied"], cwd=world.home, check=True)
    done = world.run("-C", "Copied", "status")
    assert f"it is a copy of {vm.directory}" in done.out + done.err, done
    (vm.directory / "disk.s2e.asdföklj").unlink()
    assert [each["name"] for each in json.loads(vm.ok("--json", "snapshot", "list").out)["snapshots"]] == [
        "base", "ready",
    ]  # fmt: skip
    subprocess.run(["rm", "-r", vm.directory], check=True)
    rows = {
        each["machine"]: each["state"] for each in json.loads(world.run("--json", "list").out)["machines"]
    }
    assert rows["AnotherBox"] == "missing"


def test_snapshots_of_s2e_are_never_loaded(world: World) -> None:
    vm = box(world)
    for words in (
        ("start", "--loadvm", "ready"), ("snapshot", "restore", "ready"), ("snapshot", "show", "ready"),
        ("snapshot", "diff", "ready"),
    ):  # fmt: skip
        require_error(
            vm.qvm(*words),
            1,
            "MyBox: ready is a snapshot of S2E, which only S2E's own QEMU can load",
            "qvm lists, copies, exports and deletes it",
        )
    rows = json.loads(vm.ok("--json", "snapshot", "list").out)["snapshots"]
    assert {(each["name"], each["kind"]) for each in rows} == {(each, "s2e") for each in NAMES}
    done = vm.qvm("start", "--no-wait", "--disposable")
    assert "no longer fit" not in done.err
    vm.ok("kill")
    done = vm.qvm("start", "--no-wait")
    assert "once the guest writes to the disk, the snapshots of S2E no longer fit" in done.err
    vm.ok("kill")
    require_same(vm)


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_snapshot_is_found_in_either_unicode_form(world: World, form: Form, other: Form) -> None:
    vm = box(world)
    (vm.directory / "disk.s2e.asdföklj").unlink()
    there, typed = normalize(form, "asdföklj"), normalize(other, "asdföklj")
    assert there != typed
    path = vm.directory / f"disk.s2e.{there}"
    path.write_text("x")
    done = world.run("delete", "-y", f"MyBox:{typed}")
    assert done.out == f"MyBox: deleted the snapshot {there}\n", done
    assert not path.exists()
    both = [vm.directory / f"disk.s2e.{each}" for each in (there, typed)]
    for each in both:
        each.write_text("x")
    vm.ok("snapshot", "delete", typed)  # where both are there, the exact bytes decide
    assert [each.exists() for each in both] == [True, False]


def test_qemu_snapshot_in_other_unicode_form(world: World) -> None:
    assert world.run("create", "web", "1M").status == 0
    vm = Vm(world, world.home / "web")
    there, typed = normalize("NFD", "asdföklj"), normalize("NFC", "asdföklj")
    vm.ok("snapshot", "save", there)
    assert there in vm.ok("snapshot", "show", typed).out
    vm.ok("snapshot", "restore", typed)
    done = world.run("delete", "-y", f"web:{typed}")
    assert done.status == 0, done
    assert json.loads(vm.ok("--json", "snapshot", "list").out)["snapshots"] == []


def test_disk_of_s2e_that_the_settings_name_is_no_second_disk(world: World) -> None:
    for setting in ("VM_DISKS=disk.s2e:raw", "VM_QEMU_EXTRA=-drive file=disk.s2e,format=raw,if=virtio"):
        vm = box(world, f"Box{len(setting)}")
        (vm.directory / "a.iso").write_bytes(bytes(32768) + b"\1CD001\1" + bytes(4096))
        vm.ok("config", "VM_CDROM=a.iso", setting)
        disks = json.loads(vm.ok("--json", "disk", "list").out)["disks"]
        assert [each["file"] for each in disks] == [str(vm.directory / "disk.s2e")]
        vm.ok("start", "--no-wait")
        vm.ok("kill")
