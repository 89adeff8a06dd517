"""`qvm info`, `qvm ip` and `qvm set-time`: what the guest says about itself."""

from __future__ import annotations

from qvmsh.commands import Opt, command
from qvmsh.machine.guest.reports import Addresses, ClockSet, Facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.machine import BaseMachine


@command(group="guest", words="machines")
def info(vm: BaseMachine) -> Facts:
    """Show what the guest says about its system, users, disks and clock.

    By the guest agent; without one, by a script over ssh or the serial console. What could not be had
    is shown with the reason. What is known from outside, `qvm status -v` shows.

    Raises:
        StateError: the machine is not running, or its guest is held or frozen.
        GuestUnreachableError: nothing in the guest could be asked.
    """
    from qvmsh.machine.guest import facts

    return facts.of(vm)


@command(group="guest", words="machines")
def ip(
    vm: BaseMachine,
    *,
    ipv4: Annotated[bool, Opt("-4", excludes=("ipv6",))] = False,
    ipv6: Annotated[bool, Opt("-6")] = False,
) -> Addresses:
    """Show the guest's addresses, and where each is known from.

    The guest agent knows them all; the host knows the port that leads to the guest's ssh, and for a
    network of the host the lease and the ARP entry of the guest's card.

    Args:
        ipv4: print only the guest's IPv4 addresses, one on a line.
        ipv6: print only the guest's IPv6 addresses, one on a line.

    Raises:
        StateError: the machine is not running.
        GuestUnreachableError: no address is known.
    """
    from qvmsh.machine.guest import address

    return address.of(vm, "inet" if ipv4 else "inet6" if ipv6 else None)


@command(group="guest", words="machines", name="set-time")
def set_time(vm: BaseMachine) -> ClockSet:
    """Set the guest's clock to the host's time.

    By the guest agent; without one, by `date` over ssh or the serial console. After `resume`,
    `wakeup` and `start --loadvm` qvm does so by itself.

    Raises:
        StateError: the machine is not running, or its guest is held or frozen.
        GuestUnreachableError: nothing in the guest could be asked.
        QvmError: nothing in the guest may set the clock.
    """
    from qvmsh.machine.guest import set_time

    return set_time.set_time(vm)
