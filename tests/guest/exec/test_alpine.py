"""A guest without ssh, agent and ACPI's power button that is not Debian: Alpine, over its serial console."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.errors import require_error
from tests.support.guests import alpine
from tests.support.world import REAL_CACHE, Vm, World

pytestmark = pytest.mark.guest

ODD = ["a  b", "it's", 'say "hi"', "$HOME `id`", "*", "a\nb", "-n", "--", "", "\\n", "äöü 日本", "x" * 255]


@pytest.fixture(scope="module")
def guest(module_world: World) -> Iterator[Vm]:
    image = alpine.build(Path(REAL_CACHE) / "qvm-test")
    settings = {
        "VM_KERNEL": image.kernel, "VM_INITRD": image.initrd, "VM_APPEND": alpine.APPEND,
        "VM_READY": "console:login: $", "VM_GUEST_AGENT": "no",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    done = module_world.run(
        "create", "alp", "--from", image.image, "--link", "-m", "512", "--cpus", "1", *words
    )
    assert done.status == 0, str(done)
    vm = Vm(module_world, module_world.home / "alp")
    assert "ready after" in vm.ok("start").out
    yield vm
    vm.kill()


def test_it_is_ready_at_its_login_and_worked_in_there(guest: Vm) -> None:
    assert guest.ok("status").out == f"alp: running (pid {guest.pid})\n"
    assert "ID=alpine\n" in guest.ok("exec", "cat", "/etc/os-release").out
    done = guest.qvm("--json", "exec", "--", "sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", *ODD)
    found = json.loads(done.out)
    assert (done.status, found["via"], sorted(found["refused"])) == (7, "serial", ["agent", "ssh"])
    assert found["output"] == "".join(f"{word}|" for word in ODD)
    assert "Alpine Linux" in guest.ok("info").out


def test_what_needs_another_way_says_so(guest: Vm) -> None:
    require_error(guest.qvm("exec", "--via", "ssh", "true"), 125, "nothing was run")
    require_error(guest.qvm("put", ".vmrc", "/tmp/"), 125, "nothing was copied")
    require_error(guest.qvm("ssh", "true"), 125, "ssh")
    require_error(guest.qvm("exec", "--timeout", "40", "sleep", "900"), 124, "40 s")
    assert "sleep 900" not in guest.ok("exec", "ps").out


def test_snapshot_archive_reboot_and_stop_work_without_ssh(guest: Vm) -> None:
    guest.ok("exec", "--shell", "echo one > /root/file && sync")
    guest.ok("snapshot", "save", "first")
    guest.ok("exec", "--shell", "echo two > /root/file && sync")
    guest.ok("snapshot", "restore", "first")
    assert guest.ok("exec", "cat", "/root/file").out == "one\n"
    assert "crash-consistent" in guest.ok("archive").out
    assert "rebooted by console" in guest.ok("reboot").out
    assert guest.ok("exec", "cat", "/root/file").out == "one\n"
    assert "powered off by console" in guest.ok("stop").out
    assert guest.qvm("status", "-s").out == "alp: stopped\n"
