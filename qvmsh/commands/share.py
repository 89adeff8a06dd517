"""`qvm share`: directories of the host in the guest."""

from __future__ import annotations

from qvmsh.commands import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.guest.shares.listing import ShareDone, Shares
    from qvmsh.machine.machine import BaseMachine


@command(group="guest", name="share list")
def share_list(vm: BaseMachine) -> Shares:
    """List the directories of the host that the guest can mount (VM_SHARE).

    Returns:
        `shares`: dicts, as in JSON, `vm.share_list().shares[0]["tag"]`.
    """
    from qvmsh.machine.power import share

    return share.shares_of(vm)


@command(group="guest", name="share add")
def share_add(vm: BaseMachine, share: str, *, save: bool = False) -> ShareDone:
    """Attach a directory of the host to a running guest, and mount it.

    It is HOSTDIR:TAG[:ro][:9p|virtiofs][:mount=PATH], as in VM_SHARE; a tag alone attaches and mounts a
    share of VM_SHARE again. Without `mount=`, the guest mounts it by its tag. virtiofs needs a QEMU that
    was started with such a share, and 9p one that was started with this share.

    Args:
        share: the share, or the tag of one.
        save: add it to VM_SHARE too.

    Raises:
        UsageError, ConfigError: it cannot be a share. Nothing changed.
        StateError, QmpError: it cannot be attached now.
    """
    from qvmsh.machine.power import share as shares

    return shares.add(vm, share, is_saved=save)


@command(group="guest", name="share remove")
def share_remove(vm: BaseMachine, tag: str, *, save: bool = False) -> ShareDone:
    """Unmount a share in a running guest, and unplug it.

    Args:
        tag: its tag.
        save: remove it from VM_SHARE too.

    Raises:
        UsageError: there is no such share.
        StateError: the guest uses it. Nothing changed.
        DeadlineError: the guest does not release it.
    """
    from qvmsh.machine.power import share

    return share.remove(vm, tag, is_saved=save)
