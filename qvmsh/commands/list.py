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
    *,
    label: Annotated[tuple[str, ...], Opt("-l", metavar="LABEL", complete="label")] = (),
    prune: bool = False,
) -> Listing:
    """List the known machines: name, state, pid, labels, directory.

    A machine is known if this user has created, initialized or started it. A broken machine is
    listed as broken, with the reason; one without its directory as missing. A renamed directory is
    found again.

    Args:
        label: only machines with this label (VM_LABELS); several labels must all match.
        prune: forget machines whose directory no longer exists.
    """
    if prune:
        registry.forget_missing(os.environ)
    return list.known_machines(label, os.environ)
