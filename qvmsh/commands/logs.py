"""`qvm logs`, and `serial`, `stdout`, `stderr`: print and follow the logs."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.power.logs import Lines


@command(group="monitor", words="own")
def logs(
    vm: BaseMachine,
    log: Annotated[str, Opt(choices=("serial", "stdout", "stderr", "qvm"))] = "serial",
    *,
    lines: Annotated[int, Opt("-n", metavar="N")] = 10,
    follow: Annotated[bool, Opt("-f", excludes=("previous",))] = False,
    previous: Annotated[bool, Opt("-p")] = False,
) -> Lines | None:
    """Print the last lines of a log: serial, stdout, stderr or qvm.

    `serial` is what the guest wrote to its console, from the first byte of its boot; `stdout` and
    `stderr` are QEMU's; `qvm` lists what qvm did with the machine, and who called it. On a terminal,
    colours are the only control sequences that pass; a pipe gets every byte. Each start begins new
    logs and keeps the previous five; of a long console log the beginning and the end are kept.

    Args:
        log: serial, stdout, stderr or qvm.
        lines: number of lines (10).
        follow: keep printing new lines, across restarts, until Ctrl-C.
        previous: the previous run's log.

    Raises:
        StateError: there is no such log yet.
    """
    from qvmsh.machine.power import logs

    if log not in logs.NAMES:
        known = ", ".join(logs.NAMES)
        hint = f"the logs are {known}; `-M {log}` names a machine"
        raise UsageError(f"logs: there is no log {log!r}", machine=vm.name, hint=hint)
    if follow:
        logs.follow(vm, log, lines=lines)
        return None
    return logs.show(vm, log, lines=lines, is_previous=previous)


@command(group="monitor", words="machines")
def serial(
    vm: BaseMachine,
    *,
    lines: Annotated[int, Opt("-n", metavar="N")] = 10,
    follow: Annotated[bool, Opt("-f", excludes=("previous",))] = False,
    previous: Annotated[bool, Opt("-p")] = False,
) -> Lines | None:
    """Print the last lines of the serial console (`logs serial`).

    Args:
        lines: number of lines (10).
        follow: keep printing new lines, until Ctrl-C.
        previous: from the previous run.

    Raises:
        StateError: the machine was never started.
    """
    return logs(vm, "serial", lines=lines, follow=follow, previous=previous)


@command(group="monitor", words="machines")
def stdout(
    vm: BaseMachine,
    *,
    lines: Annotated[int, Opt("-n", metavar="N")] = 10,
    follow: Annotated[bool, Opt("-f", excludes=("previous",))] = False,
    previous: Annotated[bool, Opt("-p")] = False,
) -> Lines | None:
    """Print the last lines of QEMU's standard output (`logs stdout`).

    Args:
        lines: number of lines (10).
        follow: keep printing new lines, until Ctrl-C.
        previous: from the previous run.

    Raises:
        StateError: the machine was never started.
    """
    return logs(vm, "stdout", lines=lines, follow=follow, previous=previous)


@command(group="monitor", words="machines")
def stderr(
    vm: BaseMachine,
    *,
    lines: Annotated[int, Opt("-n", metavar="N")] = 10,
    follow: Annotated[bool, Opt("-f", excludes=("previous",))] = False,
    previous: Annotated[bool, Opt("-p")] = False,
) -> Lines | None:
    """Print the last lines of QEMU's standard error (`logs stderr`).

    Args:
        lines: number of lines (10).
        follow: keep printing new lines, until Ctrl-C.
        previous: from the previous run.

    Raises:
        StateError: the machine was never started.
    """
    return logs(vm, "stderr", lines=lines, follow=follow, previous=previous)
