"""`qvm snapshot`: the machine as a whole at one moment, to come back to."""

from __future__ import annotations

from qvmsh.commands import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.snapshot.reports import (
        Details,
        Differences,
        Pruned,
        SnapshotDeleted,
        SnapshotList,
        SnapshotRestored,
        SnapshotSaved,
        Verified,
    )


@command(group="images", name="snapshot save")
def snapshot_save(
    vm: BaseMachine,
    name: str | None = None,
    *,
    timestamp: Annotated[bool, Opt("-t")] = False,
    message: Annotated[str, Opt("-m", metavar="TEXT")] = "",
    disk_only: Annotated[bool, Opt("-d")] = False,
    freeze: bool = True,
    replace: Annotated[bool, Opt("-r", excludes=("keep", "keep_days"))] = False,
    unmount_shares: Annotated[bool, Opt(excludes=("disk_only",))] = False,
    keep: Annotated[int | None, Opt(metavar="N")] = None,
    keep_days: Annotated[float | None, Opt(metavar="DAYS")] = None,
) -> SnapshotSaved:
    """Save all disks, and the memory of a running machine, as a snapshot.

    All disks or none: a failure on one disk is undone on the others. The guest resumes at once. Without
    a name, or with `--timestamp`, the name begins with the time: 2026-11-21T10-00-00[-NAME].

    Args:
        name: name of the snapshot; any text.
        timestamp: put the time in front of the name.
        message: description of the snapshot.
        disk_only: without the memory; the guest's file systems are frozen for a moment.
        freeze: False: with --disk-only, do not freeze the guest's file systems.
        replace: replace a snapshot of the same name.
        unmount_shares: unmount and unplug the shares (VM_SHARE) for the moment: QEMU cannot save memory
            with one that is virtiofs, or mounted.
        keep: with the time in front of the name; then remove all but the newest N of that name.
        keep_days: the same, but keep those of the last DAYS days; together, what either of them keeps.

    Raises:
        StateError: something blocks it (each blocker is listed with its remedy), or the name exists.
        QmpError, ImageError: it failed. Nothing changed; or it says that only the removal failed.
    """
    from qvmsh.machine.snapshot import save
    from qvmsh.machine.snapshot.prune import Keep

    has_stamp = timestamp or name is None or keep is not None or keep_days is not None
    request = save.Request(
        message, disk_only, is_replacing=replace, has_freeze=freeze, has_stamp=has_stamp,
        unmounts=unmount_shares, keep=Keep(keep, keep_days),
    )  # fmt: skip
    return save.save(vm, name or "", request)


@command(group="images", name="save-disk", aliases=("snapshot save-disk",))
def save_disk(vm: BaseMachine, label: str | None = None) -> SnapshotSaved:
    """Save all disks as vmctl.sh did: under the time and LABEL.

    The same as `snapshot save --disk-only --timestamp LABEL`. Without a label it is `auto`.

    Args:
        label: what follows the time in the name.

    Raises:
        StateError: something blocks it (each blocker is listed with its remedy).
        QmpError, ImageError: it failed. Nothing changed.
    """
    from qvmsh.machine import snapshot_names
    from qvmsh.machine.snapshot import save

    return save.save(vm, label or snapshot_names.AUTO, save.Request(disk_only=True, has_stamp=True))


@command(group="images", name="snapshot restore", aliases=("restore-disk", "snapshot restore-disk"))
def snapshot_restore(
    vm: BaseMachine,
    name: Annotated[str, Opt(complete="snapshot")],
    *,
    force: Annotated[bool, Opt("-f")] = False,
    wait: bool = True,
) -> SnapshotRestored:
    """Restore the machine to a snapshot: all disks, or none.

    The current state is lost unless it was saved. A running machine resumes with the saved memory in
    the same QEMU; its clock is corrected, and ssh reconnects. A machine that is off stays off:
    `start --loadvm NAME` resumes with the saved memory.

    Args:
        name: name of the snapshot; what follows the time in it is enough if only one has it.
        force: restore even if hardware or disks have changed since, or the disks back other images.
            While the machine is on, a snapshot that cannot be loaded is undone; while it is off,
            disks that were added since do not change.
        wait: False: do not wait until the guest answers.

    Raises:
        StateError: there is no such snapshot on all disks, or it does not fit. Nothing changed.
        QmpError, ImageError: it failed. Nothing changed.
        DeadlineError: it is restored and runs, but ssh does not answer.
    """
    from qvmsh.machine.snapshot import restore

    return restore.restore(vm, name, is_forced=force, is_waiting=wait)


@command(group="images", name="snapshot delete", aliases=("delete-disk", "snapshot delete-disk"))
def snapshot_delete(vm: BaseMachine, *names: Annotated[str, Opt(complete="snapshot")]) -> SnapshotDeleted:
    """Remove snapshots from all disks; their current content is kept.

    A deletion that is interrupted before the first disk changed is undone, else the next command
    completes it.

    Args:
        names: names of the snapshots; what follows the time in one is enough if only one has it.

    Raises:
        StateError: there is no such snapshot. None was removed.
    """
    from qvmsh.machine.snapshot import delete

    return delete.delete(vm, names)


@command(group="images", name="snapshot prune")
def snapshot_prune(
    vm: BaseMachine,
    name: Annotated[str | None, Opt(complete="snapshot")] = None,
    *,
    keep: Annotated[int | None, Opt(metavar="N")] = None,
    keep_days: Annotated[float | None, Opt(metavar="DAYS")] = None,
    children: bool = False,
) -> Pruned:
    """Remove old snapshots called TIME-NAME, as `snapshot save --keep` does.

    The newest one stays in any case, and so does one from which a snapshot without a time in its name,
    several branches, or the current state descend. Those of another machine on a shared disk do not count.

    Args:
        name: what follows the time in their names (default: those called after the time alone).
        keep: keep the newest N.
        keep_days: keep those of the last DAYS days; together, what either of them keeps.
        children: also remove one that others descend from; those others stay.

    Raises:
        StateError: there are no such snapshots.
        QmpError, ImageError: one cannot be removed.
    """
    from qvmsh.machine.snapshot import prune

    return prune.prune(vm, name or "", prune.Keep(keep, keep_days, has_parents=not children))


@command(group="images", name="list-disk", aliases=("snapshot list-disk",))
def list_disk(vm: BaseMachine) -> SnapshotList:
    """List disks and snapshots as `snapshot list` does; JSON as of vmctl.sh.

    Returns:
        as `snapshot list`; each of the disks has also `drive_id`, `disk` and its own `snapshots` with
        `id`, `tag` and `date`.
    """
    from qvmsh.machine.snapshot import list_show_diff

    return list_show_diff.disk_listing(vm)


@command(group="images", name="snapshot list")
def snapshot_list(vm: BaseMachine) -> SnapshotList:
    """List the disks, and the snapshots as a tree with dates.

    Read from the images, so snapshots of other tools are listed too, and disks where one is missing.
    `*` marks the snapshot that the current state descends from.

    Returns:
        `disks`, and `snapshots` with their disks, sizes, dates, parents and messages: dicts, as in JSON,
        `vm.snapshot_list().snapshots[0]["name"]`.
    """
    from qvmsh.machine.snapshot import list_show_diff

    return list_show_diff.listing(vm)


@command(group="images", name="snapshot show")
def snapshot_show(vm: BaseMachine, name: Annotated[str, Opt(complete="snapshot")]) -> Details:
    """Show a snapshot's details; `--json` adds QEMU's arguments at the time.

    Args:
        name: name of the snapshot.

    Raises:
        StateError: there is no such snapshot.
    """
    from qvmsh.machine.snapshot import list_show_diff

    return list_show_diff.show(vm, name)


@command(group="images", name="snapshot verify")
def snapshot_verify(vm: BaseMachine, *names: Annotated[str, Opt(complete="snapshot")]) -> Verified:
    """Check that snapshots can be restored; exit status 1 if one cannot.

    Each must be on all disks, of the same moment, on a base whose size and dates are as they were,
    in undamaged images, and readable; what cannot be checked is listed. While the machine is on, the
    tables of the images are not checked.

    Args:
        names: names of the snapshots (default: all).

    Raises:
        StateError: there is no such snapshot.
    """
    from qvmsh.machine.snapshot import verify

    return verify.verify(vm, names)


@command(group="images", name="snapshot diff")
def snapshot_diff(
    vm: BaseMachine,
    name: Annotated[str, Opt(complete="snapshot")],
    other: Annotated[str | None, Opt(complete="snapshot")] = None,
) -> Differences:
    """Show the data written since a snapshot and changes of the hardware.

    While the machine is on, data that QEMU has not yet written is not counted.

    Args:
        name: name of the snapshot.
        other: a second snapshot, instead of the current state.

    Raises:
        StateError: there is no such snapshot.
    """
    from qvmsh.machine.snapshot import list_show_diff

    return list_show_diff.diff(vm, name, other)
