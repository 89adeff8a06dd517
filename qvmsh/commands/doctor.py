"""`qvm doctor`: what is wrong with this host or this machine, and what to do about it."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.io import QUIET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.io import Io
    from qvmsh.machine.doctor.diagnosis import Diagnosis
    from qvmsh.machine.machine import Machine


@command(group="daily", words="machines")
def doctor(vm: Machine | None, *, fix: bool = False, probe: bool = False, io: Io = QUIET) -> Diagnosis:
    """Check the host and, if there is one, the machine; exit 0 if there is no error.

    Looks at programs and their versions, Python packages, the accelerator and why it was chosen,
    rights, sockets, memory and disk; and at the machine's configuration, images, key and files.
    Nothing is changed without `--fix`. It also works where there is no machine.

    Args:
        fix: mend first what can be mended without a question: what killed commands and ended runs
            left (sockets, pid file, unfinished copies and saves), and wrong rights; and say what
            was done. Nothing is touched while a command is at work, or that a QEMU uses.
        probe: measure the accelerators again, whatever an earlier measurement said.

    Returns:
        The findings: each a name, ok, warning or error, one line, and a hint; and what was mended.
    """
    import os

    from qvmsh.machine.doctor import diagnosis

    environ = os.environ if vm is None else vm.environ
    return diagnosis.diagnose(vm, io if vm is None else vm.io, environ, is_probing=probe, is_fixing=fix)
