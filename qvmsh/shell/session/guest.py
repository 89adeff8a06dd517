"""`guest`: the guest as a plumbum machine, on the cached ssh connections.

    guest["df"]["-h"]()                     # a string
    (local["cat"]["notes"] | guest["wc"])() # from the host into the guest
    guest.path("/etc") // "*.conf"
    guest.upload("here.txt", "there.txt")

Source: plumbum's documentation, "Remote".
"""

from __future__ import annotations

import contextlib
import os
import threading

from plumbum import SshMachine

from qvmsh.errors import GuestUnreachableError, QvmError
from qvmsh.host import files, ssh_connection
from qvmsh.machine import state
from qvmsh.machine.guest import ssh as guests
from qvmsh.machine.guest.files import get, names, put, ways
from qvmsh.shell.session import encoding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.host.ssh_connection import Link
    from qvmsh.machine.guest.files.names import Wish
    from qvmsh.machine.guest.files.reports import Copied
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.shell.session.io import Session

CONFIG = "ssh_config"
"""Name of the file in the runtime folder with ssh's options for the guest."""

OPEN_S = 15


class Guest:
    """Stands for plumbum's `SshMachine`: made at the first use, and again for another run of the guest."""

    def __init__(self, context: Session) -> None:
        self._context = context
        self._remote: Any = None
        self._run: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def _connected(self) -> Any:
        """The `SshMachine` of the guest that runs now.

        Raises:
            StateError: the machine is not running.
            GuestUnreachableError: ssh cannot log in; the text says why.
        """
        vm = self._context.vm
        pid, note = state.require_live(vm, "reach the guest")
        link = guests.connect(vm, "reach the guest", interactive=False, timeout_s=OPEN_S)
        run = (pid, note.ssh_port)
        with self._lock:
            if self._remote is not None and (run != self._run or not _lives(self._remote)):
                self.close()
            if self._remote is None:
                self._remote = _machine(vm, link)
                self._run = run
            return self._remote

    def close(self) -> None:
        """End the shell that plumbum holds in the guest; the cached connection stays."""
        remote, self._remote = self._remote, None
        if remote is not None:
            with contextlib.suppress(Exception):  # the guest may be gone
                remote.close()

    def forget(self) -> None:
        """Leave that shell to the process that has forked this one."""
        remote, self._remote = self._remote, None
        if remote is not None:
            remote._session.proc = None  # else plumbum ends it, even with its last object

    def upload(self, src: Any, dst: Any) -> None:
        """Copy a file or folder of the host into the guest, as `put`, also where it has no ssh."""
        _copied(put.put(self._context.vm, _wish("put", src, dst)))

    def download(self, src: Any, dst: Any) -> None:
        """Copy a file or folder of the guest to the host, as `get`, also where it has no ssh."""
        _copied(get.get(self._context.vm, _wish("get", src, dst)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._connected(), name)

    def __getitem__(self, name: Any) -> Any:
        return self._connected()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._connected()

    def __dir__(self) -> list[str]:
        return dir(SshMachine)

    def __repr__(self) -> str:
        return f"<guest of {self._context.vm.name}>"


class _Machine(SshMachine):
    """plumbum's machine, where each command has a cached connection to itself, and files go as with `put`."""

    __slots__ = ("_link", "_vm")

    def __init__(self, vm: BaseMachine, link: Link, **how: Any) -> None:
        self._vm = vm
        self._link = link
        super().__init__(link.alias, **how)

    def _own(self) -> tuple[contextlib.ExitStack, list[str]]:
        """A connection for one command, until the first is closed or forgotten; and the options for it."""
        kept = contextlib.ExitStack()
        try:
            own = kept.enter_context(self._link.taken(interactive=False, timeout_s=OPEN_S))
        except ssh_connection.Refused as refused:
            raise guests.refusal(self._vm, self._link, refused) from None
        return kept, ["-o", f"ControlPath={ssh_connection.quoted(own.control)}"]

    def popen(  # type: ignore[override]  # `how` is all that we leave as it is
        self, args: Any, ssh_opts: Sequence[str] = (), **how: Any
    ) -> Any:
        """Start a command in the guest."""
        kept, options = self._own()
        begun: Any = super().popen(args, [*options, *ssh_opts], **how)
        begun.connection = kept  # until the result is no longer asked for
        return begun

    def upload(self, src: Any, dst: Any) -> None:
        """Copy a file or folder of the host into the guest."""
        _copied(put.put(self._vm, _wish("put", src, dst)))

    def download(self, src: Any, dst: Any) -> None:
        """Copy a file or folder of the guest to the host."""
        _copied(get.get(self._vm, _wish("get", src, dst)))


def _wish(verb: str, source: Any, target: Any) -> Wish:
    words = (_exact(source), _exact(target))
    return names.wish_of(verb, words, ways.WAYS, is_resumed=False, timeout_s=None)


def _exact(path: Any) -> str:
    """A path in which `-` is a file."""
    return "./-" if str(path) == "-" else str(path)


def _copied(report: Copied) -> None:
    """Raise if something could not be copied."""
    if not report:
        raise QvmError("not all was copied", machine=report.machine, details=report.failed)


def _machine(vm: BaseMachine, link: Link) -> Any:
    """Log in with plumbum, through the connection that `link` has open."""
    path = os.path.join(link.folder, CONFIG)
    rows = [("HostName", link.host), ("Port", str(link.port)), ("User", link.user)]
    rows += [("ControlMaster", "no"), ("BatchMode", "yes"), *link.settings()]
    text = "Host *\n" + "".join(f"    {key} {value}\n" for key, value in rows)
    files.write_atomic(path, text)
    try:
        return _Machine(
            vm,
            link,
            ssh_opts=(*link.options, "-F", path),
            connect_timeout=OPEN_S,
            encoding=encoding.NAME,
        )
    except Exception as error:
        # plumbum has several trees of errors for a login that fails
        words = str(error).strip().splitlines()
        raise GuestUnreachableError(
            "plumbum cannot talk to the guest's shell", machine=vm.name, details=words[-3:]
        ) from error


def _lives(remote: Any) -> bool:
    """True if the shell that plumbum holds in the guest is still there."""
    try:
        return bool(remote._session.alive())
    except Exception:
        return False
