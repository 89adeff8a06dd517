"""qvm: the shell for QEMU virtual machines. A directory with a `.vmrc` is a machine.

from qvmsh import Machine

vm = Machine.open("/vm/demo")
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.api import Machine

__all__ = ["Machine"]


def __getattr__(name: str) -> object:
    if name == "Machine":
        from qvmsh.api import Machine

        return Machine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
