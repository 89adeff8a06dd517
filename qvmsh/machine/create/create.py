"""Creating a machine's directory from an image: all of it, or nothing.

    create("demo", Wish(image="tiny"), io)

Everything is created in a temporary folder (`creation_folder`) and renamed at the end.
"""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import dataclass

from qvmsh.config import edit, files
from qvmsh.config.variables import VARIABLES
from qvmsh.errors import ConfigError, ImageError, MissingProgramError, QvmError, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.images import builtin
from qvmsh.machine import identity, registry
from qvmsh.machine.create import seed
from qvmsh.machine.journal import Kind
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.work import creation_folder
from qvmsh.qemu import programs, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.io import Io

KEY = os.path.join(".qvm", "id_ed25519")
BUILTIN_MEMORY_MIB = 256
FILE_MEMORY_MIB = 1024


@dataclass(frozen=True)
class Wish:
    """The options of `create`.

    Args:
        image: name of a built-in image, or an image file; it is copied.
        memory: guest memory, as VM_MACHINE_MEM has it; None = what the image needs.
        cpus: vcpus; None = qvm's default.
        user: account in the guest; None = the built-in image's own, else the caller's name.
        machine_id: two digits; None = one that no known machine has.
    """

    image: str
    memory: str | None = None
    cpus: int | None = None
    user: str | None = None
    machine_id: str | None = None


def create(directory: str, wish: Wish, io: Io, environ: Mapping[str, str]) -> BaseMachine:
    """Create the machine `directory` and return it; it is not started.

    Raises:
        UsageError: the name is invalid, or something of that name exists.
        ImageError, MissingProgramError: the image cannot be used or built; nothing is left behind.
    """
    final = os.path.abspath(directory)
    name = os.path.basename(final)
    for line in creation_folder.sweep(environ):
        io.warn(line)
    require_place(final, name)
    _require_sound(wish)
    source, is_builtin = _source(wish.image, name, io, environ)
    try:
        with creation_folder.Folder(Kind.CREATE, final, environ) as folder:
            part = folder.path
            os.chmod(part, 0o755)  # noqa: S103  # as mkdir would
            BaseMachine(part, environ=environ).state_folder()
            _images(part, name, source, io)
            if is_builtin:
                make_key(part, name)
            _write_vmrc(part, name, wish, is_builtin, environ)
            _require_right(part, final, environ)
            folder.put_in_place()
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise UsageError(f"create: another command has just created {name}") from None
        raise QvmError(f"cannot create {name}: {error.strerror}", hint="nothing was left behind") from error
    host_files.sync_folder(os.path.dirname(final))
    vm = BaseMachine(final, io=io, environ=environ)
    registry.remember(vm)
    return vm


def _require_sound(wish: Wish) -> None:
    """Refuse values that the `.vmrc` cannot hold, before anything is created."""
    if not wish.image:
        raise UsageError("create: --image is empty", hint="give an image file, or tiny")
    cpus = None if wish.cpus is None else str(wish.cpus)
    for flag, name, value in (
        ("--mem", "VM_MACHINE_MEM", wish.memory),
        ("--cpus", "VM_MACHINE_CPUS", cpus),
        ("--user", "VM_MACHINE_USER", wish.user),
        ("--id", "VM_MACHINE_ID", wish.machine_id),
    ):
        wrong = None if value is None else VARIABLES[name].check(value)
        if value == "":
            wrong = ("is empty", "")
        if wrong:
            hint = f"{flag} {wrong[1]}" if wrong[1] else None
            raise UsageError(f"create: {flag} {wrong[0]}", hint=hint)


def _require_right(part: str, final: str, environ: Mapping[str, str]) -> None:
    """Check what was written, together with the other layers of the configuration.

    ConfigError: it is wrong; the error has the machine's final name.
    """
    try:
        BaseMachine(part, environ=environ).settings  # noqa: B018
    except ConfigError as error:
        inner, outer = files.shown(part), files.shown(final)
        error.what = error.what.replace(inner, outer)
        error.details = tuple(line.replace(inner, outer) for line in error.details)
        raise


def require_place(final: str, name: str, *, verb: str = "create") -> None:
    """Refuse a place where a new machine's directory cannot be created."""
    if os.path.lexists(final) and not os.path.isdir(final):
        raise UsageError(f"{verb}: {name} already exists and is not a folder", hint="choose another name")
    require_name(name, verb=verb)
    if not os.path.isdir(os.path.dirname(final)):
        raise UsageError(
            f"{verb}: there is no folder {os.path.dirname(final)}",
            hint="create it first, or choose another place",
        )
    if os.path.exists(os.path.join(final, ".vmrc")):
        raise UsageError(f"{verb}: {name} is already a machine", hint=f"`qvm status {name}` shows its state")
    if os.path.lexists(final) and _foreign_names(final, name):
        raise UsageError(f"{verb}: {name} already exists and is not empty", hint="choose another name")


def require_name(name: str, *, verb: str) -> None:
    """Refuse a name that a machine, and its files, cannot have."""
    if not name or name.startswith((".", "-")) or not name.isprintable():
        raise UsageError(f"{verb}: {name!r} cannot be the name of a machine", hint="start it with a letter")
    wrong = VARIABLES["VM_MACHINE_NAME"].check(name)
    if wrong:
        raise UsageError(
            f"{verb}: the name of the machine {wrong[0]}", hint="the machine's files are named after it"
        )


def _foreign_names(final: str, name: str) -> list[str]:
    """The contents of the directory, except what a killed `create` left."""
    parts = [os.path.basename(path) for path in creation_folder.left_in(final, name)]
    return [each for each in os.listdir(final) if each not in parts]


def _source(wanted: str, name: str, io: Io, environ: Mapping[str, str]) -> tuple[str, bool]:
    """The image file to copy, and whether it is a built-in one."""
    if wanted in builtin.BUILTIN:
        found = builtin.path(wanted, environ)
        if found is None:
            found = builtin.build(wanted, io, environ=environ).image
        return str(found), True
    if not os.path.exists(wanted):
        raise ImageError(
            f"there is no file {wanted}, and no built-in image of that name",
            machine=name,
            hint=f"built-in: {', '.join(sorted(builtin.BUILTIN))}; or --image FILE",
        )
    return os.path.abspath(wanted), False


def _images(part: str, name: str, source: str, io: Io) -> None:
    """Base as a copy of the source in qcow2, and an empty overlay on it."""
    base = f"{name}-base.qcow2"
    program = programs.find("qemu-img")
    found = seed.judged(source, seed.format_of(source, name), name)
    seed.copy(found, os.path.join(part, base), "qcow2", name, io, program)
    qemuimg.create_overlay(program, f"{name}-backing.qcow2", base, "qcow2", cwd=part)


def make_key(part: str, name: str) -> None:
    """A key pair of the machine's own; the guest gets its public half through fw_cfg."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"qvm {name}", "-f", os.path.join(part, KEY)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise MissingProgramError(
            "ssh-keygen is not installed", machine=name, hint="install the OpenSSH client"
        ) from None
    if done.returncode:
        raise QvmError("cannot create an ssh key", machine=name, details=done.stderr.splitlines()[-3:])


def _write_vmrc(part: str, name: str, wish: Wish, is_builtin: bool, environ: Mapping[str, str]) -> None:
    """Write the `.vmrc`, with a comment on what needs one."""
    owner = process.user_name(os.geteuid())
    memory = wish.memory or str(BUILTIN_MEMORY_MIB if is_builtin else FILE_MEMORY_MIB)
    rows = [
        ("VM_MACHINE_NAME", name),
        ("VM_MACHINE_ID", wish.machine_id or identity.free_id(environ)),
        ("VM_MACHINE_OWNER", owner),
        ("VM_MACHINE_USER", wish.user or (builtin.BUILTIN[wish.image].user if is_builtin else owner)),
        ("VM_MACHINE_MEM", memory),
    ]
    if wish.cpus is not None:
        rows.append(("VM_MACHINE_CPUS", str(wish.cpus)))
    text = "".join(f"{key}={edit.quote(value)}\n" for key, value in rows)
    if is_builtin:
        host = guest_name(name)
        extra = (
            f"-fw_cfg name=opt/qvm/authorized_keys,file={KEY}.pub -fw_cfg name=opt/qvm/hostname,string={host}"
        )
        text += f"VM_SSH_IDENTITY={KEY}\n# the guest takes its ssh key and its name from here at every boot\n"
        text += f"VM_QEMU_EXTRA={edit.quote(extra)}\n"
    host_files.write_atomic(os.path.join(part, ".vmrc"), text)


def guest_name(name: str) -> str:
    """What the guest of a machine of that name is called: letters and digits."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-").lower() or "guest"
