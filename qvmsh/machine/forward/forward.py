"""`qvm forward`: ports of the host that lead into the guest, while it runs.

    add(vm, ["8080:80"], via=None, is_saving=True)      # QEMU's hostfwd_add, and VM_HOSTFWD
    remove(vm, ["8080"], is_saving=False)

QEMU forwards to the guest's address in its user mode network; ssh, over the first cached connection, to what
the guest can reach, at first itself.
"""

from __future__ import annotations

import subprocess

from qvmsh.config import forwards as rules
from qvmsh.config.forwards import Forward
from qvmsh.errors import GuestUnreachableError, QvmError, StateError, UsageError
from qvmsh.host import files, sockets
from qvmsh.io import isatty
from qvmsh.machine import state
from qvmsh.machine.forward import active
from qvmsh.machine.forward.active import QEMU, SSH, Active
from qvmsh.machine.forward.reports import Changed, Forwards, row
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.settings import config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qvmsh.host.ssh_connection import Link
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

WAYS = (QEMU, SSH)
ANSWER_S = 20.0


def listing(vm: BaseMachine) -> Forwards:
    """The forwarded ports; of a machine that is off those of VM_HOSTFWD."""
    seen = state.observe(vm)
    saved = _saved(vm)
    if not seen.is_live or seen.note is None:
        return Forwards(vm.name, [row(each, "", saved=True) for each in saved])
    now = _Now(vm, seen.note)
    return Forwards(
        vm.name,
        [
            row(each.forward, each.via, saved=_is_in(each.forward, saved), is_ssh=now.is_door(each))
            for each in now.found
        ],
    )


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
    saved = _saved(vm)
    if not (seen.is_live and seen.note is not None):
        if not is_saving:
            raise StateError(
                f"cannot forward a port: it is {seen}", machine=vm.name, actual=seen.kind,
                required=state.RUNNING, hint="with --save it is forwarded at every start",
            )  # fmt: skip
        _save(vm, saved, wanted)
        return Changed(vm.name, "added", [row(each, "", saved=True) for each in wanted], saved=True)
    now = _Now(vm, seen.note)
    way = via or (SSH if now.has_no_network else QEMU)
    _require_way(vm, way, now, wanted, is_saving=is_saving)
    for each in wanted:
        now.require_free(each)
    done: list[Forward] = []
    try:
        for each in wanted:
            now.open(each, way)
            done.append(each)
        if is_saving:
            _save(vm, saved, wanted)
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
    saved = _saved(vm)
    now = _Now(vm, seen.note) if seen.is_live and seen.note is not None else None
    known = [*(now.found if now else [])]
    if is_saving:
        known += [Active(each, "") for each in saved if not any(_is_same(each, a.forward) for a in known)]
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
        _write(vm, [each for each in saved if not any(_is_same(each, other.forward) for other in gone)])
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

    def is_door(self, each: Active) -> bool:
        """True for the port that qvm uses for ssh."""
        return each.forward.protocol == "tcp" and each.forward.port == self._note.ssh_port

    def require_free(self, wanted: Forward) -> None:
        for each in self.found:
            if each.forward.clashes(wanted):
                there = each.forward
                raise StateError(
                    f"{there.protocol} {there.address}:{there.port} leads to "
                    f"{there.guest_address}:{there.guest_port} of the guest already",
                    machine=self._vm.name, hint=f"`qvm forward remove {there.port}` ends that",
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
        interactive = isatty(self._vm.io.stdin) and not self._vm.io.capture
        link = guest.connect(self._vm, "forward a port", interactive=interactive)
        said = _ask(link, "forward", wanted)
        if said:
            raise self._not_opened(wanted, f"ssh says: {said}")
        _keep(link, [*link.kept_forwards(), active.of_line(wanted)])

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
        _keep(link, [kept for kept in link.kept_forwards() if kept != line])
        _ask(link, "cancel", forward)


def _ask(link: Link, what: str, forward: Forward) -> str:
    """Let the first cached connection do something about a port; why it did not, "" if it did."""
    argv = [*link.arguments(), "-O", what, "-L", active.of_line(forward), "--", link.host]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ANSWER_S
        )
    except subprocess.TimeoutExpired:
        raise GuestUnreachableError("the cached connection does not answer") from None
    return (done.stderr.strip().splitlines() or ["nothing"])[0] if done.returncode else ""


def _keep(link: Link, lines: Sequence[str]) -> None:
    """Note what the first connection forwards, for the one that replaces it."""
    files.write_atomic(link.forwards, "".join(f"{line}\n" for line in lines), 0o600)


def _require_way(vm: BaseMachine, way: str, now: _Now, wanted: Sequence[Forward], *, is_saving: bool) -> None:
    if way not in WAYS:
        raise UsageError(f"forward: --via {way}: must be one of {', '.join(WAYS)}")
    if way == QEMU and now.has_no_network:
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
        return rules.parse_all(list(words))
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
            f"forward remove: {word} means {addresses}", hint=f"{found[0].forward.address}:{word}"
        )
    return found[0]


def _saved(vm: BaseMachine) -> list[Forward]:
    return rules.parse_all(vm.settings.lines("VM_HOSTFWD"))


def _is_same(one: Forward, other: Forward) -> bool:
    """True if both are about the same port of the host."""
    return (one.protocol, one.address, one.port) == (other.protocol, other.address, other.port)


def _is_in(wanted: Forward, forwards: Iterable[Forward]) -> bool:
    return any(_is_same(wanted, each) for each in forwards)


def _save(vm: BaseMachine, saved: Sequence[Forward], wanted: Sequence[Forward]) -> None:
    _write(vm, [*(each for each in saved if not _is_in(each, wanted)), *wanted])


def _write(vm: BaseMachine, forwards: Sequence[Forward]) -> None:
    """Write VM_HOSTFWD; other lines of the `.vmrc` stay as they are."""
    text = "\n".join(map(_short, forwards))
    if text.split("\n") != vm.settings.lines("VM_HOSTFWD"):
        config.change(vm, [("VM_HOSTFWD", text)])


def _short(forward: Forward) -> str:
    """A forward in the shortest form that VM_HOSTFWD takes."""
    if forward.guest_address:
        return forward.rule
    address = "" if forward.address == rules.LOOPBACK else f"{forward.address}:"
    return f"{'udp:' if forward.protocol == 'udp' else ''}{address}{forward.port}:{forward.guest_port}"
