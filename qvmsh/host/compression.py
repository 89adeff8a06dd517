"""The host's programs that compress files: xz, gzip, bzip2, lz4, zstd."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from qvmsh.errors import MissingProgramError


@dataclass(frozen=True)
class Compressor:
    """A program that compresses standard input to standard output.

    Args:
        suffix: what a compressed file's name ends with.
        programs: argument lists to compress; the first that is installed is used.
        package: what to install.
    """

    suffix: str
    programs: tuple[tuple[str, ...], ...]
    package: str


COMPRESSORS = {
    "xz": Compressor(".xz", (("xz", "-T0", "-c"),), "xz-utils"),
    "gzip": Compressor(".gz", (("pigz", "-c"), ("gzip", "-c")), "gzip"),
    "bzip2": Compressor(".bz2", (("lbzip2", "-c"), ("pbzip2", "-c"), ("bzip2", "-c")), "bzip2"),
    "lz4": Compressor(".lz4", (("lz4", "-q", "-c"),), "lz4"),
    "zstd": Compressor(".zst", (("zstd", "-q", "-T0", "-c"),), "zstd"),
}
"""The values of `archive --compress`; those that can, use several processors."""


def of(name: str) -> str:
    """The key of COMPRESSORS by a file's name, "" if it is not compressed."""
    return next((key for key, each in COMPRESSORS.items() if name.endswith(each.suffix)), "")


def compressor(kind: str) -> list[str]:
    """The argument list that compresses.

    Raises:
        MissingProgramError: none of the programs is installed.
    """
    found = COMPRESSORS[kind]
    for argv in found.programs:
        if shutil.which(argv[0]):
            return list(argv)
    raise MissingProgramError(
        f"{found.programs[-1][0]} is not installed", hint=f"install the package {found.package}"
    )
