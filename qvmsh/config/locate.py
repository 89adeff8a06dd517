"""Find the machine's directory: `-C`, else VM_HOME, else the current one, else a script's own.

    find(None, os.environ, os.getcwd())     # "/vm/demo"

Never a parent (an archive folder lies inside its machine), but a `.vmrc` above is named in the hint.
"""

from __future__ import annotations

import os

from qvmsh.config import files, layers
from qvmsh.config.variables import YES
from qvmsh.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def find(directory: str | None, environ: Mapping[str, str], cwd: str, script: str | None = None) -> str:
    """The machine's directory, absolute.

    Args:
        directory: the value of `-C`; None if it was not given.
        environ: VM_HOME and VM_HOME_OVERRIDES_CWD are looked up here.
        cwd: the current directory.
        script: the file that is to run, whose folder may be the machine's.

    Raises:
        ConfigError: there is no `.vmrc`, or VM_HOME and the current directory disagree.
    """
    if directory is not None:
        return _require(os.path.normpath(os.path.join(cwd, directory)))
    home = environ.get("VM_HOME", "")
    if not home:
        if script is not None and not os.path.lexists(os.path.join(cwd, files.VMRC)):
            cwd = _folder_of(os.path.join(cwd, script)) or cwd
        return _require(cwd)
    found = os.path.normpath(os.path.join(cwd, home))
    is_here = os.path.realpath(found) == os.path.realpath(cwd)
    if not is_here and os.path.lexists(os.path.join(cwd, files.VMRC)) and not _overrides(environ):
        raise ConfigError(
            f"there is a .vmrc in {cwd}, but VM_HOME names another machine: {home}",
            hint="`qvm -C . ...` uses this one, `unset VM_HOME` forgets the other; with "
            "VM_HOME_OVERRIDES_CWD=yes VM_HOME always wins",
        )
    if not os.path.lexists(os.path.join(found, files.VMRC)):
        what = f"VM_HOME={home} is not a machine: "
        what += "it has no .vmrc" if os.path.isdir(found) else "there is no such directory"
        raise ConfigError(what, hint="correct VM_HOME, or `unset VM_HOME`")
    return found


def _folder_of(script: str) -> str | None:
    """The machine's directory that contains a script, or the target of its link; None if there is none."""
    for path in (script, os.path.realpath(script)):
        folder = os.path.dirname(os.path.normpath(path))
        if os.path.lexists(os.path.join(folder, files.VMRC)):
            return folder
    return None


def _require(directory: str) -> str:
    if not os.path.lexists(os.path.join(directory, files.VMRC)):
        raise layers.missing(directory)
    return directory


def _overrides(environ: Mapping[str, str]) -> bool:
    """True if VM_HOME wins over a `.vmrc` here, by the environment or a shared file."""
    value = environ.get("VM_HOME_OVERRIDES_CWD", "")
    for path in (files.global_file(environ), files.user_file(environ)):
        value = layers.shared_value(path, "VM_HOME_OVERRIDES_CWD", environ) or value
    return value.lower() in YES
