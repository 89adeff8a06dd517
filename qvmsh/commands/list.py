"""`qvm list`: the machines that are known, with their states (one-shot path)."""

from __future__ import annotations

import os

from qvmsh.commands._define import command
from qvmsh.machine import registry as known
from qvmsh.machine.overview import list as listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.overview.list import Listing


@command(group="daily", name="list")
def list_machines(
    *,
    label: Annotated[tuple[str, ...], Opt("-l", metavar="LABEL", complete="label")] = (),
    prune: bool = False,
) -> Listing:
    """List the known machines: name, state, pid, labels, directory.

    Known is what this user has created, initialized or started. A broken machine is listed as
    broken, with the reason; one whose directory has gone as missing. A directory that was renamed is
    found again.

    Args:
        label: only those with this label (VM_LABELS); given several times, with all of them.
        prune: forget those whose directory is not there any more.
    """
    if prune:
        known.forget_missing(os.environ)
    return listing.known_machines(label, os.environ)
