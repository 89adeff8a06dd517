"""archive and restore where a disk is full, a store cannot be used, or names are odd."""

from __future__ import annotations

import os

import pytest

from tests.support.archives import make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.errors import require_error, require_one_error
from tests.support.programs import qemu_img, qemu_io
from tests.support.small_disk import small_disk
from tests.support.world import Blank, Vm


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-z", "lz4", "-b"],
        *(pytest.param(["-z", tool], marks=pytest.mark.long) for tool in ("xz", "zstd")),
    ],
)
def test_restore_onto_a_full_disk_leaves_everything_as_it_was(blank: Blank, words: list[str]) -> None:
    world = blank(name="other", has_images=False).world
    with small_disk(world.home / "demo", 12), small_disk(world.home / "small", 2):
        vm = blank(VM_ARCHIVE="../store")
        (vm.directory / "noise").write_bytes(os.urandom(4 << 20))
        qemu_io(vm, "-f", "qcow2", "-c", "write -s noise 0 4M", "demo-backing.qcow2")
        make_archive(vm, *words)
        (vm.directory / "noise").write_bytes(os.urandom(4 << 20))
        qemu_io(vm, "-f", "qcow2", "-c", "write -s noise 0 4M", "demo-backing.qcow2")
        now = (vm.directory / "demo-backing.qcow2").read_bytes()
        require_one_error(vm.qvm("restore", "--force", "latest"), 1, says="No space left on device")
        assert (vm.directory / "demo-backing.qcow2").read_bytes() == now
        require_nothing_left(vm)
        require_one_error(vm.qvm("restore", "latest", "../small/twin"), 1, says="No space left on device")
        assert list((world.home / "small").iterdir()) == []
        (vm.directory / "noise").unlink()
        vm.ok("restore", "--force", "latest")
        assert (vm.directory / "demo-backing.qcow2").read_bytes() != now


STORES = [
    ("/dev/null", "Not a directory"), ("../file", "Not a directory"),
    ("../file/below", "Not a directory"),
    ("/proc/nowhere", "/proc"), ("../loop", "symbolic links"),
    ("ssh://127.0.0.1:1/x", "cannot be used"), ("ssh://nobody@127.0.0.1:1/a b", "cannot be used"),
    ("ssh://no.such.host.invalid/x", "cannot be used"), ("ssh://host", "is not a place"),
    ("http://x/y", "is not a place"), ("ssh://-oProxyCommand=touch made/x", ""),
    ("../" + "x" * 300, "too long"),
]  # fmt: skip


@pytest.mark.parametrize("is_on", [False, True])
def test_store_that_cannot_be_used_is_reported(blank: Blank, is_on: bool) -> None:
    vm = blank()
    (vm.world.home / "file").touch()
    (vm.world.home / "loop").symlink_to("loop")
    write_byte(vm, 1, "0")
    if is_on:
        vm.ok("start", "--no-wait")
    for at, (where, says) in enumerate(STORES):
        vm.set(VM_ARCHIVE=where)
        require_one_error(vm.qvm("archive"), 1, 2, says=says)
        if not is_on and at % 2 == 0:  # one of each kind
            require_one_error(vm.qvm("restore", "latest"), 1, 2)
            require_one_error(vm.qvm("archive", "--verify"), 1, 2)
        assert not (vm.directory / "made").exists(), where
        require_nothing_left(vm)
    vm.set(VM_ARCHIVE="")
    vm.ok("archive")
    vm.kill()
    assert read_byte(vm, "0") == 1


def test_store_on_another_file_system(blank: Blank) -> None:
    vm = blank(VM_ARCHIVE="../store/deep/er")
    with small_disk(vm.world.home / "store", 32):
        write_byte(vm, 1, "0")
        make_archive(vm)
        vm.ok("start", "--no-wait")
        write_live(vm, "-P 2 0 64k")
        make_archive(vm)
        write_live(vm, "-P 3 0 64k")
        last = make_archive(vm, "--keep", "2")
        vm.ok("kill")
        vm.ok("archive", "--verify", last["archive"])
        vm.ok("restore", "--force", "latest")
        assert read_byte(vm, "0") == 3
        vm.ok("restore", "latest", "../store/twin")
        assert read_byte(Vm(vm.world, vm.world.home / "store/twin"), "0", "twin-backing.qcow2") == 3


# Names


ODD = ["a b", "it's", 'say "hi"', "a,b", "a:b", "a=b,c", "$HOME", "`x`", "a%b", "#x"]
ODD_TOGETHER = ['it\'s "x"', "äöü-ß 日本", "a=b,c:d", "$HOME `x`", "#a%b", "a*?[x]", "\\n"]
NOT_IN_NEW_NAMES = set("*?[:")
"""They would make a machine's name a pattern, or a snapshot's address."""
ODDEST = "#a%b " + " ".join(each for each in ODD_TOGETHER if each[0] != "#")


@pytest.mark.parametrize(
    "name", [ODDEST, *(pytest.param(each, marks=pytest.mark.long) for each in [*ODD_TOGETHER, *ODD])]
)
def test_odd_names_of_machine_disks_and_store(blank: Blank, name: str) -> None:
    vm = blank(has_images=False)
    disk = f"{name} disk.raw"
    for variable, value in (
        ("VM_MACHINE_NAME", name), ("VM_DISKS", f"{disk}:raw"), ("VM_ARCHIVE", f"../{name} store"),
    ):  # fmt: skip
        vm.ok("config", f"{variable}={value}")
    qemu_img(vm, "create", "-q", "-f", "qcow2", f"./{name}-seed.qcow2", "16M")
    qemu_img(vm, "create", "-q", "-f", "raw", f"./{disk}", "1M")
    vm.ok("init")
    top = f"{name}-backing.qcow2"
    write_byte(vm, 1, "0", top)
    write_byte(vm, 2, "0", disk, "raw")
    make_archive(vm)
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 3 64k 64k")
    write_live(vm, "-P 4 64k 64k", "disk1")
    made = make_archive(vm)
    write_live(vm, "-P 5 64k 64k")
    last = make_archive(vm, "-z", "gzip", "--keep", "5")
    assert last["incremental"]
    vm.ok("kill")
    vm.ok("archive", "--verify", made["archive"])
    vm.ok("restore", "--force", state_name(made))
    assert [read_byte(vm, at, top) for at in ("0", "64k")] == [1, 3]
    assert [read_byte(vm, at, disk, "raw") for at in ("0", "64k")] == [2, 4]
    store, new = f"../{name} store", f"{name} twin"
    if set(new) & NOT_IN_NEW_NAMES:
        require_error(vm.qvm("restore", f"{store}/{state_name(last)}", f"../{new}"), 2, "cannot be the name")
        new = "".join(char for char in new if char not in NOT_IN_NEW_NAMES)
    vm.ok("restore", f"{store}/{state_name(last)}", f"../{new}")
    twin = Vm(vm.world, vm.world.home / new)
    assert read_byte(twin, "64k", f"{new}-backing.qcow2") == 5
    twin.ok("start", "--no-wait")
    twin.ok("kill")
    require_nothing_left(vm)


@pytest.mark.parametrize("names", [["-rf", "--help.qcow2"], [os.fsdecode(b"d\xff.raw")]])
def test_disk_whose_name_has_a_dash_or_is_not_utf_8_is_archived(blank: Blank, names: list[str]) -> None:
    vm = blank()
    with (vm.directory / ".vmrc").open("ab") as file:
        lines = "\n".join(f"{name}:raw" for name in names)
        file.write(b"VM_DISKS='" + os.fsencode(lines) + b"'\n")
    for name in names:
        qemu_img(vm, "create", "-q", "-f", "raw", f"./{name}", "1M")
        write_byte(vm, 3, "0", name, "raw")
    make_archive(vm)
    if len(names) > 1:  # QEMU itself takes no name that is not UTF-8: its arguments are JSON
        vm.ok("start", "--no-wait")
        make_archive(vm)
        vm.ok("kill")
    for name in names:
        write_byte(vm, 9, "0", name, "raw")
    vm.ok("restore", "--force", "latest")
    assert {read_byte(vm, "0", name, "raw") for name in names} == {3}
    vm.ok("restore", "latest", "../twin")
    twin = Vm(vm.world, vm.world.home / "twin")
    assert {read_byte(twin, "0", name, "raw") for name in names} == {3}
