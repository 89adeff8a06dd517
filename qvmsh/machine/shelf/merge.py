"""Moving files into a folder that has others: no file is replaced.

taken = [each for each in leaves(folder) if is_taken("/vm/web", each)]
move_names(folder, "/vm/web", os.listdir(folder))
"""

from __future__ import annotations

import errno
import os

from qvmsh.host import files as host_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def move_names(source: str, target: str, names: Sequence[str]) -> None:
    """Move files from one folder into another, `.vmrc` last; folders that become empty are removed."""
    for name in sorted(names, key=lambda each: (each == ".vmrc", each)):
        path, new = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(new) and os.path.isdir(path) and not os.path.islink(path):
            move_names(path, new, os.listdir(path))
            os.rmdir(path)
            continue
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, "already exists", new)
        os.makedirs(os.path.dirname(new), exist_ok=True)
        os.rename(path, new)
        above = os.path.dirname(name)
        while above and not os.listdir(os.path.join(source, above)):
            os.rmdir(os.path.join(source, above))
            above = os.path.dirname(above)
    host_files.sync_folder(source)
    host_files.sync_folder(target)


def leaves(folder: str) -> list[str]:
    """The files and the empty folders in a folder."""
    found = []
    for where, folders, names in os.walk(folder):
        inside = os.path.relpath(where, folder)
        links = [each for each in folders if os.path.islink(os.path.join(where, each))]
        found += [os.path.normpath(os.path.join(inside, each)) for each in (*names, *links)]
        if not names and not folders and where != folder:
            found.append(inside)
    return found


def is_taken(directory: str, name: str) -> bool:
    """True if a file cannot get that name, from the directory, without replacing one."""
    path = os.path.join(directory, name)
    if os.path.lexists(path):
        return True
    above = os.path.dirname(path)
    while above != directory and not os.path.lexists(above):
        above = os.path.dirname(above)
    return not os.path.isdir(above)
