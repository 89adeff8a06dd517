"""`qvm put`: copy files into the guest."""

from __future__ import annotations

from qvmsh.commands import Opt, command
from qvmsh.machine.guest.files.reports import Copied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.machine import BaseMachine


@command(group="guest")
def put(
    vm: BaseMachine,
    *words: Annotated[str, Opt(complete="file")],
    resume: bool = False,
    via: Annotated[str | None, Opt(metavar="WAY,...")] = None,
    timeout: Annotated[float | None, Opt(metavar="SECONDS")] = None,
) -> Copied:
    """Copy files and directories into the guest.

    `qvm put SOURCE... TARGET`. A target that is a directory, or ends in `/`, gets the sources under
    their own names; several sources need one. Paths in the guest begin at the account's home.
    Directories are copied with all in them; links in them stay links; modes, times and holes are
    kept. `-` as the source is standard input. Nothing appears under its final name before it is
    complete; of one file that was interrupted, `.NAME.part-XXXXXXXX` stays for `--resume`.

    The ways are ssh (with the guest's own shell and tar), sftp, and the guest agent, which needs no
    network; the agent's files belong to its account, mostly root. The result says which was used.

    Args:
        words: the sources, then the target in the guest.
        resume: continue a copy of one file that was interrupted.
        via: the ways that may be used, in this order: `ssh`, `sftp`, `agent`.
        timeout: seconds that all may take (default: as long as something moves).

    Raises:
        StateError: the machine is not running, or its guest is held.
        GuestUnreachableError: no way leads into the guest, or it was lost.
        DeadlineError: `timeout` passed, or nothing has moved for a minute.
        QvmError: a source cannot be read, or the target cannot be written.
    """
    from qvmsh.machine.guest.files import names, put, ways

    wish = names.wish_of("put", words, ways.named(via, "put"), is_resumed=resume, timeout_s=timeout)
    return put.put(vm, wish)
