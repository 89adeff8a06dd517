"""`qvm forward`: ports of the host that lead into the guest, while it runs.

    add(vm, ["8080:80"], via=None, is_saving=True)      # QEMU's hostfwd_add, and VM_HOSTFWD
    remove(vm, ["8080"], is_saving=False)

QEMU forwards to the guest's address in its user mode network; ssh, over the first cached connection, to what
the guest can reach, at first itself.
"""

from __future__ import annotations

from qvmsh.config import forwards as rules
from qvmsh.config.forwards import Forward
from qvmsh.errors import GuestUnreachableError, QvmError, StateError, UsageError
from qvmsh.host import sockets, ssh_forwards
from qvmsh.machine import state
from qvmsh.machine.forward import active
from qvmsh.machine.forward.active import QEMU, SSH, Active
from qvmsh.machine.forward.reports import Changed, Forwards, row
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.settings import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

WAYS = (QEMU, SSH)


def listing(vm: BaseMachine) -> Forwards:
    """The forwarded ports; of a machine that is off those of VM_HOSTFWD."""
    seen = state.observe(vm)
    saved = _saved(vm)
    if not seen.is_live or seen.note is None:
        later = rules.parse_all(vm.settings.lines("VM_HOSTFWD"))
        rows = [row(each, "", saved=_is_in(each, saved)) for each in sorted(later, key=_order)]
        return Forwards(vm.name, rows)
    now = _Now(vm, seen.note)
    return Forwards(
        vm.name,
        [
            row(each.forward, each.via, saved=_is_in(each.forward, saved), is_ssh=now.is_door(each),
                is_open=each.is_open)
            for each in now.found
        ],
    )  # fmt: skip


def add(vm: BaseMachine, words: Sequence[str], *, via: str | None, is_saving: bool) -> Changed:
    """Forward ports; all of them, or none.

    Raises:
        UsageError: a word is not a forward.
        StateError: one is forwarded already; or the machine is off, and they are not to be saved.
        QvmError: a port is in use.
        ConfigError: they cannot be saved.
    """
    wanted = _parsed("add", words)
    seen = state.observe(vm)
    now = _Now(vm, seen.note) if seen.is_live and seen.note is not None else None
    way = via or (SSH if now and now.has_no_network else QEMU)
    _require_way(vm, way, now, wanted, is_saving=is_saving)
    if now is None and not is_saving:
        raise StateError(
            f"cannot forward a port: it is {seen}", machine=vm.name, actual=seen.kind, required=state.RUNNING,
            hint="with --save it is forwarded at every start",
        )  # fmt: skip
    saved = _saved(vm) if is_saving else []
    new = [each for each in wanted if is_saving and not _is_in(each, saved)]
    for each in wanted if now is None else new:
        _require_unsaved(vm, each, saved)
    if now is None:
        _save(vm, new)
        return Changed(vm.name, "added", [row(each, "", saved=True) for each in wanted], saved=True)
    closed = [each for each in wanted if each not in new or not now.has(each)]
    for each in closed:
        now.require_free(each)
    done: list[Forward] = []
    try:
        for each in closed:
            now.open(each, way)
            done.append(each)
        _save(vm, new)
    except BaseException:
        for each in done:
            now.close(Active(each, way))
        raise
    return Changed(vm.name, "added", [row(each, way, saved=is_saving) for each in wanted], saved=is_saving)


def remove(vm: BaseMachine, words: Sequence[str], *, is_saving: bool) -> Changed:
    """Forward ports no more; all of them, or none. Existing connections stay open.

    Raises:
        UsageError: a word is not a port, or means several.
        StateError: a port is not forwarded.
    """
    if not words:
        raise UsageError("forward remove: no port is given", hint="`qvm forward list` shows them")
    seen = state.observe(vm)
    saved = _saved(vm) if is_saving else []
    now = _Now(vm, seen.note) if seen.is_live and seen.note is not None else None
    known = [*(now.found if now else [])]
    if is_saving:
        known += [Active(each, "") for each in saved if not any(each.is_at(a.forward) for a in known)]
    elif now is None:
        raise StateError(
            f"no port is forwarded: it is {seen}", machine=vm.name, actual=seen.kind, required=state.RUNNING,
            hint="--save removes it from VM_HOSTFWD",
        )  # fmt: skip
    gone = [_meant(vm, word, known) for word in words]
    for each in gone:
        if now and now.is_door(each):
            raise StateError(
                f"port {each.forward.port} is the one of `qvm ssh`, and stays", machine=vm.name,
                hint="VM_SSH_PORT chooses it at the next start",
            )  # fmt: skip
    if is_saving:
        _forget(vm, [each.forward for each in gone])
    for each in gone:
        if now and each.via:
            now.close(each)
    rows = [row(each.forward, each.via, saved=False) for each in gone]
    return Changed(vm.name, "removed", rows, saved=is_saving)


class _Now:
    """What is forwarded by a running machine."""

    def __init__(self, vm: BaseMachine, note: LaunchRecord) -> None:
        self._vm = vm
        self._note = note
        with state.Answering(vm):
            found = active.of_qemu(note)
        self.has_no_network = found is None
        self.found = found or []
        if note.ssh_port:
            self.found += active.of_ssh(guest.link(vm, note))
        self.found.sort(key=lambda each: _order(each.forward))

    def is_door(self, each: Active) -> bool:
        """True for the port that qvm uses for ssh."""
        return each.forward.protocol == "tcp" and each.forward.port == self._note.ssh_port

    def has(self, wanted: Forward) -> bool:
        """True if QEMU forwards it already, so that it need only be saved."""
        return any(each.via == QEMU and each.forward.leads_as(wanted) for each in self.found)

    def require_free(self, wanted: Forward) -> None:
        for each in self.found:
            if each.forward.clashes(wanted):
                there, known = each.forward, [each.forward for each in self.found]
                ends = f"`qvm forward remove {_word(there, known)}` ends that"
                if each.via == QEMU and there.leads_as(wanted) and not self.is_door(each):
                    ends = f"`qvm forward add --save` saves it; {ends}"
                raise StateError(
                    f"{there.protocol} {there.address}:{there.port} leads to "
                    f"{there.guest_address}:{there.guest_port} of the guest already",
                    machine=self._vm.name,
                    hint="that is the way of `qvm ssh`: choose another port" if self.is_door(each) else ends,
                )  # fmt: skip
        why = sockets.obstacle(wanted.protocol, wanted.address, wanted.port)
        if why:
            raise self._not_opened(wanted, why)

    def _not_opened(self, wanted: Forward, why: str) -> QvmError:
        where = f"{wanted.protocol} {wanted.address}:{wanted.port}"
        return QvmError(
            f"cannot forward {where}: {why}", machine=self._vm.name, hint="choose another port or address"
        )

    def open(self, wanted: Forward, way: str) -> None:
        """Forward a port.

        Raises:
            QvmError: QEMU or ssh refused it.
        """
        if way == QEMU:
            with state.Answering(self._vm):
                said = active.human(self._note, f"hostfwd_add {wanted.rule}")
            if said:
                raise self._not_opened(wanted, f"QEMU says: {said.splitlines()[0]}")
            return
        link = guest.connect(self._vm, "forward a port", interactive=guest.may_ask(self._vm))
        line = active.of_line(wanted)
        said = _answered(lambda: ssh_forwards.ask(link, "forward", line))
        if said:
            raise self._not_opened(wanted, f"ssh says: {said}")
        ssh_forwards.keep(link, [*ssh_forwards.kept(link), line])

    def close(self, each: Active) -> None:
        """End a forward; one that has gone already is no error."""
        forward = each.forward
        if each.via == QEMU:
            with state.Answering(self._vm):
                active.human(
                    self._note, f"hostfwd_remove {forward.protocol}:{forward.address}:{forward.port}"
                )
            return
        link, line = guest.link(self._vm, self._note), active.of_line(forward)
        ssh_forwards.keep(link, [kept for kept in ssh_forwards.kept(link) if kept != line])
        _answered(lambda: ssh_forwards.ask(link, "cancel", line))


def _answered(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except TimeoutError as error:
        raise GuestUnreachableError(str(error)) from None


def _require_way(
    vm: BaseMachine, way: str, now: _Now | None, wanted: Sequence[Forward], *, is_saving: bool
) -> None:
    if way not in WAYS:
        raise UsageError(f"forward: --via {way}: must be one of {', '.join(WAYS)}")
    if way == QEMU and now and now.has_no_network:
        raise StateError(
            "QEMU has no user mode network, so it cannot forward ports", machine=vm.name,
            hint="`--via ssh` forwards over ssh",
        )  # fmt: skip
    if way == SSH and is_saving:
        raise UsageError(
            "forward: what ssh forwards cannot be saved: VM_HOSTFWD is about QEMU's network", machine=vm.name,
        )  # fmt: skip
    if way == SSH and any(each.protocol == "udp" for each in wanted):
        raise UsageError("forward: ssh forwards TCP only", machine=vm.name)


def _parsed(verb: str, words: Sequence[str]) -> list[Forward]:
    if not words:
        raise UsageError(f"forward {verb}: no port is given", hint=rules.FORMS)
    try:
        return rules.parse_all(list(words), "word")
    except ValueError as error:
        raise UsageError(f"forward {verb}: {error}", hint=rules.FORMS) from None


def _meant(vm: BaseMachine, word: str, known: Sequence[Active]) -> Active:
    """The one forward that a word means: a port, with protocol and address if need be, or a whole forward."""
    is_port = word.rpartition(":")[2].isdecimal() and word.rpartition(":")[0] in ("", "tcp", "udp")
    try:
        try:
            wanted = rules.parse(word)
        except ValueError:
            wanted = rules.parse(f"{word}:1")
    except ValueError:
        raise UsageError(
            f"forward remove: {word!r} is not a port", hint="8080, udp:5353 or 0.0.0.0:8080"
        ) from None
    found = [
        each for each in known
        if (each.forward.protocol, each.forward.port) == (wanted.protocol, wanted.port)
        and (is_port or each.forward.address == wanted.address)
    ]  # fmt: skip
    if not found:
        where = f"{wanted.protocol} port {wanted.port}" + ("" if is_port else f" of {wanted.address}")
        raise StateError(f"{where} is not forwarded", machine=vm.name, hint="`qvm forward list` shows them")
    if len(found) > 1:
        addresses = " and ".join(each.forward.address for each in found)
        raise UsageError(
            f"forward remove: {word} means {addresses}",
            hint=f"`qvm forward remove {_word(found[0].forward, [each.forward for each in known])}`",
        )
    return found[0]


def _word(forward: Forward, known: Sequence[Forward]) -> str:
    """The shortest word for `forward remove` that means this one of the known."""
    head = "udp:" if forward.protocol == "udp" else ""
    same = [each for each in known if (each.protocol, each.port) == (forward.protocol, forward.port)]
    return f"{head}{forward.address}:{forward.port}" if len(same) > 1 else f"{head}{forward.port}"


def _order(forward: Forward) -> tuple[str, int, str]:
    return forward.protocol, forward.port, forward.address


def _saved(vm: BaseMachine) -> list[Forward]:
    """Those that the files say, whatever `--set` does."""
    return rules.parse_all(lines.own(vm, "VM_HOSTFWD"))


def _is_in(wanted: Forward, forwards: Iterable[Forward]) -> bool:
    return any(wanted.leads_as(each) for each in forwards)


def _require_unsaved(vm: BaseMachine, wanted: Forward, saved: Sequence[Forward]) -> None:
    for each in saved:
        if each.clashes(wanted):
            raise StateError(
                f"VM_HOSTFWD leads {each.protocol} {each.address}:{each.port} to "
                f"{each.guest_address or 'port'}{':' if each.guest_address else ' '}{each.guest_port} of the "
                "guest already", machine=vm.name,
                hint=f"`qvm forward remove --save {_word(each, saved)}` removes that",
            )  # fmt: skip


def _save(vm: BaseMachine, new: Sequence[Forward]) -> None:
    """Add lines to VM_HOSTFWD; all else in the `.vmrc` stays."""
    if new:
        lines.add(vm, "VM_HOSTFWD", [_short(each) for each in new])


def _forget(vm: BaseMachine, gone: Sequence[Forward]) -> None:
    """Remove lines from VM_HOSTFWD."""
    lines.remove(vm, "VM_HOSTFWD", lambda line: any(rules.parse(line).is_at(each) for each in gone))


def _short(forward: Forward) -> str:
    """A forward in the shortest form that VM_HOSTFWD takes."""
    if forward.guest_address:
        return forward.rule
    address = "" if forward.address == rules.LOOPBACK else f"{forward.address}:"
    return f"{'udp:' if forward.protocol == 'udp' else ''}{address}{forward.port}:{forward.guest_port}"
