"""`qvm clone` of a machine with a guest: its clones are guests of their own."""

from __future__ import annotations

import json

import pytest

from tests.support.world import Vm, World

pytestmark = pytest.mark.guest


def facts(vm: Vm) -> dict[str, str]:
    """What no two machines may have in common."""
    port = json.loads(vm.ok("--json", "status").out)["ssh_port"]
    return {
        "uuid": (vm.directory / ".qvm/uuid").read_text().strip(),
        "address": vm.ok("ssh", "cat /sys/class/net/eth0/address").out.strip(),
        "port": str(port),
        "host key": (vm.directory / ".qvm/known_hosts").read_text().split()[2],
        "name": vm.ok("ssh", "hostname").out.strip(),
    }


def test_full_and_linked_clone_run_side_by_side(guest: Vm, world: World) -> None:
    guest.start()
    guest.ok("ssh", "echo written before > note; sync")
    original = facts(guest)
    done = guest.ok("clone", "../full")
    assert "quiesced" in done.out, done
    guest.ok("stop")
    guest.ok("clone", "../linked", "--linked")
    full, linked = (Vm(world, world.home / name) for name in ("full", "linked"))
    try:
        done = world.run("start", "full", "linked")
        assert done.status == 0, done
        found = [original, facts(full), facts(linked)]
        for name in original:
            assert len({each[name] for each in found}) == 3, (name, found)
        for each in (full, linked):
            assert each.ok("ssh", "cat note").out == "written before\n"
            each.ok("ssh", f"echo {each.directory.name} > note; sync")
        assert [each.ok("ssh", "cat note").out for each in (full, linked)] == ["full\n", "linked\n"]
        done = world.run("stop", "full", "linked")
        assert done.status == 0, done
    finally:
        full.kill()
        linked.kill()
    guest.start()
    assert guest.ok("ssh", "cat note").out == "written before\n"
