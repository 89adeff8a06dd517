"""`qvm console`: the guest's serial console on this terminal."""

from __future__ import annotations

from qvmsh.commands import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="guest", words="machines", terminal=True)
def console(
    vm: BaseMachine,
    *,
    watch: Annotated[bool, Opt("-w", excludes=("take",))] = False,
    take: Annotated[bool, Opt("-t", "--force")] = False,
    escape: Annotated[str, Opt("-e", metavar="KEY")] = "^]",
    linger: Annotated[float, Opt("-l", metavar="SECONDS")] = 1.0,
) -> None:
    """Open the guest's serial console; Ctrl-] detaches.

    The last lines of earlier output are shown, so that a login prompt is visible at once. One
    terminal writes; others can watch, or take over. The console closes when QEMU ends. In a pipe,
    standard input goes to the guest and its output to standard output; a login prompt gets one
    line, and the next line waits for the next prompt. After the end of the input the console closes
    once the guest has been silent for a second. The terminal's size is not passed on:
    `stty rows 50 cols 120` in the guest sets it.

    Args:
        watch: only watch; works while another console or `run` is in use.
        take: take the console over from its current user.
        escape: the key that detaches, such as ^A (^]).
        linger: in a pipe, how long the guest must be silent after the end of the input (1);
            60 times that is the limit.

    Raises:
        StateError: the machine is not running, or has no serial console.
        LockedError: the console is in use, or was just taken over.
        DeadlineError: the guest did not take all of standard input.
    """
    from qvmsh.machine.terminal import console

    console.attach(vm, console.Options(is_watching=watch, is_taking=take, escape=escape, linger_s=linger))
