"""`qvm restore`: restore an archived state in place or as a new machine."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.io import QUIET
from qvmsh.machine.archive.reports import Restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine


@command(group="images")
def restore(
    vm: BaseMachine | None,
    archive: Annotated[str, Opt(complete="archive")],
    directory: Annotated[str | None, Opt(metavar="DIR", complete="dir")] = None,
    *,
    force: Annotated[bool, Opt("-f")] = False,
    io: Io = QUIET,
) -> Restored:
    """Restore an archived state in place or as a new machine.

    Checksums are verified before anything is replaced. A new machine gets its directory's name and
    an identity of its own: name, VM_MACHINE_ID, MAC address, UUID, ports, and the ssh keys that qvm
    made; all its disks are put into its directory. Restoring in place replaces the base, all disks
    and the TPM. In the `.vmrc` only VM_DISKS may change: it gets the disks of the archived state, in
    that order, then those added since. A disk that is not in the archived state does not change.

    Args:
        archive: a state as `archive --list` shows it, `latest`, or the path or URL of an archive.
        directory: where to create a new machine; must be missing or empty.
        force: replace disks whose current content is not in any archive; it is lost.

    Raises:
        UsageError: there is no such state.
        StateError: the machine is running, or its content is not in any archive. Nothing changed.
        ImageError: the archive is damaged, or what would be replaced backs other images. Nothing
            changed.
    """
    import os

    from qvmsh.machine.restore import restore

    environ = os.environ if vm is None else vm.environ
    return restore.restore(vm, archive, directory, io if vm is None else vm.io, environ, is_forced=force)
