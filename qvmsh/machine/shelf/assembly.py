"""A machine of this host from an unpacked package: settings, identity, names of its files.

    done = assemble(found, layout, folder, Target("twin", "/vm/twin"), "demo.tar.gz", environ)

All of it happens in the folder in which it was unpacked; that becomes the machine by one rename.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

from qvmsh.config import edit, files
from qvmsh.errors import ConfigError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import identity, registry
from qvmsh.machine.create import create
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.restore import new_identity
from qvmsh.machine.shelf import brought, contents, images, layouts
from qvmsh.machine.storage import chain, own_disk
from qvmsh.machine.storage.path_settings import WORDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from qvmsh.machine.shelf.brought import Brought
    from qvmsh.machine.shelf.layouts import Layout
    from qvmsh.machine.shelf.unpack import Unpacked

_MEMORY_MIB = 1024


@dataclass(frozen=True)
class Target:
    """What the machine becomes.

    Args:
        name: its name.
        directory: where it will be.
        keeps_identity: UUID, VM_MACHINE_ID and keys stay as they are.
    """

    name: str
    directory: str
    keeps_identity: bool = False


@dataclass
class Assembled:
    """What is reported."""

    notes: list[str] = field(default_factory=list)
    brings: list[Brought] = field(default_factory=list)


def assemble(
    found: Unpacked, layout: Layout, folder: str, target: Target, label: str, environ: Mapping[str, str]
) -> Assembled:
    """Make the machine; see above.

    Raises:
        ImageError: an image names a file outside.
        ConfigError: its settings have problems.
    """
    done = Assembled()
    BaseMachine(folder, environ=environ).state_folder()
    _hold(folder, [])  # while this works, no file outside is read
    if layout.kind == layouts.OF_S2E:
        _write_vmrc_of_s2e(folder, target, environ, done)
    else:
        _complete(folder, target, environ)
    if found.manifest and found.manifest.uuid:
        host_files.write_atomic(os.path.join(folder, ".qvm", "uuid"), found.manifest.uuid + "\n")
    try:
        made = BaseMachine(folder, environ=environ)
        done.brings = brought.find(made.settings)
        before = _names(made)
        was = made.name
        _hold(folder, done.brings)
        images.require_inside(BaseMachine(folder, environ=environ), label)
        _hold(folder, [])  # what it brings may name its own files
        if layout.kind != layouts.OF_S2E:
            _identity(made, _snapshots(found, made), target, done)
        identity.uuid_of(made)
        _hold(folder, done.brings)
        made = BaseMachine(folder, environ=environ)
        images.rename(made, _moved(folder, before, _names(made)))
        images.forget_bitmaps(made)
        _rewrite_snapshots(made, target.directory, was)
        done.notes = new_identity.on_disks(made, done.notes)
        made.settings  # noqa: B018  # what we wrote must be right
    except ConfigError as error:
        raise _named(error, folder, target.directory, label) from None
    if not done.brings:
        os.unlink(os.path.join(folder, files.MARK))
    done.brings += brought.shell_code(folder)
    return done


def _hold(folder: str, brings: list[Brought]) -> None:
    """Let these variables have no effect, and no file outside be included."""
    text = "".join(f"{each.name}\n" for each in brings)
    host_files.write_atomic(os.path.join(folder, files.MARK), text, 0o600)


def _named(error: ConfigError, folder: str, final: str, label: str) -> ConfigError:
    """The error with the name that the machine would have had."""
    inner, outer = files.shown(folder), files.shown(final)
    what = error.what.replace(folder, outer).replace(inner, outer)
    details = [each.replace(folder, outer).replace(inner, outer) for each in error.details]
    return ConfigError(
        f"{label}: its .vmrc cannot be used: {what}",
        details=details,
        problems=error.problems,
        hint=error.hint,
    )


def _names(made: BaseMachine) -> list[str]:
    """The files that are named after the machine."""
    settings = made.settings
    name = settings.text("VM_MACHINE_NAME")
    layers = [settings.text(f"VM_SNAPSHOT_{which}FILENAME") for which in ("SEED", "BASE", "BACKING")]
    uefi = [f"{name}-{kind}.qcow2" for kind in ("uefi", "uefi-secure")]
    return [*layers, f"{name}.{settings.text('VM_FMT')}", *uefi]


def _moved(folder: str, before: list[str], now: list[str]) -> dict[str, str]:
    pairs = zip(before, now, strict=True)
    return {
        old: new for old, new in pairs if old != new and os.path.lexists(os.path.join(folder, old))
    }  # fmt: skip


# Settings


def _write_vmrc_of_s2e(folder: str, target: Target, environ: Mapping[str, str], done: Assembled) -> None:
    """S2E has no settings: a guest of its time, with its disk as it is."""
    is_old = not os.path.exists(os.path.join(folder, own_disk.S2E))
    if is_old:
        os.rename(os.path.join(folder, layouts.OLD_DISK), os.path.join(folder, f"{target.name}.qcow2"))
    number = identity.free_id(environ)
    rows = [
        ("VM_MACHINE_NAME", target.name), ("VM_MACHINE_ID", number or identity.SHARED_ID),
        ("VM_MACHINE_OWNER", process.user_name(os.geteuid())), ("VM_MACHINE_MEM", str(_MEMORY_MIB)),
        *own_disk.S2E_SETTINGS, *([] if number else [("VM_NET_MAC", "auto")]),
    ]  # fmt: skip
    if is_old:
        rows = [(key, "qcow2" if key == "VM_FMT" else value) for key, value in rows]
    text = "# imported from a package of S2E; its guest may be older than virtio\n"
    text += "".join(f"{key}={edit.quote(value)}\n" for key, value in rows)
    host_files.write_atomic(os.path.join(folder, ".vmrc"), text)
    names = sorted(each for each in os.listdir(folder) if each.startswith(layouts.SNAPSHOT))
    if names:
        shown = ", ".join(each.removeprefix(layouts.SNAPSHOT) for each in names)
        done.notes.append(
            f"snapshots of S2E are kept beside the disk, and only S2E loads them: {shown}; "
            "once the guest writes to the disk they no longer fit (`start --disposable` leaves it unchanged)"
        )


def _complete(folder: str, target: Target, environ: Mapping[str, str]) -> None:
    """Set what every machine needs, where a file that is not here would have set it."""
    made = BaseMachine(folder, environ=environ)
    owner = process.user_name(os.geteuid())
    values = {"VM_MACHINE_NAME": target.name, "VM_MACHINE_ID": "01", "VM_MACHINE_OWNER": owner}
    for name, value in values.items():
        if not made.loaded.is_set(name):
            edit.assign_in_file(made.files.vmrc, name, value)


# Identity


def _snapshots(found: Unpacked, made: BaseMachine) -> list[str]:
    if found.manifest:
        return list(found.manifest.snapshots)
    path = os.path.join(made.directory, own_disk.disk_name(made))
    kind = own_disk.image_format(made, os.path.basename(path))
    return [each.name for each in chain.snapshots_in(path, kind)]


def _identity(made: BaseMachine, snapshots: list[str], target: Target, done: Assembled) -> None:
    """Another machine than the packed one, or the same."""
    environ, vmrc, was = made.environ, made.files.vmrc, made.name
    is_known = target.keeps_identity and _is_known(identity.known_uuid(made), environ)
    lacks_key = _lacks_key(made)
    if lacks_key:
        create.make_key(made.directory, target.name)
        if snapshots:
            done.notes.append(
                "it has a new ssh key: a guest that is loaded from a snapshot takes it at its next boot"
            )
    if not target.keeps_identity:
        has_snapshots = bool(snapshots) and not lacks_key
        new_identity.renew(made.directory, target.name, environ, done.notes, has_snapshots=has_snapshots)
        return
    if target.name != was:
        edit.assign_in_file(vmrc, "VM_MACHINE_NAME", target.name)
    if is_known:
        host_files.remove(made.files.uuid)
        done.notes.append("it has a new UUID: a machine with the packed one is known here")


def _lacks_key(made: BaseMachine) -> bool:
    """True if the guest takes its key from the machine, and the package did not bring it."""
    takes = f"name=opt/qvm/authorized_keys,file={create.KEY}.pub"
    is_wanted = any(takes in made.settings.words(each) for each in WORDS)
    return is_wanted and not os.path.exists(os.path.join(made.directory, create.KEY))


def _is_known(uuid: str, environ: Mapping[str, str]) -> bool:
    return bool(uuid) and any(
        identity.known_uuid(BaseMachine(each, environ=environ)) == uuid
        for each in registry.directories(environ)
    )


# What is known of its snapshots


def _rewrite_snapshots(made: BaseMachine, final: str, was: str) -> None:
    """Let `.qvm/snapshots.json` name the files where they will be; nothing else in it is believed."""
    before = [name.replace(made.name, was, 1) for name in _names(made)]
    renamed = dict(zip(before, _names(made), strict=True))

    folder = ""  # where the machine was, if the paths say it

    def placed(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        inside = value.removeprefix(folder) if folder else value
        return value if os.path.isabs(inside) else os.path.join(final, renamed.get(inside, inside))

    try:
        document = host_files.document(made.files.snapshots)
        for row in document["snapshots"]:
            row.pop("host_keys", None)
            row.pop("arguments", None)
            main = next((each for each in row.get("disks") or () if os.path.basename(each) in before), "")
            folder = os.path.join(os.path.dirname(main), "") if os.path.isabs(main) else ""
            row["disks"] = [placed(each) for each in row.get("disks") or ()]
            for each in row.get("images") or ():
                each["file"] = placed(each.get("file"))
                if base := each.get("base"):
                    _unpack_base(made, final, base, placed(base["file"]))
            saved = row.get("settings") or {}
            if saved.get("VM_QEMU_EXTRA") and saved.keys() >= {"VM_QEMU_EXTRA"}:
                saved["VM_QEMU_EXTRA"] = made.settings.text("VM_QEMU_EXTRA")
        text = json.dumps(document, indent=1) + "\n"
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        host_files.remove(made.files.snapshots)  # the images have the snapshots themselves
        return
    host_files.write_atomic(made.files.snapshots, text)


def _unpack_base(made: BaseMachine, final: str, base: dict[str, Any], path: str) -> None:
    """Note the base as it is here, if it is the one that the snapshot was made on."""
    base["file"] = path
    inside = os.path.relpath(path, final)
    here = os.path.join(made.directory, inside)
    is_own = not inside.startswith("..") and os.path.isfile(here)
    if base.get("mtime_ns") == contents.FRESH_NS and is_own:
        base |= chain.print_of(here)
