"""`import`: a machine from a package: all of it, or nothing.

    import_package("demo.tar.gz", None, io, environ)       # Imported(...)

The package is unpacked beside the machine's place (`work.creation_folder`), checked, made a machine of this
host (`assembly`), and renamed. The next command removes what a killed import leaves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

from qvmsh.config.words import quote
from qvmsh.errors import ImageError, QvmError, StateError, UsageError, printable
from qvmsh.host import files as host_files
from qvmsh.machine import identity, progress, registry
from qvmsh.machine.create import create
from qvmsh.machine.journal import Kind
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.shelf import assembly, layouts, streams
from qvmsh.machine.shelf.package_reports import Imported
from qvmsh.machine.shelf.unpack import unpack
from qvmsh.machine.work import creation_folder
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qvmsh.io import Io
    from qvmsh.machine.shelf.manifest import Manifest
    from qvmsh.machine.shelf.unpack import Unpacked

STDIN = "-"


def import_package(
    file: str, directory: str | None, io: Io, environ: Mapping[str, str], *, keeps_identity: bool = False
) -> Imported:
    """Make a machine from a package; see `commands.import_`.

    Args:
        directory: where; None for the name that the package has.

    Raises:
        UsageError: there is no such package, or the name is not valid.
        StateError: the machine exists.
        ImageError: the package is damaged, or holds what it must not hold; nothing of it is left.
    """
    began = time.monotonic()
    for line in creation_folder.sweep(environ):
        io.warn(line)
    with _opened(file, io) as fd:
        package = _Package(file, fd, io, environ, keeps_identity)
        try:
            made, layout, done = package.make(directory)
        except OSError as error:
            raise _unwritable(file, error) from error
    io.about = made.directory
    return Imported(
        made.name, os.path.relpath(made.directory), file, layout.kind,
        brings=[{"name": each.name, "what": each.what} for each in done.brings],
        skipped=layout.skipped, notes=done.notes, seconds=time.monotonic() - began,
    )  # fmt: skip


@contextlib.contextmanager
def _opened(file: str, io: Io) -> Iterator[int]:
    if file == STDIN:
        try:
            fd = os.dup(io.stdin.fileno())
        except (OSError, ValueError, AttributeError):
            raise UsageError("import: standard input is not a file here", hint="give a file's name") from None
        if os.isatty(fd):
            os.close(fd)
            raise UsageError("import: a package is not read from a terminal", hint="`qvm import - < FILE`")
    else:
        try:
            fd = host_files.opened(file)
        except OSError as error:
            why = error.strerror or str(error)
            raise UsageError(
                f"import: cannot read {file}: {why[0].lower()}{why[1:]}", hint="give the file of a package"
            ) from None
    try:
        yield fd
    finally:
        os.close(fd)


def _unwritable(file: str, error: OSError) -> QvmError:
    hint = "nothing was left behind"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space; nothing was left behind"
    what = "from standard input" if file == STDIN else file
    return QvmError(f"cannot import {what}: {error.strerror or error}", hint=hint)


class _Package:
    """One import."""

    def __init__(self, file: str, fd: int, io: Io, environ: Mapping[str, str], keeps_identity: bool) -> None:
        self.file = file
        self.fd = fd
        self.io = io
        self.environ = environ
        self.keeps_identity = keeps_identity
        self.final = ""
        self.label = "the package" if file == STDIN else printable(os.path.basename(file))

    def make(self, directory: str | None) -> tuple[BaseMachine, layouts.Layout, assembly.Assembled]:
        """Unpack, check and put in place."""
        if directory == "":
            raise UsageError("import: the name is empty", hint="omit it, or give a name")
        is_named = directory is not None
        self.final = os.path.abspath(directory or self._name_of_file())
        if is_named:
            _require_place(self.final)
        try:
            with creation_folder.Folder(
                Kind.IMPORT, self.final, self.environ, self.io, is_beside=not is_named
            ) as folder:
                found = self._unpack(folder.path, is_named=is_named)
                layout = layouts.arrange(found, folder.path, self.label)
                if not is_named and not found.manifest:
                    self._take_name(layout.top or self._name_of_file())
                folder.final = self.final
                target = assembly.Target(os.path.basename(self.final), self.final, self.keeps_identity)
                done = assembly.assemble(found, layout, folder.path, target, self.label, self.environ)
                if layout.skipped:
                    self.io.warn(
                        f"{target.name}: not part of a machine, and skipped: {_shown(layout.skipped)}"
                    )
                os.chmod(folder.path, 0o755)  # noqa: S103  # as mkdir would
                _sync(folder.path)
                part = BaseMachine(folder.path, environ=self.environ)
                with identity.settled(part, is_fixed=self.keeps_identity):
                    folder.put_in_place()
                    registry.remember(BaseMachine(self.final, environ=self.environ))
        except OSError as error:
            is_taken = error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
            if is_taken and self.final in (error.filename, error.filename2):
                raise _exists(self.final) from None
            raise
        host_files.sync_folder(os.path.dirname(self.final))
        return BaseMachine(self.final, environ=self.environ), layout, done

    def _name_of_file(self) -> str:
        """The name of the package without its endings, for one that does not say its own."""
        if self.file == STDIN:
            return "package"
        name = os.path.basename(self.file)
        return (name.partition(".tar")[0] or name).removesuffix(".tgz")

    def _take_name(self, name: str) -> None:
        """Take the name that the package gives, if the machine can have it.

        Raises:
            ImageError: it is not a name.
            StateError: there is a machine of that name.
        """
        if self.file == STDIN and name == self._name_of_file():
            raise UsageError("import: the package does not say its name", hint="`qvm import - NAME`")
        if "/" in name or name in ("", ".", ".."):
            raise ImageError(f"{self.label}: {name!r} cannot be a machine's name", hint="give another name")
        self.final = os.path.join(os.path.dirname(self.final), name)
        _require_place(self.final)

    def _unpack(self, folder: str, *, is_named: bool) -> Unpacked:
        total = os.fstat(self.fd).st_size
        if self.file != STDIN:
            self._require_no_disk()
        source = streams.Source(self.fd, self.label)
        try:
            with progress.Progress(self.io, f"unpacking {self.label}", total, source.position) as shown:

                def checkpoint() -> None:
                    shown.tell(source.position())
                    self.io.checkpoint()

                def begun(found: Manifest) -> None:
                    if not is_named:
                        self._take_name(found.machine)

                return unpack(source.read, self.label, folder, checkpoint, begun)
        finally:
            source.close()

    def _require_no_disk(self) -> None:
        """Refuse the image of a disk with the command that takes it."""
        try:
            kind = image.header(self.file).format
        except (OSError, ImageError):  # it is looked at as a package
            return
        if kind != "raw" or os.path.splitext(self.file)[1].lower() in (".raw", ".img", ".iso"):
            raise ImageError(
                f"{self.label}: it is an image of a disk, not a package",
                hint=f"`qvm create NAME --from {quote(self.file)}` makes a machine of it",
            )


def _shown(names: list[str]) -> str:
    most = 10
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _require_place(final: str) -> None:
    """Refuse a place where something is, or where no machine can be."""
    name = os.path.basename(final)
    if os.path.lexists(final):
        parts = creation_folder.left_in(final, name) if os.path.isdir(final) else []
        if not os.path.isdir(final) or set(os.listdir(final)) - set(map(os.path.basename, parts)):
            raise _exists(final)
    create.require_place(final, name, verb="import")


def _exists(final: str) -> StateError:
    name = os.path.basename(final)
    return StateError(f"import: {name} already exists", hint="`qvm import FILE NAME` gives it another name")


def _sync(folder: str) -> None:
    """Make everything in a folder survive a power failure."""
    for where, _, names in os.walk(folder):
        for name in names:
            host_files.sync(os.path.join(where, name))
        host_files.sync_folder(where)
