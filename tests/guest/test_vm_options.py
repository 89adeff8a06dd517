"""The options of `vm` that need a guest that answers; see tests/qemu/test_vm_options.py."""

from __future__ import annotations

import pytest

from tests.support.direct_boot import boot_directly
from tests.support.world import DEADLINE_S, Vm

pytestmark = pytest.mark.guest


def test_options_in_their_other_spellings_without_an_overlay(guest: Vm, tiny: str) -> None:
    """All that ends and begins a run of the guest, with VM_USE_SNAPSHOTS=no.

    `stop -r` is in tests/guest/shell/test_long_session.py.
    """
    (guest.directory / "demo-base.qcow2").rename(guest.directory / "demo.qcow2")
    (guest.directory / "demo-backing.qcow2").unlink()
    guest.set(VM_USE_SNAPSHOTS="no")
    boot_directly(guest, tiny)
    guest.ok("start", "--use-nat", "--ssh-attempts", "90")
    guest.ok("status", "--quiet")
    guest.ok("ssh", "echo kept > note; echo kept > /tmp/in-memory; sync")
    guest.ok("stop", "--vm-save", "ready")  # suspends
    guest.ok("start", "-l", "ready")
    assert guest.ok("ssh", "cat note /tmp/in-memory").out == "kept\nkept\n"
    guest.ok("restart")
    assert guest.qvm("ssh", "cat note /tmp/in-memory").out == "kept\n"
    assert "powered off by " in guest.ok("stop", "-p").out
    assert guest.qvm("status", "-q").status == 1
    assert [path.name for path in guest.directory.glob("*.qcow2")] == ["demo.qcow2"]


def test_cmd_savevm_loadvm_delvm_work_while_the_guest_runs(loaded: Vm) -> None:
    """As `vm` taught it: `vm cmd savevm NAME`, and `loadvm`, `delvm`, `info snapshots`."""
    loaded.ok("cmd", "savevm", "one")
    assert "one" in loaded.ok("cmd", "info", "snapshots").out
    loaded.ok("ssh", "echo lost > /tmp/x")
    loaded.ok("cmd", "loadvm", "one")
    assert loaded.qvm("ssh", "cat /tmp/x", timeout=DEADLINE_S).status == 1
    loaded.ok("cmd", "delvm", "one")
    assert "one" not in loaded.ok("cmd", "info", "snapshots").out
