"""The guest agent as users ask it: one command, and each of its failures as an error that says what to do.

    execute(vm, ("guest-get-osinfo", {}), timeout_s=60.0)       # {"id": "debian", ...}
    ask(vm, note, "guest-fsfreeze-thaw", timeout_s=10.0)        # 2

What answers may be hostile: an answer has a deadline and a limit; check its shape before use.
Source: QEMU docs/interop/qemu-ga-ref.
"""

from __future__ import annotations

import time

from qvmsh.errors import DeadlineError, GuestUnreachableError, QmpError, QvmError
from qvmsh.machine import state
from qvmsh.machine.guest import frozen
from qvmsh.qemu import qga
from qvmsh.qemu.qmp import Nonsense

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.request_words import Request

PRESENT_S = 5.0
"""How long an agent may take to show that it is there."""
REFUSAL_S = 3.0
"""How long a refusal is waited for where success has no answer."""
MOST_BYTES = 64 << 20
"""The longest answer: `guest-file-read` and `guest-exec-status` have long ones."""
UNANSWERED = ("guest-shutdown", "guest-suspend-disk", "guest-suspend-hybrid", "guest-suspend-ram")
"""Commands that are answered only if they fail."""

NO_PORT = "`qvm config VM_GUEST_AGENT=yes`, then `qvm restart` gives the machine a port for one"
NO_AGENT = (
    "it must be installed and running in the guest (qemu-guest-agent), and serves one client at a time; "
    "`qvm exec` has other ways into the guest"
)


def execute(vm: BaseMachine, request: Request, *, timeout_s: float) -> Any:
    """Execute a command of the agent and return its value.

    Args:
        timeout_s: for the answer, with the agent's first sign of life.

    Raises:
        StateError: the machine is not running, or its guest is held.
        GuestUnreachableError: there is no agent, or what answers is none.
        DeadlineError: it runs, but has not answered in time.
        QmpError: it refused, in its own words.
    """
    command, arguments = request
    _, note = state.require(
        vm, state.observe(vm), "ask the guest agent", state.RUNNING, state.STARTING, state.SHUT_DOWN
    )
    answer = ask(vm, note, command, arguments, timeout_s=timeout_s, most_bytes=MOST_BYTES)
    if command == "guest-fsfreeze-thaw":
        frozen.end_keeper(vm)
    elif command.startswith("guest-fsfreeze-freeze"):
        vm.io.warn(f"{vm.name}: the guest stays frozen until `qvm thaw`; `qvm freeze` ends by itself")
    return answer


def ask(
    vm: BaseMachine,
    note: LaunchRecord,
    command: str,
    arguments: dict[str, Any] | None = None,
    *,
    timeout_s: float,
    most_bytes: int = 0,
) -> Any:
    """Ask the agent of a running machine one question; {} for a command that has no answer.

    Raises:
        GuestUnreachableError, DeadlineError, QmpError: see `execute`.
    """
    until = time.monotonic() + timeout_s
    try:
        with qga.Conversation(note.socket("qga"), min(PRESENT_S, timeout_s)) as talk:
            talk.MOST_BYTES = max(most_bytes, talk.MOST_BYTES)
            talk.timeout_s = max(0.1, until - time.monotonic())
            if command not in UNANSWERED:
                return talk.ask(command, arguments, tick=vm.io.checkpoint)
            talk.timeout_s = min(REFUSAL_S, talk.timeout_s)
            return _of_silence(talk, command, arguments)
    except (OSError, QmpError) as error:
        raise failure(vm, command, error, timeout_s) from None


def _of_silence(talk: qga.Conversation, command: str, arguments: dict[str, Any] | None) -> Any:
    try:
        return talk.ask(command, arguments)
    except Nonsense:
        raise
    except (TimeoutError, ConnectionError):  # it did as it was asked, or QEMU has ended
        return {}


def reason(error: OSError | QmpError, timeout_s: float) -> str:
    """Why the agent has not answered a question, for a row that names the agent already."""
    if isinstance(error, QmpError):
        return error.what.removeprefix("guest agent: ")
    if isinstance(error, TimeoutError) and not isinstance(error, qga.NoAgent):
        return f"it did not answer within {timeout_s:g} s"
    return error.strerror or str(error)


def failure(vm: BaseMachine, command: str, error: OSError | QmpError, timeout_s: float) -> QvmError:
    """The error of a machine whose agent could not be asked, or refused."""
    if isinstance(error, QmpError):
        error.machine = vm.name
        if "frozen" in error.what:
            error.hint = "`qvm thaw` thaws the guest's file systems"
        elif error.error_class == "CommandNotFound":
            error.hint = "`qvm agent guest-info` lists the agent's commands, with those that are disabled"
        return error
    if isinstance(error, qga.NoAgent):
        hint = NO_PORT if "VM_GUEST_AGENT" in str(error) else NO_AGENT
        return GuestUnreachableError(f"the guest agent cannot be asked: {error}", machine=vm.name, hint=hint)
    if isinstance(error, TimeoutError):
        return DeadlineError(
            f"the guest agent runs, but did not answer {command} within {timeout_s:g} s",
            machine=vm.name,
            hint="it may still be at work on it; a longer --timeout waits longer",
        )
    what = "what answers is no guest agent" if isinstance(error, Nonsense) else "the guest agent was lost"
    reason = error.strerror or str(error)
    return GuestUnreachableError(
        f"{what}: {reason}", machine=vm.name, hint="`qvm status` shows the machine's state"
    )
