"""The one table of variables: every name, declared once.

    VARIABLES["VM_MACHINE_MEM"].default           # "1024"
    VARIABLES["VM_MACHINE_ID"].check("7")         # ("is '7', but must be two digits ...", "07")

The parser, the check, the export, completion and the reference page all come from it. A name with
`later` is known, but the part of qvm that it belongs to does not exist yet; setting it prints a
warning.
"""

from __future__ import annotations

from qvmsh.config import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

YES = frozenset(("yes", "true", "on", "1"))
NO = frozenset(("no", "false", "off", "0"))
_UNITS = {"K": -10, "M": 0, "G": 10, "T": 20}

FORMATS = ("qcow2", "raw", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc")
BUSES = ("virtio", "ide", "sata", "scsi", "nvme")
ACCELERATORS = ("auto", "kvm", "tcg", "hvf", "nvmm", "whpx", "xen")
NET_MODELS = ("virtio", "e1000", "e1000e", "rtl8139", "ne2k_pci", "pcnet", "vmxnet3", "igb", "none")
ARCHITECTURES = ("x86_64", "i386", "aarch64", "arm", "riscv64", "loongarch64", "ppc64", "s390x")
DISPLAYS = ("none", "gtk", "sdl", "curses", "cocoa", "dbus", "egl-headless", "spice-app")


class Variable:
    """One row of the table.

    Args:
        name: with its `VM_`.
        kind: `text`, `file name`, `id`, `account`, `user`, `integer`, `memory`, `boolean`, `choice`,
            `options` (a choice, then `,property=value`), `model`, `path`, `program`, `words`,
            `lines`, `forwards`, `ssh options`, `number`, `port`, `ready`, `vnc`, `disks`, `shares`,
            `boot order`, `clock`, `arguments`; it decides how a value is checked and its type in Python.
        help: one line.
        default: value if it is not set; "" if there is none.
        group: heading on the reference page.
        unit: unit of an integer.
        allowed: the values of a choice; for other kinds, those that completion offers.
        least, most: bounds of an integer.
        later: the part of qvm that this variable waits for.
        needed: it must be set.
        computed: the variable that it is computed from; it cannot be set.
        context: it describes how qvm was called; it cannot be set in a file.
        follows: the variable whose value is the default.
    """

    __slots__ = (
        "allowed", "computed", "context", "default", "follows", "group", "help", "kind", "later", "least",
        "most", "name", "needed", "unit",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: str,
        help: str,
        default: str = "",
        *,
        group: str,
        unit: str = "",
        allowed: tuple[str, ...] = (),
        least: int = 0,
        most: int = 0,
        later: str = "",
        needed: bool = False,
        computed: str = "",
        context: bool = False,
        follows: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.default = default
        self.group = group
        self.unit = unit
        self.allowed = allowed
        self.least = least
        self.most = most
        self.later = later
        self.needed = needed
        self.computed = computed
        self.context = context
        self.follows = follows

    def __repr__(self) -> str:
        return f"Variable({self.name!r}, {self.kind!r})"

    @property
    def range(self) -> str:
        """The allowed values, in words."""
        if self.kind in ("choice", "options"):
            return "one of " + ", ".join(self.allowed) + _MORE.get(self.kind, "")
        if self.kind == "integer":
            bounds = f"from {self.least}" + (f" to {self.most}" if self.most else " up")
            return f"a number {bounds}" + (f" ({self.unit})" if self.unit else "")
        return _RANGES[self.kind]

    def check(self, value: str) -> tuple[str, str] | None:
        """What is wrong with `value` (as the end of a sentence), and a better one ("" if unknown)."""
        control = next((c for c in value if c in words.CONTROLS), "") if not value.isprintable() else ""
        if control:
            return f"contains the control character {control!r}", ""
        if not value:
            return ("is empty", "") if self.needed else None
        wrong = _CHECKS[self.kind](self, value)
        if wrong is None:
            return None
        return f"is {shown(value)}, but must be {wrong[0] or self.range}", wrong[1]

    def canonical(self, value: str) -> str:
        """`value` in its canonical spelling for scripts: MiB as digits, yes or no."""
        if self.kind == "memory":
            return str(memory_mib(value))
        if self.kind == "boolean":
            return "yes" if value.lower() in YES else "no"
        return value


_HEX = frozenset("0123456789abcdefABCDEF")
_MORE = {"options": "; optionally with ,property=value"}
_RANGES = {
    "text": "any text",
    "file name": "part of a file name: no / or control character, not beginning with - or .",
    "id": "two digits (00 to 99)",
    "account": "an account of this host",
    "user": "the name of an account: without blanks, not beginning with -",
    "memory": "a number of MiB, or one with K, M, G or T: 2048, 2G",
    "boolean": "yes or no",
    "model": "a network card of QEMU, or none",
    "path": "a path, relative to the machine's directory",
    "program": "a program on PATH, or a path",
    "words": "words, split as a shell would",
    "lines": "one entry per line",
    "ssh options": "words for ssh, or lines `Key value` or `Key=value` as in ssh_config",
    "forwards": "one port of the host and one of the guest per line: 8080:80, udp:5353:53, 0.0.0.0:8080:80",
    "number": "a number above 0, optionally with a fraction: 2, 1.5",
    "port": "auto, or a port from 1 to 65535",
    "mac": "auto, or six bytes as 52:54:00:12:34:56",
    "ready": "ssh, agent, none, or console: and a regular expression",
    "vnc": "[HOST]:NUMBER and options, as for QEMU's -vnc",
    "disks": "one path[:format[:cache]][:ro] per line",
    "shares": "one HOSTDIR:TAG[:ro][:9p|virtiofs][:mount=PATH] per line",
    "boot order": "disk, disk1, cdrom, network, menu, in the boot order",
    "clock": "utc, localtime, or a date such as 2030-01-31T12:00:00",
    "arguments": "words, split as a shell would, without options that only qvm sets",
}


def shown(value: str) -> str:
    """`value` for a message: one short line in quotes."""
    return repr(value if len(value) <= 60 else value[:57] + "...")


def memory_mib(value: str) -> int:
    """`value` in MiB (2048, 2G, 512M).

    Raises:
        ValueError: it is not such a number, or not a whole number of MiB.
    """
    digits, shift = value, 0
    if value[-1:].upper() in _UNITS and not value[-1:].isdigit():
        digits, shift = value[:-1], _UNITS[value[-1].upper()]
    number = _number(digits)
    if shift < 0 and number % 1024:
        raise ValueError("not a whole number of MiB")
    return number << shift if shift >= 0 else number >> -shift


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError("not a number")
    return int(text)


if TYPE_CHECKING:
    Wrong = tuple[str, str] | None


def _any(_variable: Variable, _value: str) -> Wrong:
    return None


def _file_name(_variable: Variable, value: str) -> Wrong:
    # a byte that is not UTF-8 (a surrogate here) is allowed, other invisible characters are not
    fine = "".join(c if (c.isprintable() and c != "/") or "\udc80" <= c <= "\udcff" else "-" for c in value)
    better = fine.lstrip("-.")
    if len(value.encode(errors="surrogateescape")) > 200:
        return "at most 200 bytes long", ""
    if value[0] in "-." or fine != value:
        return "", better if len(better) <= 100 else ""
    return None


def _id(_variable: Variable, value: str) -> Wrong:
    if len(value) == 2 and value.isascii() and value.isdigit():
        return None
    return "", "0" + value if len(value) == 1 and value.isascii() and value.isdigit() else ""


def _account(_variable: Variable, value: str) -> Wrong:
    import pwd

    try:
        pwd.getpwnam(value)
    except (KeyError, ValueError):
        import os

        try:
            return "", pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            return "", ""
    return None


def _user(_variable: Variable, value: str) -> Wrong:
    wrong = value[0] == "-" or not value.isprintable() or any(c in value for c in " '\"\\$`;&|<>()")
    return ("", "") if wrong else None


def _integer(variable: Variable, value: str) -> Wrong:
    try:
        number = _number(value)
    except ValueError:
        return "", ""
    if number < variable.least:
        return "", str(variable.least)
    return ("", str(variable.most)) if variable.most and number > variable.most else None


def _memory(_variable: Variable, value: str) -> Wrong:
    try:
        number = memory_mib(value)
    except ValueError:
        better = value.upper().removesuffix("IB").removesuffix("B").replace(" ", "")
        try:
            memory_mib(better)
        except ValueError:
            better = ""
        return "", better
    return ("", "") if not 1 <= number <= 1 << 30 else None


def _boolean(_variable: Variable, value: str) -> Wrong:
    return None if value.lower() in YES or value.lower() in NO else ("", "")


def _choice(variable: Variable, value: str) -> Wrong:
    if value in variable.allowed:
        return None
    from qvmsh.config.spelling import near

    return "", near(value.lower(), variable.allowed) or ""


def _ready(variable: Variable, value: str) -> Wrong:
    kind, mark, pattern = value.partition(":")
    if not (mark and kind == "console"):
        return _choice(variable, value)
    import re  # late: it costs more than all others together

    try:
        re.compile(pattern)
    except re.error as error:
        return f"a regular expression after console: ({error})", ""
    return None if pattern else ("console: and a regular expression, such as console:login:", "")


def _options(variable: Variable, value: str) -> Wrong:
    head, comma, rest = value.partition(",")
    if head in variable.allowed and (not comma or (rest and head != "auto")):
        return None
    from qvmsh.config.spelling import near

    better = near(head.lower(), variable.allowed)
    return "", better + comma + rest if better and better != "auto" and rest else better or ""


def _model(_variable: Variable, value: str) -> Wrong:
    fine = value.isascii() and all(c.isalnum() or c in "-_." for c in value) and value[0] != "-"
    return None if fine else ("", "")


def _program(_variable: Variable, value: str) -> Wrong:
    return ("", "") if value[0] == "-" or "\n" in value else None


def _refused(read: Callable[..., object], value: object, form: str) -> Wrong:
    """Wrong if `read` refuses the value; `form` says what it takes, with `{}` for the reason."""
    try:
        read(value)
    except ValueError as error:
        return form.format(error), ""
    return None


def _words(_variable: Variable, value: str) -> Wrong:
    return _refused(words.split, value, "words, split as a shell would ({})")


def _ssh_options(_variable: Variable, value: str) -> Wrong:
    from qvmsh.config import ssh_options

    return _refused(ssh_options.arguments, value, ssh_options.FORM + " ({})")


def _forwards(_variable: Variable, value: str) -> Wrong:
    from qvmsh.config import forwards

    lines = [line.strip() for line in value.split("\n") if line.strip()]
    return _refused(forwards.parse_all, lines, forwards.FORMS + "; {}")


def _fraction(_variable: Variable, value: str) -> Wrong:
    whole, _, part = value.partition(".")
    fine = (whole + part).isascii() and (whole + part).isdigit() and len(value) <= 10 and float(value) > 0
    return None if fine else ("", value.replace(",", ".") if value.replace(",", "").isdigit() else "")


def _port(_variable: Variable, value: str) -> Wrong:
    if value == "auto":
        return None
    try:
        return None if 1 <= _number(value) <= 65535 else ("", "auto")
    except ValueError:
        return "", "auto"


def _mac(_variable: Variable, value: str) -> Wrong:
    parts = value.split(":")
    is_address = len(parts) == 6 and all(len(part) == 2 and set(part) <= _HEX for part in parts)
    if value == "auto" or (is_address and not int(parts[0], 16) & 1):  # the lowest bit marks a group
        return None
    return "", "auto"


def _vnc(_variable: Variable, value: str) -> Wrong:
    head = value.partition(",")[0]
    number = head.rpartition(":")
    if head == "none" or head.startswith("unix:") or (number[1] and number[2].isdigit()):
        return None
    return "", ":" + head if head.isdigit() else ""


def _disks(_variable: Variable, value: str) -> Wrong:
    from qvmsh.config import devices

    return _refused(devices.disks, value, "one path[:format[:cache]][:ro] per line ({})")


def _shares(_variable: Variable, value: str) -> Wrong:
    from qvmsh.config import shares

    return _refused(shares.parse_all, value, shares.FORM + " ({})")


def _boot(_variable: Variable, value: str) -> Wrong:
    from qvmsh.config import devices

    return _refused(devices.boot, value, "disk, disk1, cdrom, network or menu, in the boot order ({})")


def _clock(_variable: Variable, value: str) -> Wrong:
    from qvmsh.config import devices

    return None if devices.is_clock(value) else ("", "utc" if value.lower() in ("utc", "gmt") else "")


def _arguments(variable: Variable, value: str) -> Wrong:
    from qvmsh.config import devices

    wrong = _words(variable, value)
    own = "" if wrong else devices.collision(words.split(value))
    return (f"without `{own}`: only qvm sets that", "") if own else wrong


_CHECKS: dict[str, Callable[[Variable, str], Wrong]] = {
    "text": _any,
    "file name": _file_name,
    "id": _id,
    "account": _account,
    "user": _user,
    "integer": _integer,
    "memory": _memory,
    "boolean": _boolean,
    "choice": _choice,
    "options": _options,
    "model": _model,
    "path": _any,
    "program": _program,
    "ready": _ready,
    "words": _words,
    "lines": _any,
    "forwards": _forwards,
    "ssh options": _ssh_options,
    "number": _fraction,
    "port": _port,
    "mac": _mac,
    "vnc": _vnc,
    "disks": _disks,
    "shares": _shares,
    "boot order": _boot,
    "clock": _clock,
    "arguments": _arguments,
}


def _table() -> tuple[Variable, ...]:
    V = Variable  # noqa: N806  # a row a line is what makes a table readable
    return (
        V("VM_MACHINE_NAME", "file name", "name of the machine; used in its file names",
          group="machine", needed=True),
        V("VM_MACHINE_ID", "id", "two digits, different for machines that run at the same time",
          group="machine", needed=True),
        V("VM_MACHINE_OWNER", "account",
          "account of this host that owns the machine and whose ssh key is used",
          group="machine", needed=True),
        V("VM_MACHINE_USER", "user", "account in the guest that ssh logs in to",
          group="machine", follows="VM_MACHINE_OWNER"),
        V("VM_MACHINE_MEM", "memory", "guest memory", "1024", group="machine", unit="MiB"),
        V("VM_MACHINE_CPUS", "integer", "virtual processors", "2", group="machine", least=1, most=4096),
        V("VM_MACHINE_ARCH", "choice", "architecture of the guest; empty = that of VM_QEMU_BIN",
          group="machine", allowed=ARCHITECTURES),
        V("VM_LABELS", "words", "labels of the machine, for `qvm list --label WORD`", group="machine"),
        V(
            "VM_REQUIRES", "words", "known machines to start before this one, and to stop after it",
            group="machine",
        ),
        V("VM_PROTECT", "boolean", "`qvm delete` refuses this machine", "no", group="machine"),
        V("VM_LIMIT_MEM", "memory", "memory that QEMU may use, limited by systemd; empty = no limit",
          group="machine", unit="MiB"),
        V("VM_LIMIT_CPUS", "number", "processors that QEMU may use, limited by systemd; empty = no limit",
          group="machine"),

        V("VM_FMT", "choice", "format of the images, and the suffix of their names", "qcow2",
          group="disks", allowed=FORMATS),
        V("VM_USE_SNAPSHOTS", "boolean", "base and overlay; no = one image NAME.FMT", "yes", group="disks"),
        V("VM_DISK_BUS", "choice", "bus of the guest's disks", "virtio", group="disks", allowed=BUSES),
        V("VM_SNAPSHOT_SEEDNAME", "file name", "name part of the seed", "seed", group="disks",
          follows="VM_SNAPSHOT_SEEDNAME_DEFAULT"),
        V("VM_SNAPSHOT_BASENAME", "file name", "name part of the base image", "base", group="disks",
          follows="VM_SNAPSHOT_BASENAME_DEFAULT"),
        V("VM_SNAPSHOT_BACKINGNAME", "file name", "name part of the overlay, the writable layer", "backing",
          group="disks", follows="VM_SNAPSHOT_BACKINGNAME_DEFAULT"),
        V("VM_SNAPSHOT_SEEDNAME_DEFAULT", "file name", "VM_SNAPSHOT_SEEDNAME for all machines", "seed",
          group="disks"),
        V("VM_SNAPSHOT_BASENAME_DEFAULT", "file name", "VM_SNAPSHOT_BASENAME for all machines", "base",
          group="disks"),
        V("VM_SNAPSHOT_BACKINGNAME_DEFAULT", "file name",
          "VM_SNAPSHOT_BACKINGNAME for all machines", "backing",
          group="disks"),
        V("VM_SNAPSHOT_SEEDFILENAME", "text", "file of the seed, the image that `init` copies: NAME-seed.FMT",
          group="disks", computed="VM_SNAPSHOT_SEEDNAME"),
        V("VM_SNAPSHOT_BASEFILENAME", "text", "file of the base image: NAME-base.FMT", group="disks",
          computed="VM_SNAPSHOT_BASENAME"),
        V("VM_SNAPSHOT_BACKINGFILENAME", "text", "file of the overlay: NAME-backing.FMT", group="disks",
          computed="VM_SNAPSHOT_BACKINGNAME"),
        V("VM_DISKS", "disks", "additional disks, one path[:format[:cache]][:ro] per line", group="disks"),
        V("VM_CDROM", "path", "image in the CD drive; empty = no drive", group="disks"),
        V("VM_SHARE", "shares", "directories of the host for the guest, "
          "one HOSTDIR:TAG[:ro][:9p|virtiofs][:mount=PATH] per line", group="disks"),

        V("VM_QEMU_BIN", "program", "QEMU", "qemu-system-x86_64", group="qemu"),
        V("VM_QEMU_IMG", "program", "QEMU's tool for images", "qemu-img", group="qemu"),
        V("VM_QEMU_MACHINE", "text", "machine type, with its properties", "pc", group="qemu",
          allowed=("pc", "q35", "microvm", "virt")),
        V("VM_QEMU_CPU", "text", "the guest's processor model; empty = the best of the accelerator",
          group="qemu", allowed=("host", "max", "qemu64")),
        V("VM_QEMU_ACCEL", "options", "accelerator; auto = the fastest that works here", "auto", group="qemu",
          allowed=ACCELERATORS),
        V("VM_QEMU_EXTRA", "words", "additional arguments for QEMU", group="qemu"),
        V("VM_QEMU_SANDBOX", "options", "QEMU's seccomp filter; auto = on if QEMU supports it", "auto",
          group="qemu", allowed=("auto", "on", "off")),
        V("VM_QEMU_DISPLAY", "text", "QEMU's display; empty = a window for `run` on a desktop, else none",
          group="qemu", allowed=DISPLAYS),
        V("VM_QEMU_VNC", "vnc", "VNC server: [host]:number; the default host is 127.0.0.1", group="qemu"),
        V("VM_QEMU_ARGS", "arguments", "arguments that replace all generated hardware",
          group="qemu"),
        V("VM_FIRMWARE", "choice", "firmware; empty = the machine type's own (bios on a PC)",
          group="qemu", allowed=("bios", "uefi", "uefi-secure")),
        V("VM_TPM", "boolean", "add a TPM, emulated by swtpm", "no", group="qemu"),
        V("VM_BOOT", "boot order", "such as cdrom,disk; menu = choose at boot; empty = disk, then CD",
          group="qemu"),
        V("VM_KERNEL", "path", "kernel that QEMU boots directly", group="qemu"),
        V("VM_INITRD", "path", "initial RAM disk for VM_KERNEL", group="qemu"),
        V("VM_APPEND", "text", "command line for VM_KERNEL", group="qemu"),
        V("VM_SERIAL", "boolean", "add a serial console", "yes", group="qemu"),
        V("VM_GUEST_AGENT", "boolean", "add a channel for QEMU's guest agent", "yes", group="qemu"),
        V("VM_GUEST_AGENT_METHOD", "choice", "device of that channel", "virtio-serial", group="qemu",
          allowed=("virtio-serial", "isa-serial")),
        V("VM_VIRTIO_RNG", "boolean", "add a random number device", "yes", group="qemu"),
        V("VM_RTC_BASE", "clock", "start value of the guest's clock: utc, localtime, or a date", "utc",
          group="qemu", allowed=("utc", "localtime")),

        V("VM_NET_MODEL", "model", "network card; none = no network", "virtio",
          group="network", allowed=NET_MODELS),
        V("VM_NET_MAC", "mac", "address of the network card; empty = from VM_MACHINE_ID, auto = from uuid",
          group="network", allowed=("auto",)),
        V("VM_NETWORK", "lines", "bridges and tap devices", group="network", later="bridges"),
        V("VM_NET_GUEST", "text", "the guest's address for ssh", group="network", later="bridges"),
        V("VM_HOSTFWD", "forwards",
          "ports forwarded to the guest, one per line; the default address is 127.0.0.1",
          group="network"),
        V("VM_NET_LISTEN", "text",
          "opens a telnet monitor, without a password, on this address; empty = 127.0.0.1",
          group="network"),
        V("VM_NET_PORT", "port", "opens a telnet monitor on this port; empty = 77 followed by VM_MACHINE_ID",
          group="network", allowed=("auto",)),
        V("VM_NET_HOST", "text", "opens a telnet monitor; name of this host for other hosts",
          group="network"),

        V("VM_SSH_PORT", "port", "port on 127.0.0.1 for the guest's ssh; auto = a free one", "auto",
          group="ssh",
          allowed=("auto",)),
        V("VM_SSH_IDENTITY", "path", "private key; empty = the keys of VM_MACHINE_OWNER", group="ssh"),
        V("VM_SSH_GUEST_PORT", "integer", "port of the guest's ssh server", "22", group="ssh", least=1,
          most=65535),
        V("VM_SSH_OPTIONS", "ssh options", "additional arguments for ssh, or lines as in ssh_config",
          group="ssh"),
        V("VM_READY", "ready", "when the guest is ready: ssh = ssh answers, agent = its agent answers, "
          "console:REGEX = its serial console has shown it, none = QEMU runs; empty = ssh if it is reachable",
          group="ssh", allowed=("ssh", "agent", "none")),
        V("VM_CONSOLE_USER", "user", "account that `exec --via serial` logs in to on the console", "root",
          group="ssh"),
        V("VM_CONSOLE_PASSWORD_FILE", "path", "file with its password", group="ssh"),
        V("VM_SSH_ATTEMPTS", "integer", "ssh attempts before a start fails; without KVM 30 is raised to 150",
          "30", group="ssh", unit="attempts of 2 s", least=1, most=1000000),
        V("VM_SHUTDOWN_TIMEOUT", "integer", "time that the guest may take to power off", "120",
          group="ssh", unit="s",
          least=1, most=1000000),

        V("VM_PRE_START", "words", "program to run before QEMU starts; if it fails, the start fails",
          group="hooks"),
        V("VM_POST_STOP", "words", "program to run after QEMU has ended; if it fails, qvm warns",
          group="hooks"),

        V("VM_LOG", "path", "log file for unattended use", group="log"),
        V("VM_ERRLOG", "path", "log file for errors; empty = VM_LOG", group="log"),
        V("VM_DATEFMT", "text", "time stamps in these logs, in the format of strftime", "%F %T", group="log"),

        V("VM_SHELL", "choice", "prompt of `qvm sh`", "xonsh", group="shell",
          allowed=("xonsh", "ptpython", "python")),

        V("VM_INCLUDE", "path", "another file to read at this line", group="context"),
        V("VM_HOME", "path", "directory of the machine", group="context", context=True),
        V("VM_HOME_OVERRIDES_CWD", "boolean", "VM_HOME wins over a .vmrc in the current directory", "no",
          group="context"),
        V("VM_GLOBAL_CONFIG", "path", "global file to use instead of /etc/qvm/vmrc",
          group="context", context=True),
        V("VM_CONFIG", "path", "the machine's .vmrc", group="context", context=True),
        V("VM_CALLING_DIR", "path", "directory that qvm was called in", group="context", context=True),
        V("VM_PARAMS", "text", "arguments of a script", group="context", context=True),
        V("VM_LIB", "path", "folder with the functions of the old vm; set by `qvm sh --shell`",
          group="context", context=True),

        V("VM_SAVE_DELAY", "text", "delay of the old vm after savevm; not used: qvm waits for the job",
          group="context"),
        V("VM_SNAPSHOT_ON_STOP", "integer", "save the disks after each `stop` that powers the guest off, and "
          "keep so many of these snapshots; 0 = do not", "0", group="disks", unit="snapshots", most=10000),
        V("VM_ARCHIVE", "text", "where archives are stored: a folder, or `ssh://[USER@]HOST[:PORT]/FOLDER`; "
          "empty = the machine's directory", group="disks"),
    )  # fmt: skip


VARIABLES: dict[str, Variable] = {variable.name: variable for variable in _table()}

MISTAKEN = {
    "VM_CPUS": "VM_MACHINE_CPUS",
    "VM_IMAGE": "VM_DISKS",
    "VM_MACHINE_NCPU": "VM_MACHINE_CPUS",
    "VM_MACHINE_RAM": "VM_MACHINE_MEM",
    "VM_MACHINE_SMP": "VM_MACHINE_CPUS",
    "VM_MACHINE_VCPUS": "VM_MACHINE_CPUS",
    "VM_MEM": "VM_MACHINE_MEM",
    "VM_MEMORY": "VM_MACHINE_MEM",
    "VM_OVERLAY": "VM_SNAPSHOT_BACKINGNAME",
    "VM_PORT": "VM_SSH_PORT",
    "VM_RAM": "VM_MACHINE_MEM",
    "VM_SHARED_FOLDERS": "VM_SHARE",
    "VM_SMP": "VM_MACHINE_CPUS",
    "VM_SSH_KEY": "VM_SSH_IDENTITY",
    "VM_SSH_USER": "VM_MACHINE_USER",
}
"""Common mistakes in names, and the names that were meant."""


def meant(name: str) -> str | None:
    """The known variable that `name` is probably a misspelling of."""
    from qvmsh.config.spelling import near

    upper = name.upper()
    if upper in VARIABLES:
        return upper
    if not upper.startswith("VM_"):
        return near(upper, VARIABLES, 1) if "_" in name and len(name) > 6 else None
    if upper in MISTAKEN:
        return MISTAKEN[upper]
    ends = [known for known in VARIABLES if known.endswith(upper[2:])]
    if len(ends) == 1:
        return ends[0]
    found = near(upper, [*VARIABLES, *MISTAKEN], 2 if len(upper) > 7 else 1)
    return MISTAKEN.get(found, found) if found else None
