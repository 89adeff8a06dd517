"""Creating a machine's directory from an image: all of it, or nothing.

    create("demo", Wish(image="tiny"), io, os.environ)

Everything is created in a temporary folder (`creation_folder`) and renamed at the end.
"""

from __future__ import annotations

import errno
import os
import subprocess

from qvmsh.config import edit, files
from qvmsh.config.variables import VARIABLES
from qvmsh.config.words import joined
from qvmsh.errors import ConfigError, MissingProgramError, QvmError, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.images import builtin
from qvmsh.machine import identity, registry
from qvmsh.machine.create import commented, sources
from qvmsh.machine.create import wish as wishes
from qvmsh.machine.create.wish import Wish
from qvmsh.machine.journal import Kind
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.storage import dependents, linked, own_disk, supplies, volumes
from qvmsh.machine.work import creation_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.io import Io

KEY = os.path.join(".qvm", "id_ed25519")
BUILTIN_MEMORY_MIB = 256
FILE_MEMORY_MIB = 1024


def create(directory: str, wish: Wish, io: Io, environ: Mapping[str, str]) -> BaseMachine:
    """Create the machine `directory` and return it; it is not started.

    Raises:
        UsageError: the name is invalid, or something of that name exists.
        ImageError, MissingProgramError: the image cannot be used or built; nothing is left behind.
    """
    if not directory:
        raise UsageError("create: the name is empty", hint="`qvm create NAME`")
    final = os.path.abspath(directory)
    name = os.path.basename(final)
    for line in creation_folder.sweep(environ):
        io.warn(line)
    require_place(final, name)
    wishes.require_sound(wish)
    if wish.machine_id and (other := identity.ids(environ).get(wish.machine_id)):
        raise UsageError(
            f"create: --id {wish.machine_id}: the machine in {other} has it",
            hint="leave out --id: a free one is taken",
        )
    if wish.iso:
        sources.require_iso(wish.iso, name)
    source = sources.found(wish, name, io, environ)
    is_builtin = bool(source) and not wish.disk and wish.image in builtin.BUILTIN
    try:
        with creation_folder.Folder(Kind.CREATE, final, environ, io) as folder:
            part = folder.path
            os.chmod(part, 0o755)  # noqa: S103  # as mkdir would
            BaseMachine(part, environ=environ).state_folder()
            if wish.is_moved:
                sources.require_movable(source, name, BaseMachine(part, environ=environ))
            if not wish.is_bare:
                sources.lay(part, name, wish, source, io)
            if is_builtin:
                make_key(part, name)
            _write_vmrc(part, name, wish, is_builtin, environ)
            _require_right(part, final, wish.template, environ)
            if wish.is_linked:
                linked.note(BaseMachine(part, environ=environ))
            made = BaseMachine(part, environ=environ)
            if not wish.is_bare:
                _require_disk(made)
                _require_own_disks(made)
            with identity.settled(made, is_fixed=wish.machine_id is not None):
                identity.require_unique(made, "create")
                folder.put_in_place()
                registry.remember(BaseMachine(final, environ=environ))
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise UsageError(f"create: another command has just created {name}") from None
        raise QvmError(f"cannot create {name}: {error.strerror}", hint="nothing was left behind") from error
    host_files.sync_folder(os.path.dirname(final))
    if wish.is_linked:
        linked.add(final)
    if wish.is_moved:
        host_files.remove(source)
    return BaseMachine(final, io=io, environ=environ)


def _require_right(part: str, final: str, template: str | None, environ: Mapping[str, str]) -> None:
    """Check what was written, together with the other layers of the configuration.

    ConfigError: it is wrong; the error has the machine's final name, or names the template.
    """
    try:
        BaseMachine(part, environ=environ).settings  # noqa: B018
    except ConfigError as error:
        inner, outer = files.shown(part), files.shown(final)
        if template:
            inner, outer = f"{inner}/.vmrc", template
            error.hint = "correct that file; nothing was created"
        error.what = error.what.replace(inner, outer)
        error.details = tuple(line.replace(inner, outer) for line in error.details)
        raise


def _require_disk(made: BaseMachine) -> None:
    """Refuse settings that name another disk than the one that was made."""
    if own_disk.is_by_hand(made):
        return
    name = own_disk.disk_name(made)
    if not os.path.lexists(os.path.join(made.directory, name)):
        raise UsageError(
            f"create: with these settings the disk would be {name}, which was not made",
            hint="leave out VM_USE_SNAPSHOTS and VM_FMT: `--format` chooses the format of the disk",
        )


def _require_own_disks(made: BaseMachine) -> None:
    """Refuse settings that name disks of a known machine, which the guest would write to, or missing ones.

    UsageError: the text names the disk, and that machine.
    """
    top = os.path.realpath(made.directory) + os.sep
    shared = [
        each.path
        for each in volumes.written(volumes.configured(made))
        if not os.path.realpath(each.path).startswith(top) and _is_own_setting(made, each.source)
    ]
    for path, other in dependents.users(shared, made).items() if shared else ():
        raise UsageError(
            f"create: {path} is a disk of the machine in {other}, and two must not write to it",
            hint="leave it out (`--set VM_DISKS=`), or let the guest only read it (PATH:ro in VM_DISKS)",
        )
    missing = [each.name for each in supplies.additional_disks(made) if not os.path.lexists(each.path)]
    if missing and _is_own_setting(made, "VM_DISKS"):
        raise UsageError(
            f"create: VM_DISKS names {missing[0]}, which is not there",
            hint="`--disk SIZE` makes an empty disk instead; or `--set VM_DISKS=` leaves it out",
        )


def _is_own_setting(made: BaseMachine, source: str) -> bool:
    """True if what names a disk (`Volume.source`) is set for this machine, and not for all of the user's."""
    names = {"VM_DISKS": ("VM_DISKS",), "words": ("VM_QEMU_ARGS", "VM_QEMU_EXTRA")}.get(source)
    return names is None or any(made.settings.origin(each).layer in ("vmrc", "include") for each in names)


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
        is_begun = name and name[0] not in ".-"
        hint = "use characters that can be printed" if is_begun else "start it with a letter"
        raise UsageError(f"{verb}: {name!r} cannot be the name of a machine", hint=hint)
    if set(name) & set("*?[:"):
        raise UsageError(
            f"{verb}: {name!r} cannot be the name of a machine: *, ? and [ are patterns of names, and a : "
            "stands before a snapshot", hint="choose another name",
        )  # fmt: skip
    wrong = VARIABLES["VM_MACHINE_NAME"].check(name)
    if wrong:
        raise UsageError(
            f"{verb}: the name of the machine {wrong[0]}", hint="the machine's files are named after it"
        )


def _foreign_names(final: str, name: str) -> list[str]:
    """The contents of the directory, except what a killed `create` left."""
    parts = [os.path.basename(path) for path in creation_folder.left_in(final, name)]
    return [each for each in os.listdir(final) if each not in parts]


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
    """Write the `.vmrc`, with a comment on what needs one; after the text of the template."""
    rows = _values(name, wish, is_builtin, environ)
    if wish.is_bare:
        text = commented.text(dict(rows))
    elif wish.template:
        text = _template(wish.template)
        for key, value in rows:
            text = edit.assign(text, key, value)
    else:
        text = "".join(f"{key}={edit.quote(value)}\n" for key, value in rows)
    if is_builtin:
        host = guest_name(name)
        extra = (
            f"-fw_cfg name=opt/qvm/authorized_keys,file={KEY}.pub -fw_cfg name=opt/qvm/hostname,string={host}"
        )
        text += f"VM_SSH_IDENTITY={KEY}\n# the guest takes its ssh key and its name from here at every boot\n"
        text += f"VM_QEMU_EXTRA={edit.quote(extra)}\n"
    for key, value in wish.values:
        text = edit.assign(text, key, value)
    host_files.write_atomic(os.path.join(part, ".vmrc"), text)


def _template(path: str) -> str:
    try:
        return files.read(path).text
    except (FileNotFoundError, files.Unreadable) as error:
        why = error if isinstance(error, files.Unreadable) else "there is no such file"
        raise UsageError(f"create: --template {path}: {why}") from None


def _values(name: str, wish: Wish, is_builtin: bool, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables that the new `.vmrc` sets."""
    owner, number = process.user_name(os.geteuid()), wish.machine_id or identity.free_id(environ)
    default = str(BUILTIN_MEMORY_MIB if is_builtin else FILE_MEMORY_MIB)
    rows = [
        ("VM_MACHINE_NAME", name),
        ("VM_MACHINE_ID", number or identity.SHARED_ID),
        ("VM_MACHINE_OWNER", owner),
        ("VM_MACHINE_USER", wish.user or (builtin.BUILTIN[wish.source].user if is_builtin else owner)),
    ]
    if wish.memory or not wish.template:
        rows.append(("VM_MACHINE_MEM", wish.memory or default))
    if not number:
        rows.append(("VM_NET_MAC", "auto"))
    if wish.cpus is not None:
        rows.append(("VM_MACHINE_CPUS", str(wish.cpus)))
    if wish.is_s2e:
        rows += own_disk.S2E_SETTINGS
    elif wish.format != "qcow2":
        rows.append(("VM_FMT", wish.format))
    if wish.iso:
        rows.append(("VM_CDROM", os.path.abspath(wish.iso)))
    if wish.disks:
        names = [sources.additional(name, at) for at in range(1, len(wish.disks) + 1)]
        rows.append(("VM_DISKS", "\n".join(names)))
    if wish.labels:
        rows.append(("VM_LABELS", joined(list(wish.labels))))
    return rows


def guest_name(name: str) -> str:
    """What the guest of a machine of that name is called: letters and digits."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-").lower() or "guest"
