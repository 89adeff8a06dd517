"""The programs of a machine: VM_QEMU_BIN, VM_QEMU_IMG as its configuration names them.

A directory may come from anywhere, so read-only commands run none of its programs. If only the machine's
files name a program, they run the one of that name on PATH instead, with a warning. The named program runs
after `require_accepted` (called by all commands that start or write), or after `qvm allow`.
"""

from __future__ import annotations

import os

from qvmsh.config import trust
from qvmsh.config.syntax import Problem
from qvmsh.errors import ConfigError, MissingProgramError
from qvmsh.qemu import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


_NAMES = {"VM_QEMU_BIN": ("qemu-system-", "qemu-kvm"), "VM_QEMU_IMG": ("qemu-img",)}
"""Names of programs that a read-only command may run from PATH."""

_RUN = (*_NAMES, "VM_SSH_OPTIONS")
"""Variables that read-only commands do not use until they are accepted."""


def require_accepted(vm: BaseMachine) -> None:
    """Let this command run what the machine's files name.

    Raises:
        ConfigError: they are somebody else's, and were not accepted.
    """
    try:
        settings = vm.loaded
    except ConfigError:  # reported where a value is needed; nothing is named, so nothing runs
        return
    refusal = trust.refusal(settings)
    if refusal:
        raise refusal
    settings.accept()


def remember_accepted(vm: BaseMachine) -> None:
    """Accept what the user has started, so that read-only commands run the same programs."""
    settings = vm.loaded
    if any(settings.is_set(name) for name in settings if name in _RUN or not name.startswith("VM_")):
        try:
            for each in settings.sources:
                trust.allow(each.path, each.data, vm.environ)
        except OSError:
            pass


def qemu(vm: BaseMachine) -> str:
    """Path of the QEMU to run; a relative name with a slash is below the machine's directory.

    Raises:
        MissingProgramError: it is not installed.
    """
    return _find(vm, "VM_QEMU_BIN")


def qemu_img(vm: BaseMachine) -> str:
    """Path of the qemu-img to run; as `qemu`."""
    return _find(vm, "VM_QEMU_IMG")


def named(vm: BaseMachine, variable: str) -> str:
    """Path of the program that VM_QEMU_BIN or VM_QEMU_IMG names, whether or not it may be run.

    Raises:
        MissingProgramError: it is not installed.
    """
    return programs.find(vm.settings.text(variable), environ=vm.environ, directory=vm.directory)


def looking(vm: BaseMachine, variable: str) -> tuple[str, Problem | None]:
    """Path of the program for a command that may not run the named one, and the warning about it.

    The warning is None if it is the same program.

    Raises:
        MissingProgramError: there is none of its name on PATH, and no usual one.
    """
    settings = vm.settings
    wanted = settings.text(variable)
    name = os.path.basename(wanted)
    usual = "qemu-img" if variable == "VM_QEMU_IMG" else f"qemu-system-{settings.architecture}"
    try:
        path = programs.find(name if name.startswith(_NAMES[variable]) else usual, environ=vm.environ)
    except MissingProgramError:
        try:
            path = programs.find(usual, environ=vm.environ)
        except MissingProgramError as error:
            error.hint = f"{error.hint}; or accept {variable}={wanted} with `qvm allow`"
            raise
    is_same = os.path.realpath(os.path.join(vm.directory, wanted)) == os.path.realpath(path)
    if is_same or wanted == os.path.basename(path):
        return path, None
    what = f"{variable}={wanted} is not run by read-only commands; they run {path}"
    hint = "check what it names, then accept it with `qvm allow`"
    return path, Problem(*settings.origin(variable).place, what, hint, variable)


def _find(vm: BaseMachine, variable: str) -> str:
    settings = vm.settings
    if settings.may_run(variable):
        return named(vm, variable)
    path, warning = looking(vm, variable)
    if warning and all(each.message != warning.message for each in settings.warnings):
        settings.warnings.append(warning)
        vm.io.warn(str(warning))
    return path
