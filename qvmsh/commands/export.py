"""`qvm export`: the whole machine as one file."""

from __future__ import annotations

from qvmsh.commands import Opt, command
from qvmsh.machine.shelf.package_reports import Exported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.machine import BaseMachine


@command(group="images")
def export(
    vm: BaseMachine,
    machine: Annotated[str | None, Opt(complete="machine")] = None,
    file: Annotated[str | None, Opt(metavar="FILE|-", complete="file")] = None,
    *,
    compress: Annotated[str | None, Opt("-z", metavar="KIND", choices=("gz", "zst", "xz", "none"))] = None,
    with_keys: bool = False,
    force: Annotated[bool, Opt("-f")] = False,
) -> Exported:
    """Pack the whole machine into one file, which `qvm import` unpacks.

    A package (.tar.gz, .tar.zst, .tar.xz or .tar) holds the disks with their snapshots, wherever they
    are, the settings, UEFI's variables and the TPM, and before them `qvm.json`: a manifest with
    checksums, and with what was left out. It never holds logs, host keys or private keys. Any tar that
    knows sparse files unpacks it. One machine gives the same bytes each time.

    A running machine keeps running: the guest agent freezes its file systems for a moment
    ("quiesced"); without an agent the state is "crash-consistent".

    Args:
        machine: the machine; default: the one of -C, -M, or the current directory.
        file: a name with `.tar` in it, or `-` for standard output (default: ./NAME.tar.gz).
        compress: gz, zst, xz or none; default: what the file's name says.
        with_keys: put the private keys in the machine's directory into the package too.
        force: replace an existing file.

    Raises:
        StateError: the file exists, or the machine cannot be exported in this state.
        ConfigError: a disk is missing.
        QvmError: the package cannot be written. Nothing of it is left.
    """
    from qvmsh.machine.shelf import export

    if machine is not None and file is None and export.is_file(machine):
        machine, file = None, machine
    if machine is not None:
        from qvmsh.machine import registry

        vm = type(vm)(registry.resolve(machine, vm.environ), io=vm.io, environ=vm.environ)
    wish = export.Wish(file or "", compress or "", has_keys=with_keys, is_forced=force)
    return export.export(vm, wish)
