"""`qvm get`: copy files from the guest."""

from __future__ import annotations

from qvmsh.commands import Opt, command
from qvmsh.machine.guest.files.reports import Copied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.machine import BaseMachine


@command(group="guest")
def get(
    vm: BaseMachine,
    *words: Annotated[str, Opt(complete="file")],
    resume: bool = False,
    via: Annotated[str | None, Opt(metavar="WAY,...")] = None,
    timeout: Annotated[float | None, Opt(metavar="SECONDS")] = None,
) -> Copied:
    """Copy files and directories from the guest.

    `qvm get SOURCE... TARGET`, the reverse of `qvm put`: see there. `-` as the target is standard
    output. The guest is not trusted: nothing is written outside the target, no link in it is
    followed, devices are not made, and set-user-id bits are not kept.

    Args:
        words: the sources in the guest, then the target.
        resume: continue a copy of one file that was interrupted.
        via: the ways that may be used, in this order: `ssh`, `sftp`, `agent`.
        timeout: seconds that all may take (default: as long as something moves).

    Raises:
        StateError: the machine is not running, or its guest is held.
        GuestUnreachableError: no way leads into the guest, or it was lost.
        DeadlineError: `timeout` passed, or nothing has moved for a minute.
        QvmError: a source cannot be read, or the target cannot be written.
    """
    from qvmsh.machine.guest.files import get, names, ways

    wish = names.wish_of("get", words, ways.named(via, "get"), is_resumed=resume, timeout_s=timeout)
    return get.get(vm, wish)
