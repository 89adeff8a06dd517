"""`guest`: the guest as a plumbum machine, on the cached ssh connections.

    guest["df"]["-h"]()                     # a string
    (local["cat"]["notes"] | guest["wc"])() # from the host into the guest
    guest.path("/etc") // "*.conf"
    guest.upload("here.txt", "there.txt")

Source: plumbum's documentation, "Remote".
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading

from plumbum import SshMachine, local

from qvmsh.errors import GuestUnreachableError
from qvmsh.host import files, ssh_connection
from qvmsh.machine import state
from qvmsh.machine.guest import ssh as guests
from qvmsh.shell.session import encoding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.host.ssh_connection import Link
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
    """plumbum's machine, where each command has a cached connection to itself, and scp works.

    plumbum 2.0 quotes a guest's path for a shell, but since OpenSSH 9.0 scp speaks SFTP, without a shell.
    """

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

    def _scp(self, *words: str) -> None:
        kept, options = self._own()
        with kept:
            self._scp_command(*options, *words)

    def upload(self, src: Any, dst: Any) -> None:
        """Copy a file or folder of the host into the guest."""
        if _scp_speaks_sftp():
            self._scp("-s", "--", str(src), f"{self._fqhost}:{dst}")
        else:
            super().upload(src, dst)

    def download(self, src: Any, dst: Any) -> None:
        """Copy a file or folder of the guest to the host."""
        if _scp_speaks_sftp():
            name = "".join(f"\\{c}" if c in "\\*?[]" else c for c in str(src))  # it expands patterns
            self._scp("-s", "--", f"{self._fqhost}:{name}", str(dst))
        else:
            super().download(src, dst)


@functools.cache
def _scp_speaks_sftp() -> bool:
    """True if scp has the option -s (OpenSSH 8.7)."""
    words = local["ssh"]["-V"].run(retcode=None)[2]
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", words)
    return found is not None and (int(found[1]), int(found[2])) >= (8, 7)


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
            scp_opts=(*_scp_options(link.options), "-F", path),
            connect_timeout=OPEN_S,
            encoding=encoding.NAME,
        )
    except Exception as error:
        # plumbum has several trees of errors for a login that fails
        words = str(error).strip().splitlines()
        raise GuestUnreachableError(
            "plumbum cannot talk to the guest's shell", machine=vm.name, details=words[-3:]
        ) from error


def _scp_options(options: Sequence[str]) -> list[str]:
    """Those of the user's ssh options that mean the same to scp (its -p and -l do not)."""
    kept: list[str] = []
    rest = list(options)
    while rest:
        word = rest.pop(0)
        if word in ("-o", "-i", "-J", "-c") and rest:
            kept += [word, rest.pop(0)]
        elif word[:2] in ("-o", "-i", "-J", "-c") or word in ("-4", "-6", "-C"):
            kept.append(word)
    return kept


def _lives(remote: Any) -> bool:
    """True if the shell that plumbum holds in the guest is still there."""
    try:
        return bool(remote._session.alive())
    except Exception:
        return False
