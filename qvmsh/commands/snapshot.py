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
        SnapshotDeleted,
        SnapshotList,
        SnapshotRestored,
        SnapshotSaved,
        Verified,
    )


@command(group="images", name="snapshot save", aliases=("save-disk", "snapshot save-disk"))
def snapshot_save(
    vm: BaseMachine,
    name: str | None = None,
    *,
    timestamp: Annotated[bool, Opt("-t")] = False,
    message: Annotated[str, Opt("-m", metavar="TEXT")] = "",
    disk_only: Annotated[bool, Opt("-d")] = False,
    freeze: bool = True,
    replace: Annotated[bool, Opt("-r")] = False,
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

    Raises:
        StateError: something blocks it (each blocker is listed with its remedy), or the name exists.
        QmpError, ImageError: it failed. Nothing changed.
    """
    from qvmsh.machine.snapshot import save

    request = save.Request(message, disk_only, is_replacing=replace, has_freeze=freeze)
    return save.save(vm, save.label(name, has_timestamp=timestamp), request)


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
        name: name of the snapshot.
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
        names: names of the snapshots.

    Raises:
        StateError: there is no such snapshot. None was removed.
    """
    from qvmsh.machine.snapshot import delete

    return delete.delete(vm, names)


@command(group="images", name="snapshot list", aliases=("list-disk", "snapshot list-disk"))
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
