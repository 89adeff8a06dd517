"""Where archives are kept: in a folder of this host, or of another host that ssh reaches.

    store = of(vm)                              # VM_ARCHIVE, else the machine's directory
    with store.writer("demo-20261121101336", "demo-base.qcow2") as fd: ...

On another host only `sh`, `cat`, `mv`, `rm`, `mkdir`, `wc` are needed. Values go there quoted, as words.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod

from qvmsh.config.words import joined, quote
from qvmsh.errors import ConfigError, QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.machine import owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.machine import BaseMachine

TEXT_BYTES = 16 << 20
"""No manifest is larger."""
_URL = re.compile(r"ssh://(?:([^@/]+)@)?(\[[^]]+\]|[^:/]+)(?::(\d+))?(/.*)?")


def of(vm: BaseMachine) -> Store:
    """The store that VM_ARCHIVE names; the machine's own directory where it is not set.

    Raises:
        ConfigError: VM_ARCHIVE is not a place for archives.
        QvmError: it is another account's, and this is root.
    """
    where = vm.settings.text("VM_ARCHIVE")
    if "://" in where:
        return at(where, vm.directory, vm.name)
    return Folder(vm.settings.located(where) or vm.directory)


def require_mounted(vm: BaseMachine) -> None:
    """Refuse to archive into a mount point on which nothing is mounted, as /etc/fstab has it.

    Raises:
        StateError: the archive would fill another disk, and be hidden once the right one is mounted.
    """
    where = vm.settings.text("VM_ARCHIVE")
    if not where or "://" in where:
        return
    table = vm.environ.get("LIBMOUNT_FSTAB") or "/etc/fstab"  # as mount(8)
    point = _mount_point(table, os.path.realpath(vm.settings.located(where)))
    if point and not os.path.ismount(point) and point != _mount_point(table, os.path.realpath(vm.directory)):
        raise StateError(
            f"cannot archive: VM_ARCHIVE={where} is on {point}, which is in {table} but not mounted",
            machine=vm.name,
            hint=f"`mount {quote(point)}`; or `qvm config VM_ARCHIVE=FOLDER` sets another place",
        )


def _mount_point(table: str, path: str) -> str:
    """The deepest mount point of a table in the form of fstab(5) that `path` is on; "" if there is none."""
    try:
        with open(table, errors="surrogateescape") as file:
            rows = [line.split() for line in file if not line.lstrip().startswith("#")]
    except OSError:
        return ""
    named = [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), row[1]) for row in rows if row[1:]]
    points = [os.path.realpath(each) for each in named if each.startswith("/")]
    return max(
        (each for each in points if os.path.join(path, "").startswith(f"{each}/")), key=len, default=""
    )


def at(where: str, directory: str, machine: str | None = None) -> Store:
    """The store that a value of VM_ARCHIVE means, seen from `directory`."""
    if "://" not in where:
        return Folder(os.path.join(directory, os.path.expanduser(where)))
    found = _URL.fullmatch(where)
    if not found or not found[4]:
        raise ConfigError(
            f"VM_ARCHIVE={where} is not a place for archives",
            machine=machine,
            hint="set a folder or ssh://[USER@]HOST[:PORT]/FOLDER",
        )
    user, host, port, folder = found.groups()
    return Remote(host.strip("[]"), folder, user=user or "", port=port or "")


class Store(ABC):
    """A place with a folder for each archive; see the two kinds."""

    shown = ""

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders in it; empty where it is not there yet."""

    @abstractmethod
    def names(self, folder: str) -> dict[str, int]:
        """The files of a folder and their sizes in bytes."""

    @abstractmethod
    def entries(self, folder: str) -> list[str]:
        """The names of all that is in a folder: hidden files, links and folders too."""

    @abstractmethod
    def text(self, folder: str, name: str) -> str | None:
        """What a small file holds; None if it is not there."""

    @abstractmethod
    def put_text(self, folder: str, name: str, text: str) -> None:
        """Write a small file: the old or the new content at any moment."""

    @abstractmethod
    def make(self, folder: str) -> None:
        """Make a folder that only this user can enter."""

    @abstractmethod
    def writer(self, folder: str, name: str) -> contextlib.AbstractContextManager[int]:
        """A new file as a descriptor; it is on the disk when the block ends."""

    @abstractmethod
    def reader(self, folder: str, name: str) -> contextlib.AbstractContextManager[int]:
        """A file as a descriptor."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Rename `FOLDER` or `FOLDER/NAME`; a file takes the place of one that is there.

        Raises:
            QvmError: a folder of the new name exists; nothing changed.
        """

    @abstractmethod
    def remove(self, folder: str, *names: str) -> None:
        """Remove files of a folder; those that are not there are fine."""

    @abstractmethod
    def remove_folder(self, folder: str) -> None:
        """Remove a folder and what is in it."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space; None where that is not known."""

    @abstractmethod
    def path(self, *names: str) -> str | None:
        """The path on this host; None if it is on another."""


class Folder(Store):
    """A folder of this host.

    Raises:
        QvmError: this is root, and another account decides what is in it.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.shown = self.root
        account = owner.above(self.root, os.environ)
        if account:
            raise QvmError(
                f"{self.root} belongs to {account.name}: root does not keep or read archives there",
                hint="set VM_ARCHIVE to another folder; or copy the archive to a folder of root",
            )

    def folders(self) -> list[str]:
        try:
            with os.scandir(self.root) as entries:
                return sorted(each.name for each in entries if each.is_dir() and not _is_foreign(each.path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise QvmError(
                f"cannot use {self.root} for archives: {error.strerror}",
                hint="set VM_ARCHIVE to a folder that you can read and write",
            ) from None

    def names(self, folder: str) -> dict[str, int]:
        with os.scandir(os.path.join(self.root, folder)) as entries:
            return {each.name: each.stat().st_size for each in entries if each.is_file()}

    def entries(self, folder: str) -> list[str]:
        return sorted(os.listdir(os.path.join(self.root, folder)))

    def text(self, folder: str, name: str) -> str | None:
        try:
            fd = _opened(os.path.join(self.root, folder, name))
        except FileNotFoundError:
            return None
        try:
            return _text(fd)
        finally:
            os.close(fd)

    def put_text(self, folder: str, name: str, text: str) -> None:
        path = os.path.join(self.root, folder, name)
        host_files.write_atomic(path, text, 0o600)

    def make(self, folder: str) -> None:
        os.makedirs(self.root, exist_ok=True)
        os.mkdir(os.path.join(self.root, folder), 0o700)

    @contextlib.contextmanager
    def writer(self, folder: str, name: str) -> Iterator[int]:
        path = os.path.join(self.root, folder, name)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield fd
            os.fsync(fd)
        except BaseException:
            host_files.remove(path)
            raise
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def reader(self, folder: str, name: str) -> Iterator[int]:
        fd = _opened(os.path.join(self.root, folder, name))
        try:
            yield fd
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        target = os.path.join(self.root, new)
        try:
            os.rename(os.path.join(self.root, old), target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR):
                raise _taken(target) from None
            raise
        host_files.sync_folder(os.path.dirname(target))

    def remove(self, folder: str, *names: str) -> None:
        for name in names:
            host_files.remove(os.path.join(self.root, folder, name))

    def remove_folder(self, folder: str) -> None:
        path = os.path.join(self.root, folder)
        shutil.rmtree(path, ignore_errors=True)

    def free_bytes(self) -> int | None:
        root = self.root
        while not os.path.isdir(root):
            root = os.path.dirname(root)
        return host_files.free_bytes(root)

    def path(self, *names: str) -> str | None:
        return os.path.join(self.root, *names)


def _opened(path: str) -> int:
    """A regular file, open for reading.

    OSError: it cannot be read, or is something else (a FIFO would block for ever).
    """
    return host_files.opened(path)


def _text(fd: int) -> str:
    """What an open small file holds. ValueError: it is not small."""
    with open(fd, "rb", closefd=False) as file:
        data = file.read(TEXT_BYTES + 1)
    if len(data) > TEXT_BYTES:
        raise ValueError(f"it has more than {TEXT_BYTES >> 20} MiB")
    return data.decode("utf-8", "surrogateescape")


def _taken(place: str) -> QvmError:
    """The error for a name that another folder has taken in the meantime."""
    return QvmError(
        f"another command has just created {place}",
        hint="nothing in it was changed; try again, the new archive gets another name",
    )


def _is_foreign(path: str) -> bool:
    """True for root, of a folder or link of another account, which root does not read."""
    try:
        return os.geteuid() == 0 and os.lstat(path).st_uid != 0
    except OSError:
        return False


class Remote(Store):
    """A folder of another host, by the user's own ssh (its configuration, keys and agent)."""

    def __init__(self, host: str, root: str, *, user: str = "", port: str = "") -> None:
        self.root = root
        self.shown = f"ssh://{f'{user}@' if user else ''}{host}{f':{port}' if port else ''}{root}"
        self._argv = [
            "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15",
            *(["-p", port] if port else []), *(["-l", user] if user else []), "--", host,
        ]  # fmt: skip

    def _at(self, *names: str) -> str:
        return os.path.join(self.root, *names)

    def _command(self, script: str, *words: str) -> list[str]:
        """The argument list that runs a fixed script there; the values are its $1, $2, ..."""
        return [*self._argv, shlex.join(["sh", "-c", script, "sh", *words])]

    def _run(self, script: str, *words: str, stdin: bytes | None = None) -> bytes:
        try:
            done = subprocess.run(
                self._command(script, *words),
                input=b"" if stdin is None else stdin,
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise QvmError("ssh is not installed", hint="install the OpenSSH client") from None
        if done.returncode:
            raise self._failure(done.stderr)
        return done.stdout

    def _failure(self, words: bytes) -> QvmError:
        lines = words.decode(errors="replace").splitlines()
        hint = "the disk of that host is full" if "No space left" in "".join(lines) else None
        return QvmError(
            f"{self.shown} cannot be used",
            details=lines[-3:],
            hint=hint or f"`{joined(self._argv)} true` must work without a question",
        )

    def _each(self, folder: str, test: str, row: str = '"$f"', *, missing: int = 1) -> list[str]:
        """Rows of the names in a folder, also hidden ones, for which a test holds; NULs part them.

        Args:
            test, row: shell words, of the name $f.
            missing: the status where there is no such folder.
        """
        script = (
            f'cd "$1" || exit {missing}; for f in * .[!.]* ..?*; do {test} && printf "%s\\0" {row}; done; :'
        )
        return sorted(self._run(script, folder).decode(errors="surrogateescape").split("\0")[:-1])

    def folders(self) -> list[str]:
        return self._each(self.root, '[ -d "$f" ]', missing=0)

    def names(self, folder: str) -> dict[str, int]:
        rows = self._each(self._at(folder), '[ -f "$f" ]', '"$(wc -c < "$f") $f"')
        found = (row.lstrip().partition(" ") for row in rows)
        return {name: int(size) for size, _, name in found}

    def entries(self, folder: str) -> list[str]:
        return self._each(self._at(folder), '{ [ -e "$f" ] || [ -L "$f" ]; }')

    def text(self, folder: str, name: str) -> str | None:
        try:
            with self.reader(folder, name) as fd:
                return _text(fd)
        except FileNotFoundError:
            return None

    def put_text(self, folder: str, name: str, text: str) -> None:
        script = 'umask 077; cat > "$1.part" && { sync "$1.part" 2>/dev/null || sync; } && mv "$1.part" "$1"'
        self._run(script, self._at(folder, name), stdin=text.encode("utf-8", "surrogateescape"))

    def make(self, folder: str) -> None:
        self._run('mkdir -p "$1" && mkdir -m 700 "$1/$2"', self.root, folder)

    @contextlib.contextmanager
    def writer(self, folder: str, name: str) -> Iterator[int]:
        # interrupted work (a broken connection, a kill) keeps its name for unfinished files
        script = 'umask 077; rm -f "$1"; set -C; cat > "$1" && { sync "$1" 2>/dev/null || sync; }'
        with subprocess.Popen(
            self._command(script, self._at(folder, name)), stdin=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            assert child.stdin is not None
            assert child.stderr is not None
            try:
                yield child.stdin.fileno()
            except BrokenPipeError:
                raise self._failure(child.stderr.read()) from None
            except BaseException:
                child.kill()
                raise
            child.stdin.close()
            child.stdin = None
            words = child.stderr.read()
            if child.wait():
                raise self._failure(words)

    @contextlib.contextmanager
    def reader(self, folder: str, name: str) -> Iterator[int]:
        # the first byte says that it exists
        script = (
            'if [ -f "$1" ]; then echo; cat "$1"; '
            'elif [ -e "$1" ]; then echo "$1 is not a regular file" >&2; exit 1; fi'
        )
        path = self._at(folder, name)
        with subprocess.Popen(
            self._command(script, path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            try:
                is_there = bool(os.read(child.stdout.fileno(), 1))
                if is_there:
                    yield child.stdout.fileno()
            except BaseException:
                child.kill()
                raise
            child.stdout.close()
            if child.wait() not in (0, -13):
                raise self._failure(child.stderr.read())
            if not is_there:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def rename(self, old: str, new: str) -> None:
        # `mv` into a folder that comes to be just then is taken back: `mv -T` is not everywhere
        script = (
            'inside="$2/${1##*/}"; if [ -d "$2" ]; then echo there; exit; fi; mv "$1" "$2" || exit 1; '
            'if [ -e "$inside" ]; then mv "$inside" "$1" && echo there; fi'
        )
        if self._run(script, self._at(old), self._at(new)):
            raise _taken(f"{self.shown}/{new}")

    def remove(self, folder: str, *names: str) -> None:
        if names:
            self._run('rm -f "$@"', *(self._at(folder, name) for name in names))

    def remove_folder(self, folder: str) -> None:
        self._run('rm -rf "$1"', self._at(folder))

    def free_bytes(self) -> int | None:
        return None

    def path(self, *names: str) -> str | None:
        return None
