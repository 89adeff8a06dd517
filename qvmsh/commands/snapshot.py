"""`qvm snapshot`: the machine as a whole at one moment, to come back to."""

from __future__ import annotations

from qvmsh.commands._define import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.machine import Machine
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
    vm: Machine,
    name: str | None = None,
    *,
    timestamp: Annotated[bool, Opt("-t")] = False,
    message: Annotated[str, Opt("-m", metavar="TEXT")] = "",
    disk_only: Annotated[bool, Opt("-d")] = False,
    freeze: bool = True,
    replace: Annotated[bool, Opt("-r")] = False,
) -> SnapshotSaved:
    """Save all disks, and the memory of a machine that is on, as one snapshot.

    All disks or none: what fails on one is undone on the others. The guest goes on at once. Without
    a name, or with `--timestamp`, the name begins with the time: 2026-11-21T10-00-00[-NAME].

    Args:
        name: of the snapshot; any text.
        timestamp: put the time in front of the name.
        message: what it is good for.
        disk_only: without the memory; the guest's file systems are frozen for the moment.
        freeze: False: with --disk-only, do not freeze the guest's file systems.
        replace: take the place of a snapshot of the same name.

    Raises:
        StateError: something stands against it (each blocker with its remedy), or the name is taken.
        QmpError, ImageError: it failed; everything is as it was.
    """
    from qvmsh.machine.snapshot import save_delete as snapshots

    request = snapshots.Request(message, disk_only, is_replacing=replace, has_freeze=freeze)
    return snapshots.save(vm, snapshots.label(name, has_timestamp=timestamp), request)


@command(group="images", name="snapshot restore", aliases=("restore-disk", "snapshot restore-disk"))
def snapshot_restore(
    vm: Machine,
    name: Annotated[str, Opt(complete="snapshot")],
    *,
    force: Annotated[bool, Opt("-f")] = False,
    wait: bool = True,
) -> SnapshotRestored:
    """Put the machine back to a snapshot: all disks, or none.

    What it is now is lost, unless it was saved before. A machine that is on goes on with the memory
    of then, in the same QEMU; its clock is put right, and ssh connects anew. One that is off stays
    off: `start --loadvm NAME` then goes on with the memory.

    Args:
        name: of the snapshot.
        force: although hardware or disks are not those of then, or other images stand on the disks. While
            it is on, what cannot be loaded is undone; while it is off, disks that were none of the machine
            then are left as they are.
        wait: False: do not wait until the guest answers.

    Raises:
        StateError: there is no such snapshot on all disks, or it does not fit; nothing was changed.
        QmpError, ImageError: it failed; everything is as it was.
        DeadlineError: it is restored and runs, but ssh does not answer.
    """
    from qvmsh.machine.snapshot import restore as snapshot_restore

    return snapshot_restore.restore(vm, name, is_forced=force, is_waiting=wait)


@command(group="images", name="snapshot delete", aliases=("delete-disk", "snapshot delete-disk"))
def snapshot_delete(vm: Machine, *names: Annotated[str, Opt(complete="snapshot")]) -> SnapshotDeleted:
    """Remove snapshots from all disks; the disks as they are now stay untouched.

    A deletion that is cut off before a disk has lost its part is undone, else the next command ends it.

    Args:
        names: of the snapshots.

    Raises:
        StateError: there is no such snapshot; none was removed.
    """
    from qvmsh.machine.snapshot import save_delete as snapshots

    return snapshots.delete(vm, names)


@command(group="images", name="snapshot list", aliases=("list-disk", "snapshot list-disk"))
def snapshot_list(vm: Machine) -> SnapshotList:
    """List the machine's disks and snapshots: as a tree, with dates, and where one is missing.

    Read from the images, so what other tools have made is there too. `*` marks the snapshot that
    the present state descends from.

    Returns:
        `disks`, and `snapshots` with their disks, sizes, dates, parents and messages: dicts, as in JSON,
        `vm.snapshot_list().snapshots[0]["name"]`.
    """
    from qvmsh.machine.snapshot import view as snapshot_view

    return snapshot_view.listing(vm)


@command(group="images", name="snapshot show")
def snapshot_show(vm: Machine, name: Annotated[str, Opt(complete="snapshot")]) -> Details:
    """Show all that is known of a snapshot; `--json` has the argument list of then too.

    Args:
        name: of the snapshot.

    Raises:
        StateError: there is no such snapshot.
    """
    from qvmsh.machine.snapshot import view as snapshot_view

    return snapshot_view.show(vm, name)


@command(group="images", name="snapshot verify")
def snapshot_verify(vm: Machine, *names: Annotated[str, Opt(complete="snapshot")]) -> Verified:
    """Judge whether snapshots can be trusted; exit status 1 if one cannot.

    Each must be on all disks, of one moment, on a base with the size and dates of then, in sound
    images, and readable; what is not known is listed. While the machine is on, the tables of the
    images are not checked.

    Args:
        names: of the snapshots; none = all.

    Raises:
        StateError: there is no such snapshot.
    """
    from qvmsh.machine.snapshot import verify as snapshot_verify

    return snapshot_verify.verify(vm, names)


@command(group="images", name="snapshot diff")
def snapshot_diff(
    vm: Machine,
    name: Annotated[str, Opt(complete="snapshot")],
    other: Annotated[str | None, Opt(complete="snapshot")] = None,
) -> Differences:
    """Tell how much was written on each disk since a snapshot, and what of the hardware has changed.

    While the machine is on, what its QEMU still holds back is not counted.

    Args:
        name: of the snapshot.
        other: a second snapshot, instead of the present state.

    Raises:
        StateError: there is no such snapshot.
    """
    from qvmsh.machine.snapshot import view as snapshot_view

    return snapshot_view.diff(vm, name, other)
