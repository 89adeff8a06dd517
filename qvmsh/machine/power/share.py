"""`qvm share`: the shares of a machine, attached to and removed from a guest that runs.

add(vm, "~/src:src:mount=/src", is_saved=True)
remove(vm, "src", is_saved=False)
"""

from __future__ import annotations

from qvmsh.config import shares
from qvmsh.config.shares import P9, VIRTIOFS, ShareLine
from qvmsh.errors import QvmError, StateError, UsageError
from qvmsh.host import process
from qvmsh.machine import log, state
from qvmsh.machine.guest.shares import aside, devices, listing, mounts, plan
from qvmsh.machine.guest.shares.listing import ShareDone, Shares
from qvmsh.machine.settings import lines
from qvmsh.machine.work.lock import work_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.state import Observation


def shares_of(vm: BaseMachine) -> Shares:
    """All shares; see `commands.share`."""
    return Shares(vm.name, listing.rows(vm, state.observe(vm)))


@log.failures
def add(vm: BaseMachine, word: str, *, is_saved: bool) -> ShareDone:
    """Attach a share to a guest that runs, and mount it where its line says so.

    Args:
        word: a line of VM_SHARE, or the tag of one.
        is_saved: the line is added to VM_SHARE, also of a machine that is off.
    """
    with work_lock(vm, "share add"):
        seen = state.observe(vm)
        _require_generated(vm)
        given = plan.of_record(seen.note) if seen.is_live and seen.note else []
        written, line = _line(vm, word, given)
        _require_usable(vm, word, line)
        old = next((each for each in given if each.tag == line.tag), None)
        if old is not None and not _is_same(old, line):
            raise StateError(
                f"the share {line.tag} is {old.path} ({old.kind}) until the next start of QEMU",
                machine=vm.name, hint="choose another tag",
            )  # fmt: skip
        if not (is_saved or seen.is_live):
            raise StateError(
                f"cannot attach the share {line.tag}: the machine is {seen.kind}",
                machine=vm.name, hint="`--save` adds it to VM_SHARE for the next start",
            )  # fmt: skip
        _require_place(vm, line, [*given, *plan.configured(vm)])
        is_new_line = is_saved and _save(vm, word, written)
        done = ["added to VM_SHARE"] if is_new_line else []
        if seen.is_live:
            try:
                done += _attach(vm, seen, given, line, is_new=old is None)
            except _NotMounted as error:
                error.what = f"{done[0]}, but {error.what}" if done else error.what
                raise
            except QvmError as error:
                if not is_new_line:
                    raise
                why = error.what.partition(": ")[2] or error.what
                done = [f"added to VM_SHARE; not attached now: {why}; {devices.RESTART}"]
    log.note(vm, f"share {line.tag}: {', '.join(done)}")
    return ShareDone(vm.name, line.tag, ", ".join(done) or "is there already")


class _NotMounted(QvmError):
    """A share is attached, but not mounted."""


def _is_same(one: ShareLine, other: ShareLine) -> bool:
    """True if both give the guest the same, wherever it mounts that."""
    return (one.path, one.kind, one.is_read_only) == (other.path, other.kind, other.is_read_only)


def _require_usable(vm: BaseMachine, word: str, line: ShareLine) -> None:
    """Refuse a share that cannot work."""
    if ":" not in word:
        plan.require_usable(vm, [line])
    what, hint = plan.fault(vm.directory, vm.environ, line, is_word=True)
    if what:
        raise UsageError(f"share add: {word}: {what}", machine=vm.name, hint=hint)


def _require_place(vm: BaseMachine, line: ShareLine, others: list[ShareLine]) -> None:
    """Refuse a share that would be mounted over another one."""
    for each in others:
        if each.tag != line.tag and line.is_mounted_as(each):
            raise UsageError(
                f"share add: {line.tag}: the share {each.tag} is mounted at {line.mount} already",
                machine=vm.name, hint="choose another place in the guest",
            )  # fmt: skip


def _require_generated(vm: BaseMachine) -> None:
    if vm.settings.text("VM_QEMU_ARGS"):
        raise UsageError(
            "share: the hardware is named in VM_QEMU_ARGS", machine=vm.name, hint="add -virtfs there by hand"
        )


def _line(vm: BaseMachine, word: str, given: list[ShareLine]) -> tuple[ShareLine, ShareLine]:
    """The line as written, and with its whole path."""
    if ":" not in word:
        for each in (*given, *plan.configured(vm)):
            if each.tag == word:
                return each, each
        way = f"{word}:TAG" if "/" in word or word == "." else f"DIRECTORY:{word}"
        raise UsageError(
            f"share add: there is no share {word}", machine=vm.name,
            hint=f"`qvm share add {way}` adds a directory",
        )  # fmt: skip
    try:
        found = shares.parse(word)
    except ValueError as error:
        raise UsageError(
            f"share add: {word}: {error}", machine=vm.name, hint=f"it is {shares.FORM}"
        ) from None
    return found, plan.located(vm.settings, vm.environ, found)


def _save(vm: BaseMachine, word: str, line: ShareLine) -> bool:
    """Add a line to VM_SHARE; False if it is there already.

    StateError: another line has its tag.
    """
    for each in shares.parse_all("\n".join(lines.own(vm, "VM_SHARE"))):
        if each.tag == line.tag:
            here, there = (plan.located(vm.settings, vm.environ, one) for one in (line, each))
            if ":" in word and not (_is_same(here, there) and here.mount == there.mount):
                raise StateError(
                    f"cannot save the share {line.tag}: VM_SHARE has another line of that tag, {each}",
                    machine=vm.name, hint=f"`qvm share remove --save {line.tag}` removes that",
                )  # fmt: skip
            return False
    lines.add(vm, "VM_SHARE", [str(line)])
    return True


def _attach(
    vm: BaseMachine, seen: Observation, given: list[ShareLine], line: ShareLine, *, is_new: bool
) -> list[str]:
    """Attach it where it is not, and mount it; what was done."""
    pid, note = state.require(vm, seen, f"attach the share {line.tag}", state.RUNNING, state.PAUSED)
    is_saved = line.tag in [each.tag for each in plan.configured(vm)]
    if line.kind == VIRTIOFS and not any("share=on" in each for each in process.arguments(pid)):
        raise StateError(
            "cannot attach a virtiofs share: this QEMU was started without one, so the guest's memory is "
            "its own", machine=vm.name, hint=devices.RESTART if is_saved else devices.SAVE,
        )  # fmt: skip
    done = []
    if is_new:
        note.shares = plan.recorded([*given, line])
        note.write(vm.files.launch_record)
    try:
        with devices.conversation(note) as qemu:
            found = devices.states(qemu, [line])
            if found[line.tag] == devices.DETACHED:
                devices.attach(vm, note, qemu, line)
                done.append("attached")
    except (OSError, QvmError) as error:
        if is_new:
            note.shares = plan.recorded(given)
            note.write(vm.files.launch_record)
        raise devices.explained(vm, line, error, is_saved=is_saved) from None
    devices.require_no_loss(vm, "mount", found)
    for path, why in mounts.mount(vm, mounts.wanted([line])).items():
        raise _NotMounted(
            f"the share {line.tag} is attached, but not mounted at {path}: {why}", machine=vm.name,
            hint=aside.again([line]),
        )  # fmt: skip
    return [*done, *([f"mounted at {line.mount}"] if line.mount else [])]


@log.failures
def remove(vm: BaseMachine, tag: str, *, is_saved: bool) -> ShareDone:
    """Unmount and unplug a share.

    Args:
        is_saved: its line is removed from VM_SHARE.
    """
    with work_lock(vm, "share remove"):
        seen = state.observe(vm)
        _require_generated(vm)
        written = lines.own(vm, "VM_SHARE") if is_saved else vm.settings.lines("VM_SHARE")
        known = [each.tag for each in shares.parse_all("\n".join(written))]
        given = plan.of_record(seen.note) if seen.is_live and seen.note else []
        if tag not in [*known, *(each.tag for each in given)]:
            raise UsageError(
                f"share remove: there is no share {tag}", machine=vm.name, hint="`qvm share list` shows them"
            )
        if not (is_saved or seen.is_live):
            raise StateError(
                f"cannot remove the share {tag}: the machine is {seen.kind}",
                machine=vm.name, hint="`--save` removes it from VM_SHARE",
            )  # fmt: skip
        done = []
        own = next((each for each in given if each.tag == tag), None)
        if own is not None and seen.note is not None:
            state.require(vm, seen, f"remove the share {tag}", state.RUNNING)
            if _detach(vm, seen.note, given, own):
                done.append("unmounted and removed")
        if is_saved and tag in known:
            lines.remove(vm, "VM_SHARE", lambda line: shares.parse(line).tag == tag)
            done.append("removed from VM_SHARE")
    log.note(vm, f"share {tag}: {', '.join(done)}")
    return ShareDone(vm.name, tag, ", ".join(done) or "is not attached")


def _detach(vm: BaseMachine, note: LaunchRecord, given: list[ShareLine], line: ShareLine) -> bool:
    """Take a share from the guest; False if it does not have it."""
    keeps = [each.tag for each in given if each.tag != line.tag]
    with aside.put_aside(vm, note, keeps=keeps, is_last=True) as gone:
        pass
    if line.kind != P9:  # the directory of a 9p share stays open in QEMU
        note.shares = plan.recorded([each for each in given if each.tag != line.tag])
        note.write(vm.files.launch_record)
    return bool(gone)
