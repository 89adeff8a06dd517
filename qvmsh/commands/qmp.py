"""`qvm qmp`: send QMP commands and follow events."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.errors import UsageError
from qvmsh.io import QUIET
from qvmsh.machine.reports import Answers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated, Any

    from qvmsh.commands import Opt
    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine


@command(group="monitor", words="rest")
def qmp(
    vm: BaseMachine,
    *words: Annotated[str, Opt(complete="qmp")],
    events: Annotated[bool, Opt("-e")] = False,
    count: Annotated[int | None, Opt("-n", metavar="N")] = None,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
    io: Io = QUIET,
) -> Answers:
    """Send a QMP command and print the answer as JSON, or follow events.

    `qvm qmp query-status`, `qvm qmp device_del id=nic0`, `qvm qmp '{"execute": "stop"}'`. Without
    words, commands are read from standard input as JSON objects, and each answer is printed on one
    line; the first failure ends it. With `--events`, the words are the names of events (default:
    all); each event is printed on one line as it arrives, until Ctrl-C.

    Args:
        words: the command and its arguments: key=value, or a JSON object.
        events: print events as they arrive.
        count: with --events, end after this many.
        timeout: with --events, end after this many seconds (exit status 124 if below --count).

    Raises:
        StateError: QEMU is not running.
        QmpError: the command failed in QEMU.
        DeadlineError: fewer events than --count arrived in time.
    """
    from qvmsh.machine.monitor import qmp
    from qvmsh.qemu import request_words

    if not events and (count is not None or timeout is not None):
        raise UsageError("qmp: --count and --timeout require --events")
    if count == 0:
        raise UsageError("qmp: --count 0: must be at least 1")
    is_streaming = not io.capture
    found: list[Any] = []

    def answer(value: object) -> None:
        found.append(value)
        if is_streaming:
            qmp.show(io, value, is_wide=bool(words) and not events)

    if events:
        if not is_streaming and count is None and timeout is None:
            raise UsageError("qmp: --events here needs an end", hint="add --count or --timeout")
        qmp.follow(vm, words, count=count, timeout_s=timeout, answer=answer)
    elif words:
        qmp.execute(vm, [request_words.request(words)], answer)
    else:
        qmp.execute(vm, qmp.requests(io.stdin), answer)
    return Answers(
        vm.name, found, is_events=events, is_one=bool(words) and not events, is_printed=is_streaming
    )
