"""An identity of its own for a machine whose directory was copied by hand.

renew(vm)       # Renewed
"""

from __future__ import annotations

import os

from qvmsh.errors import printable
from qvmsh.host import files as host_files
from qvmsh.machine import identity, registry, state
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.restore import new_identity
from qvmsh.machine.shelf.reports import Renewed
from qvmsh.machine.storage import chain, linked, volumes
from qvmsh.machine.work.lock import work_lock


def renew(vm: BaseMachine, *, is_sure: bool) -> Renewed:
    """Give the machine another uuid, number, address and ports; its name and its disks stay.

    Args:
        is_sure: do not ask where it is no copy.

    Raises:
        StateError: it is not off. Nothing changed.
        UsageError, QvmError: it was not confirmed. Nothing changed.
    """
    is_copy = registry.original(vm) is not None
    if not is_copy:
        what = f"{vm.name} is no copy of another machine: its uuid, number and addresses change."
        vm.io.require_yes(f"{printable(what)}\nRenew it?", is_given=is_sure, what="renew", machine=vm.name)
    notes: list[str] = []
    with work_lock(vm, "renew"):
        state.require_off(vm, state.observe(vm), "renew")
        disks = [
            each for each in volumes.configured(vm) if each.format == "qcow2" and os.path.exists(each.path)
        ]
        has_snapshots = any(chain.snapshots_in(each.path, each.format) for each in disks)
        if is_copy:
            linked.drop(vm.directory)
        else:
            linked.forget(vm.directory)
        new_identity.renew(vm.directory, vm.name, vm.environ, notes, has_snapshots=has_snapshots)
        host_files.remove(vm.files.place)
        linked.add(vm.directory)
    made = BaseMachine(vm.directory, io=vm.io, environ=vm.environ)
    registry.remember(made)
    notes = new_identity.on_disks(made, notes)
    return Renewed(made.name, identity.uuid_of(made), made.settings.text("VM_MACHINE_ID"), notes)
