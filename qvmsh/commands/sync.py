"""`qvm sync`: rsync between host and guest."""

from __future__ import annotations

from qvmsh.commands import Opt, command
from qvmsh.machine.guest.files.reports import Copied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.machine import BaseMachine


@command(group="guest")
def sync(
    vm: BaseMachine,
    *words: Annotated[str, Opt(complete="file")],
    delete: bool = False,
) -> Copied:
    """Copy what differs between host and guest, with rsync.

    Both must have rsync. `qvm sync SOURCE... TARGET`, with `:` before the paths of the guest:
    `qvm sync src/ :project/`, or `qvm sync :project/ src/`. As with rsync, a source that ends in `/`
    means what is in it. Modes, times, links and holes are kept. From a guest that you do not trust,
    use `qvm get`.

    Args:
        words: the sources, then the target.
        delete: remove from the target what the sources do not have.

    Raises:
        StateError: the machine is not running, or its guest is held.
        MissingProgramError: there is no rsync on the host.
        GuestUnreachableError: ssh cannot log in, or the connection was lost.
        DeadlineError: nothing has moved for a minute.
        QvmError: there is no rsync in the guest, or it failed.
    """
    from qvmsh.machine.guest.files import sync

    return sync.sync(vm, words, has_delete=delete)
