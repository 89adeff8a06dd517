"""A running machine's QEMU asked directly, without a process of qvm for each question."""

from __future__ import annotations

from typing import Any

from qvmsh.qemu import qmp
from tests.support.world import DEADLINE_S, Vm


def ask(vm: Vm, command: str, arguments: dict[str, Any] | None = None, timeout_s: float = DEADLINE_S) -> Any:
    """What QEMU answers on a socket that no command uses."""
    return qmp.ask(str(vm.runtime / "watch"), command, arguments, timeout_s=timeout_s)


def qom(vm: Vm, path: str, name: str) -> Any:
    """A property of an object."""
    return ask(vm, "qom-get", {"path": path, "property": name})


def monitor(vm: Vm, *lines: str) -> str:
    """What QEMU's monitor for people prints for some lines."""
    exchange = qmp.Exchange(str(vm.runtime / "watch"), DEADLINE_S).negotiate()
    try:
        return "".join(exchange.ask("human-monitor-command", {"command-line": line}) for line in lines)
    finally:
        exchange.close()


def is_connected(vm: Vm, endpoint: str) -> bool:
    """True while a client is connected to a socket of the machine."""
    names = {each["label"]: each["filename"] for each in ask(vm, "query-chardev")}
    return not names[endpoint].startswith("disconnected:")
