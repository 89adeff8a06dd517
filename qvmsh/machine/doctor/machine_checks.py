"""The checks that `doctor` makes of a machine."""

from __future__ import annotations

import os
from dataclasses import replace

from qvmsh.config.syntax import Problem
from qvmsh.config.words import joined
from qvmsh.errors import ConfigError, ImageError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import programs as machine_programs
from qvmsh.machine import snapshot_names, state
from qvmsh.machine.doctor import repair
from qvmsh.machine.doctor.findings import ERROR, OK, WARNING, Case, Finding
from qvmsh.machine.guest import serial
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.shares import listing
from qvmsh.machine.power import ports, tpm
from qvmsh.machine.progress import size
from qvmsh.machine.snapshot import recovery
from qvmsh.machine.storage import chain, own_disk
from qvmsh.machine.storage import supplies as disks
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.doctor.findings import Check
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.chain import Layer


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
        name, typed = os.path.relpath(path, vm.directory), image.typed(path)
        if status.st_uid != owner:
            is_fine = False
            whose, right = process.user_name(status.st_uid), process.user_name(owner)
            what = f"{name} belongs to {whose}, the machine to {right}"
            yield Finding("rights", WARNING, what, f"`sudo chown {right} {typed}`, if {right} is to run it")
        if status.st_mode & 0o002 and not os.path.islink(path):
            is_fine = False
            yield Finding("rights", WARNING, f"{name} can be changed by everybody", f"`chmod o-w {typed}`")
        elif status.st_mode & 0o004 and path in private and not os.path.islink(path):
            is_fine = False
            what = f"{name} holds the guest's data and can be read by everybody"
            yield Finding("rights", WARNING, what, f"`chmod o-r {typed}`, or `qvm doctor --fix`")
    if is_fine:
        yield Finding("rights", OK, f"all files are {process.user_name(owner)}'s, and closed to others")


def _own_files(vm: BaseMachine) -> list[str]:
    """The machine's own files: those in its directory, and all of `.qvm`."""
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
    """Whether the guest's console output is read."""
    if case.seen.is_live and case.seen.note and not serial.is_kept(case.seen.note):
        what = "the process that keeps the console has ended; the guest may have to wait"
        yield Finding("console", ERROR, what, "`qvm doctor --fix` starts a new one")


def leftovers(case: Case) -> Iterator[Finding]:
    """What a killed command left behind, if no command runs."""
    vm = case.machine
    if not case.is_at_rest:
        return
    left = [vm.files.inside(path) for path in repair.parts(vm)]
    try:
        names = sorted(os.listdir(vm.files.state))
    except FileNotFoundError:
        names = []
    left += [
        os.path.join(".qvm", name) for name in names if ".part" in name or name.startswith("disposable-")
    ]
    works = {
        "snapshots": (vm.files.snapshot_journal, "work on snapshots"),
        "archive": (vm.files.archive_journal, "work on the archive"),
    }
    for name, (path, work) in works.items():
        if os.path.lexists(path):
            what = f"{work} was interrupted: {vm.files.inside(path)}"
            hint = (
                "`qvm doctor --fix` completes or undoes it; so does the next command that changes the machine"
            )
            yield Finding(name, WARNING, what, hint)
    if left:
        hint = "no command needs them; `qvm doctor --fix` removes them"
        yield Finding("leftovers", WARNING, f"left by a killed command: {', '.join(left)}", hint)


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


def additional_disks(case: Case) -> Iterator[Finding]:
    """The disks of VM_DISKS, each as the machine's own."""
    if own_disk.is_by_hand(case.machine):
        return
    for disk in disks.additional_disks(case.machine):
        try:
            disks.shown(case.machine, disk.path)
            disks.require_additional(case.machine, disk)
            yield from _image(case, disk.path, disk.line.driver)
        except ImageError as error:  # and then the next one
            yield Finding(disk.name, ERROR, error.what, error.hint)


def hardware_files(case: Case) -> Iterator[Finding]:
    """The other files of the hardware: CD, kernel, firmware and its variables, the TPM's program."""
    vm = case.machine
    supplies = disks.gather(vm)
    disks.require(vm, replace(supplies, additional=()))
    named = [("VM_CDROM", supplies.cdrom), ("VM_KERNEL", supplies.kernel), ("VM_INITRD", supplies.initrd)]
    for variable, path in named:
        if path:
            yield Finding(variable, OK, vm.files.inside(path))
    if supplies.firmware:
        yield Finding("firmware", OK, supplies.firmware.code)
        if os.path.exists(supplies.variables):
            yield from _image(case, supplies.variables, "qcow2")
    if tpm.is_wanted(vm):
        yield Finding("swtpm", OK, tpm.program(vm))


def shares(case: Case) -> Iterator[Finding]:
    """The directories of VM_SHARE, and their programs."""
    vm = case.machine
    for row in listing.rows(vm, case.seen):
        name = f"share {row['tag']}"
        hint = row["hint"]
        text = f"{row['path']} ({row['kind']}, {row['state']})"
        yield Finding(name, ERROR if row["problem"] else OK, row["problem"] or text, hint or None)


def _image(case: Case, path: str, kind: str) -> Iterator[Finding]:
    """One image, with its backing files."""
    vm = case.machine
    name = vm.files.inside(path)
    program = machine_programs.qemu_img(vm)
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


def _forgotten(vm: BaseMachine, path: str, kind: str) -> Iterator[Finding]:
    """Snapshots left by interrupted work that is in no journal any more."""
    names = [each.name for each in chain.snapshots_in(path, kind)]
    left = [
        each
        for each in names
        if each.endswith(snapshot_names.NEW) and each.removesuffix(snapshot_names.NEW) in names
    ]
    left += [each for each in names if each == recovery.BACK]
    if left and not os.path.lexists(vm.files.snapshot_journal):
        what = f"holds {', '.join(left)}: left by interrupted work on snapshots that is no longer recorded"
        hint = f"`qvm snapshot delete {joined(left)}` removes it"
        yield Finding(vm.files.inside(path), WARNING, what, hint)


def _facts(vm: BaseMachine, program: str, layer: Layer, below: str | None) -> Finding:
    """One image in a line."""
    used = os.stat(layer.path).st_blocks * 512
    virtual = qemuimg.virtual_bytes(program, layer.path, layer.format)
    text = f"{layer.format}, a disk of {size(virtual)} in {size(used)}"
    if layer.header and layer.header.snapshots:
        text += f", snapshots: {layer.header.snapshots}"
    if below:
        text += f", on {vm.files.inside(below)}"
    return Finding(vm.files.inside(layer.path), OK, text)


def _soundness(case: Case, program: str, layer: Layer) -> Iterator[Finding]:
    """What qemu-img check says about one image."""
    name, typed = case.machine.files.inside(layer.path), image.typed(layer.path)
    with case.io.stage(f"checking {name}"):
        found = qemuimg.check(program, layer.path, layer.format)
    if found is None:
        return
    if found.corruptions:
        what = f"qemu-img check counts {found.corruptions} corruptions"
        yield Finding(name, ERROR, what, f"copy the file, then `qemu-img check -r all {typed}` may repair it")
    elif found.leaks:
        what = f"{found.leaks} clusters are unused (harmless, they take space)"
        yield Finding(name, WARNING, what, f"`qemu-img check -r leaks {typed}` frees them")
    else:
        yield Finding(name, OK, "qemu-img check finds no errors")


def ssh_key(case: Case) -> Iterator[Finding]:
    """The key that ssh will offer to the guest: there, and private enough for ssh to take it."""
    import pwd

    assert case.settings is not None
    vm, settings = case.machine, case.settings
    if settings.text("VM_SSH_IDENTITY"):
        keys = [settings.path("VM_SSH_IDENTITY")]
        if not os.path.exists(keys[0]):
            what = f"VM_SSH_IDENTITY={vm.files.inside(keys[0])} does not exist"
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
        name = vm.files.inside(key)
        status = os.stat(key)
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            what = f"{name} is open to others (mode {status.st_mode & 0o777:o}): ssh refuses it"
            yield Finding("ssh key", ERROR, what, f"`chmod 600 {image.typed(key)}`")
        elif not os.access(key, os.R_OK):
            yield Finding("ssh key", ERROR, f"you cannot read {name}", "use a key of your own")
        else:
            yield Finding("ssh key", OK, name)
    if not keys:
        yield Finding("ssh key", OK, "the agent's keys")


def ssh_port(case: Case) -> Iterator[Finding]:
    """An ssh port that the user chose must be free while the machine is off."""
    port = case.text("VM_SSH_PORT", "auto")
    if not port.isdigit() or case.seen.is_live:
        return
    why = ports.taken(int(port))
    found = (ERROR, why, ports.OTHER_PORT) if why else (OK, f"{port} is free")
    yield Finding("ssh port", *found)


MACHINE: tuple[Check, ...] = (
    rights, machine_state, console, leftovers, images, additional_disks, hardware_files, shares, ssh_key,
    ssh_port,
)  # fmt: skip
BROKEN_MACHINE: tuple[Check, ...] = (rights, machine_state)
"""What can be checked without valid settings."""
