"""Directories that were copied by hand, with the identity of the machine in them.

    original(vm)          # "/vm/web", of which this directory is a copy; `registry.original` knows more

`.qvm/place` notes where a machine is. A copy has the note of the original; a machine that was moved has one
too that does not fit, but then nothing is at that place any more.
"""

from __future__ import annotations

from qvmsh.host import files as host_files
from qvmsh.machine import launch_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


def original(vm: BaseMachine) -> str | None:
    """The machine whose directory this one was copied from, by hand, and that is still there; else None."""
    try:
        place, _, directory = host_files.read(vm.files.place).text.strip().partition(" ")
        if place != launch_record.place(vm.directory) and launch_record.place(directory) == place:
            return directory
    except OSError:  # it has no such note yet, or the original is gone: this is the machine itself
        pass
    return None


def foreign_place(vm: BaseMachine) -> str:
    """The place that the note has, if it is not this directory's; "" for most."""
    try:
        noted = host_files.read(vm.files.place).text.partition(" ")[0]
        return "" if noted == launch_record.place(vm.directory) else noted
    except OSError:
        return ""


def note_place(vm: BaseMachine) -> None:
    """Note where the machine is; not for a copy that has not been renewed."""
    text = f"{launch_record.place(vm.directory)} {vm.directory}\n"
    try:
        if host_files.read(vm.files.place).text == text:
            return
    except OSError:
        pass
    vm.state_folder()
    host_files.write_atomic(vm.files.place, text)
