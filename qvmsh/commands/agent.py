"""`qvm agent`: send a command to the guest agent."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.errors import UsageError
from qvmsh.io import QUIET
from qvmsh.machine.reports import Answers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine


@command(group="guest", words="rest")
def agent(
    vm: BaseMachine,
    *words: Annotated[str, Opt(complete="agent")],
    timeout: Annotated[float, Opt("-t", metavar="SECONDS")] = 60.0,
    io: Io = QUIET,
) -> Answers:
    """Send a command to the guest agent and print the answer as JSON.

    `qvm agent guest-info` lists the commands; `qvm agent guest-get-timezone`,
    `qvm agent guest-file-open path=/etc/hostname`. A value is JSON where it can be, else text.
    The answer is the guest's word.

    Args:
        words: the command and its arguments: key=value, or a JSON object.
        timeout: seconds that the agent may take to answer (60).

    Raises:
        StateError: the machine is not running.
        GuestUnreachableError: there is no guest agent.
        DeadlineError: it did not answer in time.
        QmpError: it refused the command.
    """
    from qvmsh.machine.guest import agent
    from qvmsh.machine.monitor import qmp
    from qvmsh.qemu import request_words

    if not words:
        raise UsageError(
            "agent: no command is given", hint="`qvm agent guest-info` lists the agent's commands"
        )
    if not timeout > 0:
        raise UsageError(f"agent: --timeout {timeout:g}: must be more than 0")
    request = request_words.request(words, "agent")
    answer = agent.execute(vm, request, timeout_s=timeout)
    if not io.capture:
        qmp.show(io, answer, is_wide=True)
    return Answers(vm.name, [answer], is_events=False, is_one=True, is_printed=not io.capture)
