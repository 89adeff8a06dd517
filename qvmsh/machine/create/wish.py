"""What `create` is asked for, checked before anything is created."""

from __future__ import annotations

from dataclasses import dataclass

from qvmsh.config.variables import VARIABLES
from qvmsh.errors import UsageError
from qvmsh.machine.storage import disk_size

TINY = "tiny"


_OTHERWISE = {"VM_MACHINE_NAME": "the word NAME", "VM_MACHINE_ID": "--id NN", "VM_FMT": "--format FORMAT"}
"""Variables that `create` itself writes, and how they are chosen."""


@dataclass(frozen=True)
class Wish:
    """The options of `create`.

    Args:
        size: of an empty disk, such as `20G`; "" for none.
        image: a built-in image, or an image file, which is copied; None for none.
        disk: an image file of any format that becomes the machine's disk; None for none.
        iso: CD image of an installer, for an empty disk; None for none.
        is_bare: only the commented `.vmrc`.
        is_linked: the disk is backed by the image, instead of a copy of it.
        is_moved: the image file is removed once the machine is there.
        is_s2e: the disk is `disk.s2e`, raw, without an overlay.
        format: of the base image: `qcow2` or `raw`.
        disks: sizes of additional disks.
        template: file whose text the `.vmrc` begins with; None for none.
        memory: guest memory, as VM_MACHINE_MEM has it; None = what the image needs.
        cpus: vcpus; None = qvm's default.
        user: account in the guest; None = the built-in image's own, else the caller's name.
        machine_id: two digits; None = one that no known machine has.
        labels: words of VM_LABELS.
        values: other variables, name and value.
    """

    size: str = ""
    image: str | None = None
    disk: str | None = None
    iso: str | None = None
    is_bare: bool = False
    is_linked: bool = False
    is_moved: bool = False
    is_s2e: bool = False
    format: str = "qcow2"
    disks: tuple[str, ...] = ()
    template: str | None = None
    memory: str | None = None
    cpus: int | None = None
    user: str | None = None
    machine_id: str | None = None
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> str:
        """The image file or built-in image that the disk is made from; "" for an empty disk or none."""
        return self.disk or self.image or ""

    @property
    def files(self) -> dict[str, str | None]:
        """The options that name files."""
        return {
            "--image": self.image, "--from": self.disk, "--iso": self.iso, "--template": self.template,
        }  # fmt: skip


def require_name(name: str) -> None:
    """Refuse a size as the only word: `create 10G`.

    UsageError: the name is missing.
    """
    if disk_size.is_of_new(name):
        raise UsageError(
            f"create: {name} is a size; the name is missing",
            hint=f"`qvm create NAME {name}`; or `qvm create ./{name}`, if that is the name",
        )


def require_sound(wish: Wish) -> None:
    """Refuse what contradicts itself, and values that the `.vmrc` cannot hold.

    Raises:
        UsageError: the text says which option.
    """
    _require_one_source(wish)
    for flag in (flag for flag, value in wish.files.items() if value == ""):
        raise UsageError(f"create: {flag} is empty", hint="give a file" + ", or tiny" * (flag == "--image"))
    for each in filter(None, (wish.size, *wish.disks)):
        disk_size.of_new(each)
    cpus = None if wish.cpus is None else str(wish.cpus)
    for flag, name, value in (
        ("--mem", "VM_MACHINE_MEM", wish.memory),
        ("--cpus", "VM_MACHINE_CPUS", cpus),
        ("--user", "VM_MACHINE_USER", wish.user),
        ("--id", "VM_MACHINE_ID", wish.machine_id),
    ):
        wrong = None if value is None else VARIABLES[name].check(value)
        if value == "":
            wrong = ("is empty", "")
        _require_none(flag, wrong)
    for name, value in wish.values:
        if name in _OTHERWISE:
            raise UsageError(f"create: --set {name}: it is chosen by {_OTHERWISE[name]}")
        _require_none(f"--set {name}", VARIABLES[name].check(value) if name in VARIABLES else None)


def _require_none(flag: str, wrong: tuple[str, str] | None) -> None:
    """Refuse an option whose value is wrong; see `Variable.check`."""
    if wrong:
        raise UsageError(f"create: {flag} {wrong[0]}", hint=f"{flag} {wrong[1]}" if wrong[1] else None)


def _require_one_source(wish: Wish) -> None:
    given = {"--image": wish.image, "--from": wish.disk, "--iso": wish.iso, "--bare": wish.is_bare}
    given |= {"a size": wish.size and not wish.iso}
    flags = [flag for flag, is_given in given.items() if is_given]
    if len(flags) > 1:
        raise UsageError(
            f"create: {' and '.join(flags)} exclude each other",
            hint="a machine is made from one source: a size, --image, --iso, --from or --bare",
        )
    has_disk = not wish.is_bare
    for flag, is_given, is_possible, needs in (
        ("--link", wish.is_linked, wish.source, "--image or --from"),
        ("--move", wish.is_moved, wish.disk, "--from"),
        ("--format raw", wish.format == "raw", has_disk and not wish.is_linked, "a disk of its own"),
        ("--s2e", wish.is_s2e, has_disk and not wish.is_linked, "a disk of its own"),
        ("--disk", wish.disks, has_disk, "a machine with disks"),
    ):
        if is_given and not is_possible:
            raise UsageError(f"create: {flag} needs {needs}")
