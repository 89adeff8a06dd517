"""What kind of package was unpacked, and its files where a machine has them.

    kind = arrange(found, folder, label)       # "qvm", "directory" or "s2e"

S2E packs `disk.s2e` and its snapshots `disk.s2e.NAME`; older packages have `disk.qcow2`. A whole machine
directory, packed by `tar czf X.tar.gz DIR`, is one folder with a `.vmrc`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field

from qvmsh.errors import ImageError
from qvmsh.machine.shelf import names
from qvmsh.machine.storage.own_disk import S2E

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.shelf.unpack import Unpacked

QVM, DIRECTORY, OF_S2E = "qvm", "directory", "s2e"
OLD_DISK = "disk.qcow2"
SNAPSHOT = f"{S2E}."


@dataclass
class Layout:
    """What the folder holds now.

    Args:
        top: the folder in the package that holds the machine; "" for the package itself.
        skipped: members that are no part of a machine, and were removed.
    """

    kind: str
    top: str = ""
    skipped: list[str] = field(default_factory=list)


def arrange(found: Unpacked, folder: str, label: str) -> Layout:
    """Put the machine's files into the folder itself, and remove the others.

    Raises:
        ImageError: it holds no machine, or more than one.
    """
    if found.manifest:
        return Layout(QVM)
    inside = set(found.names)
    tops = ["", *sorted({name.partition("/")[0] for name in inside if "/" in name})]
    layout = _layout(inside, tops, label)
    prefix = f"{layout.top}/" if layout.top else ""
    wanted = [name for name in found.names if name.startswith(prefix)]
    if layout.kind == DIRECTORY:
        others = names.of_others(name.removeprefix(prefix) for name in wanted)
        wanted = [name for name in wanted if not _is_below(name.removeprefix(prefix), others)]
    if layout.kind == OF_S2E:
        wanted = [name for name in wanted if _is_of_s2e(name.removeprefix(prefix))]
    layout.skipped = sorted(inside - set(wanted))
    for name in layout.skipped:
        os.unlink(os.path.join(folder, name))
        with contextlib.suppress(OSError):  # there are others in it
            os.removedirs(os.path.join(folder, os.path.dirname(name)))
    if prefix:
        _lift(folder, layout.top)
    return layout


def _layout(inside: set[str], tops: list[str], label: str) -> Layout:
    def those_with(*wanted: str) -> list[str]:
        return [top for top in tops if any(os.path.join(top, name) in inside for name in wanted)]

    for kind, places in ((DIRECTORY, those_with(".vmrc")), (OF_S2E, those_with(S2E, OLD_DISK))):
        if places[:1] == [""]:  # a machine may have others, and archives, in its folders
            places = [""]
        if len(places) > 1:
            raise ImageError(
                f"{label}: it holds {len(places)} machines: {', '.join(places)}",
                hint="pack each of them alone: `tar czf X.tar.gz DIR`",
            )
        if places:
            return Layout(kind, places[0])
    raise ImageError(
        f"{label}: it holds no machine: neither {'qvm.json'} as its first member, nor a .vmrc, nor {S2E}",
        hint="`qvm create NAME --image FILE` makes a machine from a disk image",
    )


def _is_below(name: str, folders: set[str]) -> bool:
    above = os.path.dirname(name)
    while above:
        if above in folders:
            return True
        above = os.path.dirname(above)
    return False


def _is_of_s2e(name: str) -> bool:
    return name in (S2E, OLD_DISK) or (name.startswith(SNAPSHOT) and "/" not in name)


def _lift(folder: str, top: str) -> None:
    """Move what is in the one folder of the package to where the machine will be."""
    aside = os.path.join(folder, ".qvm-lifted")
    os.rename(os.path.join(folder, top), aside)
    for name in os.listdir(folder):  # folders of what was skipped
        if name != os.path.basename(aside):
            shutil.rmtree(os.path.join(folder, name))
    for name in os.listdir(aside):
        os.rename(os.path.join(aside, name), os.path.join(folder, name))
    os.rmdir(aside)
