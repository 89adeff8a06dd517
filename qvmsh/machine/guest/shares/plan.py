"""The shares of a machine: which directories, by which device, and what is wrong with them.

    configured(vm)              # [ShareLine], each with its whole path and its kind
    require_usable(vm, lines)   # ConfigError: "VM_SHARE: src: there is no directory /src"
    of_record(note)             # those that the running QEMU was given

A line without a kind is virtiofs where QEMU would run as root and virtiofsd is there, else 9p: for another
account, virtiofs lets only the guest's root create files.
"""

from __future__ import annotations

import os
import sys

from qvmsh.config import shares
from qvmsh.config.shares import P9, VIRTIOFS, ShareLine
from qvmsh.errors import ConfigError, MissingProgramError, QvmError
from qvmsh.machine.guest.shares import virtiofsd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qvmsh.config.settings import Settings
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine


def configured(vm: BaseMachine) -> list[ShareLine]:
    """The shares of VM_SHARE; none with hardware by hand."""
    return of_settings(vm.settings, vm.environ)


def of_settings(settings: Settings, environ: Mapping[str, str]) -> list[ShareLine]:
    """The same, of settings that may have problems elsewhere.

    Raises:
        ValueError: VM_SHARE is invalid.
    """
    if settings.text("VM_QEMU_ARGS"):
        return []
    return [located(settings, environ, each) for each in shares.parse_all(settings.text("VM_SHARE"))]


def located(settings: Settings, environ: Mapping[str, str], line: ShareLine) -> ShareLine:
    """A line with its whole path and its kind."""
    path = os.path.normpath(settings.located(line.path))
    kind = line.kind or _kind(environ)
    return ShareLine(path, line.tag, kind=kind, mount=line.mount, is_read_only=line.is_read_only)


def _kind(environ: Mapping[str, str]) -> str:
    if sys.platform != "linux" or os.geteuid() != 0:
        return P9
    try:
        virtiofsd.program(environ)
    except MissingProgramError:
        return P9
    return VIRTIOFS


def fault(
    directory: str,
    environ: Mapping[str, str],
    line: ShareLine,
    *,
    is_attached: bool = False,
    is_word: bool = False,
) -> tuple[str, str]:
    """What is wrong with a share, and what to do about it; ("", "") if nothing is.

    Args:
        directory: the machine's.
        is_attached: its program runs already.
        is_word: it is on the command line.
    """
    hint = f"correct the line of {line.tag} in VM_SHARE, or remove it"
    hint = "name another directory" if is_word else hint
    if not os.path.isdir(line.path):
        what = f"{line.path} is not a directory" if os.path.lexists(line.path) else ""
        return what or f"there is no directory {line.path}", hint
    if not os.access(line.path, os.R_OK | os.X_OK):
        return f"you cannot read {line.path}", hint
    real, own = os.path.realpath(line.path), os.path.realpath(directory)
    if f"{own}/".startswith(f"{real}/".replace("//", "/")) and not line.is_read_only:
        what = f"{line.path} holds the machine's own .vmrc, which the guest could then change"
        return what, "share it with `:ro`, or another directory"
    if f"{real}/".startswith(f"{own}/.qvm/"):
        return f"{line.path} holds the machine's own state", "share another directory"
    where = "" if is_word else " in its line of VM_SHARE"
    return _fault_of_program(environ, line, where) if line.kind == VIRTIOFS and not is_attached else ("", "")


def _fault_of_program(environ: Mapping[str, str], line: ShareLine, where: str) -> tuple[str, str]:
    if sys.platform != "linux":
        return "virtiofs needs Linux", f"`:9p`{where} does without"
    try:
        found = virtiofsd.program(environ)
    except MissingProgramError as error:
        return error.what, f"{error.hint}; or `:9p`{where} does without"
    if os.geteuid() == 0:
        return "", ""
    other = "or install virtiofsd 1.13 or newer, which does not come with QEMU"
    if found.needs_root:
        return f"{found.path} runs only as root", f"`:9p`{where} does without; {other}"
    if line.is_read_only and not found.has_read_only:
        return f"{found.path} cannot share read-only", f"`:9p`{where} can; {other}"
    return "", ""


def require_usable(vm: BaseMachine, lines: Sequence[ShareLine]) -> None:
    """Refuse shares that cannot work.

    Raises:
        ConfigError: of the first that has a fault.
    """
    for line in lines:
        what, hint = fault(vm.directory, vm.environ, line)
        if what:
            raise ConfigError(f"VM_SHARE: {line.tag}: {what}", machine=vm.name, hint=hint)


def of_record(note: LaunchRecord) -> list[ShareLine]:
    """The shares that the running QEMU was given, attached or not."""
    import json

    try:
        return [shares.parse(row) for row in json.loads(note.shares or "[]")]
    except (ValueError, TypeError, AttributeError):
        raise QvmError("the launch record .qvm/running is damaged: its line `shares`") from None


def recorded(lines: Sequence[ShareLine]) -> str:
    """The shares as a launch record keeps them."""
    import json

    return json.dumps([str(each) for each in lines])
