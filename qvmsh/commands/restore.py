"""`qvm restore`: an archived state back, or as a machine of its own."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.io import QUIET
from qvmsh.machine.archive.reports import Restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.io import Io
    from qvmsh.machine.machine import Machine


@command(group="images")
def restore(
    vm: Machine | None,
    archive: Annotated[str, Opt(complete="archive")],
    directory: Annotated[str | None, Opt(metavar="DIR", complete="dir")] = None,
    *,
    force: Annotated[bool, Opt("-f")] = False,
    io: Io = QUIET,
) -> Restored:
    """Restore an archived state into its machine, or make a new machine of it.

    Checksums are compared before anything is replaced. A new machine gets its directory's name and
    an identity of its own: name, VM_MACHINE_ID, MAC address, UUID, ports and ssh keys as far as they are
    qvm's; all its disks come into its directory. In the same machine, the base, all disks and the TPM
    become what was archived. The `.vmrc` stays as it is, but for a disk that it names no more: that is
    back in VM_DISKS. A disk that the archived state did not have stays as it is.

    Args:
        archive: a state as `archive --list` shows it, `latest`, or the path or URL of an archive.
        directory: where to make a new machine; it must not be there, or be empty.
        force: replace disks whose present content is in no archive; it is lost.

    Raises:
        UsageError: there is no such state.
        StateError: the machine runs, or what it holds is in no archive; nothing was changed.
        ImageError: the archive is damaged, or other images stand on what would be replaced; nothing was
            changed.
    """
    import os

    from qvmsh.machine.restore import restore as restoring

    environ = os.environ if vm is None else vm.environ
    return restoring.restore(vm, archive, directory, io if vm is None else vm.io, environ, is_forced=force)
