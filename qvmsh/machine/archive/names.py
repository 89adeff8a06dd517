"""How the files of an archive are named: as the machine's own, where an archive can hold that.

names = Names("demo", archive, stamp)
names.of(drive)             # "demo-backing-20261121101340.qcow2"
"""

from __future__ import annotations

import os

from qvmsh.errors import ConfigError
from qvmsh.host import compression
from qvmsh.machine.archive.drives import MAIN, Drive
from qvmsh.machine.archive.index import UNFINISHED, is_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.archive.model import Archive

NAME_BYTES = 240
"""How long a file's name in an archive may be before the suffixes of a compression and of unfinished work."""


class Names:
    """The names of one new state's files.

    Args:
        machine: its name.
        stamp: of a state in an archive that is there; "" for the first one of a new archive.
    """

    def __init__(self, machine: str, archive: Archive, stamp: str) -> None:
        self.machine = machine
        self.archive = archive
        self.stamp = stamp
        self._names: dict[tuple[str, int], str] = {}

    def of(self, drive: Drive) -> str:
        """The file's name in the archive."""
        stem, suffix = os.path.splitext(drive.name)
        if drive.role != MAIN:
            stem = f"{self.machine}-{drive.role}"
        return self._fitting((drive.role, -1), stem, suffix, drive.format)

    def of_changes(self, drive: Drive) -> str:
        return f"{os.path.splitext(self.of(drive))[0]}.qcow2"

    def of_layer(self, drive: Drive, depth: int, path: str, form: str) -> str:
        stem, suffix = os.path.splitext(os.path.basename(path))
        if drive.role != MAIN or depth:
            stem = f"{self.machine}-base" if drive.role == MAIN else f"{self.machine}-{drive.role}-base"
            stem += f"{depth or ''}"
        return self._fitting((drive.role, depth), stem, suffix, form)

    def _fitting(self, key: tuple[str, int], stem: str, suffix: str, form: str) -> str:
        """A name that the manifest may hold, that means no other kind of file, and that no other file has.

        Args:
            key: role and depth of the image, whose name stays the same from now on.
            stem, suffix: what it should be called.
        """
        if key in self._names:
            return self._names[key]
        tail = f"-{self.stamp}" if self.stamp else ""
        taken = {self.of_settings(), *self._names.values()}
        taken |= {each.plain_name for each in self.archive.parts()}
        wanted = f"{stem}{tail}{suffix}"
        own = f"{self.machine}-{key[0]}{tail}"
        for name in (wanted, f"{own}.{form}", *(f"{own}-{count}.{form}" for count in range(1, 100))):
            is_other_kind = UNFINISHED.search(name) or compression.of(name)
            if (
                is_plain(name)
                and len(os.fsencode(name)) <= NAME_BYTES
                and not is_other_kind
                and name not in taken
            ):
                self._names[key] = name
                return name
        raise ConfigError(
            f"cannot archive: a file of an archive cannot be named {own}", machine=self.machine,
            hint="give the machine another name: VM_MACHINE_NAME",
        )  # fmt: skip

    def of_settings(self) -> str:
        stamp = f"-{self.stamp}" if self.stamp else ""
        return f"{self.machine}-settings{stamp}.tar"
