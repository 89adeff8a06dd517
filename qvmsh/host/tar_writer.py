"""Writing a tar file whose bytes depend on nothing but its content.

    writer = Writer(stream.write)
    writer.text("qvm.json", text, mode=0o644)
    writer.file("disk.raw", found, pieces, mode=0o600)      # holes are not written
    writer.end()

All members belong to uid 0 and have the same date. A file with holes is a GNU sparse member of version 1.0,
which GNU tar, bsdtar and Python unpack with its holes.
"""

from __future__ import annotations

import os

from qvmsh.host import tar_format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qvmsh.host.scan import Scan


class Writer:
    """The members, one after the other.

    Args:
        write: gets all bytes in their order.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def text(self, name: str, data: bytes, *, mode: int) -> None:
        """A file with these contents."""
        self._head(name, len(data), mode, {})
        self._write(data)
        self._pad(len(data))

    def file(self, name: str, scan: Scan, slices: Iterable[bytes], *, mode: int) -> None:
        """A file of the host.

        Args:
            scan: its size, and where it holds data.
            slices: that data, in its order.
        """
        if not scan.has_holes:
            self._head(name, scan.size_bytes, mode, {})
            self._copy(scan.size_bytes, slices)
            return
        text = sparse_map(scan)
        stored = len(text) + scan.data_bytes
        sparse = sparse_records(name, scan)
        # what a program sees that does not know sparse members
        self._head(_inner(name), stored, mode, sparse)
        self._write(text)
        self._copy(stored, slices)

    def _head(self, name: str, size: int, mode: int, records: dict[str, str]) -> None:
        short = name
        if not tar_format.fits(name):
            records = {"path": name} | records
            short = name.encode("ascii", "replace").decode()[:100]
        if records:
            self._write(tar_format.pax(records))
        self._write(tar_format.header(short, size, mode=mode))

    def _copy(self, size: int, slices: Iterable[bytes]) -> None:
        for data in slices:
            self._write(data)
        self._pad(size)

    def _pad(self, size: int) -> None:
        if rest := tar_format.padding(size):
            self._write(bytes(rest))

    def end(self) -> None:
        """The mark that nothing is missing."""
        self._write(bytes(2 * tar_format.BLOCK))


def sparse_map(scan: Scan) -> bytes:
    """What stands before the data of a sparse member: where that data belongs."""
    rows = [*scan.runs]
    if not rows or sum(rows[-1]) < scan.size_bytes:
        rows.append((scan.size_bytes, 0))
    table = "".join(f"{number}\n" for row in rows for number in row)
    text = f"{len(rows)}\n{table}".encode()
    return text + b"\0" * tar_format.padding(len(text))


def sparse_records(name: str, scan: Scan) -> dict[str, str]:
    """The extended header of a sparse member."""
    return {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(scan.size_bytes),
    }  # fmt: skip


def _inner(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, "GNUSparseFile.0", base)


class Tree:
    """The members of a folder for a tar in a guest: modes and times kept, names of any bytes.

    Long names are headers of GNU tar, since busybox reads no pax headers.

    Args:
        write: gets all bytes in their order.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def folder(self, name: bytes, *, mode: int, mtime_s: int) -> None:
        self._head(name + b"/", 0, mode, tar_format.FOLDER, mtime_s)

    def symlink(self, name: bytes, link: bytes, *, mtime_s: int) -> None:
        self._head(name, 0, 0o777, tar_format.SYMLINK, mtime_s, link)

    def hard_link(self, name: bytes, first: bytes, *, mode: int, mtime_s: int) -> None:
        """Another name of a file that is a member already."""
        self._head(name, 0, mode, tar_format.LINK, mtime_s, first)

    def file(self, name: bytes, size: int, slices: Iterable[bytes], *, mode: int, mtime_s: int) -> None:
        """A file whose slices have `size` bytes together."""
        self._head(name, size, mode, tar_format.FILE, mtime_s)
        for data in slices:
            self._write(data)
        self._write(bytes(tar_format.padding(size)))

    def sparse_file(
        self, name: bytes, scan: Scan, slices: Iterable[bytes], *, mode: int, mtime_s: int
    ) -> None:
        """A file with holes, for GNU tar only."""
        text = sparse_map(scan)
        records = sparse_records(tar_format.text_of(name), scan)
        self._write(tar_format.pax(records))
        stored = len(text) + scan.data_bytes
        self._head(b"GNUSparseFile.0", stored, mode, tar_format.FILE, mtime_s)
        self._write(text)
        for data in slices:
            self._write(data)
        self._write(bytes(tar_format.padding(stored)))

    def end(self) -> None:
        """The mark that nothing is missing."""
        self._write(bytes(20 * tar_format.BLOCK))

    def _head(self, name: bytes, size: int, mode: int, kind: bytes, mtime_s: int, link: bytes = b"") -> None:
        for long, mark in ((link, tar_format.LONG_LINK), (name, tar_format.LONG_NAME)):
            if len(long) > 100:
                data = long + b"\0"
                self._write(tar_format.block_of(b"././@LongLink", len(data), mode=0o644, kind=mark))
                self._write(data + bytes(tar_format.padding(len(data))))
        mtime_s = max(0, mtime_s)
        self._write(
            tar_format.block_of(name[:100], size, mode=mode, kind=kind, mtime_s=mtime_s, link=link[:100])
        )
