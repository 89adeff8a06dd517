"""Waiting for changes in a folder: inotify, which Python's own library does not have.

    with Watch("/vm/demo/.qvm/log") as changes:
        changes.fileno()      # readable as soon as a file in the folder was written, made or renamed
        changes.drain()       # False once the folder itself is gone

Source: inotify(7). A network file system reports only this host's own changes, which is what counts
here: QEMU and qvm write on the same host.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from qvmsh.errors import QvmError

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _IGNORED, _ONLYDIR, _EXCL_UNLINK = 0x400, 0x800, 0x8000, 0x1000000, 0x4000000
_NAMES = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_GONE = _DELETE_SELF | _IGNORED
_HEAD = struct.Struct("iIII")


class Watch:
    """Reports that something in `folder` has changed, from its creation on.

    Args:
        has_writes: also when a file in it was written; else only when one was made or removed.

    Raises:
        OSError: there is no such folder.
        QvmError: the kernel's limit of watches is reached.
    """

    def __init__(self, folder: str, *, has_writes: bool = True) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _exhausted(ctypes.get_errno())
        mask = _NAMES | _DELETE_SELF | _MOVE_SELF | _ONLYDIR | _EXCL_UNLINK
        mask |= _MODIFY if has_writes else 0
        if libc.inotify_add_watch(self.fd, os.fsencode(folder), ctypes.c_uint32(mask)) < 0:
            number = ctypes.get_errno()
            self.close()
            if number in (errno.ENOSPC, errno.ENOMEM):
                raise _exhausted(number)
            raise OSError(number, os.strerror(number), folder)

    def fileno(self) -> int:
        return self.fd

    def drain(self) -> bool:
        """Take what was reported so far; False if the folder is gone."""
        is_there = True
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return is_there
            while data:
                _, mask, _, length = _HEAD.unpack_from(data)
                data = data[_HEAD.size + length :]
                is_there = is_there and not mask & _GONE

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _exhausted(number: int) -> QvmError:
    return QvmError(
        f"cannot wait for changes of a file: {os.strerror(number)}",
        hint="the host's limits are fs.inotify.max_user_instances and max_user_watches (sysctl)",
    )
