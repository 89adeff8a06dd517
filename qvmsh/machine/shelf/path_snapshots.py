"""What qvm knows of a machine's snapshots, after its files were renamed or its directory was moved.

relocate(vm, vm, "/vm/web")       # they were saved there
"""

from __future__ import annotations

import os

from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.storage.path_settings import between

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.machine.machine import BaseMachine


def relocate(
    vm: BaseMachine, later: BaseMachine, source: str, renames: Mapping[str, str] | None = None
) -> None:
    """Let the metadata name the disks where they are, and the settings that they have now.

    Args:
        vm: the machine where it is now, with its old name.
        later: the same with its new name.
        source: where its directory was.
        renames: new names of files by old ones, from the directory.
    """
    catalogue = Catalogue.read(vm)
    if not catalogue.entries:
        return
    before = catalogue.text()
    moved = {
        os.path.join(vm.directory, old): os.path.join(vm.directory, new)
        for old, new in (renames or {}).items()
    }
    was, now = vm.settings, later.settings

    def path(old: str) -> str:
        found = between(old, source, vm.directory)
        return moved.get(found, found)

    def value(name: str, old: str) -> str:
        found = between(old, source, vm.directory)
        is_present = name in was and name in now and found == between(was.text(name), source, vm.directory)
        return now.text(name) if is_present else found

    catalogue.relocate(path, value)
    if catalogue.text() != before:
        catalogue.write()
