"""`qvm ssh-config --install`: blocks in a file of qvm's, which one line of the user's ~/.ssh/config includes.

    install(hosts, io, environ, is_sure=False)         # Installed

The line is the first of the file: below a `Host` line it would count for that host only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re

from qvmsh.config import edit, files
from qvmsh.errors import QvmError, printable
from qvmsh.host import files as host_files
from qvmsh.host import ssh_connection
from qvmsh.machine.guest.ssh_config import Host, same_name
from qvmsh.machine.reports import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qvmsh.io import Io

_HEAD = "# Machines of qvm for ssh, written by `qvm ssh-config --install`.\n"
_MARK = "# qvm: "


class Installed(Report):
    """Result of `ssh-config --install`: `file` holds the blocks of `hosts`; `config` includes it."""

    __slots__ = ("added", "config", "file", "hosts", "reads")

    def __init__(self, file: str, config: str, hosts: Sequence[str], *, added: bool, reads: str) -> None:
        self.file = file
        self.config = config
        self.hosts = list(hosts)
        self.added = added
        self.reads = reads

    def shown(self) -> list[str]:
        lines = [f"{files.shown(self.file)}: {', '.join(self.hosts)}"]
        if self.added:
            lines.append(f"{files.shown(self.config)}: its first line includes that file now")
        if self.reads != self.config:
            lines.append(f"ssh itself reads {self.reads}: HOME is another directory")
        return lines


def install(hosts: Sequence[Host], io: Io, environ: Mapping[str, str], *, is_sure: bool) -> Installed:
    """Write the blocks, and include their file after asking.

    Raises:
        UsageError: two machines have one name; or there is no terminal to ask on. Nothing changed.
        QvmError: the answer was no, or a file cannot be written.
    """
    file = os.path.join(os.path.dirname(files.user_file(environ)), "ssh_config")
    config = os.path.join(files.home(environ), ".ssh", "config")
    line = f"Include {ssh_connection.quoted(file)}"
    try:
        _require_no_broken_link(config)
        before = _read(config)
        is_there = _is_included(before, line)
        if not is_there:
            question = f"{printable(line)}\nPut this line into {printable(config)}?"
            io.require_yes(question, is_given=is_sure, what="ssh-config --install")
        with _locked(os.path.dirname(file)):
            _write(file, _HEAD + _merged(_read(file), hosts))
        if not is_there:
            os.makedirs(os.path.dirname(config), mode=0o700, exist_ok=True)
            _write(config, f"{line}\n{before}")
    except OSError as error:
        raise QvmError(f"ssh-config: {printable(str(error.filename))}: {error.strerror}") from None
    reads = os.path.join(pwd.getpwuid(os.geteuid()).pw_dir, ".ssh", "config")
    return Installed(file, config, [each.name for each in hosts], added=not is_there, reads=reads)


def _is_included(text: str, line: str) -> bool:
    """True if the line is there for all hosts: above the first `Host` or `Match`."""
    for each in text.splitlines():
        if re.match(r"\s*(host|match)\b", each, re.IGNORECASE):
            return False
        if each.strip() == line:
            return True
    return False


def _require_no_broken_link(config: str) -> None:
    """Refuse a file, or its folder, that is elsewhere, where nothing is: it may not be mounted now.

    QvmError: nothing was changed.
    """
    folder = os.path.dirname(config)
    target = os.path.dirname(os.path.realpath(config))
    for path, needed in ((folder, os.path.realpath(folder)), (config, target)):
        if os.path.islink(path) and not os.path.isdir(needed):
            raise QvmError(
                f"ssh-config: {printable(path)} is a broken link: there is no directory {printable(needed)}",
                hint="remove the link, or make what it leads to; nothing was changed",
            )


def _merged(text: str, hosts: Sequence[Host]) -> str:
    """The blocks of the file, with these in it, and without those of machines that are gone."""
    kept: dict[str, str] = {}
    for part in text.split(f"\n{_MARK}")[1:]:
        directory, _, block = part.partition("\n")
        if os.path.lexists(os.path.join(directory, files.VMRC)):
            kept[directory] = block.strip("\n") + "\n"
    for each in hosts:
        kept[each.directory] = each.text
        for directory, block in kept.items():
            if directory != each.directory and block.startswith(f"Host {each.name}\n"):
                raise same_name(each, directory)
    return "".join(f"\n{_MARK}{directory}\n{block}" for directory, block in sorted(kept.items()))


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: str) -> str:
    try:
        return host_files.read(os.path.realpath(path)).text
    except FileNotFoundError:
        return ""


def _write(path: str, text: str) -> None:
    """Replace a file, through a link too; a new one is the user's alone, or ssh would not read it."""
    if os.path.exists(path):
        edit.replace(path, text)
    else:
        host_files.write_atomic(os.path.realpath(path), text, 0o600)
