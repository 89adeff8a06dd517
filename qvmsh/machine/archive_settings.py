"""What makes a machine besides its disks: the files that an archive holds as `NAME-settings.tar`.

May import: `machine`.

    settings_files(vm, ["/vm/demo/demo-base.qcow2"])      # [".vmrc", ".qvm/uuid", ".qvm/id_ed25519", ...]
"""

from __future__ import annotations

import os

from qvmsh.machine import drives
from qvmsh.machine.archives import PART

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.machine.machine import Machine

SETTINGS = "settings"
SMALL_BYTES = 64 << 20


def settings_files(vm: Machine, others: Sequence[str]) -> list[str]:
    """Names of the files that make the machine besides its disks, from its directory.

    The `.vmrc`, what `.qvm` keeps for good, and small files of the directory that the settings name.

    Args:
        others: paths of the disks.
    """
    found = [".vmrc"]
    passing = (
        "running",
        "qemu.pid",
        "archive.unfinished",
        "snapshot.unfinished",
        "work.lock",
        "wait.lock",
        "settled",
        "log",
    )
    for folder, names, files in os.walk(vm.files.state):
        inside = os.path.relpath(folder, vm.directory)
        if inside == ".qvm":
            names[:] = [each for each in names if each not in passing and not _is_passing(each)]
            files = [each for each in files if each not in passing and not _is_passing(each)]
        found += [os.path.join(inside, each) for each in files]
    words = [
        word for name in vm.settings for word in vm.settings[name].replace(",", " ").replace("=", " ").split()
    ]
    for word in dict.fromkeys(words):
        path = os.path.join(vm.directory, word)
        inside = os.path.relpath(path, vm.directory)
        is_small = os.path.isfile(path) and os.path.getsize(path) <= SMALL_BYTES
        if is_small and not inside.startswith("..") and not any(drives.same(path, each) for each in others):
            found.append(inside)
    kept = [each for each in dict.fromkeys(found) if os.path.isfile(os.path.join(vm.directory, each))]
    return [each for each in kept if not os.path.islink(os.path.join(vm.directory, each))]


def _is_passing(name: str) -> bool:
    return (
        name.startswith(("staged-", "cut-", "disposable-", "verify-"))
        or name.endswith(".unfinished")
        or PART in name
    )
