"""QMP for users: one command, several from a stream, the events as they come.

    execute(vm, [("query-status", {})])              # [{"status": "running", ...}]

Source: QEMU docs/interop/qmp-spec.
"""

from __future__ import annotations

import json
import select
import time

from qvmsh.errors import DeadlineError, QmpError, UsageError, visible
from qvmsh.io import isatty
from qvmsh.machine import state
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.monitor import conversation, hmp
from qvmsh.qemu import qmp
from qvmsh.qemu.request_words import of_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from qvmsh.io import Io
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.request_words import Request

LOADS = ("snapshot-load", "loadvm")
"""Commands after which an ssh connection that is kept open would hang: the guest knows another one."""


def requests(stream: Iterable[str]) -> Iterator[Request]:
    """The commands in a stream of JSON objects, each as soon as it is whole.

    Raises:
        UsageError: the input is anything else.
    """
    decoder = json.JSONDecoder()
    text = ""
    for line in stream:
        text += line
        while text := text.lstrip():
            try:
                value, end = decoder.raw_decode(text)
            except ValueError:
                if text[0] != "{":
                    raise UsageError(
                        f"qmp: this is not a JSON object: {text.splitlines()[0][:60]!r}",
                        hint="standard input takes QMP commands as JSON objects",
                    ) from None
                break  # the object continues in the next line
            yield of_object(value)
            text = text[end:]
    if text:
        raise UsageError(f"qmp: the input ends within a JSON object: {text.splitlines()[0][:60]!r}")


def execute(vm: BaseMachine, commands: Iterable[Request], answer: Callable[[Any], None]) -> None:
    """Execute QMP commands one after the other; `answer` gets what each returns, at once.

    Raises:
        StateError: there is no QEMU.
        QmpError: QEMU refused one of them, in its own words; those before it have been executed.
    """
    pid, note = state.require_live(vm, "send a QMP command")
    with state.Answering(vm):
        exchange = conversation.begin(note)
    with exchange:
        for command, arguments in commands:
            answer(ask(vm, exchange, pid, command, arguments))
            if command in LOADS or _is_human_load(command, arguments):
                guest.close(vm, note)


def ask(vm: BaseMachine, exchange: qmp.Exchange, pid: int, command: str, arguments: dict[str, Any]) -> Any:
    try:
        line = str(arguments.get("command-line", "")) if command == "human-monitor-command" else command
        return exchange.ask(command, arguments, timeout_s=qmp.patience_s(line))
    except QmpError as error:
        error.machine = vm.name
        if error.error_class == "CommandNotFound":
            error.hint = (
                "`qvm qmp query-commands` lists QEMU's commands; `qvm cmd` takes those of the monitor"
            )
        raise
    except OSError as error:
        if command == "quit":
            return {}
        raise hmp.gone(vm, pid, command, error) from None


def _is_human_load(command: str, arguments: dict[str, Any]) -> bool:
    line = str(arguments.get("command-line", ""))
    return command == "human-monitor-command" and line.split()[:1] == ["loadvm"]


def show(io: Io, value: object, *, is_wide: bool) -> None:
    """Print one value as JSON, on a line; over several where a person reads it and `is_wide`."""
    indent = 2 if is_wide and isatty(io.stdout) and isinstance(value, dict | list) and value else None
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    io.write((visible(text) if io.is_on_terminal else text) + "\n")


def follow(
    vm: BaseMachine,
    names: Sequence[str],
    *,
    count: int | None,
    timeout_s: float | None,
    answer: Callable[[dict[str, Any]], None],
) -> None:
    """Give `answer` each event as it comes.

    Ends after `count` events, after `timeout_s`, or with QEMU; whichever is first.

    Args:
        names: only events of these names; none = all.

    Raises:
        StateError: there is no QEMU.
        UsageError: QEMU knows no such event.
        QmpError: another client already follows its events.
        DeadlineError: `timeout_s` passed before `count` events had come.
    """
    _, note = state.require_live(vm, "follow its events")
    wanted = _known(vm, note, names)
    with state.Answering(vm):
        try:
            exchange = conversation.begin(note, "events")
        except TimeoutError:
            what = "another client already follows its events (QEMU serves one at a time)"
            raise QmpError(what, machine=vm.name) from None
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen = 0
    try:
        while count is None or seen < count:
            event = _next_event(vm, exchange, deadline)
            if event is None:
                if count is not None and deadline is not None and time.monotonic() >= deadline:
                    raise DeadlineError(
                        f"{seen} of {count} events within {timeout_s:.0f} s",
                        machine=vm.name,
                        hint="a longer --timeout waits longer",
                    )
                break
            if "event" in event and (not wanted or event["event"] in wanted):
                seen += 1
                answer(event)
    finally:
        exchange.close()


def _next_event(vm: BaseMachine, exchange: qmp.Exchange, deadline: float | None) -> dict[str, Any] | None:
    """The next event; None at the deadline or after QEMU's end."""
    poll = select.poll()
    poll.register(exchange.fileno(), select.POLLIN)
    while not exchange.has_message():
        left = 0.2 if deadline is None else min(0.2, deadline - time.monotonic())
        if left <= 0:
            return None
        if poll.poll(left * 1000):
            break
        vm.io.checkpoint()
    try:
        return exchange.message(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except OSError:
        return None


def _known(vm: BaseMachine, note: LaunchRecord, names: Sequence[str]) -> set[str]:
    """The names in QEMU's spelling. UsageError: it has no such event; waiting for one would never end."""
    if not names:
        return set()
    with state.Answering(vm):
        schema = qmp.ask(note.socket("qmp"), "query-qmp-schema", timeout_s=state.GREETING_S)
    known = {each["name"] for each in schema if each["meta-type"] == "event"}
    wanted = {name.upper().replace("-", "_") for name in names}
    for name in sorted(wanted - known):
        import difflib

        near = difflib.get_close_matches(name, known, 1, 0.6)
        hint = f"did you mean {near[0]}?" if near else "there are: " + ", ".join(sorted(known))
        raise UsageError(f"qmp: QEMU has no event {name}", machine=vm.name, hint=hint)
    return wanted
