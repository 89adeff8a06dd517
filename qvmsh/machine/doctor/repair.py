"""`doctor --fix`: repairs what killed commands and careless hands left, and reports it.

    for fix in repair(vm, os.environ): print(fix.name, fix.finding)

Everything happens under the machine's work lock, so nothing is touched while a command is at work;
what a running QEMU uses is left alone. Only names that qvm itself makes are removed. What is
fine is not reported, so a second call reports nothing.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess

from qvmsh.errors import ConfigError, LockedError, QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process, sockets
from qvmsh.machine import journal, launch_record, state
from qvmsh.machine.create import layers as images
from qvmsh.machine.doctor.findings import Finding
from qvmsh.machine.guest import serial
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.storage import chain, selection, volumes
from qvmsh.machine.work import cleanup, creation_folder, guardian, recovery
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FIXED, LEFT = "fixed", "left"
_PART = re.compile(r"\.part(\d*)(?:-[0-9a-f]{8})?$")
YOUNG_S = 60.0
"""A runtime folder younger than this may be that of a start at work that nobody knows of yet."""


def repair(vm: BaseMachine | None, environ: Mapping[str, str]) -> list[Finding]:
    """Repair the machine, if there is one, and the user's runtime folder; return what was done."""
    done: list[Finding] = []
    if vm is not None:
        try:
            with work_lock(vm, "doctor"):
                done += _machine(vm)
        except LockedError as error:
            what = f"the machine was not repaired: {error.what}"
            done.append(Finding("work", LEFT, what, "try again when it has ended"))
        except OSError as error:
            what = f"the machine was not repaired: {error.filename}: {error.strerror}"
            hint = "run this as the machine's owner"
            if error.errno == errno.EROFS:
                hint = host_files.READ_ONLY_HINT
            done.append(Finding("rights", LEFT, what, hint))
    done += _stale_folders(environ)
    done += [Finding("leftovers", FIXED, line) for line in creation_folder.sweep(environ)]
    return done


def _machine(vm: BaseMachine) -> list[Finding]:
    done = [*_rights(vm), *_unfinished(vm), *_console(vm)]
    seen = state.observe(vm)
    if seen.is_live or locks.holder(vm.files.pid_file) is not None:
        return done
    for step in (_crash, _parts, _images):
        try:
            done += step(vm)
        except QvmError as error:
            done.append(Finding(step.__name__.strip("_").replace("_", " "), LEFT, error.what, error.hint))
    return done


def _console(vm: BaseMachine) -> Iterator[Finding]:
    """Start a new keeper of a running machine's console if it was killed."""
    pid, note = locks.holder(vm.files.pid_file), launch_record.read(vm.files)
    if pid is None or note is None or serial.is_kept(note):
        return
    try:
        if serial.revive(vm, note, pid):
            yield Finding("console", FIXED, "the process that keeps the console had ended: started a new one")
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("console", LEFT, f"no process keeps the console: {error}", "`qvm restart` starts one")


# Rights


def _rights(vm: BaseMachine) -> Iterator[Finding]:
    """Close to others what they may not change, or not read: `.qvm`, the key, the known hosts."""
    private = guest_files(vm)
    for path in _files(vm):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        name = vm.files.inside(path)
        is_inside = path.startswith(vm.directory + os.sep)
        if os.geteuid() == 0 and status.st_uid and is_inside:  # root's own machine: `machine.owner`
            os.chown(path, 0, 0, follow_symlinks=False)
            yield Finding("rights", FIXED, f"{name} now belongs to root")
        mode = status.st_mode & 0o7777
        wanted = mode & ~_forbidden(vm, path, private)
        if mode == wanted or os.path.islink(path):
            continue
        try:
            os.chmod(path, wanted)
        except PermissionError:
            who = process.user_name(status.st_uid)
            what = f"{name} has mode {mode:o} and belongs to {who}"
            yield Finding("rights", LEFT, what, f"as {who} or root: `chmod {wanted:o} {image.typed(path)}`")
        else:
            yield Finding("rights", FIXED, f"{name} has mode {wanted:o} now, it was {mode:o}")
    for name, path in (("known hosts", vm.files.known_hosts), ("uuid", vm.files.uuid)):
        if os.path.isdir(path) and not os.path.islink(path):
            try:
                os.rmdir(path)
                yield Finding(name, FIXED, f"{vm.files.inside(path)} was an empty folder: removed")
            except OSError:
                what = f"{vm.files.inside(path)} is a folder, and not empty"
                yield Finding(name, LEFT, what, "move it away: a file belongs there")


def _files(vm: BaseMachine) -> list[str]:
    """What qvm keeps, the machine's other files, and its ssh key."""
    found = [vm.directory]
    found += [each.path for each in os.scandir(vm.directory) if each.is_file(follow_symlinks=False)]
    for folder, _, names in os.walk(vm.files.state):
        found += [folder, *(os.path.join(folder, name) for name in names)]
    key = _key(vm)
    return [*found, key] if key and key not in found and os.path.isfile(key) else found


def _forbidden(vm: BaseMachine, path: str, private: set[str]) -> int:
    """The bits of its mode that a file may not have."""
    if path == _key(vm):
        return 0o077  # ssh does not use it otherwise
    if path in private:
        return 0o027 if path == vm.files.state else 0o007
    return 0o022 if path.startswith(vm.files.state + os.sep) else 0o002


def guest_files(vm: BaseMachine) -> set[str]:
    """The paths in the machine's directory that hold the guest's data: images, and `.qvm` with the logs."""
    found = {vm.files.state}
    try:
        layers = images.Layers(vm)
        found |= {layers.base, layers.overlay, *(each.path for each in volumes.configured(vm))}
    except QvmError:
        pass
    return {path for path in found if os.path.dirname(path) == vm.directory}


def _key(vm: BaseMachine) -> str:
    try:
        settings = vm.settings
    except QvmError:
        return ""
    return settings.path("VM_SSH_IDENTITY") if settings.text("VM_SSH_IDENTITY") else ""


# What a run and a killed command left


def _crash(vm: BaseMachine) -> Iterator[Finding]:
    """The pid file, launch record and sockets of a QEMU that ended unexpectedly."""
    seen = state.observe(vm)
    note = launch_record.read(vm.files)
    left = [path for path in (vm.files.pid_file, vm.files.launch_record) if os.path.lexists(path)]
    left += [entry for entry in _in_state_folder(vm) if cleanup.is_part(os.path.basename(entry))]
    if note and os.path.isdir(note.runtime):
        left.append(note.runtime)
    if not left:
        return
    cleanup.clear(vm)
    gone = [path for path in left if not os.path.lexists(path)]
    why = f" ({seen.detail})" if seen.kind == state.CRASHED and seen.detail else ""
    if gone:
        names = ", ".join(vm.files.inside(path) for path in gone)
        yield Finding("leftovers", FIXED, f"removed what an ended run left{why}: {names}")
    for path in left:
        if path not in gone:
            what = f"{vm.files.inside(path)} holds something that is not qvm's, or is another user's"
            yield Finding("leftovers", LEFT, what, "look at it, then remove it")


def _unfinished(vm: BaseMachine) -> Iterator[Finding]:
    """Interrupted work on snapshots, archives and restores; also while the machine is on."""
    for line in guardian.take_messages(vm):
        yield Finding("interrupted work", FIXED, line)
    try:
        records = journal.pending(vm)
    except QvmError as error:
        yield Finding("interrupted work", LEFT, error.what, error.hint)
        return
    for record in records:
        name = "snapshots" if record.name else "archive"
        try:
            yield Finding(name, FIXED, recovery.message(record, recovery.recover(vm, record)))
        except QvmError as error:
            yield Finding(name, LEFT, error.what, error.hint)


def _in_state_folder(vm: BaseMachine) -> list[str]:
    try:
        return [os.path.join(vm.files.state, name) for name in os.listdir(vm.files.state)]
    except FileNotFoundError:
        return []


def _images(vm: BaseMachine) -> Iterator[Finding]:
    """An image whose qemu-img or QEMU was killed: its tables are recounted, as at the next start."""
    try:
        found = [each for each in volumes.written(volumes.configured(vm)) if each.format == "qcow2"]
        dirty = [each for each in found if _is_dirty(vm, each.path)]
    except QvmError:  # the configuration's problems are reported elsewhere
        return
    for disk in dirty:
        image.require_unused(disk.path, vm.name)
        words = ["check", "-q", "-f", "qcow2", "-r", "all", image.safe_name(disk.path)]
        selection.run(vm, words, f"repair {disk.name}")
        what = f"{disk.name} was not closed cleanly: its tables were recounted, its data is unchanged"
        yield Finding("images", FIXED, what)


def _is_dirty(vm: BaseMachine, path: str) -> bool:
    try:
        header = chain.layers(path, "qcow2", vm.name, vm.directory)[0].header
        return header is not None and header.is_dirty
    except (OSError, QvmError):  # reported elsewhere
        return False


def parts(vm: BaseMachine) -> list[str]:
    """Unfinished copies that a killed command left: of images, beside each disk; of `.vmrc`.

    Only the names that qvm makes count: `film.part` is the user's own.
    """
    own = {vm.directory: {".vmrc"}}
    try:
        names = ("SEED", "BASE", "BACKING")
        own[vm.directory] |= {vm.settings.text(f"VM_SNAPSHOT_{which}FILENAME") for which in names}
        here = os.path.realpath(vm.directory)
        for each in volumes.configured(vm):
            if os.path.dirname(each.path) == vm.directory:
                own[vm.directory].add(each.name)
            folder, name = os.path.split(os.path.realpath(each.path))
            own.setdefault(vm.directory if folder == here else folder, set()).add(name)
    except QvmError:
        pass
    found = [path for folder, names in own.items() for path in _parts_of(names, folder)]
    added = selection.interrupted_addition(vm)
    return [*found, added] if added and added not in found else found


def _parts_of(own: set[str], folder: str) -> Iterator[str]:
    """The unfinished copies of these files in a folder that no process writes any more."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        mark = _PART.search(name)
        of = name[: mark.start()] if mark else ""
        is_written = bool(mark and mark[1] and process.exists(int(mark[1])))
        if (of in own or of.removeprefix(".") in own) and not is_written:
            yield os.path.join(folder, name)


def _parts(vm: BaseMachine) -> Iterator[Finding]:
    for path in parts(vm):
        name = vm.files.inside(path)
        try:
            host_files.remove(path)
        except OSError as error:
            what = f"cannot remove {name}, the unfinished work of a killed command: {error.strerror}"
            yield Finding("leftovers", LEFT, what, "remove it by hand")
            continue
        what = f"removed {name}, the unfinished work of a killed command"
        yield Finding("leftovers", FIXED, what)
    if not selection.interrupted_addition(vm):
        host_files.remove(vm.files.adding)


# The user's runtime folder


def _stale_folders(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Folders of sockets on which no process listens any more, with or without a machine."""
    base = sockets.runtime_base(environ, os.geteuid())
    try:
        status = os.lstat(base)
        names = sorted(os.listdir(base))
    except OSError:
        return
    if status.st_uid == os.geteuid() and status.st_mode & 0o077 and not os.path.islink(base):
        os.chmod(base, 0o700)
        yield Finding("runtime folder", FIXED, f"{base} was open to others: closed")
    for folder in (os.path.join(base, name) for name in names):
        if not sockets.is_dead(folder, YOUNG_S):
            continue
        directory = _machine_of(folder)
        if directory is not None:
            vm = BaseMachine(directory, environ=environ)
            try:
                with work_lock(vm, "doctor"):
                    if locks.holder(vm.files.pid_file) is None and sockets.is_dead(folder, YOUNG_S):
                        yield from _removed(folder, directory)
            except (StateError, ConfigError, OSError):
                continue
        else:
            yield from _removed(folder, None)


def _machine_of(folder: str) -> str | None:
    """The machine that a runtime folder belongs to, None if it is gone."""
    try:
        directory = os.readlink(os.path.join(folder, "dir"))
    except OSError:
        return None
    return directory if os.path.isdir(os.path.join(directory, ".qvm")) else None


def _removed(folder: str, directory: str | None) -> Iterator[Finding]:
    sockets.remove_folder(folder, {os.geteuid()})
    whose = f" of the machine in {directory}" if directory else ", whose machine is gone"
    if not os.path.isdir(folder):
        yield Finding("runtime folder", FIXED, f"removed {folder}, the sockets{whose}; not in use")
    else:
        what = f"{folder} holds something that is not qvm's"
        yield Finding("runtime folder", LEFT, what, "look at it, then remove it")
