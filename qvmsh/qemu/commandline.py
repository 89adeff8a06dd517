"""From a machine's hardware to QEMU's argument list: pure, no process, no file, no environment.

Values of the user go in as JSON, or with commas doubled: a `,` or `=` in a file name is just a character::

    arguments(Hardware(binary="qemu-system-x86_64", name="demo", ...))
    # ["qemu-system-x86_64", "-name", "guest=demo", "-machine", "pc", "-accel", "tcg", ...]

Source: qemu-system-x86_64(1); `-blockdev`, `-device` and `-netdev` take JSON since QEMU 6.2/7.0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from shlex import quote

from qvmsh.qemu import flash, platforms, shares
from qvmsh.qemu.flash import Flash
from qvmsh.qemu.platforms import Platform
from qvmsh.qemu.qmp import dumps
from qvmsh.qemu.shares import Share

CACHES: dict[str, tuple[bool, bool, bool]] = {
    "writeback": (False, False, True),
    "none": (True, False, True),
    "writethrough": (False, False, False),
    "directsync": (True, False, False),
    "unsafe": (False, True, True),
}
"""What `cache=` means: bypass the host's cache, skip flushes, a write cache in the device.
Source: qemu-system-x86_64(1), `-drive cache=`."""


@dataclass(frozen=True)
class Disk:
    """One disk: image file, its format, and how the guest sees it.

    The format is always given: QEMU's probing would believe what a guest wrote into a raw image.

    Args:
        bus: virtio, ide, sata, scsi, nvme.
        node: QEMU's name of it.
        cache: a key of CACHES; "" leaves QEMU's own.
        protocol: `file`, or `host_device` for a block device of the host.
        boot: its place in the boot order, None if it has none.
        serial: serial number that the guest sees, "" for none.
    """

    path: str
    format: str
    bus: str = "virtio"
    node: str = "disk0"
    cache: str = ""
    protocol: str = "file"
    is_read_only: bool = False
    boot: int | None = 1
    serial: str = ""


@dataclass(frozen=True)
class Cdrom:
    """The CD drive and the image in it."""

    path: str
    protocol: str = "file"
    boot: int | None = None


@dataclass(frozen=True)
class Network:
    """User mode networking: `model` is QEMU's device name, ports are TCP on 127.0.0.1.

    `forwards`: additional rules in the form of QEMU's `hostfwd=`.
    """

    model: str
    mac: str
    ssh_port: int | None = None
    forwards: tuple[str, ...] = ()
    boot: int | None = None
    ssh_guest_port: int = 22


@dataclass(frozen=True)
class Endpoint:
    """Where a character device of QEMU listens: an inherited descriptor, a path, or a TCP address.

    `fifos` instead: what the names of two FIFOs, `.in` and `.out`, begin with.
    """

    fd: int | None = None
    path: str | None = None
    address: tuple[str, int] | None = None
    fifos: str | None = None

    def option(self, name: str, **more: str) -> str:
        """The value of `-chardev` for this endpoint."""
        rest = "".join(f",{key}={escape(value)}" for key, value in more.items())
        return f"socket,id={name},{self._where},server=on,wait=off{rest}"

    def client(self, name: str) -> str:
        """The value of `-chardev` if QEMU connects, or is connected already."""
        return f"socket,id={name},{self._where}"

    @property
    def _where(self) -> str:
        if self.address:
            return f"host={escape(self.address[0])},port={self.address[1]}"
        return f"fd={self.fd}" if self.fd is not None else f"path={escape(self.path or '')}"


@dataclass(frozen=True)
class Hardware:
    """All that goes into the argument list of one machine.

    Args:
        binary: QEMU's program.
        name: machine's name (window title, `query-name`).
        uuid: identity that the guest sees (SMBIOS).
        accelerator: value of `-accel`, with properties if any (`tcg,thread=single`).
        disks: the first is the machine's own.
        cpu: value of `-cpu`; None leaves QEMU's own.
        memory_mib: guest memory.
        endpoints: `qmp`, `session`, `events`, `watch` (all QMP), `monitor` (HMP), `serial`, `qga`;
            perhaps `telnet` (HMP).
        sandbox: value of `-sandbox`; None if QEMU has none or the user's own words set it.
        process: name of the process, as `ps` shows it; None leaves it.
        serial_log: file that gets every byte of the serial console, if no FIFO does.
        serial_stdio: the serial console is on the terminal instead of its socket.
        is_held: wait before the first instruction (`-S`), so that a state can be loaded.
        display: value of `-display`.
        platform: what the machine type takes.
        cdrom, flash, tpm: None where there is none; `tpm` is where the TPM's program listens.
        kernel, initrd, append: what QEMU boots itself, "" for none.
        has_boot_menu: the firmware waits for a person to choose.
        has_serial: there is a serial console.
        agent: `virtio-serial` or `isa-serial`, None without a channel for the guest agent.
        has_rng: there is a random number device.
        clock: value of `-rtc base=`.
        by_hand: the user's arguments instead of the hardware; None for generated hardware.
        shares: directories of the host; their devices are the last ones.
        extra: the user's own arguments, after the others, so that they win if QEMU allows it.
    """

    binary: str
    name: str
    uuid: str
    machine: str
    accelerator: str
    cpu: str | None
    vcpus: int
    memory_mib: int
    disks: tuple[Disk, ...]
    network: Network | None
    endpoints: dict[str, Endpoint]
    pid_file: str
    serial_log: str | None = None
    serial_stdio: bool = False
    display: str = "none"
    vnc: str | None = None
    is_held: bool = False
    sandbox: str | None = None
    process: str | None = None
    platform: Platform = platforms.PC
    cdrom: Cdrom | None = None
    flash: Flash | None = None
    tpm: Endpoint | None = None
    kernel: str = ""
    initrd: str = ""
    append: str = ""
    has_boot_menu: bool = False
    has_serial: bool = True
    agent: str | None = "virtio-serial"
    has_rng: bool = True
    clock: str = "utc"
    by_hand: tuple[str, ...] | None = None
    shares: tuple[Share, ...] = ()
    extra: tuple[str, ...] = field(default=())


def escape(value: str) -> str:
    """`value` as one value in an option of the form `key=value,...`."""
    return value.replace(",", ",,")


def arguments(hardware: Hardware) -> list[str]:
    """QEMU's argument list for `hardware`.

    The devices that every machine has come first, so that another disk does not change their places
    on the bus (and so the names of network cards in the guest).
    """
    h = hardware
    process = f",process={escape(h.process)},debug-threads=on" if h.process else ""
    argv = [h.binary, "-name", f"guest={escape(h.name)}{process}", "-uuid", h.uuid]
    if h.sandbox:
        argv += ["-sandbox", h.sandbox]
    if h.by_hand is not None:
        return argv + _by_hand(h)
    controllers = platforms.Controllers(h.platform)
    memory = shares.memory(h.shares, h.platform, h.memory_mib, (h.machine, *h.extra))
    backend = f",memory-backend={h.platform.ram}" if memory else ""
    argv += [*memory, "-machine", h.machine + flash.machine(h.flash) + backend, "-accel", h.accelerator]
    if h.cpu:
        argv += ["-cpu", h.cpu]
    argv += ["-smp", str(h.vcpus), "-m", str(h.memory_mib)]
    argv += ["-nodefaults", "-no-user-config", "-pidfile", h.pid_file]
    argv += _monitors(h.endpoints)
    argv += _display(h)
    argv += flash.words(h.flash)
    for disk in h.disks[:1]:
        argv += _disk(disk, controllers)
    argv += _network(h.network)
    argv += _serial(h)
    argv += _agent(h)
    if h.has_rng:
        argv += ["-device", dumps({"driver": h.platform.virtio("rng"), "id": "rng0"})]
    for disk in h.disks[1:]:
        argv += _disk(disk, controllers)
    argv += _cdrom(h.cdrom, controllers)
    argv += _tpm(h)
    argv += _boot(h)
    if h.clock != "utc":
        argv += ["-rtc", f"base={h.clock}"]
    if h.is_held:
        argv += ["-S"]
    return [*argv, *h.extra, *shares.words(h.shares, h.platform)]


def _by_hand(h: Hardware) -> list[str]:
    """What is added to hardware by hand: pid file and sockets, and a display that is not an open port.

    The console's and the agent's sockets can be used: `-serial chardev:serial`.
    """
    assert h.by_hand is not None
    words = (*h.by_hand, *h.extra)
    argv = [*h.by_hand, "-pidfile", h.pid_file, *_monitors(h.endpoints)]
    argv += ["-chardev", _console(h)]
    argv += ["-chardev", h.endpoints["qga"].option("qga")]
    shown = ("display", "nographic", "curses", "vnc", "spice", "sdl")
    if not any(word.startswith("-") and word.lstrip("-") in shown for word in words):
        argv += ["-display", h.display]
    if h.vnc:
        argv += ["-vnc", h.vnc]
    if h.is_held:
        argv += ["-S"]
    return argv + list(h.extra)


_MONITORS = {
    "qmp": "control",
    "session": "control",
    "events": "control",
    "watch": "control",
    "monitor": "readline",
}


def _monitors(endpoints: dict[str, Endpoint]) -> list[str]:
    argv = []
    for name, mode in _MONITORS.items():
        argv += ["-chardev", endpoints[name].option(name), "-mon", f"chardev={name},mode={mode}"]
    if "telnet" in endpoints:
        argv += ["-chardev", endpoints["telnet"].option("telnet", telnet="on")]
        argv += ["-mon", "chardev=telnet,mode=readline"]
    return argv


def _display(h: Hardware) -> list[str]:
    argv = ["-vga", h.platform.vga] if h.platform.vga else []
    argv += ["-display", h.display]
    if h.vnc:
        argv += ["-vnc", h.vnc]
    for driver in h.platform.display:
        argv += ["-device", dumps({"driver": driver})]
    return argv


def _disk(disk: Disk, controllers: platforms.Controllers) -> list[str]:
    discard: dict[str, object] = {} if disk.is_read_only else {"discard": "unmap"}
    blockdev: dict[str, object] = {"node-name": disk.node, "driver": disk.format} | discard
    device: dict[str, object] = {"drive": disk.node, "id": f"{disk.node}-device"}
    if disk.cache:
        is_direct, has_no_flush, has_write_cache = CACHES[disk.cache]
        blockdev["cache"] = {"direct": is_direct, "no-flush": has_no_flush}
        device["write-cache"] = "on" if has_write_cache else "off"
    if disk.is_read_only:
        blockdev["read-only"] = True
    blockdev["file"] = {"driver": disk.protocol, "filename": disk.path} | discard
    argv = ["-blockdev", dumps(blockdev)]
    if disk.boot is not None:
        device["bootindex"] = disk.boot
    if disk.serial:
        device["serial"] = disk.serial
    if disk.bus == "virtio":
        device = {"driver": controllers.platform.virtio("blk")} | device
    elif disk.bus == "ide":
        device = {"driver": "ide-hd"} | controllers.ide() | device
    elif disk.bus == "sata":
        more, bus = controllers.sata()
        argv += more
        device = {"driver": "ide-hd", "bus": bus} | device
    elif disk.bus == "scsi":
        more, bus = controllers.scsi()
        argv += more
        device = {"driver": "scsi-hd", "bus": bus} | device
    else:
        device = {"driver": "nvme", "serial": disk.node} | device
    return [*argv, "-device", dumps(device)]


def _cdrom(cdrom: Cdrom | None, controllers: platforms.Controllers) -> list[str]:
    if cdrom is None:
        return []
    file: dict[str, object] = {"driver": cdrom.protocol, "filename": cdrom.path}
    blockdev = {"node-name": "cdrom0", "driver": "raw", "read-only": True, "file": file}
    device: dict[str, object] = {
        "driver": controllers.platform.cdrom,
        "drive": "cdrom0",
        "id": "cdrom0-device",
    }
    argv = ["-blockdev", dumps(blockdev)]
    if controllers.platform.cdrom == "scsi-cd":
        more, device["bus"] = controllers.scsi()
        argv += more
    else:
        device |= controllers.ide()
    if cdrom.boot is not None:
        device["bootindex"] = cdrom.boot
    return [*argv, "-device", dumps(device)]


def ssh_rule(port: int, guest_port: int) -> str:
    """The forward that leads to the guest's sshd, in the form of QEMU's `hostfwd=`."""
    return f"tcp:127.0.0.1:{port}-:{guest_port}"


def _network(network: Network | None) -> list[str]:
    if network is None:
        return ["-nic", "none"]
    netdev: dict[str, object] = {"type": "user", "id": "net0"}
    ssh = [ssh_rule(network.ssh_port, network.ssh_guest_port)] if network.ssh_port else []
    rules = [{"str": rule} for rule in (*ssh, *network.forwards)]
    netdev |= {"hostfwd": rules} if rules else {}
    device: dict[str, object] = {"driver": network.model, "netdev": "net0", "mac": network.mac, "id": "nic0"}
    if network.boot is not None:
        device["bootindex"] = network.boot
    return ["-netdev", dumps(netdev), "-device", dumps(device)]


def _serial(h: Hardware) -> list[str]:
    if h.serial_stdio:
        is_kept = not h.has_serial or bool(h.endpoints["serial"].fifos)  # its standard output is the FIFO
        argv = ["-chardev", "stdio,id=serial,mux=on,signal=off" + ("" if is_kept else _log(h))]
        argv += ["-mon", "chardev=serial,mode=readline"]
    elif h.has_serial:
        argv = ["-chardev", _console(h)]
    else:
        return []
    return [*argv, *(["-serial", "chardev:serial"] if h.has_serial else [])]


def _console(h: Hardware) -> str:
    """The value of `-chardev` for the console on FIFOs or a socket.

    On FIFOs nothing is lost, and nothing is logged twice, as QEMU 7.2 does where a socket is full.
    """
    endpoint = h.endpoints["serial"]
    if endpoint.fifos:
        return f"pipe,id=serial,path={escape(endpoint.fifos)}"
    return endpoint.option("serial") + _log(h)


def _log(h: Hardware) -> str:
    """What makes a `-chardev` log all that is written to it."""
    return f",logfile={escape(h.serial_log)},logappend=off" if h.serial_log else ""


def _agent(h: Hardware) -> list[str]:
    """The guest agent's channel; a UART is always the second one, so that guests know it by its name."""
    if h.agent is None:
        return []
    bus = platforms.device(h.platform.virtio("serial"), "channel0")
    argv = [] if h.agent == "isa-serial" else ["-device", bus]
    argv += ["-chardev", h.endpoints["qga"].option("qga")]
    port: dict[str, object] = {"driver": "isa-serial", "chardev": "qga", "index": 1, "id": "qga0"}
    if h.agent != "isa-serial":
        port = {"driver": "virtserialport", "chardev": "qga", "name": "org.qemu.guest_agent.0", "id": "qga0"}
    return [*argv, "-device", dumps(port)]


def _tpm(h: Hardware) -> list[str]:
    if h.tpm is None or h.platform.tpm is None:
        return []
    argv = ["-chardev", h.tpm.client("tpm-control"), "-tpmdev", "emulator,id=tpm0,chardev=tpm-control"]
    return [*argv, "-device", dumps({"driver": h.platform.tpm, "tpmdev": "tpm0", "id": "tpm0-device"})]


def _boot(h: Hardware) -> list[str]:
    argv = ["-boot", "menu=on,splash-time=5000"] if h.has_boot_menu else []
    for option, value in (("-kernel", h.kernel), ("-initrd", h.initrd), ("-append", h.append)):
        argv += [option, value] if value else []
    return argv


def for_a_shell(argv: list[str]) -> str:
    """The argument list to paste into a shell: one option per line, quoted."""
    lines = [quote(argv[0])]
    for word in argv[1:]:
        if word.startswith("-") or len(lines) == 1:
            lines.append(quote(word))
        else:
            lines[-1] += " " + quote(word)
    return " \\\n  ".join(lines)
