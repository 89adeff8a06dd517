"""`qvm init`: create base and overlay."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.reports import Steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="images", words="machines")
def init(
    vm: BaseMachine,
    *,
    dry_run: Annotated[bool, Opt("-t")] = False,
    clobber_backing: Annotated[bool, Opt("-k", "--clobber-overlay")] = False,
    clobber_base: Annotated[bool, Opt("-b")] = False,
) -> Steps:
    """Create the base as a copy of the seed, and an empty overlay on it.

    An existing base is kept; then only the overlay is created.

    Args:
        dry_run: print what would be done.
        clobber_backing: replace an existing overlay; its content is lost.
        clobber_base: replace an existing base; its content is lost.

    Raises:
        ImageError: an image exists already, is orphaned or missing. Nothing changed.
    """
    from qvmsh.machine import registry
    from qvmsh.machine.create import layers

    done = layers.init(vm, clobber_base=clobber_base, clobber_overlay=clobber_backing, is_dry=dry_run)
    if not dry_run:
        registry.remember(vm)
    return Steps(vm.name, done, is_dry=dry_run)
