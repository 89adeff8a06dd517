"""The devices of shares in a QEMU that runs: which there are, and their plug and unplug.

    with conversation(note) as qemu:
        states(qemu)                   # {"share-src": "attached", "share-old": "lost"}
        attach(vm, note, qemu, line)
        detach(vm, qemu, line)

QEMU opens the directory of a 9p share when it starts (`-fsdev`), and only then; the device comes and goes.
Source: QEMU qapi/qdev.json (device_add, device_del, DEVICE_DELETED), qapi/char.json.
"""

from __future__ import annotations

import contextlib
import os
import time

from qvmsh.config.shares import P9, ShareLine
from qvmsh.errors import DeadlineError, QmpError, QvmError, StateError
from qvmsh.machine.guest.shares import virtiofsd
from qvmsh.qemu import platforms
from qvmsh.qemu import shares as qemu_shares
from qvmsh.qemu.qmp import Exchange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

ATTACHED, DETACHED, LOST = "attached", "not attached", "lost"
ENDED = "its virtiofsd has ended, so that the guest's accesses hang"
AFTER_END = "`qvm stop --force`, then `qvm start`"
ANSWER_S = 30.0
UNPLUG_S = 60.0
"""How long a guest may take to release a device."""
LOOK_S = 0.5
RESTART = "`qvm restart` attaches it"
SAVE = "`qvm share add --save` adds it to VM_SHARE, for `qvm restart`"


def conversation(note: LaunchRecord, *, timeout_s: float = ANSWER_S) -> Exchange:
    """A conversation for work that others wait for.

    Raises:
        OSError: QEMU does not answer.
    """
    return Exchange(note.socket("session"), timeout_s).negotiate()


@contextlib.contextmanager
def using(note: LaunchRecord, qemu: Exchange | None = None) -> Iterator[Exchange]:
    """The conversation of a caller that has one, else a new one for the block."""
    if qemu is not None:
        yield qemu
        return
    with conversation(note) as own:
        yield own


def states(qemu: Exchange, lines: Sequence[ShareLine]) -> dict[str, str]:
    """The state of each share, by its tag: LOST is one whose virtiofsd has ended."""
    there = _peripherals(qemu)
    dead = set()
    for each in qemu.ask("query-chardev"):
        if str(each.get("filename", "")).startswith("disconnected:"):
            dead.add(each.get("label"))
    found = {}
    for line in lines:
        state = LOST if f"{line.id}-fs" in dead else ATTACHED
        found[line.tag] = state if line.id in there else DETACHED
    return found


def require_no_loss(vm: BaseMachine, what: str, found: dict[str, str]) -> None:
    """Refuse where a virtiofsd has ended: whatever looks at its share in the guest hangs.

    Args:
        what: to do with the share, `unmount`.
        found: from `states`.

    Raises:
        StateError: one of them is lost.
    """
    for tag, state in found.items():
        if state == LOST:
            raise StateError(f"cannot {what} the share {tag}: {ENDED}", machine=vm.name, hint=AFTER_END)


def missing(qemu: Exchange, tags: Sequence[str]) -> list[str]:
    """Those of the tags whose share is not attached."""
    there = _peripherals(qemu) if tags else set()
    return [each for each in tags if ShareLine("", each).id not in there]


def own_tags(qemu: Exchange, kind: str) -> list[str]:
    """The tags of the shares of VM_SHARE that are attached, of one kind, whatever the record says."""
    found, name = [], "mount_tag" if kind == P9 else "tag"
    for each in sorted(_peripherals(qemu)):
        if each.startswith("share-"):
            with contextlib.suppress(QmpError):  # the other kind has another property, a port has none
                found.append(
                    str(qemu.ask("qom-get", {"path": f"/machine/peripheral/{each}", "property": name}))
                )
    return found


def tags(qemu: Exchange, lines: Sequence[ShareLine]) -> list[str]:
    """The tags of the shares that are attached."""
    if not lines:
        return []
    found = states(qemu, lines)
    return [each.tag for each in lines if found[each.tag] != DETACHED]


def _peripherals(qemu: Exchange) -> set[str]:
    return {str(each["name"]) for each in qemu.ask("qom-list", {"path": "/machine/peripheral"})}


def of_line(line: ShareLine, chardev: str = "", *, is_attached: bool = True) -> qemu_shares.Share:
    """The share as QEMU's arguments have it.

    Args:
        chardev: how QEMU reaches its virtiofsd.
    """
    return qemu_shares.Share(
        line.id, line.tag, line.path, line.kind, chardev,
        is_read_only=line.is_read_only, is_passing=os.geteuid() == 0, is_attached=is_attached,
    )  # fmt: skip


def attach(vm: BaseMachine, note: LaunchRecord, qemu: Exchange, line: ShareLine) -> None:
    """Plug the device in.

    Raises:
        QmpError: QEMU cannot; nothing is left of it.
    """
    settings = vm.settings
    platform = platforms.of(settings.architecture, settings.text("VM_QEMU_MACHINE"))
    if line.kind != P9:
        with virtiofsd.begin(vm, note.runtime, line) as end:
            qemu.pass_descriptor(f"{line.id}-fd", end.fileno())
        address = {"type": "fd", "data": {"str": f"{line.id}-fd"}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        qemu.ask("chardev-add", {"id": f"{line.id}-fs", "backend": backend})
    try:
        qemu.ask("device_add", qemu_shares.device(of_line(line), platform))
    except QmpError:
        _forget(qemu, line)
        raise


def detach(vm: BaseMachine, qemu: Exchange, line: ShareLine) -> None:
    """Unplug the device, which the guest must not use any more, and end its virtiofsd.

    Raises:
        DeadlineError: the guest has not released it.
        QmpError: QEMU cannot.
    """
    with contextlib.suppress(_Pending):
        _ask_to_unplug(qemu, line)
    deadline = time.monotonic() + UNPLUG_S
    while line.id in _peripherals(qemu):
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"the guest has not released the share {line.tag} within {UNPLUG_S:.0f} s",
                machine=vm.name,
                hint="a guest that boots, or has no PCI hotplug, cannot; `qvm stop` removes it in any case",
            )
        vm.io.checkpoint()
        with contextlib.suppress(TimeoutError):  # DEVICE_DELETED, mostly
            qemu.message(LOOK_S)
    _forget(qemu, line)


class _Pending(Exception):
    """The guest was asked already."""


def _ask_to_unplug(qemu: Exchange, line: ShareLine) -> None:
    try:
        qemu.ask("device_del", {"id": line.id})
    except QmpError as error:
        if error.error_class == "DeviceNotFound":
            return
        if "in the process of unplug" in error.what:
            raise _Pending from None
        raise


def _forget(qemu: Exchange, line: ShareLine) -> None:
    """Close the connection to virtiofsd, which then ends."""
    if line.kind != P9:
        deadline = time.monotonic() + ANSWER_S
        while True:
            try:
                qemu.ask("chardev-remove", {"id": f"{line.id}-fs"})
            except QmpError as error:  # QEMU frees a device a moment after it is gone
                if "busy" in error.what and time.monotonic() < deadline:
                    with contextlib.suppress(TimeoutError):
                        qemu.message(LOOK_S / 10)
                    continue
            return


def explained(
    vm: BaseMachine, line: ShareLine, error: QvmError | OSError, *, is_saved: bool = True
) -> QvmError:
    """The error of a share that cannot be attached, with what helps.

    Args:
        is_saved: it is in VM_SHARE.
    """
    what = error.what.partition(": ")[2] or error.what if isinstance(error, QvmError) else "no answer"
    hint = RESTART
    save = RESTART if is_saved else SAVE
    if line.kind == P9 and "find fsdev" in what:
        what = "QEMU opens the directory of a 9p share only when it starts"
        hint = f"{save}; or share it as virtiofs"
    elif "does not support hotplugging" in what or ("Bus" in what and "not found" in what):
        what = "the machine type has no free place for it while it runs"
        hint = save
    return QvmError(f"cannot attach the share {line.tag}: {what}", machine=vm.name, hint=hint)
