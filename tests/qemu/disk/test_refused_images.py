"""What is not a disk, or leads elsewhere, as the image of `create`, `init`, `disk add` and VM_DISKS."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.disks import list_disks
from tests.support.errors import require_error
from tests.support.programs import qemu_img
from tests.support.world import DEADLINE_S, Blank, Vm, World

SECRET = b"TOP-SECRET" * 10
CD = bytes(0x8001) + b"CD001" + bytes(100000)


def make(folder: Path, kind: str, name: str) -> None:
    """A file of that kind at `name`."""
    path = folder / name
    words: list[str | Path]
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "encrypted":  # LUKS would take seconds to make a key
        secret = ["--object", "secret,id=s,data=abc"]
        options = ["-o", "encrypt.format=aes,encrypt.key-secret=s"]
        words = ["qemu-img", "create", "-q", "-f", "qcow2", *secret, *options, path, "1M"]
        subprocess.run(words, check=True)
    elif kind == "split":
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={folder / 'data'}", path, "1M"]
        subprocess.run(words, check=True)
    elif kind == "overlay":
        (folder / "secret").write_bytes(SECRET.ljust(1 << 20))
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", folder / "secret", path]
        subprocess.run(words, check=True)
    else:
        path.write_bytes({"empty": b"", "cd": CD}[kind])


KINDS = {
    "fifo": "is a FIFO, not an image",
    "directory": "is a directory, not an image",
    "device": "is a character device, not an image",
    "empty": "is empty",
    "cd": "is a CD image (ISO 9660)",
    "encrypted": "is encrypted",
}
LINKED = {"split": "reads data from ", "overlay": "reads data from "}


def test_create_of_what_cannot_be_copied_is_refused(world: World) -> None:
    for kind, why in (KINDS | LINKED).items():
        make(world.home, kind, f"odd-{kind}")
        before = set(os.listdir(world.home)) | {".local"}
        refused = world.run("create", "demo", "--image", f"odd-{kind}")
        assert (refused.status, f"demo: odd-{kind} {why}" in refused.err) == (1, True), str(refused)
        assert kind != "cd" or "20G --iso " in refused.err
        assert set(os.listdir(world.home)) | {".local"} == before


def test_init_from_what_cannot_be_copied_is_refused(blank: Blank) -> None:
    for kind, why in (KINDS | LINKED).items():
        raw = kind in ("cd", "empty")
        vm = blank(where=kind, has_images=False, VM_FMT="raw" if raw else "qcow2")
        seed = "demo-seed.raw" if raw else "demo-seed.qcow2"
        make(vm.directory, kind, seed)
        refused = vm.qvm("init")
        assert (refused.status, f"demo: {seed} {why}" in refused.err) == (1, True), str(refused)
        assert not list(vm.directory.glob("demo-ba*")), kind


def test_disk_that_is_not_an_image_is_refused_by_add_and_start(blank: Blank) -> None:
    vm = blank()
    for kind, why in KINDS.items():
        vm.set(VM_DISKS="")
        name = f"{kind}.{({'cd': 'iso', 'encrypted': 'qcow2'}).get(kind, 'img')}"
        make(vm.directory, kind, name)
        for words in (["disk", "add", name], ["--set", f"VM_DISKS={name}", "start", "--no-wait"]):
            refused = vm.qvm(*words)
            assert (refused.status, f"demo: {name} {why}" in refused.err) == (1, True), str(refused)
            assert kind != "cd" or "VM_CDROM=" in refused.err
        assert vm.qvm("config", "VM_DISKS").out.strip() == "", kind
        vm.set(VM_DISKS=name)
        if kind != "cd":
            assert why in list_disks(vm)["disk1"]["problem"], kind
        assert why in vm.qvm("doctor").out, kind
    vm.ok("--set", "VM_DISKS=cd.iso:raw:ro", "--set", "VM_CDROM=cd.iso", "start", "--no-wait")


def test_cdrom_that_is_a_fifo_is_refused_at_once(blank: Blank) -> None:
    vm = blank(VM_CDROM="cd")
    os.mkfifo(vm.directory / "cd")
    require_error(vm.qvm("start", "--no-wait"), 1, "VM_CDROM: cannot read cd: cd is a FIFO")


def test_create_of_an_overlay_copies_and_reports_its_chain(world: World) -> None:
    home = world.home
    for name, below in (("a.qcow2", ""), ("b.qcow2", "a.qcow2"), ("c.qcow2", "b.qcow2")):
        base = ["-F", "qcow2", "-b", below] if below else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, name, "1M"], cwd=home, check=True)
        at = ord(name[0]) - ord("a")
        subprocess.run(
            ["qemu-io", "-c", f"write -P {at + 1} {at * 64}k 128k", name],
            cwd=home,
            check=True,
            capture_output=True,
        )
    made = world.run("create", "demo", "--image", "c.qcow2")
    assert made.status == 0, str(made)
    assert "demo: c.qcow2 is backed by b.qcow2, a.qcow2, which is copied into the same image" in made.err
    copy = home / "demo/demo-base.qcow2"
    subprocess.run(["qemu-img", "compare", "-q", "c.qcow2", copy], cwd=home, check=True)
    assert "backing" not in qemu_img(Vm(world, home / "demo"), "info", "demo-base.qcow2")


def test_nothing_connects_to_what_a_header_names(blank: Blank) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        backing = f"nbd:127.0.0.1:{server.getsockname()[1]}"
        vm = blank(VM_DISKS="data.qcow2")
        qemu_img(vm, "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, "data.qcow2", "1M")
        shutil.copy(vm.directory / "data.qcow2", vm.directory.parent / "new.qcow2")
        for verb in (
            ["disk", "list"], ["doctor"], ["disk", "check"], ["start", "--no-wait"], ["archive"],
            ["snapshot", "list"], ["snapshot", "save", "a"], ["disk", "trim", "disk1"],
            ["disk", "commit", "disk1"], ["disk", "resize", "disk1", "2M"], ["disk", "rebase", "disk1"],
            ["disk", "add", "../new.qcow2"], ["create", "../made", "--image", "../new.qcow2"],
        ):  # fmt: skip
            vm.qvm(*verb, timeout=DEADLINE_S)
            with pytest.raises(BlockingIOError):
                server.accept()
        assert "as its backing file" in list_disks(vm)["disk1"]["problem"]
        assert vm.qvm("status", "-s").out == "demo: stopped\n"


def test_no_verb_on_the_machines_own_images_connects_either(blank: Blank) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        backing = f"nbd:127.0.0.1:{server.getsockname()[1]}"
        vm = blank()
        qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, "demo-base.qcow2")
        for verb in (
            ["init", "-k"], ["start", "--no-wait", "--base-only"], ["start", "--no-wait", "--disposable"],
            ["snapshot", "save", "a"], ["archive", "--create"], ["doctor", "--fix"],
        ):  # fmt: skip
            vm.qvm(*verb, timeout=DEADLINE_S)
            with pytest.raises(BlockingIOError):
                server.accept()


def test_header_in_a_raw_disk_changes_nothing(blank: Blank, tmp_path: Path) -> None:
    """A guest has written it: it names a file of the host, or the machine's own overlay."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET.ljust(1 << 20))
    vm = blank(VM_DISKS="guest.img:raw")
    for below, verbs in (
        (str(secret), [["disk", "check"], ["doctor"], ["archive"], ["disk", "resize", "disk1", "2M"]]),
        ("demo-backing.qcow2", [["disk", "commit"], ["start", "--no-wait"], ["disk", "list"], ["kill"]]),
    ):
        qemu_img(vm, "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", below, "guest.img", "1M")
        with (vm.directory / "guest.img").open("ab") as file:
            file.truncate(1 << 20)
        row = list_disks(vm)["disk1"]
        assert (row["format"], row["size_bytes"], row["chain"], row["problem"]) == ("raw", 1 << 20, [], "")
        for words in verbs:
            vm.ok(*words)
    (vm.directory / "guest.img").rename(vm.directory / "guest.raw")
    vm.ok("--set", "VM_DISKS=guest.raw", "start", "--no-wait")
    vm.ok("kill")
    for each in vm.directory.glob("demo-2*/*"):
        assert each.is_dir() or SECRET not in each.read_bytes()


def test_disk_in_use_is_found_in_raw_too(blank: Blank) -> None:
    vm, other = blank(VM_DISKS="data.img:raw"), blank("other")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.img", "1M")
    vm.ok("start", "--no-wait")
    require_error(other.qvm("disk", "add", "../demo/data.img"), 1, "data.img is in use by machine demo")
    vm.ok("kill")
    other.ok("disk", "add", "../demo/data.img")


def test_add_of_an_overlay_reports_its_backing_files(blank: Blank, tmp_path: Path) -> None:
    vm = blank()
    (tmp_path / "secret").write_bytes(SECRET.ljust(1 << 20))
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(tmp_path / "secret"), "evil.qcow2")
    require_error(
        vm.qvm("disk", "add", "evil.qcow2"), 1, f"evil.qcow2 is backed by {tmp_path}/secret, a raw file"
    )
    qemu_img(vm, "create", "-q", "-f", "raw", "base.img", "1M")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.img", "data.qcow2")
    assert "added; it is backed by base.img" in vm.ok("disk", "add", "data.qcow2").out


def test_programs_get_the_format_of_every_image(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.qcow2")
    qemu_img(vm, "create", "-q", "-f", "raw", "base.img", "1M")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.img", "data.qcow2")
    program, log = vm.directory / "qemu-img", vm.directory / "asked"
    real = shutil.which("qemu-img")
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{log}"\nexec {real} "$@"\n')
    program.chmod(0o755)
    vm.set(VM_QEMU_IMG=str(program))
    for words in (
        ["disk", "list"], ["doctor"], ["disk", "check"], ["disk", "trim"], ["disk", "resize", "disk1", "2M"],
        ["disk", "commit", "disk1"], ["disk", "rebase", "disk1"], ["snapshot", "save", "a"],
        ["snapshot", "list"], ["snapshot", "verify"], ["snapshot", "diff", "a"], ["snapshot", "restore", "a"],
        ["archive"], ["restore", "--force", "latest"], ["snapshot", "delete", "a"], ["archive", "--create"],
        ["start", "--no-wait", "--disposable"], ["kill"], ["init", "-k", "-b"],
    ):  # fmt: skip
        vm.qvm(*words)
    asked = [line.split() for line in log.read_text().splitlines()]
    assert {"info", "check", "commit", "rebase"} <= {words[0] for words in asked}
    guessed = [
        words for words in asked
        if words[0] not in ("create", "--version", "snapshot")  # `snapshot` takes qcow2 only
        and "-f" not in words and "json:" not in " ".join(words)
    ]  # fmt: skip
    assert not guessed
