"""The forwarded ports of a running machine, as QEMU and ssh have them now.

    of_qemu(note)                    # [Active(Forward("tcp:127.0.0.1:8080-10.0.2.15:80"), "qemu")]
    of_ssh(link)                     # those of the first cached connection

Source: net/slirp.c and libslirp's `slirp_connection_info`, for the text of `info usernet`.
"""

from __future__ import annotations

import re

from qvmsh.config import forwards as rules
from qvmsh.config.forwards import Forward
from qvmsh.host import ssh_forwards
from qvmsh.machine.monitor import conversation
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.host.ssh_connection import Link
    from qvmsh.machine.launch_record import LaunchRecord

QEMU, SSH = "qemu", "ssh"
_ROW = re.compile(r"\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)\s")
_STACK = re.compile(r"^Hub -?\d+ \(.*\):$")


class Active:
    """A forwarded port, and what forwards it: `qemu` or `ssh`.

    Args:
        is_open: False for one of ssh whose connection has ended; the next one opens it again.
    """

    __slots__ = ("forward", "is_open", "via")

    def __init__(self, forward: Forward, via: str, *, is_open: bool = True) -> None:
        self.forward = forward
        self.via = via
        self.is_open = is_open


def human(note: LaunchRecord, line: str) -> str:
    """What QEMU's human monitor answers.

    Raises:
        OSError: it does not answer.
    """
    with conversation.begin(note) as exchange:
        text: str = exchange.ask(
            "human-monitor-command", {"command-line": line}, timeout_s=qmp.patience_s(line)
        )
    return text.replace("\r\n", "\n").strip()


def of_qemu(note: LaunchRecord) -> list[Active] | None:
    """The forwards of the first user mode network; None if QEMU has none.

    Raises:
        OSError: QEMU does not answer.
    """
    return of_text(human(note, "info usernet"))


def of_text(text: str) -> list[Active] | None:
    """The same, of the answer to `info usernet`."""
    stacks = 0
    found = []
    for line in text.splitlines():
        stacks += bool(_STACK.match(line))
        row = _ROW.match(f"{line} ") if stacks == 1 else None
        if row:
            address = rules.ANY if row[2] == "*" else row[2]
            found.append(Active(Forward(row[1].lower(), address, int(row[3]), row[4], int(row[5])), QEMU))
    return found if stacks else None


def of_ssh(link: Link) -> list[Active]:
    """The forwards of the first cached connection, or of the next one if it has ended."""
    lines = ssh_forwards.kept(link)
    is_open = bool(lines) and link.is_open()
    found = []
    for line in lines:
        address, port, guest_address, guest_port = line.split(":")
        forward = Forward("tcp", address, int(port), guest_address, int(guest_port))
        found.append(Active(forward, SSH, is_open=is_open))
    return found


def of_line(forward: Forward) -> str:
    """A forward as `ssh -L` has it: the guest's address is as the guest sees it."""
    guest = forward.guest_address or rules.LOOPBACK
    return f"{forward.address}:{forward.port}:{guest}:{forward.guest_port}"
