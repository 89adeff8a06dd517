"""`qvm archive`: archive the whole machine while its guest runs; list, verify, delete archives."""

from __future__ import annotations

from qvmsh.commands import Opt, command
from qvmsh.errors import UsageError
from qvmsh.machine.archive.reports import Archived, ArchiveList, Deleted, Verified

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.machine import BaseMachine


@command(group="images")
def archive(
    vm: BaseMachine,
    state: Annotated[str | None, Opt(metavar="ARCHIVE", complete="archive")] = None,
    *,
    create: Annotated[bool, Opt("-c", excludes=("savevm", "list", "verify", "delete"))] = False,
    savevm: Annotated[str | None, Opt("-s", metavar="NAME", excludes=("list", "verify", "delete"))] = None,
    delvm: Annotated[
        str | None, Opt("-d", metavar="NAME", complete="snapshot", excludes=("list", "verify", "delete"))
    ] = None,
    compress: Annotated[
        str | None,
        Opt(
            "-z",
            metavar="TOOL",
            choices=("xz", "gzip", "bzip2", "lz4", "zstd"),
            excludes=("list", "verify", "delete"),
        ),
    ] = None,
    compress_base: Annotated[bool, Opt("-b", excludes=("list", "verify", "delete"))] = False,
    drop_snapshots: Annotated[bool, Opt(excludes=("list", "verify", "delete"))] = False,
    full: Annotated[bool, Opt("-f", excludes=("list", "verify", "delete"))] = False,
    keep: Annotated[int | None, Opt(metavar="N", excludes=("list", "verify", "delete"))] = None,
    keep_days: Annotated[float | None, Opt(metavar="DAYS", excludes=("list", "verify", "delete"))] = None,
    list: Annotated[bool, Opt(excludes=("verify", "delete"))] = False,
    verify: Annotated[bool, Opt(excludes=("delete",))] = False,
    boot: bool = False,
    delete: bool = False,
) -> Archived | ArchiveList | Verified | Deleted:
    """Archive the whole machine: all disks, their snapshots, its settings.

    A running machine keeps running: the guest agent freezes its file systems for a moment (without
    an agent the state is "crash-consistent"), and the copy is made while it runs. The first archive
    of a base holds base and overlay as a pair; later calls add the current state of the overlay, or
    only what has changed since the previous state. Archives are stored in VM_ARCHIVE, else in the
    machine's directory, in the layout of `vm`. What is left out (large read-only files, devices of
    the host, shared folders) is listed each time.

    Args:
        state: with --verify or --delete, the archive or one of its states (--verify: the newest one).
        create: with the machine off, commit the overlay into the base first, and begin a new archive.
            An overlay with snapshots is not committed: the commit would corrupt them.
        savevm: put a snapshot with the guest's memory into the archived state; the machine keeps it,
            and a snapshot of the same name is replaced.
        delvm: remove this snapshot from the copy; the machine keeps it.
        compress: compress the copy: xz, gzip, bzip2, lz4, zstd.
        compress_base: with --compress, the base too.
        drop_snapshots: with --create, commit an overlay that has snapshots; they are lost.
        full: copy everything, even if the changes are known.
        keep: then remove all but the newest N states; never the last good one.
        keep_days: then remove older states; never the last good one.
        list: list the archived states.
        verify: read everything back: checksums and `qemu-img check`.
        boot: with --verify, start the archived state, disposable, and wait until it is ready.
        delete: remove the archive, or one of its states; never the last good one.

    Raises:
        StateError: it cannot be archived in this state, or the state must be kept. Nothing changed.
        QvmError: the disk is full, or a copy failed. The machine and the archives did not change.
        ImageError: --verify found damage.
    """
    from qvmsh.machine.archive import archive, maintenance
    from qvmsh.machine.archive.job import Wish

    if boot and not verify:
        raise UsageError("archive: --boot requires --verify")
    if state is not None and not verify and not delete:
        raise UsageError(
            f"archive: unexpected argument {state!r}",
            hint="only --verify and --delete take the name of an archive",
        )
    if list:
        index = maintenance.index_of(vm)
        found = index.archives()
        maintenance.warn_of_unreadable(vm, index)
        return ArchiveList(vm.name, index.store.shown, found, [error.what for error in index.unreadable])
    if verify:
        from qvmsh.machine.restore import archive_verify

        return archive_verify.verify(vm, state, is_booting=boot)
    if delete:
        from qvmsh.machine.archive import removal

        if state is None:
            raise UsageError("archive: --delete needs a state", hint="`qvm archive --list` shows them")
        return removal.delete(vm, state)
    wish = Wish(
        is_create=create,
        savevm=savevm or "",
        delvm=delvm or "",
        compress=compress or "",
        compress_base=compress_base,
        drop_snapshots=drop_snapshots,
        is_full=full,
        keep=keep,
        keep_days=keep_days,
    )
    return archive.archive(vm, wish)
