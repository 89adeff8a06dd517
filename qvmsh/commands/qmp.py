"""`qvm qmp`: QEMU's machine protocol, JSON in and JSON out."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.errors import UsageError
from qvmsh.io import QUIET
from qvmsh.machine.reports import Answers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated, Any

    from qvmsh.commands._define import Opt
    from qvmsh.io import Io
    from qvmsh.machine.machine import Machine


@command(group="monitor", words="rest")
def qmp(
    vm: Machine,
    *words: Annotated[str, Opt(complete="qmp")],
    events: Annotated[bool, Opt("-e")] = False,
    count: Annotated[int | None, Opt("-n", metavar="N")] = None,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
    io: Io = QUIET,
) -> Answers:
    """Send a QMP command and print what QEMU returns, as JSON; or follow its events.

    `qvm qmp query-status`, `qvm qmp device_del id=nic0`, `qvm qmp '{"execute": "stop"}'`. Without
    words the commands are read from standard input, JSON objects one after the other, and the
    answers are printed a line each; the first that fails ends it. With `--events` the words are
    the names of the events that are wanted (none: all); each is printed as a line when it comes,
    until Ctrl-C.

    Args:
        words: the command and its arguments: key=value, or a JSON object.
        events: print events as they come.
        count: with --events, end after this many.
        timeout: with --events, end after so many seconds (exit status 124 if --count is not reached).

    Raises:
        StateError: there is no QEMU.
        QmpError: QEMU says that the command failed.
        DeadlineError: fewer events than --count came in time.
    """
    from qvmsh.machine.monitor import qmp as control

    if not events and (count is not None or timeout is not None):
        raise UsageError("qmp: --count and --timeout belong to --events")
    if count == 0:
        raise UsageError("qmp: --count 0: must be at least 1")
    is_streaming = not io.capture
    found: list[Any] = []

    def answer(value: object) -> None:
        found.append(value)
        if is_streaming:
            control.show(io, value, is_wide=bool(words) and not events)

    if events:
        if not is_streaming and count is None and timeout is None:
            raise UsageError("qmp: events without an end", hint="--count or --timeout ends them")
        control.follow(vm, words, count=count, timeout_s=timeout, answer=answer)
    elif words:
        control.execute(vm, [control.request(words)], answer)
    else:
        control.execute(vm, control.requests(io.stdin), answer)
    return Answers(
        vm.name, found, is_events=events, is_one=bool(words) and not events, is_printed=is_streaming
    )
