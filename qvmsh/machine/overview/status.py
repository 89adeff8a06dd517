"""`qvm status`: the state of a machine, and whether its guest answers ssh."""

from __future__ import annotations

import os

from qvmsh.errors import ConfigError, NotAcceptedError
from qvmsh.host import locks
from qvmsh.machine import copies, state
from qvmsh.machine.reports import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

SSH_S = 10.0

DETAILS = (
    "accelerator", "agent", "binary", "copy_of", "directory", "disks", "labels", "logs", "machine_type",
    "memory_mib", "qemu", "requires", "shares", "since", "snapshots", "sockets", "uptime_s", "uuid", "vcpus",
)  # fmt: skip
"""What `details.look_closer` finds."""


class Status(Verdict):
    """Result of `status`.

    Args:
        machine: its name.
        state: stopped, starting, running, paused, suspended, shut down, crashed or broken.
        detail: one line more, or "".
        pid: QEMU's, or None.
        ssh: True, False, or None if it was not tried.
        ssh_port: port of 127.0.0.1, or None.
        hint: what to do about it, or None.
        ready: True if the guest can be used.
        directory: where it is.
        copy_of: the machine's directory that this one was copied from by hand, or None.
        uuid: what the guest sees as its identity; None before its first start.
        since: when QEMU began, or None.
        uptime_s: seconds since then, or None.
        vcpus: virtual processors.
        memory_mib: guest memory.
        accelerator: `kvm`, `tcg`, ...; None while it is off.
        machine_type: QEMU's machine type in full, or None.
        qemu: QEMU's version, or None.
        binary: QEMU's program, or None.
        agent: True if the guest agent answers; None if there is none.
        sockets: paths by name.
        logs: paths by name.
        labels: the words of VM_LABELS.
        requires: the words of VM_REQUIRES.
        shares: as in `share list`; None where they cannot be read.
        disks: as in `snapshot list`; None where they cannot be read.
        snapshots: as in `snapshot list`; None where they cannot be read.
    """

    __slots__ = (
        "_details", "_is_verbose", "_seen", "_vm", "detail", "hint", "is_quiet", "machine", "pid", "ready",
        "ssh", "ssh_port", "state",
    )  # fmt: skip

    def __init__(
        self,
        vm: BaseMachine,
        seen: state.Observation,
        *,
        ssh: bool | None,
        is_quiet: bool,
        is_verbose: bool,
    ) -> None:
        self.machine = vm.name
        self.state = seen.kind
        self.detail = seen.detail
        self.pid = seen.pid
        self.ssh = ssh
        self.ssh_port = seen.note.ssh_port or None if seen.note and seen.pid else None
        self.hint = seen.hint
        self.is_quiet = is_quiet
        self._is_verbose = is_verbose
        self.ready = self.state == "running" and ssh is not False and not (ssh is None and self.detail)
        self._vm, self._seen = vm, seen
        self._details: dict[str, Any] | None = None

    def __bool__(self) -> bool:
        return self.ready

    @property
    def details(self) -> dict[str, Any]:
        """Everything else about the machine, as `--json` has it: read at the first use."""
        if self._details is None:
            from qvmsh.machine.overview import details

            self._details = details.look_closer(self._vm, self._seen)
        return self._details

    def shown(self) -> list[str]:
        if self.is_quiet:
            return []
        facts = [f"pid {self.pid}"] if self.pid else []
        if self.ssh:
            facts.append(f"ssh answers on port {self.ssh_port}")
        text = f"{self.machine}: {self.state}" + (f" ({', '.join(facts)})" if facts else "")
        if self.detail:
            text += f": {self.detail}"
        lines = [text, f"hint: {self.hint}"] if self.hint and not self.ready else [text]
        if self._is_verbose and self.details:
            from qvmsh.machine.overview import details

            lines += details.lines(self.details)
        return lines

    def as_json(self) -> dict[str, Any]:
        own = {each: getattr(self, each) for each in self.__slots__ if each[0] != "_" and each != "is_quiet"}
        return own | {name: self.details[name] for name in DETAILS}


def look(
    vm: BaseMachine,
    *,
    is_quiet: bool,
    has_ssh_check: bool,
    ask: Callable[[LaunchRecord], str] | None = None,
) -> Status:
    """The state of `vm` as the command `status` reports it.

    Args:
        ask: as in `state.observe`.
    """
    if copies.foreign_place(vm):
        from qvmsh.machine import registry  # late: it is rarely needed

        registry.warn_of_copy(vm)
    _warn_of_renaming(vm)
    try:
        vm.settings  # noqa: B018
    except ConfigError as error:
        if not os.path.lexists(vm.files.vmrc):
            raise
        seen = state.observe(vm, ask)
        detail = error.what + (f" ({error.details[0]})" if error.details else "")
        # a file that is not used, since it is not accepted, says nothing about the machine
        is_unused = isinstance(error, NotAcceptedError)
        kind = seen.kind if is_unused else state.BROKEN
        hint = None if error.problems else error.hint
        broken = state.Observation(
            kind, detail, seen.pid, seen.note, hint or "`qvm config --check` shows all problems"
        )
        return _report(vm, broken, None, is_quiet)
    seen = state.observe(vm, ask)
    ssh: bool | None = None
    if seen.kind == state.RUNNING and os.path.lexists(vm.files.freeze_lock):
        from qvmsh.machine.guest import frozen

        if found := frozen.of(vm):
            seen.detail, seen.hint = str(found), "`qvm thaw` thaws them"
    if has_ssh_check and seen.kind == state.RUNNING and not seen.detail and seen.note:
        from qvmsh.machine import ready_sign

        sign = ready_sign.of(vm, seen.note)
        why = ""
        if sign == "ssh" and _may_log_in(vm):
            from qvmsh.machine.guest import ssh as guest

            ssh, why = guest.answers(vm, seen.note, timeout_s=SSH_S)
        elif sign not in ("ssh", "none"):
            from qvmsh.machine.guest import signs

            why = signs.refusal(vm, seen.note, sign)
        if why:
            by = locks.working(vm.files.wait_lock)
            seen.detail = why
            if by:
                seen.kind, seen.detail = state.STARTING, f"{why} yet; {by} is waiting for it"
    return _report(vm, seen, ssh, is_quiet)


def _warn_of_renaming(vm: BaseMachine) -> None:
    """Say that some of the files have another name, and why."""
    if not os.path.lexists(vm.files.archive_journal):
        return
    from qvmsh.machine import journal

    if journal.is_of(vm, journal.Kind.RENAME):
        vm.io.warn(f"{vm.name}: {journal.message(vm)}")


def _may_log_in(vm: BaseMachine) -> bool:
    """True if ssh may be run with the machine's settings; else warn that it is not tried."""
    from qvmsh.config import trust

    if vm.settings.may_run("VM_SSH_OPTIONS") and not trust.refusal(vm.settings):
        return True
    vm.io.warn(f"{vm.name}: ssh is not tried: you have not accepted its settings in .vmrc (`qvm allow`)")
    return False


def _report(vm: BaseMachine, seen: state.Observation, ssh: bool | None, is_quiet: bool) -> Status:
    return Status(vm, seen, ssh=ssh, is_quiet=is_quiet, is_verbose=vm.io.level > 1)
