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
from qvmsh.qemu import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qvmsh.io import Io

TCG = "tcg"

LIMIT_FACTOR = 10.0
"""How much slower than tcg an accelerator may be."""

LIMIT_FLOOR_S = 0.5
"""Shortest limit: loading a kernel module or a busy core costs this much on a good host, while the
bad ones took 3 s and more."""

TCG_DEADLINE_S = 60.0
"""A probe that hangs (no firmware, no boot) must end some time; 200 times what it takes."""

CPU_LIMIT_S = 120
"""Processor seconds after which the kernel ends a probe whose qvm was killed with SIGKILL."""

DOUBTFUL_S = 3600.0
"""How long an answer from a time-out or a failure is kept."""

BOOTLESS_S = 86400.0
"""How long any answer is kept if the system has no boot id."""

PROBE_STATUS = {"x86_64": 85, "i386": 0}
"""How QEMU ends after the probe: by isa-debug-exit ((0x2a << 1) | 1); without a 64-bit mode the
probe resets the processor, which `-no-reboot` makes the end. Other targets cannot run it."""

_DISK_BYTES = 1 << 20  # SeaBIOS 1.16 reads a smaller disk on IDE, but not on AHCI (machine q35)
_SLICE_S = 0.1
_MAGIC = "qvm accelerators 1"

# The verdicts; the first three hold until the next boot, the others are doubtful.
USABLE = "usable"
"""Measured: within the limit."""
ACCEPTED = "accepted"
"""QEMU starts with it, but there is nothing to compare it with."""
ABSENT = "absent"
"""This QEMU was built without it."""
TIMEOUT = "timeout"
"""It opens, but the probe had not finished at the limit."""
REFUSED = "refused"
"""QEMU cannot start with it, or the probe failed."""
UNMEASURED = "unmeasured"
"""The probe did not even run under tcg, so there is nothing to compare with."""

_LASTING = (USABLE, ACCEPTED, ABSENT)
_VERDICTS = (*_LASTING, TIMEOUT, REFUSED, UNMEASURED)

_CANDIDATES = {
    "linux": "kvm",
    "darwin": "hvf",
    "netbsd": "nvmm",
    "dragonfly": "nvmm",
    "win32": "whpx",
    "cygwin": "whpx",
}
_DEVICES = {"kvm": "/dev/kvm", "nvmm": "/dev/nvmm"}


class Choice:
    """What `-accel` should be, and why.

    Args:
        accelerator: the argument of `-accel`.
        why: one line for the user.
        hint: what would give a faster machine, None if nothing would.
        hardware: the accelerator that was considered, "" if there is none for this target.
        verdict: one of the words above, "" where nothing was measured.
        probed: programs were run for this answer, just now.
        cached: it was read from the cache.
        tcg_s: what the probe took under tcg.
        hardware_s: what it took under `hardware`; None if it had not finished.
        limit_s: what it was allowed to take.
        measured_at: seconds since the epoch.
    """

    __slots__ = (
        "accelerator", "cached", "hardware", "hardware_s", "hint", "limit_s", "measured_at", "probed",
        "tcg_s", "verdict", "why",
    )  # fmt: skip

    def __init__(self, accelerator: str, why: str, *, hint: str | None = None, hardware: str = "") -> None:
        self.accelerator = accelerator
        self.why = why
        self.hint = hint
        self.hardware = hardware
        self.verdict = ""
        self.probed = False
        self.cached = False
        self.tcg_s: float | None = None
        self.hardware_s: float | None = None
        self.limit_s: float | None = None
        self.measured_at: float | None = None

    def __str__(self) -> str:
        return f"{self.accelerator}: {self.why}"

    def as_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


def choose(
    qemu_bin: str, wanted: str, io: Io, *, environ: Mapping[str, str], is_fresh: bool = False
) -> Choice:
    """Choose the accelerator for one QEMU: `-accel help`, then the probe, then the cache.

    Args:
        qemu_bin: path of the QEMU that will run the machine.
        wanted: VM_QEMU_ACCEL: `auto`, or a value for `-accel`, unchecked.
        environ: for the cache's place and for the probe's processes.
        is_fresh: measure, whatever the cache says.

    Raises:
        MissingProgramError: `qemu_bin` cannot be run.
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
        answer = _Prober(qemu_bin, target, io, environ).answer(hardware)
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
        hint = "enable virtualisation in the firmware, or nested virtualisation on the outer host"
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


# What is measured


class _Answer:
    """One measured answer, as in the cache."""

    __slots__ = ("detail", "hardware", "hardware_s", "measured_at", "tcg_s", "verdict")

    def __init__(
        self,
        hardware: str,
        verdict: str,
        *,
        tcg_s: float = 0.0,
        hardware_s: float = 0.0,
        measured_at: float | None = None,
        detail: str = "",
    ) -> None:
        self.hardware = hardware
        self.verdict = verdict
        self.tcg_s = tcg_s
        self.hardware_s = hardware_s
        self.measured_at = time.time() if measured_at is None else measured_at
        self.detail = detail

    def is_current(self, now: float, *, has_boot: bool) -> bool:
        """True if the answer may still be used; one from the future is not (the clock was set back)."""
        if self.verdict in _LASTING and has_boot:
            return True
        age = now - self.measured_at
        return 0 <= age < (BOOTLESS_S if self.verdict in _LASTING else DOUBTFUL_S)

    def choice(self, *, is_cached: bool) -> Choice:
        """The answer in words."""
        is_hardware = self.verdict in (USABLE, ACCEPTED)
        found = Choice(self.hardware if is_hardware else TCG, self._why(), hardware=self.hardware)
        found.verdict = self.verdict
        found.probed, found.cached = not is_cached, is_cached
        found.measured_at = self.measured_at
        if self.tcg_s:
            found.tcg_s = self.tcg_s
            found.limit_s = limit(self.tcg_s)
        if self.verdict == USABLE:
            found.hardware_s = self.hardware_s
        if self.verdict not in _LASTING:
            found.hint = "`qvm doctor --probe` measures again; VM_QEMU_ACCEL overrides it"
        return found

    def _why(self) -> str:
        when = time.strftime("%F %T", time.localtime(self.measured_at))
        until = time.strftime("%T", time.localtime(self.measured_at + DOUBTFUL_S))
        name, reason = self.hardware, f": {self.detail}" if self.detail else ""
        held = f"measured {when}, again after {until}"
        if self.verdict == USABLE:
            return f"the probe took {self.hardware_s:.2f} s, tcg {self.tcg_s:.2f} s; measured {when}"
        if self.verdict == ACCEPTED:
            return f"QEMU starts with {name}; not measured{reason}"
        if self.verdict == ABSENT:
            return f"this QEMU was built without {name}"
        if self.verdict == TIMEOUT:
            return (
                f"{name} is present but unusable: timed out after {limit(self.tcg_s):.1f} s, "
                f"where tcg took {self.tcg_s:.2f} s; {held}"
            )
        if self.verdict == REFUSED:
            return f"{name} is present but QEMU cannot use it{reason}; {held}"
        return f"the probe did not run under tcg{reason}, so {name} was not measured; {held}"


def limit(tcg_s: float) -> float:
    """What an accelerator may take where tcg just took `tcg_s` seconds."""
    return max(LIMIT_FACTOR * tcg_s, LIMIT_FLOOR_S)


class _Ended:
    """How one probe ended: status (None = it was killed), seconds, QEMU's last message."""

    __slots__ = ("seconds", "status", "words")

    def __init__(self, status: int | None, seconds: float, words: str) -> None:
        self.status = status
        self.seconds = seconds
        self.words = words

    def __str__(self) -> str:
        if self.status is None:
            return f"it had not finished after {self.seconds:.1f} s"
        how = f"signal {-self.status}" if self.status < 0 else f"status {self.status}"
        return f"{self.words} ({how})" if self.words else f"it exited with {how}"


class _Prober:
    """Runs one QEMU's probes; each of its processes has ended when a method returns or raises."""

    def __init__(self, qemu_bin: str, target: str, io: Io, environ: Mapping[str, str]) -> None:
        self.qemu_bin = qemu_bin
        self.target = target
        self.io = io
        self.environ = dict(environ)

    def answer(self, hardware: str) -> _Answer:
        supported = self.supported()
        if hardware not in supported:
            return _Answer(hardware, ABSENT)
        if TCG not in supported:
            return self._accepts(hardware, "this QEMU has no tcg to compare with")
        if hardware == "whpx":  # QEMU for Windows takes no file descriptors, so not this disk
            return self._accepts(hardware, "the probe does not run on this system")
        expected = PROBE_STATUS.get(self.target)
        if expected is None:
            return self._accepts(hardware, f"the probe does not run on {self.target}")
        tcg = self.probe(TCG, TCG_DEADLINE_S)
        if tcg.status != expected:
            return _Answer(hardware, UNMEASURED, detail=str(tcg))
        hard = self.probe(hardware, limit(tcg.seconds))
        verdict = USABLE if hard.status == expected else TIMEOUT if hard.status is None else REFUSED
        detail = str(hard) if verdict == REFUSED else ""
        return _Answer(hardware, verdict, tcg_s=tcg.seconds, hardware_s=hard.seconds, detail=detail)

    def supported(self) -> list[str]:
        """The accelerators that this QEMU was built with (`-accel help`)."""
        ended, output = self._run(["-accel", "help"], TCG_DEADLINE_S, is_output_wanted=True)
        self.io.trace(f"{self.qemu_bin} -accel help: {' '.join(output.split())} ({ended})")
        return output.split("\n")[1:]

    def probe(self, accelerator: str, timeout_s: float) -> _Ended:
        """Run the boot sector under one accelerator.

        The disk is passed as a descriptor of a nameless copy: the package may be where QEMU
        cannot write, and IDE disks refuse a read-only file.
        """
        fd = _disk()
        try:
            words = [
                "-accel", accelerator, "-no-user-config", "-nodefaults", "-display", "none", "-m", "16",
                "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
                "-add-fd", f"fd={fd},set=1",
                "-blockdev",
                '{"driver":"raw","node-name":"probe","file":{"driver":"file","filename":"/dev/fdset/1"}}',
                "-device", "ide-hd,drive=probe",
            ]  # fmt: skip
            ended, _ = self._run(words, timeout_s, fds=(fd,))
        finally:
            os.close(fd)
        self.io.trace(f"probe under {accelerator}: {ended.seconds:.3f} s, {ended}")
        return ended

    def _accepts(self, hardware: str, why_unmeasured: str) -> _Answer:
        """Check whether QEMU starts with the accelerator, on a machine without devices."""
        words = ["-accel", hardware, "-machine", "none", "-no-user-config", "-nodefaults", "-display", "none"]
        ended, _ = self._run([*words, "-monitor", "stdio"], TCG_DEADLINE_S, sent=b"quit\n")
        is_accepted = ended.status == 0
        return _Answer(
            hardware,
            ACCEPTED if is_accepted else REFUSED,
            detail=why_unmeasured if is_accepted else str(ended),
        )

    def _run(
        self,
        words: Sequence[str],
        timeout_s: float,
        *,
        fds: Sequence[int] = (),
        sent: bytes = b"",
        is_output_wanted: bool = False,
    ) -> tuple[_Ended, str]:
        """Run QEMU until it ends or `timeout_s` passes; it is gone when this returns or raises."""
        import subprocess

        argv = [self.qemu_bin, *words]
        began = time.monotonic()
        child = _Child(argv, self.environ, fds)
        try:
            out = err = b""
            status = None
            while status is None:
                left = began + timeout_s - time.monotonic()
                if left <= 0:
                    break
                try:
                    out, err = child.popen.communicate(sent or None, timeout=min(left, _SLICE_S))
                    status = child.popen.returncode
                except subprocess.TimeoutExpired:
                    sent = b""  # subprocess keeps the rest of the input and refuses to get it again
                    self.io.checkpoint()
            seconds = time.monotonic() - began
        finally:
            child.end()
        return _Ended(status, seconds, _last_words(err, self.qemu_bin)), out.decode(errors="replace")


class _Child:
    """A QEMU that ends with the process that started it."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], fds: Sequence[int]) -> None:
        import signal
        import subprocess

        # No Ctrl-C between the child's start and the moment its pid is known. It starts with the same
        # mask, which does not matter: it is ended by SIGKILL, and with it the session that it leads
        # (a distribution's or a user's QEMU may be a script that runs the real one as its child).
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self.popen = subprocess.Popen(
                argv,
                env=environ,
                pass_fds=tuple(fds),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise programs.missing(argv[0]) from None
        except OSError as error:
            raise programs.unusable(argv[0], error) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        _limit_processor_time(self.popen.pid)

    def end(self) -> None:
        """Kill it and its children if it still runs, wait for its end, close its pipes."""
        if self.popen.poll() is None:  # not reaped, so the group's number is still its own
            os.killpg(self.popen.pid, process.SIGKILL)
            self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe:
                pipe.close()


def _limit_processor_time(pid: int) -> None:
    """Let the kernel end a probe whose qvm was killed (Linux)."""
    import resource

    try:
        resource.prlimit(pid, resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    except (AttributeError, OSError, ValueError):  # another system; it has just ended; a lower limit is set
        pass


def _disk() -> int:
    """A descriptor of a nameless file that holds the boot sector, padded to a disk's size."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.bin"), "rb") as file:
        sector = file.read()
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("qvm-probe")
    else:
        import tempfile

        with tempfile.TemporaryFile() as nameless:
            fd = os.dup(nameless.fileno())
    os.write(fd, sector)
    os.ftruncate(fd, _DISK_BYTES)
    return fd


def _last_words(stderr: bytes, qemu_bin: str) -> str:
    """The last line of QEMU's error, without QEMU's name."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    if not lines:
        return ""
    text = lines[-1]
    for name in (qemu_bin, os.path.basename(qemu_bin)):
        text = text.removeprefix(f"{name}: ")
    return printable(text)[:200]


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


def _recall(cache: str | None, key: _Key) -> _Answer | None:
    """The answer that the cache has for `key`, unless it is too old."""
    if cache is None:
        return None
    for row in _rows(cache):
        if len(row) != 10 or row[:5] != key.fields() or row[5] not in _VERDICTS:
            continue
        try:
            tcg_s, hardware_s, measured_at = float(row[6]), float(row[7]), float(row[8])
        except ValueError:
            continue
        if not all(0 <= number < 1e11 for number in (tcg_s, hardware_s, measured_at)):
            continue  # also nan; the year 5138 is as far as a date goes
        found = _Answer(
            key.hardware, row[5], tcg_s=tcg_s, hardware_s=hardware_s, measured_at=measured_at, detail=row[9]
        )
        if found.is_current(time.time(), has_boot=bool(key.boot)):
            return found
    return None


def _remember(cache: str | None, key: _Key, answer: _Answer) -> None:
    """Keep the answer, and those of this boot for other QEMUs; failing to write is not an error."""
    if cache is None or not _may_write(cache):
        return
    mine = key.fields()
    kept = [row for row in _rows(cache) if len(row) == 10 and row[0] == mine[0] and row[1:3] != mine[1:3]]
    numbers = [f"{answer.tcg_s:.4f}", f"{answer.hardware_s:.4f}", str(int(answer.measured_at))]
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
