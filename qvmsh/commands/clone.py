"""`qvm clone`: a second machine like this one."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.shelf.reports import Cloned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="images", words="first")
def clone(
    vm: BaseMachine,
    directory: Annotated[str, Opt(complete="dir")],
    *,
    linked: bool = False,
    keep_identity: Annotated[bool, Opt(excludes=("renew_guest",))] = False,
    renew_guest: bool = False,
    start: bool = False,
) -> Cloned:
    """Make a second machine like this one.

    `qvm clone NEW` clones the machine here, `qvm clone MACHINE NEW` another one. The clone has all
    disks, also those in other directories, with their snapshots, and a uuid, number and addresses
    of its own. A machine that runs is cloned from one moment: quiesced if its guest agent freezes the
    file systems, else crash-consistent.

    Args:
        directory: the new directory; its last part is the new machine's name.
        linked: let the disks be backed by this machine's base, which cannot be changed then.
        keep_identity: the same uuid, number and addresses: the two must not run at the same time.
        renew_guest: at the clone's first start give its guest a machine-id, ssh host keys and a host
            name of its own.
        start: start the clone.

    Raises:
        UsageError: something is there already.
        StateError: the machine cannot be copied in its state.
        QvmError: there is not enough free space. Nothing is left behind.
    """
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.shelf import clone

    made = clone.clone(vm, directory, clone.Wish(linked, keep_identity, renew_guest))
    if start:
        from qvmsh.machine.power import start as power
        from qvmsh.machine.power.request import Request
        from qvmsh.machine.storage import own_disk

        new = BaseMachine(made.directory, io=vm.io, environ=vm.environ)
        vm.io.about = new.directory
        is_waiting = not own_disk.is_empty(new)
        try:
            made.started = str(power.start(new, Request(), ssh_attempts=None, is_waiting=is_waiting))
        except BaseException:
            for each in made.shown():
                vm.io.warn(each)
            raise
    return made
