"""A guest without a network, which is ready when its agent answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.errors import require_error
from tests.support.world import World, create_tiny

pytestmark = pytest.mark.guest


def test_guest_without_a_network_is_ready_by_its_agent(world: World, tmp_path: Path) -> None:
    vm = create_tiny(world)
    vm.set(VM_NET_MODEL="none", VM_READY="agent")
    try:
        assert "ready after" in vm.ok("start").out
        assert vm.ok("status", "-s").out == f"demo: running (pid {vm.pid})\n"
        require_error(vm.qvm("ssh", "true"), 125, "no network for ssh")
        done = json.loads(vm.ok("--json", "exec", "--", "hostname").out)
        assert (done["via"], done["output"], [*done["refused"]]) == ("agent", "demo\n", ["ssh"])
        (tmp_path / "file").write_text("of the host\n")
        assert json.loads(vm.ok("--json", "put", tmp_path / "file", "/tmp/").out)["via"] == "agent"
        vm.ok("snapshot", "save", "one")
        vm.ok("exec", "rm", "/tmp/file")
        vm.ok("snapshot", "restore", "one")
        assert vm.ok("exec", "cat", "/tmp/file").out == "of the host\n"
        assert "rebooted" in vm.ok("reboot").out
        vm.ok("exec", "true")
        assert "powered off" in vm.ok("stop").out
    finally:
        vm.kill()
