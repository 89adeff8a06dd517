"""Limits of QEMU on the host: VM_LIMIT_MEM and VM_LIMIT_CPUS, enforced by a systemd scope.

    scope(vm)       # ["/usr/bin/systemd-run", "--scope", ..., "-p", "MemoryMax=2048M", "--"]

`systemd-run --scope` becomes the program that it is given, as the same process with the same
descriptors, so nothing else changes. Root's scope belongs to the system, another account's to its own
user manager. Source: systemd-run(1), systemd.resource-control(5), sd_booted(3).
"""

from __future__ import annotations

import os
import secrets

from qvmsh.errors import ConfigError, MissingProgramError
from qvmsh.qemu import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.machine.machine import BaseMachine

BOOTED = "/run/systemd/system"
"""This folder is there if, and only if, systemd runs the host."""


def require_sound(vm: BaseMachine) -> None:
    """Refuse a limit that ends QEMU as soon as the guest uses its memory.

    Raises:
        ConfigError: VM_LIMIT_MEM leaves less than the guest's own memory.
    """
    settings = vm.settings
    if not settings.is_set("VM_LIMIT_MEM"):
        return
    limit, guest = settings.integer("VM_LIMIT_MEM"), settings.integer("VM_MACHINE_MEM")
    if limit <= guest:
        raise ConfigError(
            f"VM_LIMIT_MEM={limit} is too small for a guest of {guest} MiB and QEMU itself",
            machine=vm.name,
            hint=f"VM_LIMIT_MEM={guest + max(256, guest // 8)} is enough; it limits all of QEMU",
        )


def scope(vm: BaseMachine) -> list[str]:
    """The words before QEMU's command line that put it into a scope; none where no limit is set.

    Without systemd to enforce the limits, a warning is printed and the machine runs without.
    """
    wanted = properties(vm)
    if not wanted:
        return []
    is_root = os.geteuid() == 0
    why = obstacle(vm.environ, is_root=is_root)
    if not why:
        try:
            program = programs.find("systemd-run", environ=vm.environ)
            return words(program, vm.settings.text("VM_MACHINE_NAME"), wanted, is_root=is_root)
        except MissingProgramError as error:
            why = error.what
    names = " and ".join(name for name in ("VM_LIMIT_MEM", "VM_LIMIT_CPUS") if vm.settings.is_set(name))
    vm.io.warn(f"{vm.name}: cannot enforce {names} here, the machine runs without: {why}")
    return []


def properties(vm: BaseMachine) -> list[str]:
    """The limits as systemd has them."""
    settings = vm.settings
    found = []
    if settings.is_set("VM_LIMIT_MEM"):
        found.append(f"MemoryMax={settings.integer('VM_LIMIT_MEM')}M")
    if settings.is_set("VM_LIMIT_CPUS"):
        found.append(f"CPUQuota={max(1, round(settings.number('VM_LIMIT_CPUS') * 100))}%")
    return found


def words(program: str, name: str, wanted: list[str], *, is_root: bool) -> list[str]:
    """`systemd-run` with these properties, up to the command line that it becomes."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)
    argv = [program, "--scope", "--quiet", "--collect", f"--unit=qvm-{safe}-{secrets.token_hex(3)}"]
    argv += [] if is_root else ["--user"]
    for each in wanted:
        argv += ["-p", each]
    return [*argv, "--"]


def obstacle(environ: Mapping[str, str], *, is_root: bool, booted: str = BOOTED) -> str:
    """Why a scope is not available, in a few words; "" if it is."""
    if not os.path.isdir(booted):
        return "this host is not run by systemd"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if not is_root and not os.path.exists(os.path.join(runtime or "/nowhere", "systemd", "private")):
        return "this account has no systemd user manager (`loginctl enable-linger` starts one)"
    return ""
