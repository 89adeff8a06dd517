"""Names of members: what a package may hold, on whatever file system it is unpacked.

clean("./disks/data.raw")        # "disks/data.raw"
Names().add("Data.raw")          # Refused: after "data.raw" it would be the same file on some hosts
"""

from __future__ import annotations

import os
import re
import unicodedata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAME_BYTES, PATH_BYTES, DEPTH = 255, 1024, 16
_ARCHIVE = re.compile(r"(.*-)?[0-9]{14}", re.ASCII)
"""The name of a folder of an archive, or of a state in one."""


class Refused(Exception):
    """A name that a package must not hold; the text says why."""


def clean(name: str) -> str:
    """A member's name from the machine's directory, without `./`; "" for that directory itself.

    Raises:
        Refused: it leads outside, or cannot be a file's name everywhere.
    """
    if name.startswith("/"):
        raise Refused("its path is absolute")
    parts = [each for each in name.split("/") if each not in ("", ".")]
    if ".." in parts:
        raise Refused("its path leads outside with `..`")
    if len(parts) > DEPTH:
        raise Refused(f"it is in more than {DEPTH} folders")
    try:
        if any(len(each.encode()) > NAME_BYTES for each in parts) or len(name.encode()) > PATH_BYTES:
            raise Refused("its name is too long")
    except UnicodeEncodeError:
        raise Refused("its name is not UTF-8") from None
    if not name.isprintable():
        raise Refused("its name has characters that cannot be printed")
    return "/".join(parts)


class Names:
    """The names of a package so far."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def add(self, name: str, *, is_folder: bool = False) -> None:
        """Add a clean name.

        Raises:
            Refused: it is there already, but for case or Unicode form; or a file is where a folder must be.
        """
        parts = name.split("/")
        above = ["/".join(parts[:at]) for at in range(1, len(parts))]
        for each in [*above, name] if is_folder else above:
            other = self._folders.setdefault(_key(each), each)
            if other != each:
                raise Refused(f"its folder differs from {other!r} only in case or Unicode form")
            if _key(each) in self._files:
                raise Refused("a file is where it needs a folder")
        if is_folder:
            return
        if _key(name) in self._folders:
            raise Refused("a folder is where it would be")
        other = self._files.setdefault(_key(name), "")
        if other:
            same = (
                "is there twice" if other == name else f"differs from {other!r} only in case or Unicode form"
            )
            raise Refused(f"it {same}")
        self._files[_key(name)] = name


def _key(name: str) -> str:
    """What is the same for all names that may mean one file: on macOS, in a case-blind folder of ext4."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKD", name).casefold())


def of_others(names: Iterable[str]) -> set[str]:
    """The folders that hold another machine, or an archive, which may become one.

    Its settings have not been looked at, so it is no part of what is imported.
    """
    parts = [name.split("/") for name in names]
    machines = {"/".join(each[:-1]) for each in parts if each[1:] and each[-1] == ".vmrc"}
    archives = {
        "/".join(each[: at + 1])
        for each in parts
        for at, one in enumerate(each[:-1])
        if _ARCHIVE.fullmatch(one)
    }
    return machines | archives


def is_of_others(name: str) -> bool:
    """True for a file that makes its folder another machine, or an archive of one."""
    above, base = os.path.split(name)
    is_archived = base == "manifest.json" or "-settings.tar" in base
    return bool(above) and (
        base == ".vmrc" or (is_archived and bool(_ARCHIVE.fullmatch(os.path.basename(above))))
    )
