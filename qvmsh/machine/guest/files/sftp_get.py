"""The guest as a source, by its sftp server, for accounts without a shell or tar; see `sources.Sender`."""

from __future__ import annotations

import contextlib
import stat
from functools import partial

from qvmsh.host.tar_reader import Member
from qvmsh.machine.guest.files import sftp
from qvmsh.machine.guest.files.names import split
from qvmsh.machine.guest.files.sources import BLOCK_BYTES, Seen
from qvmsh.machine.guest.files.ways import Incoming, Pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qvmsh.machine.guest.files.incoming import Unpacking

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
}


class SftpSender:
    """See `sources.Sender`."""

    name = "sftp"

    def __init__(self, client: sftp.Client) -> None:
        self._client = client

    def look(self, paths: Sequence[str]) -> list[Seen]:
        return [self._seen(path) for path in paths]

    def _seen(self, path: str) -> Seen:
        found, name = self._client.stat(path), split(path)[1]
        if found is None or found.mode is None:
            return Seen(path, name, "missing")
        kind = _KINDS.get(stat.S_IFMT(found.mode), "special")
        kind = kind if kind in ("file", "folder") else "special"
        return Seen(path, name, kind, False, found.size, found.mtime_s, found.mode)

    @contextlib.contextmanager
    def read(self, seen: Seen, blocks: int) -> Iterator[Incoming]:
        handle = self._client.open(seen.path, sftp.READING)
        data = self._client.read(handle, blocks * BLOCK_BYTES, seen.path)
        yield Incoming(Pieces(partial(next, data, b"")).read)
        self._client.close(handle, seen.path)

    def tree(self, seen: Sequence[Seen], unpacking: Unpacking) -> list[str]:
        failed: list[str] = []
        for each in seen:
            top = sftp.Attributes(each.size_bytes, each.mode, each.mtime_s)
            left = [(each.path, each.name, top)]
            while left:
                path, name, found = left.pop()
                try:
                    unpacking.add(self._member(path, name, found))
                    if stat.S_ISDIR(found.mode or 0):
                        for inner, facts in self._client.folder(path):
                            if "/" in inner or not inner:
                                unpacking.refuse(inner, "it holds a slash")
                            left.append((f"{path}/{inner}", f"{name}/{inner}", facts))
                            unpacking.require_few(len(left))
                except sftp.Failed as error:
                    failed.append(error.what)
        return failed

    def _member(self, path: str, name: str, found: sftp.Attributes) -> Member:
        mode = found.mode or 0
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        link = self._client.link(path) if stat.S_ISLNK(mode) else ""
        size = found.size or 0
        return Member(
            name, kind, mode & 0o7777, size, size, None, _Data(self._client, path), found.mtime_s or 0, link
        )


class _Data:
    """What a member's data is read from."""

    def __init__(self, client: sftp.Client, path: str) -> None:
        self._client = client
        self._path = path

    def data(self, _: object) -> Iterator[tuple[int, bytes]]:
        handle, at = self._client.open(self._path, sftp.READING), 0
        for data in self._client.read(handle, 0, self._path):
            yield at, data
            at += len(data)
        self._client.close(handle, self._path)
