"""A guest's sleep (ACPI S3): sending it there, and waking it so that it can sleep again.

    how, seconds = fall_asleep(vm, qemu, note)      # ("ssh", 0.4); QEMU has said SUSPEND
    wake(exchange)                                  # system_wakeup; on q35 more than that
    hold(exchange, registers)                       # stopped so that it can be saved; QEMU < 9.0 wakes it

Only the guest can send itself to sleep, so it is asked: by ssh, else by its agent. Whoever wakes it
does what the firmware of q35 forgets, see `qemu.ich9`.
"""

from __future__ import annotations

import subprocess
import time

from qvmsh.errors import DeadlineError, QmpError, QvmError, StateError
from qvmsh.machine import crash, ready_sign
from qvmsh.machine.guest import ssh as guest
from qvmsh.qemu import ich9, qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.host import ssh_connection
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.qmp import Exchange
    from qvmsh.qemu.session import Session

SUSPEND_S = 60.0
ANSWER_S = 10.0
"""How long a cached connection may take to answer after the guest was away."""

SUSPEND = (
    "if command -v systemctl >/dev/null; then sudo -n systemctl suspend; "
    "elif command -v loginctl >/dev/null; then sudo -n loginctl suspend; "
    "else echo 'neither systemctl nor loginctl is installed' >&2; exit 1; fi"
)


def fall_asleep(
    vm: BaseMachine, qemu: Session, note: LaunchRecord, *, timeout_s: float = SUSPEND_S
) -> tuple[str, float]:
    """Suspend the guest, wait until QEMU reports it; return what asked it and the seconds.

    Returns:
        `("", 0.0)` for a guest that sleeps already.

    Raises:
        StateError: nothing in the guest can be asked, or it refuses; it is still running.
        DeadlineError: it was asked but does not sleep; it is still running.
    """
    began = time.monotonic()
    with qemu.listen("SUSPEND") as events:
        if qemu.execute("query-status")["status"] == "suspended":
            return "", 0.0
        how = _ask(vm, note, timeout_s)
        try:
            events.wait(timeout_s=timeout_s)
        except DeadlineError:
            raise DeadlineError(
                f"the guest did not suspend within {timeout_s:.0f} s (asked by {how}); it is still running",
                machine=vm.name,
                hint="`qvm pause` pauses it without its help; `qvm stop --savevm NAME --no-suspend` saves it "
                "awake, and its clock is set after the load",
            ) from None
    return how, time.monotonic() - began


def _ask(vm: BaseMachine, note: LaunchRecord, timeout_s: float) -> str:
    """Ask by ssh, else by the agent; return which. StateError: neither can; the guest is still running."""
    tried = []
    has_refused = False
    try:
        if ready_sign.is_ssh(vm, note):
            log_in_s = min(guest.LOG_IN_S, timeout_s)
            found = guest.connect(vm, "suspend the guest", interactive=False, timeout_s=log_in_s)
            done = found.run(SUSPEND, timeout_s=min(30.0, timeout_s))
            if done.returncode in (0, 255):  # 255: the connection went down with the guest
                return "ssh"
            has_refused = True
            tried += [f"ssh: {line}" for line in done.stderr.strip().splitlines()[-3:]]
    except subprocess.TimeoutExpired:
        return "ssh"
    except QvmError as error:
        tried.append(f"ssh: {error.what}")
    try:
        qga.ask(note.socket("qga"), "guest-suspend-ram", timeout_s=min(5.0, timeout_s))
    except TimeoutError:
        return "guest agent"  # a guest that has gone to sleep does not answer any more
    except (OSError, QmpError) as error:
        has_refused = has_refused or isinstance(error, QmpError)
        tried.append(str(error) if isinstance(error, QmpError) else f"guest agent: {error}")
    else:
        return "guest agent"
    if crash.has_crashed(vm):
        raise crash.error(vm, "while the guest was asked to suspend")
    without = "`qvm pause` pauses it without its help, `qvm stop --savevm NAME --no-suspend` saves it awake"
    what = "nothing in the guest could be asked to suspend; it is still running"
    ways = "ssh or the guest agent must answer"
    if has_refused:
        what = "the guest refused to suspend and is still running"
        ways = "the guest must support suspend (ACPI S3)"
        if "sudo" in " ".join(tried):
            ways = f"{note.user} must be allowed `sudo -n systemctl suspend`, or the guest agent must run"
    raise StateError(what, machine=vm.name, details=tried, hint=f"{ways}; {without}")


def hold(exchange: Exchange, registers: ich9.Registers | None) -> None:
    """Stop the guest so that a snapshot of it can be loaded; see `snapshot.managed_save`.

    A QEMU that keeps "suspended" over `stop` (9.0 and later) saves and loads that state as it is.
    """
    exchange.ask("stop", timeout_s=30.0)
    if exchange.ask("query-status")["status"] == "suspended":
        exchange.together("system_wakeup", "stop")
        ich9.restore(exchange, registers)


def resume(exchange: Exchange) -> None:
    """Resume a guest that was held or loaded; where QEMU (9.0 and later) says that it sleeps, wake it."""
    exchange.ask("cont", timeout_s=30.0)
    if exchange.ask("query-status")["status"] == "suspended":
        wake(exchange)


def wake(exchange: Exchange) -> None:
    """Wake a guest that QEMU says is suspended.

    On q35 it is stopped for some milliseconds while it is still in the firmware, and gets the
    power registers back that SeaBIOS before 1.17 forgets: without them it could not sleep again.
    They are those of the sleeping guest, which keep what it had enabled.

    Raises:
        QmpError: it is not suspended.
    """
    registers = ich9.read(exchange)
    if registers is None:
        exchange.ask("system_wakeup")
        return
    exchange.together("system_wakeup", "stop")
    try:
        ich9.restore(exchange, registers)
    finally:
        exchange.ask("cont", timeout_s=30.0)


def refresh(link: ssh_connection.Link) -> None:
    """Close a cached connection that does not answer any more, so that the next one is new."""
    try:
        if not link.is_open() or link.run("true", timeout_s=ANSWER_S).returncode != 255:
            return
    except subprocess.TimeoutExpired:
        pass
    link.close()
