"""`qvm forward`: ports of this host that lead into the guest, while it runs."""

from __future__ import annotations

from qvmsh.commands import Opt, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.forward.reports import Changed, Forwards
    from qvmsh.machine.machine import BaseMachine


@command(group="guest", name="forward add")
def forward_add(
    vm: BaseMachine,
    *ports: str,
    save: Annotated[bool, Opt("-s")] = False,
    via: Annotated[str | None, Opt(choices=("qemu", "ssh"))] = None,
) -> Changed:
    """Forward ports of this host to the guest, at once.

    `8080:80` leads port 8080 of 127.0.0.1 to port 80 of the guest; `udp:5353:53` and `0.0.0.0:8080:80`,
    which others can reach, are as in VM_HOSTFWD. QEMU forwards them, or ssh where QEMU's network is not
    the guest's. A program that listens on the guest's own 127.0.0.1 is reached by ssh alone.

    Args:
        ports: [udp:][ADDRESS:]PORT:GUEST_PORT; all of them, or none.
        save: also write them to VM_HOSTFWD, for every start; the machine may be off.
        via: what forwards them (default: qemu, else ssh).

    Raises:
        UsageError: that is not a forward.
        StateError: a port is forwarded already, or the machine is off.
        QvmError: a port is in use; the text says by what.
    """
    from qvmsh.machine.forward import forward

    return forward.add(vm, ports, via=via, is_saving=save)


@command(group="guest", name="forward list")
def forward_list(vm: BaseMachine) -> Forwards:
    """List the forwarded ports.

    Of a running machine those that QEMU and ssh have now; of one that is off those of VM_HOSTFWD.
    """
    from qvmsh.machine.forward import forward

    return forward.listing(vm)


@command(group="guest", name="forward remove")
def forward_remove(vm: BaseMachine, *ports: str, save: Annotated[bool, Opt("-s")] = False) -> Changed:
    """Forward ports no more. Existing connections stay open.

    Args:
        ports: [udp:][ADDRESS:]PORT of this host; all of them, or none.
        save: also remove them from VM_HOSTFWD; the machine may be off.

    Raises:
        UsageError: that is not a port, or it means several.
        StateError: a port is not forwarded.
    """
    from qvmsh.machine.forward import forward

    return forward.remove(vm, ports, is_saving=save)
