"""`qvm status`: the state of a machine, and whether its guest answers ssh."""

from __future__ import annotations

import os

from qvmsh.errors import ConfigError, NotAcceptedError
from qvmsh.host import locks
from qvmsh.machine import state
from qvmsh.machine.reports import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

SSH_S = 10.0


def look(vm: BaseMachine, *, is_quiet: bool, has_ssh_check: bool) -> Status:
    """The state of `vm` as the command `status` reports it."""
    try:
        vm.settings  # noqa: B018
    except ConfigError as error:
        if not os.path.lexists(vm.files.vmrc):
            raise
        seen = state.observe(vm)
        detail = error.what + (f" ({error.details[0]})" if error.details else "")
        # a file that is not used, since it is not accepted, says nothing about the machine
        is_unused = isinstance(error, NotAcceptedError)
        kind = seen.kind if is_unused else state.BROKEN
        hint = None if error.problems else error.hint
        broken = state.Observation(
            kind, detail, seen.pid, seen.note, hint or "`qvm config --check` shows all problems"
        )
        return _report(vm, broken, None, is_quiet)
    seen = state.observe(vm)
    ssh: bool | None = None
    is_asked = has_ssh_check and seen.kind == state.RUNNING and not seen.detail
    if is_asked and seen.note and state.has_ssh(vm, seen.note) and _may_log_in(vm):
        from qvmsh.machine.guest import ssh as guest

        ssh, why = guest.answers(vm, seen.note, timeout_s=SSH_S)
        if not ssh:
            by = locks.working(vm.files.wait_lock)
            seen.detail = why
            if by:
                seen.kind, seen.detail = state.STARTING, f"{why} yet; {by} is waiting for it"
    return _report(vm, seen, ssh, is_quiet)


def _may_log_in(vm: BaseMachine) -> bool:
    """True if ssh may be run with the machine's settings; else warn that it is not tried."""
    from qvmsh.config import trust

    if vm.settings.may_run("VM_SSH_OPTIONS") and not trust.refusal(vm.settings):
        return True
    vm.io.warn(f"{vm.name}: ssh is not tried: you have not accepted its settings in .vmrc (`qvm allow`)")
    return False


def _report(vm: BaseMachine, seen: state.Observation, ssh: bool | None, is_quiet: bool) -> Status:
    port = seen.note.ssh_port if seen.note and seen.pid else 0
    return Status(
        vm.name,
        seen.kind,
        seen.detail,
        pid=seen.pid,
        ssh=ssh,
        ssh_port=port or None,
        hint=seen.hint,
        is_quiet=is_quiet,
    )
