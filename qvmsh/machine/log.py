"""What qvm did with a machine: its own log, and the user's VM_LOG and VM_ERRLOG.

    note(vm, "started, pid 4711")       # .qvm/log/qvm.log: 2026-11-21T05:48:35 guido[4702]: started, pid 4711

What is written is what a later reader needs: started, ready, stopped, why not; with or without `-v`.
`.qvm/log/qvm.log` is always written, with who did it. VM_LOG and VM_ERRLOG
(errors; else VM_LOG) are the user's, one line each: a stamp in the form of VM_DATEFMT, the machine,
the text. Source: `vm` (bash).
"""

from __future__ import annotations

import functools
import os
import time

from qvmsh.config import trust
from qvmsh.errors import QvmError, printable
from qvmsh.host import logfiles, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Concatenate, ParamSpec, TypeVar

    from qvmsh.machine.machine import BaseMachine

    P = ParamSpec("P")
    R = TypeVar("R")

OWN_BYTES = 1 << 20
"""When qvm's own log is rotated; three earlier ones are kept."""


def note(vm: BaseMachine, text: str, *, is_error: bool = False) -> None:
    """Log what was done, or (`is_error`) could not be done; nothing where there is no machine any more."""
    if not os.path.lexists(vm.files.vmrc):
        return
    text = printable(text)
    mark = "failed: " if is_error else ""
    own = f"{time.strftime('%FT%T')} {process.user_name(os.geteuid())}[{os.getpid()}]: {mark}{text}"
    try:
        vm.state_folder()
        logfiles.rotate(vm.files.qvm_log, kept=3, least=OWN_BYTES)
        _append(vm, vm.files.qvm_log, own)
    except OSError as error:  # a full disk or a folder of another user must not cost the machine
        vm.io.trace(f"cannot write {vm.files.qvm_log}: {error.strerror}")
    path = _users_log(vm, is_error=is_error)
    if path:
        try:
            _append(vm, path, f"{_stamp(vm)} {printable(vm.name)}: {text}")
        except OSError as error:
            vm.io.warn(f"{vm.name}: cannot write the log {path}: {error.strerror}")


def failures(function: Callable[Concatenate[BaseMachine, P], R]) -> Callable[Concatenate[BaseMachine, P], R]:
    """Log the failure of a verb."""

    @functools.wraps(function)
    def logged(vm: BaseMachine, /, *words: P.args, **options: P.kwargs) -> R:
        try:
            return function(vm, *words, **options)
        except QvmError as error:
            note(vm, error.what, is_error=True)
            raise

    return logged


def _users_log(vm: BaseMachine, *, is_error: bool) -> str:
    try:
        settings = vm.settings
    except QvmError:  # a configuration that cannot be used names no log
        return ""
    if trust.refusal(settings):  # a file of somebody else's choice is not written to
        return ""
    name = "VM_ERRLOG" if is_error and settings.text("VM_ERRLOG") else "VM_LOG"
    return settings.path(name) if settings.text(name) else ""


def _stamp(vm: BaseMachine) -> str:
    try:
        return time.strftime(vm.settings.text("VM_DATEFMT"))
    except ValueError:  # bytes that are not text
        return time.strftime("%F %T")


def _append(vm: BaseMachine, path: str, line: str) -> None:
    """Add one line in one write, so that lines of several commands do not mix."""
    if path.startswith("/dev/"):  # /dev/stderr is a link, not a file
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    else:
        fd = logfiles.append_to(path)
    try:
        os.write(fd, f"{line}\n".encode(errors="surrogateescape"))
    finally:
        os.close(fd)
