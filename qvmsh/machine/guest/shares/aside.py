"""Shares put aside for a moment, since QEMU cannot save or load a guest that has them; and put back.

    with put_aside(vm, note):           # unmounted and unplugged, if any is attached
        ...save the memory...
    put_back(vm, note)                  # after a restore: those that are not attached

What cannot be put back is a warning: the work in between is done, or its own error counts.
"""

from __future__ import annotations

import contextlib

from qvmsh.errors import QvmError
from qvmsh.machine.guest.shares import devices, mounts, plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qvmsh.config.shares import ShareLine
    from qvmsh.machine.guest.shares.mounts import Place
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.qmp import Exchange


def _attached_now(
    vm: BaseMachine, note: LaunchRecord, keeps: Sequence[str], qemu: Exchange | None
) -> list[ShareLine]:
    """The shares that the guest has now, mounted or not.

    StateError: one of them hangs. QvmError: QEMU does not answer.
    """
    lines = [each for each in plan.of_record(note) if each.tag not in keeps]
    if not lines:
        return []
    try:
        with devices.using(note, qemu) as own:
            found = devices.states(own, lines)
    except OSError as error:
        raise QvmError(f"QEMU does not answer: {error}", machine=vm.name) from None
    devices.require_no_loss(vm, "unmount", found)
    return [each for each in lines if found[each.tag] == devices.ATTACHED]


@contextlib.contextmanager
def put_aside(
    vm: BaseMachine,
    note: LaunchRecord,
    *,
    keeps: Sequence[str] = (),
    is_last: bool = False,
    qemu: Exchange | None = None,
) -> Iterator[list[str]]:
    """Unmount and unplug the shares for the block; afterwards plug and mount them again.

    Args:
        keeps: tags of shares that stay.
        is_last: only if the block fails: at its end there is no guest any more, or another state of it.
        qemu: the caller's own conversation on the socket `session`.

    Yields:
        The tags of the shares that were put aside.

    Raises:
        StateError: one is in use in the guest. Nothing changed.
        DeadlineError: the guest does not release one. The others are put back.
        QvmError: the guest cannot be asked. Nothing changed.
    """
    lines = _attached_now(vm, note, keeps, qemu)
    if not lines:
        yield []
        return
    tags = [each.tag for each in lines]
    places = mounts.found(vm, lines)
    is_done = False
    try:
        with vm.io.stage(f"unmounting {', '.join(tags)}"):
            mounts.unmount(vm, places)
        _detach(vm, note, lines, qemu)
        yield tags
        is_done = True
    finally:
        if not (is_done and is_last):
            put_back(vm, note, places, lines, qemu)


def _detach(vm: BaseMachine, note: LaunchRecord, lines: Sequence[ShareLine], qemu: Exchange | None) -> None:
    """Unplug the shares; an interrupted one is completed first: the guest would do it later."""
    at = lines[0]
    try:
        with devices.using(note, qemu) as own:
            for at in lines:
                devices.detach(vm, own, at)
    except QvmError:
        raise
    except BaseException:
        with contextlib.suppress(QvmError, OSError), devices.using(note, qemu) as own:
            devices.detach(vm, own, at)
        raise


def put_back(
    vm: BaseMachine,
    note: LaunchRecord,
    places: Sequence[Place] = (),
    lines: Sequence[ShareLine] | None = None,
    qemu: Exchange | None = None,
) -> None:
    """Plug in what is not attached, and mount it; warn of what cannot be.

    Args:
        places: where; nothing is mounted elsewhere.
        lines: which of them; None = all that the guest was given.
    """
    lines = plan.of_record(note) if lines is None else lines
    if not lines:
        return
    with vm.io.stage(f"attaching {', '.join(each.tag for each in lines)}"):
        wrong = _attached(vm, note, lines, qemu)
        if places:
            wrong += [f"{each}: {why}" for each, why in mounts.mount(vm, places).items()]
    for each in wrong:
        vm.io.warn(f"{vm.name}: {each}; {again(lines)}")


def again(lines: Sequence[ShareLine]) -> str:
    """What attaches and mounts a share again."""
    return f"`qvm share add {lines[0].tag}` tries again"


def _attached(
    vm: BaseMachine, note: LaunchRecord, lines: Sequence[ShareLine], qemu: Exchange | None
) -> list[str]:
    """Attach those that are not; what went wrong."""
    wrong = []
    try:
        with devices.using(note, qemu) as own:
            found = devices.states(own, lines)
            for line in lines:
                if found[line.tag] != devices.DETACHED:
                    continue
                try:
                    devices.attach(vm, note, own, line)
                except QvmError as error:
                    wrong.append(devices.explained(vm, line, error).what)
    except (OSError, QvmError) as error:
        wrong.append(f"cannot attach the shares: {error}")
    return wrong


def _lost(note: LaunchRecord) -> list[str]:
    """The tags of the shares whose virtiofsd has ended: to mount one would hang."""
    try:
        with devices.conversation(note) as qemu:
            found = devices.states(qemu, plan.of_record(note))
    except (OSError, QvmError):  # it is busy: the mount says what is wrong
        return []
    return [tag for tag, state in found.items() if state == devices.LOST]


def mount_wanted(vm: BaseMachine, note: LaunchRecord, *, has_waited: bool = True) -> list[dict[str, str]]:
    """Mount what VM_SHARE asks for, in a guest that is ready; warn of what is not mounted.

    Args:
        has_waited: the guest is ready; else nothing is done but a warning.

    Returns:
        `tag`, `mount` and `problem` of each share that is to be mounted.
    """
    places = mounts.wanted(plan.of_record(note))
    if not places:
        return []
    if has_waited:
        wrong = {each.path: devices.ENDED for each in places if each.line.tag in _lost(note)}
        with vm.io.stage("mounting shares"):
            wrong |= mounts.mount(vm, [each for each in places if each.path not in wrong])
    else:
        wrong = {each.path: "nothing waited for the guest" for each in places}
    rows = []
    for each in places:
        why = wrong.get(each.path, "")
        rows.append({"tag": each.line.tag, "mount": each.path, "problem": why})
        if why:
            hint = devices.AFTER_END if why == devices.ENDED else again([each.line])
            if why.startswith("its kernel has no "):
                other = "virtiofs" if each.line.kind == "9p" else "9p"
                hint = f"`:{other}` in its line of VM_SHARE may do better"
            vm.io.warn(f"{vm.name}: the share {each.line.tag} is not mounted at {each.path}: {why}; {hint}")
    return rows
