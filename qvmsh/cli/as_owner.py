"""A command of root's on another account's machine: carried out by a process with that account's rights.

    account, directory = ...                     # from `machine.owner`
    status = carry_out(bound, account, directory, io)

The process is `qvm` again, as that account would type it: from its first look at the directory on it has the
account's rights, home and groups, an environment that was chosen for it, and a terminal of its own. Our half
passes words, bytes and signals. What comes back is looked at before it is believed: under which name the
machine is known to root from now on.
"""

from __future__ import annotations

import os

from qvmsh.cli import fanout
from qvmsh.errors import QvmError
from qvmsh.host import relay
from qvmsh.machine import owner
from qvmsh.machine import registry as known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.cli.parse import Bound
    from qvmsh.host.accounts import Account

_NEWS_BYTES = 65536


def carry_out(bound: Bound, account: Account, directory: str | None) -> int:
    """Carry a command out as `account`; its exit status.

    Args:
        directory: of the machine; None where the command makes one.

    Raises:
        QvmError: the account cannot run qvm, or not get to the machine.
    """
    if directory is not None:
        why = account.obstacle(directory)
        if why:
            raise QvmError(
                f"{account.name}, whose machine this is, cannot enter {directory}: {why}",
                machine=os.path.basename(directory),
                hint=f"every folder above must let {account.name} through",
            )
    words = ["-P", "-m", "qvmsh", *fanout.words(bound, directory)]
    news = bytearray()
    status, why = None, ""
    interpreters, environ = relay.qvm(account, os.environ)
    for interpreter in interpreters:
        reader, writer = os.pipe()
        try:
            status = relay.run(
                [interpreter, *words],
                account=account,
                environ=environ | {known.NEWS: str(writer)},
                has_keys=bound.entry.terminal or bound.entry.verb == "qmp",
                pass_fds=[writer],
                readers={reader: lambda data: news.extend(data[: _NEWS_BYTES - len(news)])},
            )
            break
        except OSError as error:
            why = why or f"{error.filename or interpreter}: {error.strerror}"
        finally:
            os.close(reader)
    if status is None:
        raise QvmError(
            f"qvm cannot run as {account.name}, whose machine this is: {why}",
            machine=os.path.basename(directory or ""),
            hint=f"install qvm where {account.name} may read it",
        )
    for line in bytes(news).split(b"\n")[:-1]:
        name, _, place = os.fsdecode(line).partition("\t")
        _remember(name, place, account)
    return status


def _remember(name: str, directory: str, account: Account) -> None:
    """Note a machine of the account's under the name that the account has told, if it is theirs."""
    if name and name.isprintable() and len(name) < 256 and os.path.isabs(directory):
        try:
            whose = owner.of(directory, os.environ)
            if whose and whose.uid == account.uid:
                known.note_use(name, directory, os.environ)
        except (QvmError, OSError):  # it has gone, or the list cannot be written
            pass
