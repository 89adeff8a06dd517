"""Root's command on another account's machine: run in a process with that account's rights.

    account, directory = ...                     # from `machine.owner`
    status = carry_out(bound, account, directory, io)

The process is `qvm` again, as that account would call it: from its first access to the directory it has the
account's rights, home and groups, a fresh environment, and a terminal of its own. Root's half passes
arguments, bytes and signals. What the child reports back, the name and directory of a machine to add to
root's list, is checked first.
"""

from __future__ import annotations

import os

from qvmsh.cli import fanout
from qvmsh.errors import QvmError
from qvmsh.host import run_as_account
from qvmsh.machine import owner, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.cli.parse import Bound
    from qvmsh.host.accounts import Account

_NEWS_BYTES = 65536


def carry_out(bound: Bound, account: Account, directory: str | None) -> int:
    """Run a command as `account` and return its exit status.

    Args:
        directory: of the machine; None if the command creates one.

    Raises:
        QvmError: the account cannot run qvm, or cannot reach the machine.
    """
    if directory is not None:
        why = account.obstacle(directory)
        if why:
            raise QvmError(
                f"the machine's owner, {account.name}, cannot enter {directory}: {why}",
                machine=os.path.basename(directory),
                hint=f"give {account.name} access to every folder above it",
            )
    words = ["-P", "-m", "qvmsh", *fanout.words(bound, directory)]
    news = bytearray()
    status, why = None, ""
    interpreters, environ = run_as_account.qvm(account, os.environ)
    for interpreter in interpreters:
        reader, writer = os.pipe()
        try:
            status = run_as_account.run(
                [interpreter, *words],
                account=account,
                environ=environ | {registry.NEWS: str(writer)},
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
            f"cannot run qvm as the machine's owner, {account.name}: {why}",
            machine=os.path.basename(directory or ""),
            hint=f"install qvm where {account.name} can read it",
        )
    for line in bytes(news).split(b"\n")[:-1]:
        name, _, place = os.fsdecode(line).partition("\t")
        _remember(name, place, account)
    return status


def _remember(name: str, directory: str, account: Account) -> None:
    """Add a machine to root's list under the reported name, if the account owns it."""
    if name and name.isprintable() and len(name) < 256 and os.path.isabs(directory):
        try:
            whose = owner.of(directory, os.environ)
            if whose and whose.uid == account.uid:
                registry.note_use(name, directory, os.environ)
        except (QvmError, OSError):  # it is gone, or the list cannot be written
            pass
