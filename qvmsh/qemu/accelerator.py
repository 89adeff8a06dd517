"""Which accelerator QEMU should use on this host: measured, because "it opens" proves nothing.

    choose("/usr/bin/qemu-system-x86_64", "auto", io, environ=os.environ).accelerator   # "kvm"

On some hosts (nested clouds without hardware support) KVM creates machines and then emulates a
guest one instruction at a time, so that its kernel never comes up. Therefore `auto` runs a boot
sector of 512 bytes (`probe.S`) under tcg, then under the host's accelerator with a limit of ten
times what tcg took; slower than that is unusable. Tcg itself never fails by time.

The answer holds for this boot of the host and this QEMU (path, mtime, size) and is kept in
`$XDG_CACHE_HOME/qvm/accel`. An answer from a time-out or a failure may have come from
a busy host: it is marked so, and measured again after an hour.
"""

from __future__ import annotations

import os
import sys
import time

from qvmsh.errors import printable
from qvmsh.host import files, process
from qvmsh.qemu import probe, programs
from qvmsh.qemu.probe import TCG, Choice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.io import Io

_MAGIC = "qvm accelerators 1"

_CANDIDATES = {
    "linux": "kvm",
    "darwin": "hvf",
    "netbsd": "nvmm",
    "dragonfly": "nvmm",
    "win32": "whpx",
    "cygwin": "whpx",
}
_DEVICES = {"kvm": "/dev/kvm", "nvmm": "/dev/nvmm"}


def choose(
    qemu_bin: str, wanted: str, io: Io, *, environ: Mapping[str, str], is_fresh: bool = False
) -> Choice:
    """Choose the accelerator for one QEMU: `-accel help`, then the probe, then the cache.

    Args:
        qemu_bin: path of the QEMU that will run the machine.
        wanted: VM_QEMU_ACCEL: `auto`, or a value for `-accel`, unchecked.
        environ: for the cache's place and for the probe's processes.
        is_fresh: measure, whatever the cache says.
    """
    if wanted != "auto":
        return Choice(wanted, f"set by VM_QEMU_ACCEL={wanted}")
    if "/" not in qemu_bin:
        qemu_bin = programs.find(qemu_bin, environ=environ)
    target, host = target_of(qemu_bin), host_architecture()
    hardware = _CANDIDATES.get(_system(), "")
    if not runs_natively(target, host):
        return Choice(TCG, f"no accelerator of an {host} host can run {target}")
    if not hardware:
        return Choice(TCG, f"qvm knows no accelerator of {sys.platform}")
    closed = why_closed(_DEVICES.get(hardware, ""))
    if closed:
        return Choice(TCG, closed[0], hint=closed[1], hardware=hardware)
    key = _key(qemu_bin, hardware)
    cache = _cache_path(environ)
    answer = None if is_fresh else _recall(cache, key)
    if answer:
        return answer.choice(is_cached=True)
    with io.stage(f"measuring {hardware} against tcg (once for this boot of the host)"):
        answer = probe.Prober(qemu_bin, target, io, environ).answer(hardware)
    _remember(cache, key, answer)
    return answer.choice(is_cached=False)


# What is known without running anything


def host_architecture() -> str:
    """The host's architecture by QEMU's name for it."""
    name = os.uname().machine.lower()
    known = {"amd64": "x86_64", "arm64": "aarch64", "i486": "i386", "i586": "i386", "i686": "i386"}
    return known.get(name, name)


def target_of(qemu_bin: str) -> str:
    """The architecture that a QEMU emulates, by its name; the host's if the name has none."""
    name = os.path.basename(qemu_bin)
    if not name.startswith("qemu-system-"):
        return host_architecture()  # `qemu-kvm`, `kvm`, a user's own wrapper
    end = len("qemu-system-")
    while end < len(name) and (name[end].isalnum() or name[end] == "_"):
        end += 1
    return name[len("qemu-system-") : end]


def runs_natively(target: str, host: str) -> bool:
    """True if the host's processor can run the target's instructions itself."""
    return target == host or (target, host) == ("i386", "x86_64")


def why_closed(device: str) -> tuple[str, str | None] | None:
    """Why this user cannot open the accelerator's device, and a hint; None if it opens."""
    if not device:
        return None
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        hint = "enable virtualization in the firmware, or nested virtualization on the outer host"
        return f"there is no {device}", hint
    except PermissionError:
        return _no_right(device)
    except OSError as error:
        return f"cannot open {device}: {error.strerror}", None
    return None


def _no_right(device: str) -> tuple[str, str]:
    """Which group may open the device, and how this user joins it."""
    import grp
    import pwd

    status = os.stat(device)
    try:
        group = grp.getgrgid(status.st_gid)
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return (
            f"no permission to open {device}",
            f"it belongs to group {status.st_gid}, which has no name here",
        )
    if status.st_mode & 0o060 != 0o060 or group.gr_name == "root":
        what = f"no permission to open {device}: only root can open it"
        return what, f"`sudo chgrp kvm {device} && sudo chmod g+rw {device}`, then join group kvm"
    what = f"no permission to open {device}: join group {group.gr_name}"
    if user in group.gr_mem:
        return what, "you are a member, but this session is older: log in again"
    return what, f"`sudo usermod -aG {group.gr_name} {user}`, then log in again"


def _system() -> str:
    return sys.platform.rstrip("0123456789") if sys.platform != "win32" else sys.platform


# What is kept


class _Key:
    """What an answer is valid for: this boot, this accelerator, this QEMU."""

    __slots__ = ("boot", "hardware", "mtime_ns", "path", "size")

    def __init__(self, boot: str, hardware: str, path: str, mtime_ns: int, size: int) -> None:
        self.boot = boot
        self.hardware = hardware
        self.path = ascii(path)  # any name on one line of plain text, quotes and all
        self.mtime_ns = mtime_ns
        self.size = size

    def fields(self) -> list[str]:
        return [self.boot, self.hardware, self.path, str(self.mtime_ns), str(self.size)]


def _key(qemu_bin: str, hardware: str) -> _Key:
    try:
        status = os.stat(qemu_bin)
    except OSError:
        raise programs.missing(qemu_bin) from None
    path = os.path.abspath(qemu_bin)
    return _Key(process.boot_id(), hardware, path, status.st_mtime_ns, status.st_size)


def _cache_path(environ: Mapping[str, str]) -> str | None:
    """The cache's file; None where there is no home. Source: XDG Base Directory (absolute names only)."""
    base = environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return None
        base = os.path.join(home, ".cache")
    return os.path.join(base, "qvm", "accel")


def _rows(cache: str) -> list[list[str]]:
    """The rows of the cache; none if it is missing, unreadable, or another user's."""
    try:
        lines = files.read(cache).data.decode(errors="replace").split("\n")
    except OSError:
        return []
    return [line.split("\t") for line in lines[1:]] if lines[0] == _MAGIC else []


def _recall(cache: str | None, key: _Key) -> probe.Answer | None:
    """The answer that the cache has for `key`, unless it is too old."""
    if cache is None:
        return None
    for row in _rows(cache):
        if len(row) != 10 or row[:5] != key.fields() or row[5] not in probe.VERDICTS:
            continue
        try:
            tcg_s, hardware_s, measured_at = float(row[6]), float(row[7]), float(row[8])
        except ValueError:
            continue
        if not all(0 <= number < 1e11 for number in (tcg_s, hardware_s, measured_at)):
            continue  # also nan; the year 5138 is as far as a date goes
        found = probe.Answer(
            key.hardware, row[5], tcg_s=tcg_s, hardware_s=hardware_s, measured_at=measured_at, detail=row[9]
        )
        if found.is_current(time.time(), has_boot=bool(key.boot)):
            return found
    return None


def _remember(cache: str | None, key: _Key, answer: probe.Answer) -> None:
    """Keep the answer, and those of this boot for other QEMUs; failing to write is not an error."""
    if cache is None or not _may_write(cache):
        return
    mine = key.fields()
    kept = [row for row in _rows(cache) if len(row) == 10 and row[0] == mine[0] and row[1:3] != mine[1:3]]
    numbers = [repr(answer.tcg_s), repr(answer.hardware_s), str(int(answer.measured_at))]
    kept.append([*mine, answer.verdict, *numbers, printable(answer.detail)])
    text = "\n".join([_MAGIC, *("\t".join(row) for row in kept), ""])
    try:
        os.makedirs(os.path.dirname(cache), mode=0o700, exist_ok=True)
        files.write_atomic(cache, text, 0o600)
    except OSError:
        pass


def _may_write(cache: str) -> bool:
    """False for root in another user's home (sudo): that user could not replace the file later."""
    folder = os.path.dirname(cache)
    while True:
        try:
            return os.geteuid() != 0 or os.stat(folder).st_uid == 0
        except OSError:
            folder = os.path.dirname(folder)
