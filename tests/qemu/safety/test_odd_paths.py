"""A comma, `=`, quote, space, newline or UTF-8 in a path or value changes nothing but that path or value."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.world import Blank, Vm, World, copy_of

ODD = [
    "with space",
    "comma,readonly=on",
    "equals=sign",
    "quote'single",
    'quote"double',
    "new\nline",
    "ümläut-日本",
    "percent%h%%",
    "dollar$HOME`id`",
    "semi;colon&amp|pipe",
    "star*?[a]",
    "back\\slash",
    "colon:nbd:host",
    "-dash",
    "x" * 200,
]
SEVERAL = [
    "with space, comma,readonly=on, quote'single, quote\"double and equals=sign",
    "colon:nbd:host, new\nline, ümläut-日本, percent%h%%, dollar$HOME`id`",
    "-dash, semi;colon&amp|pipe, star*?[a], back\\slash",
    "x" * 200,
]
"""All of them, in a few names."""


@pytest.mark.parametrize("name", SEVERAL, ids=ascii)
def test_directory_with_odd_name_starts_and_answers(blank: Blank, name: str) -> None:
    check_directory(blank, name)


@pytest.mark.long
@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_directory_with_odd_name_starts_and_answers_long(blank: Blank, name: str) -> None:
    check_directory(blank, name)


def check_directory(blank: Blank, name: str) -> None:
    vm = blank(where=name)
    vm.ok("start", "--no-wait")
    vm.ok("status", "-s")
    nodes = vm.ok("cmd", "info", "block", "disk0").out
    assert "demo-backing.qcow2" in nodes
    vm.ok("kill")
    vm.ok("start", "--no-wait", "--disposable")
    vm.ok("kill")
    assert sorted(path.name for path in vm.directory.glob("*.qcow2")) == [
        "demo-backing.qcow2", "demo-base.qcow2", "demo-seed.qcow2"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["comma,x=y sp ace", "colon:x ümläut quo'te"], ids=ascii)
def test_machine_with_odd_name_keeps_it(blank: Blank, name: str) -> None:
    vm = blank(where="plain", has_images=False)
    text = (
        (vm.directory / ".vmrc")
        .read_text()
        .replace("VM_MACHINE_NAME='demo'", 'VM_MACHINE_NAME="' + name + '"')
    )
    (vm.directory / ".vmrc").write_text(text)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", f"./{name}-seed.qcow2", "1M"],
        cwd=vm.directory,
        check=True,
    )
    vm.ok("init")
    vm.ok("start", "--no-wait")
    assert json.loads(vm.ok("--json", "status", "-s").out)["machine"] == name
    assert vm.ok("cmd", "info", "name").out.strip() == name


def test_extra_words_reach_qemu_as_a_shell_would_split_them(blank: Blank) -> None:
    vm = blank()
    with (vm.directory / ".vmrc").open("a") as file:
        file.write("""VM_QEMU_EXTRA='-fw_cfg name=opt/x,string="a b" -fw_cfg "name=opt/y,string=c,,d"'\n""")
    argv = json.loads(vm.ok("--json", "dryrun").out)["argv"]
    assert argv[-4:] == ["-fw_cfg", "name=opt/x,string=a b", "-fw_cfg", "name=opt/y,string=c,,d"]
    vm.ok("start", "--no-wait")


@pytest.mark.guest
def test_guest_in_odd_folder_is_reached_by_ssh(world: World, saved: Path) -> None:
    where = world.home / "a, b='c\" %h é, new\nline"
    where.mkdir()
    vm = Vm(world, copy_of(world, saved).directory.rename(where / "demo"))
    try:
        vm.load()
        assert vm.ok("ssh", "echo ok").out == "ok\n"
        assert "powered off" in vm.ok("stop").out
    finally:
        vm.kill()
