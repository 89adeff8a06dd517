"""What `doctor` looks at: a list of small checks of the host and, if there is one, of a machine.

    print(diagnose(vm, QUIET, os.environ))

A check is a generator of findings. One that fails with an error of ours is itself a finding, so
that a broken machine is still checked as far as possible. What `--fix` repairs is in `repair`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from qvmsh.config.syntax import Problem
from qvmsh.config.words import quote
from qvmsh.errors import ConfigError, ImageError, MissingProgramError, QvmError, printable
from qvmsh.host import files as host_files
from qvmsh.host import locks, logout, process, sockets
from qvmsh.io import QUIET
from qvmsh.machine import programs as machine_tools
from qvmsh.machine import snapshot_names, state
from qvmsh.machine.doctor import repair
from qvmsh.machine.guest import serial
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.power import hardware, tpm
from qvmsh.machine.progress import size
from qvmsh.machine.reports import Report
from qvmsh.machine.snapshot import recovery as unfinished
from qvmsh.machine.storage import chain, own_disk, volumes
from qvmsh.machine.storage import supplies as disks
from qvmsh.machine.work import creation_folder as making
from qvmsh.qemu import accelerator, displays, image, imagecheck, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from typing import Any

    from qvmsh.config.layers import Settings
    from qvmsh.io import Io
    from qvmsh.machine.doctor.repair import Fix
    from qvmsh.machine.machine import Machine
    from qvmsh.machine.state import Observation
    from qvmsh.machine.storage.chain import Layer
    from qvmsh.qemu.accelerator import Choice

    Check = Callable[["Case"], Iterator["Finding"]]

OK, WARNING, ERROR = "ok", "warning", "error"

OLDEST_QEMU = (7, 2)
"""The oldest QEMU that qvm is tested with; older ones do not take all of its options as JSON."""

LOW_DISK_BYTES = 1 << 30
FULL_DISK_BYTES = 64 << 20


class Finding(Report):
    """What one check found.

    Args:
        name: what was looked at.
        level: `ok`, `warning` (works, but), `error` (something will fail).
        finding: one line.
        hint: what to do about it, None where there is nothing to do.
    """

    __slots__ = ("finding", "hint", "level", "name")

    def __init__(self, name: str, level: str, finding: str, hint: str | None = None) -> None:
        self.name = name
        self.level = level
        self.finding = finding
        self.hint = hint


class Diagnosis(Report):
    """Result of `doctor`; exit status 1 if one of `checks` is an error.

    Args:
        machine: its name, None where only the host was looked at.
        directory: the machine's.
        accelerator: what VM_QEMU_ACCEL comes to and how it was measured, None without a QEMU.
        checks: the findings.
        fixed: what `--fix` did, None without it.
    """

    __slots__ = ("accelerator", "checks", "directory", "fixed", "machine")

    def __init__(
        self,
        machine: str | None,
        directory: str | None,
        choice: Choice | None,
        checks: list[Finding],
        fixed: Sequence[Fix] | None = None,
    ) -> None:
        self.fixed = None if fixed is None else list(fixed)
        self.machine = machine
        self.directory = directory
        self.accelerator = choice
        self.checks = checks

    @property
    def exit_status(self) -> int:  # type: ignore[override]  # a constant in the base
        return 0 if self else 1

    def __bool__(self) -> bool:
        return all(each.level != ERROR for each in self.checks)

    def shown(self) -> list[str]:
        rows: list[Finding | Fix] = [*(self.fixed or ()), *self.checks]
        width = max((len(printable(each.name)) for each in rows), default=0)
        lines = ["nothing to repair"] if self.fixed == [] else []
        for each in rows:
            lines.append(f"{each.level:7}  {printable(each.name):{width}}  {printable(each.finding)}")
            if each.hint and each.level != OK:
                lines.append(f"{'':7}  hint: {printable(each.hint)}")
        return lines

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "directory": self.directory,
            "ok": bool(self),
            "accelerator": self.accelerator.as_json() if self.accelerator else None,
            "checks": [each.as_json() for each in self.checks],
            "fixed": None if self.fixed is None else [each.as_json() for each in self.fixed],
        }


class Case:
    """What the checks look at, and what earlier ones found out for later ones."""

    def __init__(self, vm: Machine | None, io: Io, environ: Mapping[str, str], *, is_probing: bool) -> None:
        self.vm = vm.with_io(QUIET) if vm else None  # its warnings are findings here
        self.io = io
        self.environ = environ
        self.is_probing = is_probing
        self.settings: Settings | None = None
        self.qemu: str | None = None
        self.choice: Choice | None = None
        self._seen: Observation | None = None

    def text(self, variable: str, default: str) -> str:
        """The variable's value: the machine's, else the environment's, else `default`."""
        if self.settings is not None:
            return self.settings.text(variable) or default
        return self.environ.get(variable) or default

    @property
    def folder(self) -> str:
        return self.vm.directory if self.vm else os.getcwd()

    @property
    def machine(self) -> Machine:
        """The machine, for checks that are only made where there is one."""
        assert self.vm is not None
        return self.vm

    @property
    def seen(self) -> Observation:
        """The machine's state, read once: a QEMU that does not answer costs a second each time."""
        if self._seen is None:
            self._seen = state.observe(self.machine)
        return self._seen

    @property
    def is_at_rest(self) -> bool:
        """True if no QEMU runs and no command is at work on the machine."""
        return not self.seen.is_live and locks.working(self.machine.files.work_lock) is None


def diagnose(
    vm: Machine | None,
    io: Io,
    environ: Mapping[str, str],
    *,
    is_probing: bool = False,
    is_fixing: bool = False,
) -> Diagnosis:
    """Run all checks that apply; with `is_fixing`, repair what can be repaired first.

    Args:
        vm: the machine, None to look at the host alone.
        is_probing: measure the accelerators again, whatever the cache says.
    """
    fixed = repair.repair(vm.with_io(QUIET) if vm else None, environ) if is_fixing else None
    case = Case(vm, io, environ, is_probing=is_probing)
    found: list[Finding] = []
    first: tuple[Check, ...] = (vmrc,) if vm else ()  # the host's checks use the machine's values
    for check in (*first, *HOST):
        found += _findings(check, case)
    if vm:
        for check in MACHINE if case.settings is not None else BROKEN_MACHINE:
            found += _findings(check, case)
    return Diagnosis(vm.name if vm else None, vm.directory if vm else None, case.choice, found, fixed)


def _findings(check: Check, case: Case) -> list[Finding]:
    """The findings of one check; its own failure is the last of them."""
    found: list[Finding] = []
    name = check.__name__.replace("_", " ")
    try:
        found.extend(check(case))
    except QvmError as error:
        details = f": {error.details[-1]}" if error.details else ""
        found.append(Finding(name, ERROR, error.what + details, error.hint))
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        found.append(Finding(name, ERROR, f"{where}{error.strerror or error}"))
    return found


# The host: programs and packages


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
    path = machine_tools.named(case.machine, variable)
    if not case.settings.may_run(variable):
        path, instead = machine_tools.looking(case.machine, variable)
        if instead:
            yield Finding(variable, WARNING, instead.told, instead.hint)
    return path


# The host: what a machine runs on


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
    """What VM_QEMU_ACCEL comes to, and why."""
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
    is_doubtful = choice.verdict in (accelerator.TIMEOUT, accelerator.REFUSED, accelerator.UNMEASURED)
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


def room(case: Case) -> Iterator[Finding]:
    """Room on the disk that the machine (or the current folder) is on."""
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


# The machine


def vmrc(case: Case) -> Iterator[Finding]:
    """The configuration: every problem and every warning of every layer."""
    vm = case.machine
    try:
        loaded = vm.loaded
        loaded.check()
    except ConfigError as error:
        if not error.problems:
            yield Finding(".vmrc", ERROR, error.what, error.hint)
        for problem in error.problems:
            yield _problem(problem, ERROR)
        return
    case.settings = loaded
    for warning in loaded.warnings:
        yield _problem(warning, WARNING)
    if not loaded.warnings:
        yield Finding(".vmrc", OK, f"{vm.files.vmrc} has no problems")


def _problem(problem: object, level: str) -> Finding:
    """A problem of the configuration, with its hint where a hint stands."""
    if not isinstance(problem, Problem):
        return Finding(".vmrc", level, str(problem))
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    return Finding(".vmrc", level, f"{place}: {problem.message}", problem.hint)


def rights(case: Case) -> Iterator[Finding]:
    """Owner and rights of the machine's files: nobody else's, and open to nobody else for writing."""
    vm = case.machine
    owner = os.stat(vm.directory).st_uid
    is_fine = True
    if not os.access(vm.directory, os.W_OK):
        is_fine = False
        what, hint = f"you cannot write to {vm.directory}", f"run qvm as {process.user_name(owner)}"
        if host_files.is_read_only(vm.directory):
            what, hint = f"{vm.directory} is on a read-only file system", host_files.READ_ONLY_HINT
        yield Finding("rights", ERROR, what, hint)
    private = repair.guest_files(vm)
    for path in _own_files(vm):
        try:
            status = os.lstat(path)
        except FileNotFoundError:  # a machine that runs changes its files
            continue
        name = os.path.relpath(path, vm.directory)
        if status.st_uid != owner:
            is_fine = False
            whose, right = process.user_name(status.st_uid), process.user_name(owner)
            what = f"{name} is {whose}'s, the machine is {right}'s"
            yield Finding("rights", WARNING, what, f"`sudo chown {right} {name}`, if {right} is to run it")
        if status.st_mode & 0o002 and not os.path.islink(path):
            is_fine = False
            yield Finding("rights", WARNING, f"{name} can be changed by everybody", f"`chmod o-w {name}`")
        elif status.st_mode & 0o004 and path in private and not os.path.islink(path):
            is_fine = False
            what = f"{name} holds the guest's data and can be read by everybody"
            yield Finding("rights", WARNING, what, f"`chmod o-r {name}`, or `qvm doctor --fix`")
    if is_fine:
        yield Finding("rights", OK, f"all files are {process.user_name(owner)}'s, and closed to others")


def _own_files(vm: Machine) -> list[str]:
    """The machine's own files: what lies in its directory, and all of `.qvm`."""
    found = [entry.path for entry in os.scandir(vm.directory) if not entry.is_dir(follow_symlinks=False)]
    for folder, _, names in os.walk(vm.files.state):
        found += [folder, *(os.path.join(folder, name) for name in names)]
    return [vm.directory, *sorted(found)]


def machine_state(case: Case) -> Iterator[Finding]:
    """What `status` says without ssh; a stale pid file or a folder that is gone shows here."""
    seen = case.seen
    level = {state.BROKEN: ERROR, state.CRASHED: WARNING}.get(seen.kind, OK)
    yield Finding("state", level, str(seen), seen.hint)


def console(case: Case) -> Iterator[Finding]:
    """Whether what the guest writes to its console is taken."""
    if case.seen.is_live and case.seen.note and not serial.is_kept(case.seen.note):
        what = "the process that keeps the console has ended; the guest may have to wait"
        yield Finding("console", ERROR, what, "`qvm doctor --fix` starts a new one")


def leftovers(case: Case) -> Iterator[Finding]:
    """What a killed command left behind, while nobody is at work."""
    vm = case.machine
    if not case.is_at_rest:
        return
    left = [volumes.inside(vm, path) for path in repair.parts(vm)]
    try:
        names = sorted(os.listdir(vm.files.state))
    except FileNotFoundError:
        names = []
    left += [
        os.path.join(".qvm", name) for name in names if ".part" in name or name.startswith("disposable-")
    ]
    works = {
        "snapshots": (vm.files.unfinished, "work on snapshots"),
        "archive": (vm.files.interrupted, "work on the archive"),
    }
    for name, (path, work) in works.items():
        if os.path.lexists(path):
            what = f"{work} was interrupted: {volumes.inside(vm, path)}"
            hint = (
                "`qvm doctor --fix` completes or undoes it; so does the next command that changes the machine"
            )
            yield Finding(name, WARNING, what, hint)
    if left:
        hint = "no command needs them; `qvm doctor --fix` removes them"
        yield Finding("leftovers", WARNING, f"left by a killed command: {', '.join(left)}", hint)


def unfinished_machines(case: Case) -> Iterator[Finding]:
    """Machines whose `create` or `restore` was killed."""
    for line in making.sweep(case.environ, is_looking=True):
        hint = "`qvm doctor --fix` recovers it; so does the next command that changes any machine"
        yield Finding("leftovers", WARNING, line, hint)


def images(case: Case) -> Iterator[Finding]:
    """The machine's disk and its backing files: there, of the right format, intact, not in use."""
    vm = case.machine
    if own_disk.is_by_hand(vm):
        yield Finding("images", OK, "VM_QEMU_ARGS names them: not checked")
        return
    name = own_disk.require_disk(vm)  # its errors say what is missing or orphaned, and what to do
    if not name:
        yield Finding("images", OK, f"no disk of its own: {own_disk.disk_name(vm)} does not exist")
        return
    yield from _image(case, os.path.join(vm.directory, name), own_disk.image_format(vm, name))


def further_disks(case: Case) -> Iterator[Finding]:
    """The disks of VM_DISKS, each as the machine's own."""
    if own_disk.is_by_hand(case.machine):
        return
    for disk in disks.further(case.machine):
        try:
            disks.shown(case.machine, disk.path)
            disks.require_further(case.machine, disk)
            yield from _image(case, disk.path, disk.line.driver)
        except ImageError as error:  # and then the next one
            yield Finding(disk.name, ERROR, error.what, error.hint)


def hardware_files(case: Case) -> Iterator[Finding]:
    """The other files of the hardware: CD, kernel, firmware and its variables, the TPM's program."""
    vm = case.machine
    supplies = disks.gather(vm)
    disks.require(vm, replace(supplies, further=()))
    named = [("VM_CDROM", supplies.cdrom), ("VM_KERNEL", supplies.kernel), ("VM_INITRD", supplies.initrd)]
    for variable, path in named:
        if path:
            yield Finding(variable, OK, _short(vm, path))
    if supplies.firmware:
        yield Finding("firmware", OK, supplies.firmware.code)
        if os.path.exists(supplies.variables):
            yield from _image(case, supplies.variables, "qcow2")
    if tpm.is_wanted(vm):
        yield Finding("swtpm", OK, tpm.program(vm))


def _image(case: Case, path: str, kind: str) -> Iterator[Finding]:
    """One image, with its backing files."""
    vm = case.machine
    name = _short(vm, path)
    program = machine_tools.qemu_img(vm)
    layers = chain.layers(path, kind, vm.name, vm.directory)
    for at, layer in enumerate(layers):
        yield _facts(vm, program, layer, layers[at + 1].path if at + 1 < len(layers) else None)
    if not case.is_at_rest:
        yield Finding("image check", OK, "skipped while the machine runs")
        return
    yield from _forgotten(vm, path, kind)
    users = [f"{process.program(pid)}, pid {pid}" for pid in host_files.users_of(path)]
    if users:
        what = f"{name} is in use by {'; '.join(users)}, although the machine is off"
        yield Finding(name, ERROR, what, "end it first; two writers would destroy the image")
        return
    for layer in layers:
        yield from _soundness(case, program, layer)


def _forgotten(vm: Machine, path: str, kind: str) -> Iterator[Finding]:
    """Snapshots left by interrupted work that is in no journal any more."""
    names = [each.name for each in chain.snapshots_in(path, kind)]
    left = [
        each
        for each in names
        if each.endswith(snapshot_names.NEW) and each.removesuffix(snapshot_names.NEW) in names
    ]
    left += [each for each in names if each == unfinished.BACK]
    if left and not os.path.lexists(vm.files.unfinished):
        what = f"holds {', '.join(left)}: left by interrupted work on snapshots that is no longer recorded"
        hint = f"`qvm snapshot delete {' '.join(map(quote, left))}` removes it"
        yield Finding(_short(vm, path), WARNING, what, hint)


def _facts(vm: Machine, program: str, layer: Layer, below: str | None) -> Finding:
    """One image in a line."""
    used = os.stat(layer.path).st_blocks * 512
    virtual = image.virtual_bytes(program, layer.path, layer.format)
    text = f"{layer.format}, a disk of {size(virtual)} in {size(used)}"
    if layer.header and layer.header.snapshots:
        text += f", snapshots: {layer.header.snapshots}"
    if below:
        text += f", on {_short(vm, below)}"
    return Finding(_short(vm, layer.path), OK, text)


def _soundness(case: Case, program: str, layer: Layer) -> Iterator[Finding]:
    """What qemu-img check says about one image."""
    name = _short(case.machine, layer.path)
    with case.io.stage(f"checking {name}"):
        found = imagecheck.check(program, layer.path, layer.format)
    if found is None:
        return
    if found.corruptions:
        what = f"qemu-img check counts {found.corruptions} corruptions"
        yield Finding(name, ERROR, what, f"copy the file, then `qemu-img check -r all {name}` may repair it")
    elif found.leaks:
        what = f"{found.leaks} clusters are unused (harmless, they take space)"
        yield Finding(name, WARNING, what, f"`qemu-img check -r leaks {name}` frees them")
    else:
        yield Finding(name, OK, "qemu-img check finds no errors")


def _short(vm: Machine, path: str) -> str:
    """A path as a user of the machine would write it."""
    inside = os.path.relpath(path, vm.directory)
    return path if inside.startswith("..") else inside


def ssh_key(case: Case) -> Iterator[Finding]:
    """The key that ssh will offer to the guest: there, and private enough for ssh to take it."""
    import pwd

    assert case.settings is not None
    vm, settings = case.machine, case.settings
    if settings.text("VM_SSH_IDENTITY"):
        keys = [settings.path("VM_SSH_IDENTITY")]
        if not os.path.exists(keys[0]):
            what = f"VM_SSH_IDENTITY={_short(vm, keys[0])} does not exist"
            yield Finding("ssh key", ERROR, what, "put the key there, or correct the variable")
            return
    else:
        # the settings are checked, so the account is there
        folder = os.path.join(pwd.getpwnam(settings.text("VM_MACHINE_OWNER")).pw_dir, ".ssh")
        keys = [
            path for path in (os.path.join(folder, name) for name in guest.KEY_NAMES) if os.path.exists(path)
        ]
        if not keys and not case.environ.get("SSH_AUTH_SOCK"):
            what = f"no key in {folder}, and no agent"
            yield Finding("ssh key", WARNING, what, "`ssh-keygen` creates one; VM_SSH_IDENTITY names another")
            return
    for key in keys:
        status = os.stat(key)
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            what = f"{_short(vm, key)} is open to others (mode {status.st_mode & 0o777:o}): ssh refuses it"
            yield Finding("ssh key", ERROR, what, f"`chmod 600 {_short(vm, key)}`")
        elif not os.access(key, os.R_OK):
            yield Finding("ssh key", ERROR, f"you cannot read {_short(vm, key)}", "use a key of your own")
        else:
            yield Finding("ssh key", OK, _short(vm, key))
    if not keys:
        yield Finding("ssh key", OK, "the agent's keys")


def ssh_port(case: Case) -> Iterator[Finding]:
    """An ssh port that the user chose must be free while the machine is off."""
    port = case.text("VM_SSH_PORT", "auto")
    if not port.isdigit() or case.seen.is_live:
        return
    if sockets.port_is_free(int(port)):
        yield Finding("ssh port", OK, f"{port} is free")
    else:
        who = sockets.port_user(int(port))
        hint = "choose another port, or remove VM_SSH_PORT for an automatic one"
        yield Finding("ssh port", ERROR, f"{port} is taken" + (f" by {who}" if who else ""), hint)


HOST: tuple[Check, ...] = (
    python,
    packages,
    qemu,
    display,
    tools,
    kvm,
    acceleration,
    runtime_folder,
    end_of_session,
    room,
    memory,
    unfinished_machines,
)
MACHINE: tuple[Check, ...] = (
    rights,
    machine_state,
    console,
    leftovers,
    images,
    further_disks,
    hardware_files,
    ssh_key,
    ssh_port,
)
BROKEN_MACHINE: tuple[Check, ...] = (rights, machine_state)
"""What can be looked at without valid settings."""
