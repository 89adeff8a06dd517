"""`qvm list`: list the known machines with their states (one-shot path)."""

from __future__ import annotations

import os

from qvmsh.commands import command
from qvmsh.machine import registry
from qvmsh.machine.overview import list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.overview.list import Listing


@command(group="daily", name="list")
def list_machines(
    *machines: Annotated[str, Opt(complete="machine")],
    long: Annotated[bool, Opt("-l")] = False,
    state: Annotated[tuple[str, ...], Opt(metavar="STATE")] = (),
    label: Annotated[tuple[str, ...], Opt(metavar="LABEL", complete="label")] = (),
    tree: Annotated[str | None, Opt(metavar="DIR", complete="dir", excludes=("prune",))] = None,
    prune: bool = False,
) -> Listing:
    """List the known machines with their states.

    Columns: name, state, pid, vcpus, memory, accelerator, ssh port, uptime, directory. One in which no
    machine has a value is left out.

    A machine is known if this user has created, initialized or started it. A broken machine is
    listed as broken, with the reason; one without its directory as missing. A renamed directory is
    found again.

    Args:
        machines: only these: names, patterns of names (`web*`), or directories.
        long: a paragraph for each machine, with its disks, snapshots and labels.
        state: only machines in this state (running, stopped, ...); may be given several times.
        label: only machines with this label (VM_LABELS); several labels must all match.
        tree: the machines in and below this directory instead, whether known or not.
        prune: forget machines whose directory no longer exists.
    """
    if prune:
        registry.forget_missing(os.environ)
    return list.known_machines(
        os.environ, names=machines, labels=label, states=state, tree=tree, is_long=long
    )
