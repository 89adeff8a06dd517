"""The choice of the way for a transfer.

    done, tried = to_first(vm, ("ssh", "sftp", "agent"), limit, work)

A way that does not lead into the guest is left for the next one, as long as nothing has been copied.
"""

from __future__ import annotations

import contextlib

from qvmsh.machine import programs, state
from qvmsh.machine.guest import frozen
from qvmsh.machine.guest.files import by_agent, by_ssh, sftp
from qvmsh.machine.guest.files.sftp_get import SftpSender
from qvmsh.machine.guest.files.sftp_put import SftpReceiver
from qvmsh.machine.guest.files.shell_get import ShellSender
from qvmsh.machine.guest.files.shell_put import ShellReceiver
from qvmsh.machine.guest.files.ways import Tried
from qvmsh.machine.guest.wish import Unusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from qvmsh.machine.guest.files.limits import Limit
    from qvmsh.machine.guest.files.receivers import Receiver
    from qvmsh.machine.guest.files.sources import Sender
    from qvmsh.machine.guest.files.ways import Way
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

    T = TypeVar("T")


def to_first(
    vm: BaseMachine, ways: tuple[str, ...], limit: Limit, work: Callable[[Receiver], T]
) -> tuple[T, Tried]:
    """Copy into the guest by the first way that leads there; as `_first`."""

    def by(way: Way | sftp.Client) -> T:
        if isinstance(way, sftp.Client):
            return work(SftpReceiver(vm, way, limit))
        return work(ShellReceiver(vm, way, limit))

    return _first(vm, ways, limit, "copy files into the guest", by)


def from_first(
    vm: BaseMachine, ways: tuple[str, ...], limit: Limit, work: Callable[[Sender], T]
) -> tuple[T, Tried]:
    """Copy from the guest by the first way that leads there; as `_first`."""

    def by(way: Way | sftp.Client) -> T:
        return work(SftpSender(way) if isinstance(way, sftp.Client) else ShellSender(vm, way))

    return _first(vm, ways, limit, "copy files from the guest", by)


def _first(
    vm: BaseMachine, ways: tuple[str, ...], limit: Limit, what: str, work: Callable[[Way | sftp.Client], T]
) -> tuple[T, Tried]:
    """Do the work by the first way that leads into the guest.

    Args:
        what: what the machine is needed for.
        work: raises `Unusable` as long as it has copied nothing.

    Raises:
        ConfigError: the machine's files, which may name programs for ssh, were not accepted.
        StateError: the machine is not running, or its guest is held.
        GuestUnreachableError: no way leads into the guest, or it was lost.
        DeadlineError: see `Limit`.
    """
    programs.require_accepted(vm)
    awake = (state.RUNNING, state.STARTING, state.SHUT_DOWN, state.CRASHED, state.BROKEN)
    pid, note = state.require(vm, state.observe(vm), what, *awake)
    frozen.require_thawed(vm, f"cannot {what}")
    tried = Tried(ways)
    for way in ways:
        try:
            with _opened(vm, pid, note, limit, way, is_last=way == ways[-1]) as found:
                return work(found), tried
        except Unusable as error:
            tried.refused[way] = str(error)
    raise tried.error(vm)


@contextlib.contextmanager
def _opened(
    vm: BaseMachine, pid: int, note: LaunchRecord, limit: Limit, way: str, *, is_last: bool
) -> Iterator[Way | sftp.Client]:
    if way == "agent":
        with by_agent.opened(vm, pid, note, limit) as agent:
            yield agent
        return
    with by_ssh.opened(vm, note, limit, is_last=is_last) as ssh:
        if way == "ssh":
            yield ssh
            return
        with ssh.session(["sftp"], "-s") as session:
            try:
                client = sftp.Client(session, vm.name)
            except (sftp.Ended, sftp.Nonsense):
                raise Unusable("the guest has no sftp server") from None
            yield client
            session.finished()
