"""`import`: machines from packages of qvm, of S2E, and from packed directories."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import require_nothing_left
from tests.support.counting import NO_WAITING
from tests.support.disks import check_images, read_byte, snapshot_names, write_byte
from tests.support.packages import export
from tests.support.programs import output_of, qemu_img, write_script
from tests.support.world import DEADLINE_S, QVM, Blank, Vm, World


@pytest.fixture
def vm(blank: Blank) -> Vm:
    """Off, with 7 at 1M."""
    made = blank(**NO_WAITING)
    write_byte(made, 7, "1M")
    return made


def import_package(world: World, *words: str | Path, **kw: Any) -> dict[str, Any]:
    result = world.run("--json", "import", *words, **kw)
    assert result.status == 0, str(result)
    report: dict[str, Any] = json.loads(result.out)
    return report


def uuid_of(vm: Vm) -> str:
    return (vm.directory / ".qvm/uuid").read_text().strip()


def test_import_makes_a_machine_of_its_own(vm: Vm) -> None:
    vm.ok("snapshot", "save", "ready")
    report = export(vm, "demo.tar.gz")
    found = import_package(vm.world, vm.directory / "demo.tar.gz", "twin")
    assert (found["machine"], found["kind"], found["brings"], found["skipped"]) == ("twin", "qvm", [], [])
    twin = Vm(vm.world, vm.world.home / "twin")
    assert read_byte(twin, "1M", "twin-backing.qcow2") == 7
    assert "demo" not in twin.ok("disk", "list").out
    assert uuid_of(twin) != uuid_of(vm)
    assert twin.value("VM_MACHINE_ID") != vm.value("VM_MACHINE_ID")
    assert snapshot_names(twin, "twin-backing.qcow2") == ["ready"]
    twin.ok("snapshot", "verify")
    check_images(twin, "twin-base.qcow2", "twin-backing.qcow2")
    assert not (twin.directory / ".qvm/unaccepted").exists()
    assert "twin" in vm.world.run("list").out
    twin.ok("start", "--no-wait")
    twin.kill()
    assert len(report["files"]) == 4


def test_import_without_a_name_takes_the_packages(vm: Vm) -> None:
    export(vm, "other.tar.xz")
    package = vm.directory / "other.tar.xz"
    result = vm.world.run("import", package)
    assert result.status == 3
    assert "demo already exists" in result.err
    folder = vm.world.home / "elsewhere"
    folder.mkdir()
    assert import_package(vm.world, package, cwd=folder)["machine"] == "demo"
    assert os.listdir(folder) == ["demo"]
    require_nothing_left(vm)


def test_import_into_an_empty_folder_and_below_a_directory(vm: Vm) -> None:
    export(vm, "demo.tar")
    (vm.world.home / "shelf/twin").mkdir(parents=True)
    import_package(vm.world, "-C", "shelf", vm.directory / "demo.tar", "twin")
    assert (vm.world.home / "shelf/twin/.vmrc").exists()
    result = vm.world.run("import", vm.directory / "demo.tar", "shelf/twin")
    assert result.status == 3


@pytest.mark.parametrize("kind", ["gz", "zst", "xz", "none"])
def test_import_from_a_pipe_sees_how_it_is_compressed(vm: Vm, kind: str) -> None:
    with subprocess.Popen(
        [QVM, "export", "-", "-z", kind], cwd=vm.directory, env=vm.world.environ,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as source:  # fmt: skip
        done = subprocess.run(
            [QVM, "import", "-", "twin"], cwd=vm.world.home, env=vm.world.environ, stdin=source.stdout,
            capture_output=True, text=True, timeout=DEADLINE_S,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("twin: imported from standard input as twin in ")
    assert read_byte(Vm(vm.world, vm.world.home / "twin"), "1M", "twin-backing.qcow2") == 7


def test_import_keeps_the_identity_once(vm: Vm) -> None:
    export(vm, "demo.tar.gz")
    package, own, number = vm.world.home / "x.tar.gz", uuid_of(vm), vm.value("VM_MACHINE_ID")
    (vm.directory / "demo.tar.gz").rename(package)
    found = import_package(vm.world, package, "twin", "--keep-identity")
    assert any("new UUID" in note for note in found["notes"])
    twin = Vm(vm.world, vm.world.home / "twin")
    assert uuid_of(twin) != own
    assert twin.value("VM_MACHINE_ID") == number
    vm.directory.rename(vm.world.home / "gone")
    (vm.world.home / "gone/.vmrc").unlink()
    import_package(vm.world, package, "third", "--keep-identity")
    assert uuid_of(Vm(vm.world, vm.world.home / "third")) == own


def test_import_of_a_second_disk_from_elsewhere(vm: Vm, tmp_path: Path) -> None:
    qemu_img(tmp_path, "create", "-q", "-f", "raw", "data.raw", "4M")
    vm.set(VM_DISKS=f"{tmp_path}/data.raw:raw")
    export(vm, "demo.tar.gz")
    import_package(vm.world, vm.directory / "demo.tar.gz", "twin")
    twin = Vm(vm.world, vm.world.home / "twin")
    assert (twin.directory / "disks/data.raw").stat().st_size == 4 << 20
    assert str(tmp_path) not in (twin.directory / ".vmrc").read_text()
    twin.ok("disk", "check")


# What a package brings


def test_package_that_brings_a_hook_runs_nothing_before_allow(vm: Vm) -> None:
    mark = vm.world.home / "ran"
    write_script(vm.directory, "hook", f"#!/bin/sh\ntouch {mark}\n")
    vm.set(VM_PRE_START="./hook", VM_READY="none", VM_LOG=str(vm.world.home / "log"), PATH_X="1")
    export(vm, "demo.tar.gz")
    (vm.world.home / "log").unlink(missing_ok=True)
    (vm.directory / "hook").unlink()
    found = import_package(vm.world, vm.directory / "demo.tar.gz", "twin")
    assert [row["name"] for row in found["brings"]] == ["VM_PRE_START", "VM_LOG", "PATH_X"]
    assert found["brings"][0]["what"] == "runs ./hook"
    twin = Vm(vm.world, vm.world.home / "twin")
    for words in (("status",), ("snapshot", "list"), ("disk", "list"), ("list", "-l"), ("doctor",), ("env",)):
        assert "Traceback" not in twin.qvm(*words).err
    for line in ("start --no-wait", "run", "snapshot save x", "archive"):
        result = twin.qvm(*line.split())
        assert result.status == 2, str(result)
        assert "it came in a package" in result.err
    assert not mark.exists()
    assert not (vm.world.home / "log").exists()
    twin.ok("allow")
    twin.ok("start", "--no-wait")
    twin.kill()
    assert mark.exists()
    assert (vm.world.home / "log").exists()


def test_package_with_files_outside_opens_none_before_allow(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "include").write_text("VM_MACHINE_MEM=99\n")
    qemu_img(tmp_path, "create", "-q", "-f", "qcow2", "x.qcow2", "1M")
    vm.set(
        VM_DISKS=f"{tmp_path}/x.qcow2", VM_INCLUDE=f"{tmp_path}/include", VM_SSH_OPTIONS="-o ProxyCommand=x"
    )
    output_of(vm.world.home, "tar", "-czf", "dir.tar.gz", "demo")
    found = import_package(vm.world, "dir.tar.gz", "twin")
    assert [row["name"] for row in found["brings"]] == ["VM_DISKS", "VM_SSH_OPTIONS", "VM_INCLUDE"]
    twin = Vm(vm.world, vm.world.home / "twin")
    assert twin.value("VM_MACHINE_MEM") == "64"
    assert twin.value("VM_DISKS") == ""
    assert "x.qcow2" not in twin.ok("disk", "list").out
    twin.ok("allow")
    assert twin.value("VM_MACHINE_MEM") == "99"
    assert "x.qcow2" in twin.ok("disk", "list").out


def test_shell_code_of_a_package_is_listed_and_not_loaded(vm: Vm) -> None:
    (vm.directory / ".qvmrc.xsh").write_text("import pathlib; pathlib.Path('ran').touch()\n")
    vm.ok("allow")
    export(vm, "demo.tar.gz")
    said = vm.world.run("import", vm.directory / "demo.tar.gz", "other").out
    assert "other: none of that happens before `qvm -M other allow`: read it first\n" in said
    found = import_package(vm.world, vm.directory / "demo.tar.gz", "twin")
    assert [row["name"] for row in found["brings"]] == [".qvmrc.xsh"]
    twin = Vm(vm.world, vm.world.home / "twin")
    twin.ok("sh", "-c", "status -s || true")
    assert not (twin.directory / "ran").exists()


# Other packages


def packed_by_s2e(world: World, *more: str, disk: str = "disk.s2e") -> Path:
    """A package as S2E's document makes it, "Manually"."""
    folder = world.home / "s2e/vm/MyBox"
    folder.mkdir(parents=True)
    kind = "raw" if disk.endswith("s2e") else "qcow2"
    qemu_img(folder, "create", "-q", "-f", kind, disk, "768M")
    for name in ("ready", "base", "asdföklj"):
        (folder / f"disk.s2e.{name}").write_text(f"state {name}")
    for name in more:
        (folder / name).write_text("more")
    words = "tar czf MyBox.tar.gz disk.s2e*" if kind == "raw" else "tar czf MyBox.tar.gz ./disk*"
    output_of(folder, "/bin/sh", "-c", f"{words} {' '.join(more)}")
    return folder / "MyBox.tar.gz"


def test_package_of_s2e_is_a_machine(world: World) -> None:
    found = import_package(world, packed_by_s2e(world), "AnotherBox")
    assert (found["kind"], found["machine"], found["skipped"]) == ("s2e", "AnotherBox", [])
    made = Vm(world, world.home / "AnotherBox")
    assert (made.directory / "disk.s2e").stat().st_size == 768 << 20
    assert (made.directory / "disk.s2e").stat().st_blocks == 0
    assert (made.directory / "disk.s2e.asdföklj").read_text() == "state asdföklj"
    assert "disk.s2e: raw" in made.ok("disk", "list").out
    assert any("asdföklj, base, ready" in note for note in found["notes"])
    made.set(VM_READY="none", VM_NET_MODEL="none", VM_MACHINE_MEM="64")
    made.ok("start", "--no-wait")
    made.kill()
    export(made, "again.tar.gz")
    assert import_package(world, made.directory / "again.tar.gz", "Third")["kind"] == "qvm"
    assert (world.home / "Third/disk.s2e.asdföklj").read_text() == "state asdföklj"


def test_package_of_s2e_is_named_after_its_file(world: World) -> None:
    package = packed_by_s2e(world)
    assert import_package(world, package)["machine"] == "MyBox"
    with package.open() as stream:
        done = subprocess.run(
            [QVM, "import", "-"],
            cwd=world.home,
            env=world.environ,
            stdin=stream,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2
    assert "the package does not say its name" in done.stderr


def test_older_package_of_s2e_is_a_machine(world: World) -> None:
    found = import_package(world, packed_by_s2e(world, disk="disk.qcow2"), "Old")
    assert found["kind"] == "s2e"
    made = Vm(world, world.home / "Old")
    assert "Old.qcow2: qcow2" in made.ok("disk", "list").out
    assert (made.directory / "disk.s2e.ready").exists()
    assert "ready" in made.ok("snapshot", "list").out
    assert world.run("clone", "Old", "New").status == 0
    assert (world.home / "New/disk.s2e.ready").exists()
    assert world.run("delete", "-y", "Old:ready").status == 0
    assert not (made.directory / "disk.s2e.ready").exists()
    assert world.run("delete", "-y", "--now", "New").status == 0
    assert not (world.home / "New").exists()


def test_unknown_members_of_s2e_packages_are_named_and_skipped(world: World) -> None:
    result = world.run("import", packed_by_s2e(world, "README", "notes.txt"), "Odd")
    assert result.status == 0, str(result)
    assert "skipped: README, notes.txt" in result.err
    assert not (world.home / "Odd/README").exists()


def test_package_of_s2e_with_a_name_in_another_unicode_form(world: World) -> None:
    package = packed_by_s2e(world)
    name = unicodedata.normalize("NFD", "disk.s2e.asdföklj")
    (package.parent / name).write_text("decomposed")
    output_of(package.parent, "tar", "-czf", "nfd.tar.gz", "disk.s2e", name)
    import_package(world, package.parent / "nfd.tar.gz", "Box")
    assert (world.home / "Box" / name).read_text() == "decomposed"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-czf", "x.tar.gz", "demo"], "demo"),
        (["-cSjf", "x.tar.gz", "demo"], "demo"),
        (["-cSf", "x.tar.gz", "--format=posix", "./demo"], "demo"),
        (["-cJf", "x.tar.gz", "-C", "demo", "."], "x"),
    ],
)
def test_packed_directory_is_a_machine(vm: Vm, words: list[str], name: str) -> None:
    (vm.directory / ".qvm/known_hosts").write_text("qvm-x ssh-ed25519 AAAA\n")
    (vm.directory / ".qvm/uuid").write_text("2312fd5c-7c56-416e-b737-668dbb174540\n")
    (vm.directory / "notes").mkdir()
    (vm.directory / "notes/today.txt").write_text("mine")
    output_of(vm.world.home, "tar", *words)
    folder = vm.world.home / "elsewhere"
    folder.mkdir()
    found = import_package(vm.world, vm.world.home / "x.tar.gz", cwd=folder)
    assert (found["kind"], found["machine"]) == ("directory", name)
    made = Vm(vm.world, folder / name)
    assert read_byte(made, "1M", f"{name}-backing.qcow2") == 7
    assert (made.directory / "notes/today.txt").read_text() == "mine"
    assert not (made.directory / ".qvm/known_hosts").exists()
    assert uuid_of(made) != uuid_of(vm)


def test_machines_and_archives_in_a_packed_directory_stay_out(vm: Vm) -> None:
    """Their settings have not been looked at: they would run hooks without `qvm allow`."""
    (vm.directory / "sub/deep").mkdir(parents=True)
    (vm.directory / "sub/.vmrc").write_text("VM_PRE_START=./run\n")
    (vm.directory / "sub/deep/run").write_text("#!/bin/sh\n")
    (vm.directory / "notes").write_text("mine")
    vm.ok("archive")
    archived = next(vm.directory.glob("demo-20*")).name
    output_of(vm.world.home, "tar", "-czf", "x.tar.gz", "demo")
    found = import_package(vm.world, "x.tar.gz", "twin")
    assert {name.split("/")[1] for name in found["skipped"]} == {"sub", archived}
    assert not [path for path in (vm.world.home / "twin").iterdir() if path.name in ("sub", archived)]
    assert (vm.world.home / "twin/notes").read_text() == "mine"


def test_unaccepted_machine_is_not_copied(vm: Vm) -> None:
    vm.set(VM_PRE_START="./run")
    output_of(vm.world.home, "tar", "-czf", "x.tar.gz", "demo")
    brings = import_package(vm.world, vm.world.home / "x.tar.gz", "one")["brings"]
    assert [each["name"] for each in brings] == ["VM_PRE_START"]
    one = Vm(vm.world, vm.world.home / "one")
    for words in (("clone", "../two"), ("archive",), ("export",), ("start", "--no-wait")):
        result = one.qvm(*words)
        assert (result.status, "qvm allow" in result.err) == (2, True), result
    assert not (vm.world.home / "two").exists()


def test_import_of_what_is_no_package_says_so(world: World) -> None:
    (world.home / "x.tar.gz").write_text("no tar")
    (world.home / "zipped").write_bytes(gzip.compress(b"no tar"))
    for name in ("x.tar.gz", "zipped", "/etc/passwd", "/usr/bin/env"):
        result = world.run("import", name, "a")
        assert (result.status, f"{os.path.basename(name)}: it is not a package, " in result.err) == (1, True)
        assert "hint: `qvm export` makes packages; " in result.err
    (world.home / "x.txt").write_text("mine")
    output_of(world.home, "tar", "-czf", "y.tar.gz", "x.txt")
    result = world.run("import", "y.tar.gz", "a")
    assert result.status == 1
    assert "it holds no machine" in result.err
    assert world.run("import", "missing.tar.gz", "a").status == 2
    assert world.run("import", ".", "a").status == 2
    assert world.run("import", "y.tar.gz", "").status == 2
    assert not (world.home / "a").exists()
