"""The checks that `doctor` makes of the host."""

from __future__ import annotations

import os
import sys

from qvmsh.errors import MissingProgramError
from qvmsh.host import files as host_files
from qvmsh.host import logout, sockets
from qvmsh.machine import programs as machine_programs
from qvmsh.machine.doctor.findings import ERROR, OK, WARNING, Case, Finding
from qvmsh.machine.power import hardware
from qvmsh.machine.progress import size
from qvmsh.machine.work import creation_folder
from qvmsh.qemu import accelerator, displays, probe, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from qvmsh.machine.doctor.findings import Check
    from qvmsh.qemu.probe import Choice

OLDEST_QEMU = (7, 2)
"""The oldest QEMU that qvm is tested with; older ones do not take all of its options as JSON."""

LOW_DISK_BYTES = 1 << 30
FULL_DISK_BYTES = 64 << 20


# Programs and packages


def python(_case: Case) -> Iterator[Finding]:
    """The interpreter that runs qvm."""
    yield Finding("python", OK, f"{sys.version.split()[0]} ({sys.executable})")


def packages(_case: Case) -> Iterator[Finding]:
    """The Python packages that qvm declares, and whether their versions fit."""
    from importlib import metadata

    try:
        wanted = metadata.requires("qvmsh") or []
    except metadata.PackageNotFoundError:
        hint = "`pip install qvmsh` brings them"
        yield Finding("packages", WARNING, "qvmsh is not installed as a package: not checked", hint)
        return
    there = []
    for line in wanted:
        name, bounds = _requirement(line)
        if not name:
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, ERROR, "this Python package is not installed", f"`pip install '{line}'`")
            continue
        if not all(_is_within(version, bound) for bound in bounds):
            hint = f"`pip install '{line}'`"
            yield Finding(name, ERROR, f"this Python package has version {version}, not {line}", hint)
            continue
        there.append(f"{name} {version}")
    yield Finding("packages", OK, ", ".join(there) or "none")


def _requirement(line: str) -> tuple[str, list[str]]:
    """Name and bounds of a dependency; no name for one of an extra. Source: PEP 508, what we use of it."""
    spec, _, marker = line.partition(";")
    if "extra" in marker:
        return "", []
    end = next((at for at, c in enumerate(spec) if c in "<>=!~ (["), len(spec))
    return spec[:end], [bound.strip() for bound in spec[end:].strip(" ()").split(",") if bound.strip()]


def _is_within(version: str, bound: str) -> bool:
    """True if the version keeps the bound (`>=2.0.7`, `<0.26`; other operators are left to pip)."""
    numbers = programs.Version(version).numbers
    if bound.startswith(">="):
        return numbers >= programs.Version(bound).numbers
    if bound.startswith("<") and not bound.startswith("<="):
        return numbers < programs.Version(bound).numbers
    return True


def qemu(case: Case) -> Iterator[Finding]:
    """The QEMU that would run the machine."""
    wanted = case.text("VM_QEMU_BIN", f"qemu-system-{accelerator.host_architecture()}")
    name = os.path.basename(wanted)
    try:
        path = yield from _program(case, "VM_QEMU_BIN", wanted)
    except MissingProgramError as error:
        yield Finding(name, ERROR, error.what, error.hint)
        return
    version = programs.version(path)
    if version is None:
        what = f"{path} does not report its version; is it QEMU?"
        yield Finding(name, ERROR, what, "VM_QEMU_BIN names QEMU")
        return
    case.qemu = path
    if version.numbers < OLDEST_QEMU:
        oldest = ".".join(map(str, OLDEST_QEMU))
        yield Finding(
            name, WARNING, f"{version} ({path}) is older than {oldest}", f"install QEMU {oldest} or later"
        )
        return
    yield Finding(name, OK, f"{version} ({path})")


def display(case: Case) -> Iterator[Finding]:
    """What `run` shows the guest's screen on."""
    if not case.qemu:
        return
    found = displays.of(case.qemu)
    window = displays.window(found)
    wanted = case.text("VM_QEMU_DISPLAY", "").partition(",")[0]
    if wanted:
        if wanted in found or not found:
            yield Finding("display", OK, f"VM_QEMU_DISPLAY={wanted}")
            return
        hint = f"{programs.install('gtk')}; or `qvm config VM_QEMU_DISPLAY=` leaves the choice to qvm"
        yield Finding("display", ERROR, f"VM_QEMU_DISPLAY={wanted}, which this QEMU does not have", hint)
    elif not (case.environ.get("DISPLAY") or case.environ.get("WAYLAND_DISPLAY")):
        yield Finding("display", OK, "no desktop: `run` shows the serial console on the terminal")
    elif window:
        yield Finding("display", OK, f"`run` opens a window ({window})")
    else:
        what = "this QEMU cannot open a window: `run` shows the serial console on the terminal"
        yield Finding("display", WARNING, what, programs.install("gtk"))


def tools(case: Case) -> Iterator[Finding]:
    """The other programs that qvm calls."""
    for variable, wanted in (("VM_QEMU_IMG", case.text("VM_QEMU_IMG", "qemu-img")), ("", "ssh")):
        name = os.path.basename(wanted)
        try:
            path = yield from _program(case, variable, wanted)
            yield Finding(name, OK, f"{programs.version(path) or 'unknown version'} ({path})")
        except MissingProgramError as error:
            yield Finding(name, ERROR, error.what, error.hint)
    try:
        yield Finding("ssh-keygen", OK, programs.find("ssh-keygen", environ=case.environ))
    except MissingProgramError as error:
        what = f"{error.what}; only `create --image tiny` needs it"
        yield Finding("ssh-keygen", WARNING, what, error.hint)


def _program(case: Case, variable: str, wanted: str) -> Generator[Finding, None, str]:
    """Path of a program for the checks to run; a finding where that is not the one that is meant."""
    if not variable or case.settings is None:
        return programs.find(wanted, environ=case.environ)
    path = machine_programs.named(case.machine, variable)
    if not case.settings.may_run(variable):
        path, instead = machine_programs.looking(case.machine, variable)
        if instead:
            yield Finding(variable, WARNING, instead.without_hint, instead.hint)
    return path


# What a machine runs on


def kvm(case: Case) -> Iterator[Finding]:
    """Linux: whether this user may use /dev/kvm; whether that helps is the accelerator's matter."""
    target = accelerator.target_of(case.qemu) if case.qemu else ""
    if sys.platform != "linux" or not accelerator.runs_natively(target, accelerator.host_architecture()):
        return
    closed = accelerator.why_closed("/dev/kvm")
    if closed is None:
        yield Finding("/dev/kvm", OK, "opens")
        return
    wanted = case.text("VM_QEMU_ACCEL", "auto")
    level = {"auto": WARNING, "kvm": ERROR}.get(wanted.partition(",")[0], OK)
    yield Finding("/dev/kvm", level, closed[0], closed[1])


def acceleration(case: Case) -> Iterator[Finding]:
    """The accelerator that VM_QEMU_ACCEL selects, and why."""
    if case.qemu is None:
        return
    wanted = case.text("VM_QEMU_ACCEL", "auto")
    case.choice = _choose(case, wanted)
    yield _accelerator_finding("accelerator", case.choice)
    if wanted != "auto" and case.is_probing:
        yield _accelerator_finding("auto would be", _choose(case, "auto"))


def _choose(case: Case, wanted: str) -> Choice:
    assert case.qemu is not None
    return accelerator.choose(case.qemu, wanted, case.io, environ=case.environ, is_fresh=case.is_probing)


def _accelerator_finding(name: str, choice: Choice) -> Finding:
    is_doubtful = choice.verdict in (probe.TIMEOUT, probe.REFUSED, probe.UNMEASURED)
    return Finding(name, WARNING if is_doubtful else OK, str(choice), choice.hint)


def runtime_folder(case: Case) -> Iterator[Finding]:
    """Where the sockets go: there, writable, private, and short enough."""
    wanted = case.environ.get("XDG_RUNTIME_DIR")
    base = sockets.runtime_base(case.environ, os.geteuid())
    if not wanted:
        yield Finding("XDG_RUNTIME_DIR", OK, f"is not set: sockets go to {base}")
    elif os.path.dirname(base) == wanted.rstrip("/"):
        yield Finding("XDG_RUNTIME_DIR", OK, wanted)
    else:
        what = f"{wanted} is not a folder that you can write to: sockets go to {base}"
        yield Finding("XDG_RUNTIME_DIR", WARNING, what, "a login session creates it; or unset the variable")
    # one of our own, so that a `start` at this moment keeps its; the names have the same length
    folder = sockets.runtime_folder(base, host_files.unique("doctor "), "doctor")
    length = len(os.fsencode(os.path.join(folder, sockets.LONGEST_NAME)))
    os.rmdir(folder)
    yield Finding(
        "runtime folder",
        OK,
        f"{base} is private; names of sockets have {length} of {sockets.MAX_PATH_BYTES} bytes",
    )


def end_of_session(_case: Case) -> Iterator[Finding]:
    """Whether machines survive the end of this login."""
    if logout.ends_at_logout():
        what = "this host ends machines when you log out (KillUserProcesses=yes)"
        yield Finding("logout", WARNING, what, "`loginctl enable-linger` keeps them running")
    else:
        yield Finding("logout", OK, "machines keep running after it")


def free_space(case: Case) -> Iterator[Finding]:
    """Free space on the disk of the machine (or the current folder)."""
    free = host_files.free_bytes(case.folder)
    text = f"{size(free)} free in {case.folder}"
    if free >= LOW_DISK_BYTES:
        yield Finding("disk", OK, text)
    else:
        hint = "a full disk pauses the guest at its next write: free some space"
        yield Finding("disk", ERROR if free < FULL_DISK_BYTES else WARNING, f"only {text}", hint)


def memory(case: Case) -> Iterator[Finding]:
    """The host's memory, against the machine's if there is one."""
    total, available = _memory_bytes()
    text = f"{size(available)} available of {size(total)}"
    if case.settings is None:
        yield Finding("memory", OK, text)
        return
    wanted = case.settings.integer("VM_MACHINE_MEM") << 20
    hardware.require_room(case.machine)
    if wanted > available and not case.seen.is_live:
        hint = "end other programs, or lower VM_MACHINE_MEM"
        yield Finding("memory", WARNING, f"{text}, the machine needs {size(wanted)}", hint)
    else:
        yield Finding("memory", OK, f"{text}, the machine needs {size(wanted)}")


def _memory_bytes() -> tuple[int, int]:
    """The host's memory: all, and what new programs could use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return total, int(line.split()[1]) << 10
    except OSError:
        pass
    return total, total


def unfinished_machines(case: Case) -> Iterator[Finding]:
    """Machines whose `create` or `restore` was killed."""
    for line in creation_folder.sweep(case.environ, is_looking=True):
        hint = "`qvm doctor --fix` recovers it; so does the next command that changes any machine"
        yield Finding("leftovers", WARNING, line, hint)


HOST: tuple[Check, ...] = (
    python, packages, qemu, display, tools, kvm, acceleration, runtime_folder, end_of_session, free_space,
    memory, unfinished_machines,
)  # fmt: skip
