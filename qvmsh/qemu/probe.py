"""Measuring an accelerator: a boot sector run under tcg and under the accelerator, and what it shows.

Prober("/usr/bin/qemu-system-x86_64", "x86_64", io, os.environ).answer("kvm").choice(is_cached=False)
"""

from __future__ import annotations

import os
import time

from qvmsh.errors import printable
from qvmsh.host import process
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
VERDICTS = (*_LASTING, TIMEOUT, REFUSED, UNMEASURED)


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


class Answer:
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


class Ended:
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


class Prober:
    """Runs one QEMU's probes; each of its processes has ended when a method returns or raises."""

    def __init__(self, qemu_bin: str, target: str, io: Io, environ: Mapping[str, str]) -> None:
        self.qemu_bin = qemu_bin
        self.target = target
        self.io = io
        self.environ = dict(environ)

    def answer(self, hardware: str) -> Answer:
        supported = self.supported()
        if hardware not in supported:
            return Answer(hardware, ABSENT)
        if TCG not in supported:
            return self._accepts(hardware, "this QEMU has no tcg to compare with")
        if hardware == "whpx":  # QEMU for Windows takes no file descriptors, so not this disk
            return self._accepts(hardware, "the probe does not run on this system")
        expected = PROBE_STATUS.get(self.target)
        if expected is None:
            return self._accepts(hardware, f"the probe does not run on {self.target}")
        tcg = self.probe(TCG, TCG_DEADLINE_S)
        if tcg.status != expected:
            return Answer(hardware, UNMEASURED, detail=str(tcg))
        hard = self.probe(hardware, limit(tcg.seconds))
        verdict = USABLE if hard.status == expected else TIMEOUT if hard.status is None else REFUSED
        detail = str(hard) if verdict == REFUSED else ""
        return Answer(hardware, verdict, tcg_s=tcg.seconds, hardware_s=hard.seconds, detail=detail)

    def supported(self) -> list[str]:
        """The accelerators that this QEMU was built with (`-accel help`)."""
        ended, output = self._run(["-accel", "help"], TCG_DEADLINE_S)
        self.io.trace(f"{self.qemu_bin} -accel help: {' '.join(output.split())} ({ended})")
        return output.split("\n")[1:]

    def probe(self, accelerator: str, timeout_s: float) -> Ended:
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

    def _accepts(self, hardware: str, why_unmeasured: str) -> Answer:
        """Check whether QEMU starts with the accelerator, on a machine without devices."""
        words = ["-accel", hardware, "-machine", "none", "-no-user-config", "-nodefaults", "-display", "none"]
        ended, _ = self._run([*words, "-monitor", "stdio"], TCG_DEADLINE_S, sent=b"quit\n")
        is_accepted = ended.status == 0
        return Answer(
            hardware,
            ACCEPTED if is_accepted else REFUSED,
            detail=why_unmeasured if is_accepted else str(ended),
        )

    def _run(
        self, words: Sequence[str], timeout_s: float, *, fds: Sequence[int] = (), sent: bytes = b""
    ) -> tuple[Ended, str]:
        """Run QEMU until it ends or `timeout_s` passes; it is gone when this returns or raises."""
        import subprocess

        argv = [self.qemu_bin, *words]
        began = time.monotonic()
        child = None
        try:
            # A Ctrl-C waits until the child is known. The child inherits that, which does not matter: it is
            # ended by SIGKILL, with the session that it leads (QEMU may be a script that runs the real one).
            with process.Shielded():
                child = _Child(argv, self.environ, fds)
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
            if child is not None:
                child.end()
        return Ended(status, seconds, _last_words(err, self.qemu_bin)), out.decode(errors="replace")


class _Child:
    """A QEMU that ends with the process that started it."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], fds: Sequence[int]) -> None:
        import subprocess

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
