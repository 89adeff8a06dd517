"""What makes a restored machine another one: name, UUID, addresses, ports, keys.

    renew("/vm/twin", "twin", os.environ, notes, has_snapshots=False)

New are: name, UUID, VM_MACHINE_ID (and so the MAC address), ports of the host that can be chosen; the
guest's name and its ssh keys if qvm sets them. What stays the same is reported: the TPM's keys, ports
that the user has chosen, what other guests keep on their disks.
"""

from __future__ import annotations

import os
import pwd

from qvmsh.config import edit
from qvmsh.config.words import joined
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import identity
from qvmsh.machine.create import create
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.power import tpm
from qvmsh.machine.storage import own_disk
from qvmsh.machine.storage.path_settings import WORDS, between

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.config.settings import Settings

_KEYS = "name=opt/qvm/authorized_keys,"
_NAME = "name=opt/qvm/hostname,string="
ON_DISK = "on its disks the guest still has the ssh host key and machine-id of"
"""Begins the note about what a machine has in common with the original."""
_INSTANCE = "name=opt/qvm/instance,string="


def renew(
    folder: str,
    name: str,
    environ: Mapping[str, str],
    notes: list[str],
    *,
    has_snapshots: bool,
    keeps_identity: bool = False,
) -> None:
    """Give the machine in a folder an identity of its own.

    Args:
        name: its new name.
        notes: gets notes for the user.
        has_snapshots: a guest resumed from one has the old keys.
        keeps_identity: the name alone; both cannot run on one network.
    """
    made = BaseMachine(folder, environ=environ)
    settings = made.settings
    if keeps_identity:
        for variable, words in guest_words(made, name).items():
            assign_words(made.files.vmrc, variable, words)
        edit.assign_in_file(made.files.vmrc, "VM_MACHINE_NAME", name)
        return
    old, by_hand = settings.text("VM_MACHINE_NAME"), own_disk.is_by_hand(made)
    number = identity.free_id(environ) or identity.SHARED_ID
    changes = {"VM_MACHINE_NAME": name, "VM_MACHINE_ID": number}
    if number == identity.SHARED_ID or settings.text("VM_NET_MAC"):
        changes["VM_NET_MAC"] = "auto"
    if settings.text("VM_NET_PORT").isdigit():
        changes["VM_NET_PORT"] = f"77{number}"
    if settings.text("VM_SSH_PORT").isdigit() and not by_hand:
        changes["VM_SSH_PORT"] = "auto"
    changes |= _owner(made)
    notes += _changed(settings, changes)
    vmrc = made.files.vmrc
    for variable, words in guest_words(made, name).items():
        assign_words(vmrc, variable, words)
    for variable, value in changes.items():
        edit.assign_in_file(vmrc, variable, value)
    _keys(BaseMachine(folder, environ=environ), name, old, notes, has_snapshots=has_snapshots)
    shared = [each for each in ("VM_HOSTFWD", "VM_QEMU_VNC") if settings.text(each)]
    shared += ["VM_SSH_PORT"] if by_hand and settings.text("VM_SSH_PORT").isdigit() else []
    shared += [each for each in WORDS if any("hostfwd=" in w or "mac=" in w for w in settings.words(each))]
    if shared:
        verb = "is" if len(shared) == 1 else "are"
        notes.append(
            f"{', '.join(shared)} {verb} the same as for {old}: change it before both run at the same time"
        )
    if tpm.is_wanted(made):
        notes.append(f"its TPM holds the same keys as the one of {old}")


def _changed(settings: Settings, changes: Mapping[str, str]) -> list[str]:
    """Notes about the values that are others now; name and number are always."""
    rows = [(each, settings.text(each), value) for each, value in changes.items()]
    return [
        f"{each} is now {value}, it was {was or 'empty'}"
        for each, was, value in rows
        if was != value and each not in ("VM_MACHINE_NAME", "VM_MACHINE_ID")
    ]


def guest_words(vm: BaseMachine, name: str) -> dict[str, list[str]]:
    """The variables that hold the guest's name, and their words with that of a machine called `name`."""
    settings = vm.settings
    was, new = (_NAME + create.guest_name(each) for each in (settings.text("VM_MACHINE_NAME"), name))
    found = {}
    for variable in WORDS:
        words = settings.words(variable)
        changed = [new if each == was else each for each in words]
        if changed != words:
            found[variable] = changed
    return found


def _owner(made: BaseMachine) -> dict[str, str]:
    """VM_MACHINE_OWNER of a machine that another account archived; the account in the guest stays."""
    settings = made.settings
    was = settings.text("VM_MACHINE_OWNER")
    me = process.user_name(os.geteuid())
    try:
        is_possible = os.geteuid() in (0, pwd.getpwnam(was).pw_uid)
    except KeyError:
        is_possible = False
    if is_possible:
        return {}
    user = {} if settings.is_set("VM_MACHINE_USER") else {"VM_MACHINE_USER": was}
    return {"VM_MACHINE_OWNER": me, **user}


def _keys(made: BaseMachine, name: str, was: str, notes: list[str], *, has_snapshots: bool) -> None:
    """A UUID and, where the guest takes its keys at each boot, ssh keys of its own.

    A guest resumed from a snapshot has the old ones, so they stay if there is a snapshot. Any other guest's
    host key is on its disk: it stays pinned, under the name of the new machine.

    Args:
        was: the name of the machine that was archived.
    """
    old = identity.known_uuid(made)
    host_files.remove(made.files.uuid)
    own = identity.uuid_of(made)
    if old and os.path.exists(made.files.known_hosts):
        text = host_files.read(made.files.known_hosts).text.replace(f"qvm-{old} ", f"qvm-{own} ")
        host_files.write_atomic(made.files.known_hosts, text)
    key = os.path.join(made.directory, create.KEY)
    takes_keys = f"{_KEYS}file={create.KEY}.pub"
    variable = next((each for each in WORDS if takes_keys in made.settings.words(each)), None)
    if variable is None or not os.path.exists(key):
        notes.append(f"{ON_DISK} {was if was != name else 'the original'}")
        return
    if has_snapshots:
        notes.append(f"the ssh keys are still those of {was}, which its snapshots need")
        return
    for end in ("", ".pub"):
        host_files.remove(key + end)
    create.make_key(made.directory, name)
    words = made.settings.words(variable)
    gone = [n for n, word in enumerate(words) if word.startswith(_INSTANCE)]
    words = [word for n, word in enumerate(words) if n not in gone and n + 1 not in gone]
    at = words.index(takes_keys) + 1
    assign_words(made.files.vmrc, variable, [*words[:at], "-fw_cfg", _INSTANCE + own, *words[at:]])
    host_files.remove(made.files.known_hosts)  # its guest makes a host key of its own


def on_disks(made: BaseMachine, notes: list[str]) -> list[str]:
    """The notes without that about a guest, where the disks, which are there now, hold none."""
    return [each for each in notes if not (each.startswith(ON_DISK) and own_disk.is_empty(made))]


def assign_words(vmrc: str, variable: str, words: list[str]) -> None:
    """Set a variable that holds words for QEMU.

    Args:
        vmrc: of a machine that goes elsewhere: what is in its directory is named relative to that, where QEMU
            begins, too.
    """
    folder = os.path.dirname(vmrc)
    edit.assign_in_file(vmrc, variable, joined([between(word, folder, ".") for word in words]))
