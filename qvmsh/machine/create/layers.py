"""The machine's own images: seed, base, overlay; creating and replacing them.

    init(vm, clobber_base=False, clobber_overlay=False, is_dry=False)

Every new image is made under a name with `.part`, synced and renamed; so a
killed `init` leaves the old image or the new one.
"""

from __future__ import annotations

import os

from qvmsh.errors import ImageError, QvmError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import programs, state
from qvmsh.machine.create import seed
from qvmsh.machine.storage import chain, dependents, own_disk
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import BaseMachine


class Layers:
    """The paths of the three layers of a machine."""

    def __init__(self, vm: BaseMachine) -> None:
        settings = vm.settings
        self.seed, self.base, self.overlay = (
            os.path.join(vm.directory, settings.text(f"VM_SNAPSHOT_{which}FILENAME"))
            for which in ("SEED", "BASE", "BACKING")
        )
        self.format = settings.text("VM_FMT")


def require_layers(vm: BaseMachine, what: str) -> None:
    """Refuse what needs base and overlay where VM_USE_SNAPSHOTS=no."""
    if not vm.settings.boolean("VM_USE_SNAPSHOTS"):
        raise UsageError(
            f"{what} needs a base and an overlay, but VM_USE_SNAPSHOTS=no turns them off",
            machine=vm.name,
            hint="`qvm config VM_USE_SNAPSHOTS=yes` turns layers on",
        )


def init(vm: BaseMachine, *, clobber_base: bool, clobber_overlay: bool, is_dry: bool) -> list[str]:
    """Make base from seed and an empty overlay on it; return what was (or would be) done.

    Raises:
        StateError: the machine runs.
        ImageError: an image is in the way or missing; nothing has been changed.
    """
    require_layers(vm, "init")
    layers = Layers(vm)
    with work_lock(vm, "init"):
        seen = state.observe(vm)
        state.require_off(vm, seen, "init")
        steps = _plan(vm, layers, clobber_base, clobber_overlay)
        for path in (layers.base, layers.overlay):
            image.require_unused(path, vm.name)
        if "base" in steps:
            dependents.require_writable(vm, layers.base, "replace", besides=layers.overlay, is_given_up=True)
        dependents.require_writable(vm, layers.overlay, "replace")
        found = seed.judged(layers.seed, layers.format, vm.name) if "base" in steps else []
        if not found:  # qemu-img opens its bases too
            chain.below(vm, layers.base, layers.format)
        remove_parts(vm)
        if not is_dry:
            mode = host_files.mode(layers.overlay)  # before the overlay goes
            if found:
                _make_base(vm, layers, found, replace_overlay="overlay" in steps)
            make_overlay(vm, layers, mode)
            host_files.remove(vm.files.known_hosts)  # a new installation has a new host key
    return [_describe(step, layers) for step in steps]


def _plan(vm: BaseMachine, layers: Layers, clobber_base: bool, clobber_overlay: bool) -> list[str]:
    """The steps that are needed and allowed."""
    has_seed, has_base, has_overlay = (
        os.path.exists(path) for path in (layers.seed, layers.base, layers.overlay)
    )
    base, overlay = os.path.basename(layers.base), os.path.basename(layers.overlay)
    if has_overlay and not clobber_overlay:
        if not has_base:
            raise ImageError(
                f"{overlay} is orphaned: its base {base} is missing",
                machine=vm.name,
                hint=f"put {base} back; or `qvm init -k` discards the overlay and creates a new one",
            )
        if not clobber_base:
            raise ImageError(
                f"already initialized: {base} and {overlay} exist",
                machine=vm.name,
                hint="`qvm init -k` creates a new overlay, `-k -b` a new base too; their data is lost",
            )
        raise ImageError(
            f"{overlay} is backed by the base, which would be overwritten",
            machine=vm.name,
            hint="`qvm init -b -k` replaces both; the data in the overlay is lost",
        )
    if has_base and not clobber_base:
        return ["overlay"]
    if not has_seed:
        raise ImageError(
            f"{os.path.basename(layers.seed)} is missing",
            machine=vm.name,
            hint=own_disk.other_format(vm, os.path.basename(layers.base), os.path.basename(layers.seed))
            or "put the image of an installed system in its place, or `qvm create NAME --image FILE`",
        )
    found = image.require(layers.seed, vm.name, hint="", kind=layers.format)
    if layers.format == "qcow2" and found.format != "qcow2":
        name = os.path.basename(layers.seed)
        raise ImageError(
            f"{name} is not in format qcow2, as VM_FMT says",
            machine=vm.name,
            hint=f"`qemu-img convert -O qcow2 {image.typed(layers.seed)} NEW` converts it",
        )
    return ["base", "overlay"]


def _describe(step: str, layers: Layers) -> str:
    base, overlay = os.path.basename(layers.base), os.path.basename(layers.overlay)
    if step == "base":
        return f"{base}: copied from {os.path.basename(layers.seed)}"
    return f"{overlay}: empty, on {base}"


def _make_base(vm: BaseMachine, layers: Layers, found: list[chain.Layer], *, replace_overlay: bool) -> None:
    """Copy seed to base. The overlay is removed first: another base would silently corrupt it."""
    part = layers.base + ".part"
    try:
        seed.copy(found, part, layers.format, vm.name, vm.io, programs.qemu_img(vm))
    except OSError as error:
        raise QvmError(
            f"cannot copy {os.path.basename(layers.seed)}: {error.strerror}",
            machine=vm.name,
            hint="nothing was changed",
        ) from error
    if replace_overlay:
        host_files.remove(layers.overlay)
        host_files.sync_folder(vm.directory)
    os.chmod(part, host_files.mode(layers.base))
    os.rename(part, layers.base)
    host_files.sync_folder(vm.directory)


def make_overlay(vm: BaseMachine, layers: Layers, mode: int, like: dict[str, Any] | None = None) -> None:
    """Replace the overlay by an empty one on the base; at any time the old or the new one exists.

    Args:
        mode: of the file.
        like: its `qemuimg.kind`.
    """
    part = layers.overlay + ".part"
    program = programs.qemu_img(vm)
    try:
        qemuimg.create_overlay(
            program,
            os.path.basename(part),
            os.path.basename(layers.base),
            layers.format,
            cwd=vm.directory,
            like=like,
        )
        host_files.sync(part)
        os.chmod(part, mode)
        os.rename(part, layers.overlay)
    except BaseException:
        host_files.remove(part)
        raise
    host_files.sync_folder(vm.directory)


def remove_parts(vm: BaseMachine) -> None:
    """Remove what a killed command left; the caller holds the work lock."""
    layers = Layers(vm)
    for path in (layers.base, layers.overlay):
        host_files.remove(path + ".part")


def require_writable_base(vm: BaseMachine, *, force: bool) -> None:
    """Refuse to run the base while it backs an overlay with data, which that would silently corrupt.

    Raises:
        ImageError: there is such an overlay and `force` is false.
    """
    require_layers(vm, "--base-only")
    overlay = Layers(vm).overlay
    if force:
        return
    program = programs.qemu_img(vm)
    chain.below(vm, overlay, "qcow2")
    if os.path.exists(overlay) and qemuimg.has_data(program, overlay):
        raise ImageError(
            f"{os.path.basename(overlay)} holds data that depends on the base: "
            "writing to the base would corrupt it",
            machine=vm.name,
            hint="`--disposable` runs the base without writing to it; `qvm init -k` discards the overlay; "
            "`--force` runs it anyway",
        )
    dependents.require_writable(vm, Layers(vm).base, "write to", besides=overlay)
