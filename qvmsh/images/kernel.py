"""Modules of a Linux kernel: which files a wanted module needs, in the order of loading.

    order("/.../lib/modules/6.1.0-56-cloud-amd64", ["virtio_blk"])
    # [".../virtio.ko", ".../virtio_ring.ko", ".../virtio_blk.ko"]

A module says itself what it depends on (section .modinfo, `depends=`), so no depmod is needed.
"""

from __future__ import annotations

import lzma
import os
import re

_SUFFIXES = (".ko", ".ko.xz")


def order(tree: str, names: list[str]) -> list[str]:
    """The files of the named modules and of what they depend on, each after what it needs.

    Args:
        tree: the folder `lib/modules/VERSION` of a kernel package.
        names: modules, with `-` or `_`; a name without a file is taken for built in.
    """
    files = _files(tree)
    found: list[str] = []

    def add(name: str) -> None:
        path = files.get(_plain(name))
        if path is None or path in found:
            return
        for other in depends(content(path)):
            add(other)
        found.append(path)

    for name in names:
        add(name)
    return found


def depends(module: bytes) -> list[str]:
    """The modules that this one says it depends on."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return match[1].decode().split(",") if match and match[1] else []


def content(path: str) -> bytes:
    """The module as the kernel wants it: unpacked where the distribution compresses it (Debian 13)."""
    with open(path, "rb") as file:
        data = file.read()
    return lzma.decompress(data) if path.endswith(".xz") else data


def file_name(path: str) -> str:
    """The name of the module's file once it is unpacked: `virtio_blk.ko`."""
    return os.path.basename(path).removesuffix(".xz")


def _files(tree: str) -> dict[str, str]:
    return {
        _plain(file.partition(".")[0]): os.path.join(folder, file)
        for folder, _, files in os.walk(tree)
        for file in files
        if file.endswith(_SUFFIXES)
    }


def _plain(name: str) -> str:
    return name.replace("-", "_")
