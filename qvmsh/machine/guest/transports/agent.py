"""Commands in the guest by its agent: without a network, as the agent's account, mostly root.

    run(vm, note, wish)             # Result(...)

The agent reports the output when the command has ended, at most 16 MiB of each stream; its input is sent
at the beginning. Source: QEMU docs/interop/qemu-ga-ref, `guest-exec`.
"""

from __future__ import annotations

import base64
import contextlib
import time

from qvmsh.errors import DeadlineError, GuestUnreachableError, QmpError
from qvmsh.machine.guest import wish as wishes
from qvmsh.machine.guest.result import Result
from qvmsh.machine.guest.wish import Unusable
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.guest.wish import Wish
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

ANSWER_S = 10.0
"""How long the agent may take for an answer; it is another program than the command."""
LOST_S = 60.0
"""How long it may be silent while the command runs: a busy guest, a frozen agent."""
FIRST_LOOK_S, LAST_LOOK_S = 0.01, 0.5
MOST_BYTES = 8 << 20
"""The longest input: the agent keeps all of it in its memory."""


def run(vm: BaseMachine, pid: int, note: LaunchRecord, wish: Wish) -> Result:
    """Run a command and wait for its end.

    Raises:
        Unusable: there is no agent, or it runs no programs.
        GuestUnreachableError: the agent has gone while the command ran.
        DeadlineError: the command has not ended in time.
    """
    path, began = note.socket("qga"), time.monotonic()
    if wish.data is not None and len(wish.data) > MOST_BYTES:
        raise Unusable(f"its input is larger than {MOST_BYTES >> 20} MiB")
    pid = _begun(path, wish, vm.name)
    until = None if wish.timeout_s is None else began + wish.timeout_s
    heard_at, pause_s = time.monotonic(), FIRST_LOOK_S
    while True:
        vm.io.checkpoint()
        try:
            found = qga.ask(path, "guest-exec-status", {"pid": pid}, timeout_s=ANSWER_S, most_bytes=64 << 20)
            heard_at = time.monotonic()
        except (OSError, QmpError) as error:
            if isinstance(error, QmpError) or time.monotonic() - heard_at > LOST_S:
                raise GuestUnreachableError(
                    f"the guest agent was lost while the command ran: its exit status is unknown ({error})",
                    machine=vm.name,
                    hint="`qvm status` shows the machine's state",
                ) from None
            found = {"exited": False}
        if found["exited"]:
            return _result(wish, found, vm.name)
        if until is not None and time.monotonic() >= until:
            _end(path, wish.tag)
            raise DeadlineError(
                f"in the guest, `{wish.shown}` had not ended after {wish.timeout_s:g} s",
                machine=vm.name,
                hint="it was ended; `--timeout` is the limit in seconds",
            )
        time.sleep(pause_s)  # the agent does not report the end
        pause_s = min(pause_s * 1.5, LAST_LOOK_S)


def _begun(path: str, wish: Wish, machine: str) -> int:
    """Begin the command; its number in the guest."""
    words = ["-c", wishes.script(wish, is_ascii=True)]
    program = "/bin/sh"
    if wish.user is not None:
        words, program = ["-s", "/bin/sh", *words, "--", wish.user], "su"
    given: dict[str, Any] = {"path": program, "arg": words, "capture-output": True}
    if wish.data is not None:
        given["input-data"] = base64.b64encode(wish.data).decode()
    try:
        talk = qga.Conversation(path, ANSWER_S)
    except qga.NoAgent as error:
        raise Unusable(str(error)) from None
    except OSError as error:
        raise Unusable(error.strerror or str(error)) from None
    with talk:
        talk.timeout_s = LOST_S
        try:
            return int(talk.ask("guest-exec", given)["pid"])
        except QmpError as error:
            raise Unusable(f"it runs no programs: {error.what}") from None
        except OSError as error:  # another way could run it a second time
            raise GuestUnreachableError(
                f"the guest agent was lost when it began the command: it may have run ({error})",
                machine=machine, hint="`qvm status` shows the machine's state",
            ) from None  # fmt: skip


def _end(path: str, tag: str) -> None:
    """End a command that takes too long, and wait for that."""
    with contextlib.suppress(OSError, QmpError):
        given = {"path": "/bin/sh", "arg": ["-c", wishes.ending(tag)]}
        pid = qga.ask(path, "guest-exec", given, timeout_s=ANSWER_S)["pid"]
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            if qga.ask(path, "guest-exec-status", {"pid": pid}, timeout_s=ANSWER_S)["exited"]:
                return
            time.sleep(FIRST_LOOK_S)


def _result(wish: Wish, found: dict[str, Any], machine: str) -> Result:
    try:
        output, errors = (base64.b64decode(found.get(name, "")) for name in ("out-data", "err-data"))
    except ValueError:
        raise GuestUnreachableError(
            "what answers is not a guest agent: the command's output is no base64", machine=machine
        ) from None
    if found.get("out-truncated") or found.get("err-truncated"):
        raise GuestUnreachableError(
            "the guest agent keeps only 16 MiB of a command's output, and this wrote more", machine=machine,
            hint="write it to a file, or use `--via ssh`",
        )  # fmt: skip
    status = 128 + found["signal"] if found.get("signal") else int(found.get("exitcode", 0))
    return Result.of_bytes(output, errors, argv=wish.argv, status=status, via="agent", machine=machine)
