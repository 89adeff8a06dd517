"""From settings to `qemu.commandline.Hardware`: which values, which image, which display.

hardware(vm, Launch(request), Resources(binary, "tcg", 40123, ...))
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from qvmsh.errors import ConfigError
from qvmsh.machine import identity
from qvmsh.machine.paths import PID_FILE, SERIAL_LOG
from qvmsh.machine.power import ports
from qvmsh.machine.storage import own_disk
from qvmsh.machine.storage import supplies as disks
from qvmsh.machine.storage.supplies import Supplies
from qvmsh.qemu import platforms, sandbox
from qvmsh.qemu.commandline import Disk, Endpoint, Hardware, Network
from qvmsh.qemu.shares import Share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.power.request import Launch
    from qvmsh.qemu.platforms import Platform

ENDPOINTS = ("qmp", "session", "events", "watch", "monitor", "serial", "qga")
"""The sockets of a machine: QMP for one question, long sessions, followers of events and the prompt of
`qvm sh` (each serves one client at a time), HMP, console, agent."""


@dataclass(frozen=True)
class Resources:
    """What a launch has found and chosen for QEMU.

    Args:
        binary: QEMU's program.
        accelerator: what was chosen for VM_QEMU_ACCEL.
        ssh_port: port of 127.0.0.1 for the guest's sshd.
        endpoints: where its sockets are.
        supplies: the files it needs besides its own disk.
        overlays: images to use instead of the machine's own, by node (`--disposable`).
        tpm: where its TPM is, None without one.
        has_sandbox: QEMU knows `-sandbox`.
        shares: directories for the guest.
    """

    binary: str
    accelerator: str
    ssh_port: int | None
    endpoints: dict[str, Endpoint]
    supplies: Supplies
    overlays: Mapping[str, str]
    tpm: Endpoint | None
    has_sandbox: bool
    shares: tuple[Share, ...] = ()


def hardware(vm: BaseMachine, launch: Launch, given: Resources) -> Hardware:
    """All hardware of this launch."""
    settings = vm.settings
    platform = platforms.of(settings.architecture, settings.text("VM_QEMU_MACHINE"))
    _require_tpm(vm, platform, given)
    order, has_boot_menu = disks.boot_order(vm)
    by_hand = tuple(settings.words("VM_QEMU_ARGS")) or None
    network = _network(vm, platform, given.ssh_port, order.get("network"))
    own = _own_disk(vm, launch, given, order.get(own_disk.MAIN))
    vnc = ports.vnc(settings.text("VM_QEMU_VNC")) or None
    display = _display(vm, launch, vnc)
    extra = (*settings.words("VM_QEMU_EXTRA"), *launch.request.extra)
    stdio = takes_terminal(launch, display, vnc, extra)
    return Hardware(
        binary=given.binary,
        name=settings.text("VM_MACHINE_NAME"),
        uuid=identity.uuid_of(vm),
        machine=launch.machine or settings.text("VM_QEMU_MACHINE"),
        accelerator=given.accelerator,
        cpu=settings.text("VM_QEMU_CPU") or platforms.default_cpu(given.accelerator, settings.architecture),
        vcpus=settings.integer("VM_MACHINE_CPUS"),
        memory_mib=settings.integer("VM_MACHINE_MEM"),
        disks=(*own, *disks.disk_arguments(vm, given.supplies, order, given.overlays)),
        network=network,
        endpoints=given.endpoints,
        pid_file=PID_FILE,
        serial_log=SERIAL_LOG,
        serial_stdio=stdio,
        display=display,
        vnc=vnc,
        is_held=launch.request.loadvm is not None,
        sandbox=sandbox.option(settings.text("VM_QEMU_SANDBOX"), extra) if given.has_sandbox else None,
        process=identity.process_name(vm),
        platform=platform,
        cdrom=disks.cdrom_argument(vm, given.supplies, order),
        flash=disks.flash_argument(vm, given.supplies, given.overlays),
        tpm=given.tpm,
        kernel=given.supplies.kernel,
        initrd=given.supplies.initrd,
        append=settings.text("VM_APPEND"),
        has_boot_menu=has_boot_menu,
        has_serial=settings.boolean("VM_SERIAL"),
        agent=settings.text("VM_GUEST_AGENT_METHOD") if settings.boolean("VM_GUEST_AGENT") else None,
        has_rng=settings.boolean("VM_VIRTIO_RNG"),
        clock=settings.text("VM_RTC_BASE"),
        by_hand=by_hand,
        shares=given.shares,
        extra=(*extra, "-snapshot") if by_hand and launch.request.disposable else extra,
    )


def _require_tpm(vm: BaseMachine, platform: Platform, given: Resources) -> None:
    if given.tpm and platform.tpm is None:
        raise ConfigError(
            f"VM_TPM=yes: machine type {vm.settings.text('VM_QEMU_MACHINE')} does not support a TPM",
            machine=vm.name,
            hint="remove VM_TPM, or choose another VM_QEMU_MACHINE",
        )


def _own_disk(vm: BaseMachine, launch: Launch, given: Resources, boot: int | None) -> tuple[Disk, ...]:
    """The machine's own disk; nothing for a machine without one."""
    image = given.overlays.get(own_disk.MAIN) or own_disk.disk_name(vm, base_only=launch.request.base_only)
    own = Disk(
        disks.shown(vm, os.path.join(vm.directory, image)),
        own_disk.image_format(vm, image),
        vm.settings.text("VM_DISK_BUS"),
        boot=boot,
    )
    return (own,) if own_disk.has_disk(vm) else ()


def _network(vm: BaseMachine, platform: Platform, ssh_port: int | None, boot: int | None) -> Network | None:
    """The network card; None for a machine without one."""
    model = vm.settings.text("VM_NET_MODEL")
    if model == "none":
        return None
    mac = identity.own_mac_address(vm)
    rules = tuple(each.rule for each in ports.forwards(vm))
    driver = platform.virtio("net") if model == "virtio" else model
    return Network(driver, mac, ssh_port, rules, boot, vm.settings.integer("VM_SSH_GUEST_PORT"))


def endpoints(vm: BaseMachine) -> tuple[str, ...]:
    """The sockets of this machine, without those of devices that it lacks."""
    settings = vm.settings
    missing = set()
    if not settings.text("VM_QEMU_ARGS"):
        missing = {
            name
            for name, variable in (("serial", "VM_SERIAL"), ("qga", "VM_GUEST_AGENT"))
            if not settings.boolean(variable)
        }
    return tuple(name for name in ENDPOINTS if name not in missing)


def _display(vm: BaseMachine, launch: Launch, vnc: str | None) -> str:
    """The value of `-display`; without one QEMU would open VNC on its own."""
    wanted = vm.settings.text("VM_QEMU_DISPLAY")
    is_curses = uses_curses(vm)
    if launch.request.is_encapsulated:
        if wanted and not is_curses:
            raise ConfigError(
                f"VM_QEMU_DISPLAY={wanted} conflicts with --encapsulate, which shows the screen as text",
                machine=vm.name,
                hint="remove one of them",
            )
        return wanted or "curses"
    if wanted:
        if is_curses and not launch.is_foreground:
            raise ConfigError(
                "VM_QEMU_DISPLAY=curses needs a terminal, which `start` does not provide",
                machine=vm.name,
                hint="`qvm start --encapsulate` provides one in tmux or screen, `qvm run` uses this one",
            )
        return wanted
    return launch.window if launch.is_foreground and launch.window and vnc is None else "none"


def takes_terminal(launch: Launch, display: str, vnc: str | None, extra: tuple[str, ...]) -> bool:
    """True if the serial console and the monitor are on the caller's terminal."""
    is_ours = launch.is_foreground and not launch.is_background
    return is_ours and display == "none" and vnc is None and not _uses_terminal(extra)


def uses_curses(vm: BaseMachine) -> bool:
    """True if the configuration wants the screen drawn on a terminal."""
    return vm.settings.text("VM_QEMU_DISPLAY").partition(",")[0] == "curses"


def _uses_terminal(extra: tuple[str, ...]) -> bool:
    """True if the user's own arguments use the terminal, or choose a display."""
    return any(
        word in ("-nographic", "-curses", "-display", "-serial", "-monitor", "-vnc") or "stdio" in word
        for word in extra
    )


def require_room(vm: BaseMachine) -> None:
    """Refuse a machine that cannot fit into this host.

    Raises:
        ConfigError: more memory than the host has.
    """
    wanted = vm.settings.integer("VM_MACHINE_MEM")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    if wanted > total:
        raise ConfigError(
            f"VM_MACHINE_MEM={wanted} is more memory than the host has ({total} MiB)",
            machine=vm.name,
            hint=f"`qvm config VM_MACHINE_MEM={max(128, total // 2)}` leaves memory for the host",
        )
