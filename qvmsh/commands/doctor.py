"""`qvm doctor`: find what is wrong with this host or machine, and repair it."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.io import QUIET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.io import Io
    from qvmsh.machine.doctor.diagnosis import Diagnosis
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def doctor(vm: BaseMachine | None, *, fix: bool = False, probe: bool = False, io: Io = QUIET) -> Diagnosis:
    """Check the host and the machine; exit status 0 if there is no error.

    Checks programs and their versions, Python packages, the accelerator and why it was chosen,
    permissions, sockets, memory and disk; and the machine's configuration, images, key and files.
    Nothing is changed without `--fix`. It also works without a machine.

    Args:
        fix: first repair what is safe to repair, and report it: what killed commands and ended runs
            left behind (sockets, pid file, interrupted copies and saves), and wrong permissions.
            Nothing is touched while a command works on the machine, nor what a running QEMU uses.
        probe: measure the accelerators again.

    Returns:
        The findings: each a name, ok, warning or error, one line, and a hint; and what was repaired.
    """
    import os

    from qvmsh.machine.doctor import diagnosis

    environ = os.environ if vm is None else vm.environ
    return diagnosis.diagnose(vm, io if vm is None else vm.io, environ, is_probing=probe, is_fixing=fix)
