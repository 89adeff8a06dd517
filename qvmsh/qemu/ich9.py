"""The power management registers of q35's south bridge (ICH9), kept over a wake-up from S3.

SeaBIOS before 1.17 does not map these registers again when it wakes from S3 (symptom: after the
first wake-up the guest's next suspend and the power button are ignored). So they are read while the
guest runs normally, and restored while it is stopped on its way through the firmware::

    before = read(exchange)                            # None on any other machine
    exchange.together("system_wakeup", "stop")
    restore(exchange, before)

All of them are restored, not only the address: SeaBIOS takes a clear `APMC_EN` as the sign that
its SMM handler has yet to be set up, does that in the middle of the wake-up, and may hang there; and
a guest that is past its own wake-up already would have written its enable bits to nowhere. It would not
have cleared the power button either, which QEMU pretends has woken it, and would now power off.
Source: Intel ICH9 datasheet 13.1.13 (PMBASE), 13.1.14 (ACPI_CNTL), 13.8.3; SeaBIOS `fw/smm.c`.
"""

from __future__ import annotations

import re

from qvmsh.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.qemu.qmp import Exchange

ADDRESS, DATA = 0xCF8, 0xCFC
PMBASE, ACPI_CNTL = 0x8000F840, 0x8000F844
"""Their addresses in configuration space: bus 0, device 1f, function 0."""

_REGISTERS = (("smi_en", 0x30, "w"), ("pm1_en", 0x02, "h"), ("gpe0_en", 0x28, "w"), ("pm1_cnt", 0x04, "h"))
"""Name, offset from PMBASE, width in HMP's letters (h = 2 bytes, w = 4)."""

_SLEEP = 0x3C00
"""PM1_CNT: the bits that ask for a sleep state; they must not be restored."""


class Registers:
    """Where the registers are mapped (port number), and their values."""

    __slots__ = ("base", "values")

    def __init__(self, base: int, values: dict[str, int]) -> None:
        self.base = base
        self.values = values


def read(exchange: Exchange) -> Registers | None:
    """The registers of a running guest; None where there are none, or none are mapped."""
    base = _mapped_at(exchange)
    if base is None:
        return None
    values = {name: _input(exchange, width, base + offset) for name, offset, width in _REGISTERS}
    values["pm1_cnt"] &= ~_SLEEP
    return Registers(base, values)


def restore(exchange: Exchange, registers: Registers | None) -> bool:
    """Restore the registers if the firmware has lost them; True if it had. The guest is stopped."""
    if registers is None or _mapped_at(exchange) is not None:
        return False
    latch = _input(exchange, "w", ADDRESS)  # the guest may be between writing it and using it
    for address, value in ((PMBASE, registers.base | 1), (ACPI_CNTL, 0x80)):
        _output(exchange, "w", ADDRESS, address)
        _output(exchange, "w", DATA, value)
    _output(exchange, "w", ADDRESS, latch)
    _output(exchange, "h", registers.base, 0x100)  # PM1_STS: no power button was pressed
    for name, offset, width in _REGISTERS:
        _output(exchange, width, registers.base + offset, registers.values[name])
    return True


def _mapped_at(exchange: Exchange) -> int | None:
    """The port at which the registers begin; only ICH9 has an SMI register among them."""
    tree = _human(exchange, "info mtree -f")
    found = re.search(r"([0-9a-f]{16})-[0-9a-f]{16} \(prio \d+, i/o\): acpi-smi", tree)
    return int(found[1], 16) - 0x30 if found else None


def _input(exchange: Exchange, width: str, port: int) -> int:
    answer = _human(exchange, f"i /{width} {port:#x}")
    found = re.search(r"= 0x([0-9a-f]{1,8})\s*$", answer)
    if not found:
        raise QmpError(f"cannot read the port {port:#x}: QEMU answered {answer[:60]!r}")
    return int(found[1], 16)


def _output(exchange: Exchange, width: str, port: int, value: int) -> None:
    _human(exchange, f"o /{width} {port:#x} {value:#x}")


def _human(exchange: Exchange, line: str) -> str:
    text: str = exchange.ask("human-monitor-command", {"command-line": line})
    return text
