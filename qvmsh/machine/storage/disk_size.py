"""Sizes of disks as users write them.

bytes_of("20G")              # 21474836480
bytes_of("+5G", 1 << 30)     # 6442450944
"""

from __future__ import annotations

import re
from fractions import Fraction

from qvmsh.errors import UsageError

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def bytes_of(text: str, now: int = 0) -> int:
    """A size in bytes: `512M`, `10G`, or `+5G`, `-1G` from `now`.

    Raises:
        UsageError: it is not a size.
    """
    bare = text.strip()
    sign, digits = (bare[0], bare[1:]) if bare[:1] in ("+", "-") else ("", bare)
    number = digits.rstrip("iBbKkMmGgTt")
    unit = digits[len(number) :].upper().removesuffix("B").removesuffix("I")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", number) or unit not in UNITS:
        raise UsageError(f"{text}: is not a size", hint="a number and K, M, G or T: 512M, 10G, +5G")
    count = int(Fraction(number) * UNITS[unit])
    total = now + count if sign == "+" else now - count if sign == "-" else count
    if total <= 0 or total % 512:
        raise UsageError(f"{text}: the size of a disk must be a multiple of 512 bytes and more than 0")
    return total


def is_of_new(text: str) -> bool:
    """True for the size of a new disk."""
    try:
        return of_new(text) > 0
    except UsageError:
        return False


def of_new(text: str) -> int:
    """The size of a new disk; a bare number would be bytes to some and MiB to others, and is refused.

    Raises:
        UsageError: it is not a size.
    """
    if text.strip()[:1] in ("+", "-"):
        raise UsageError(f"{text}: a new disk has no size to change", hint=f"{text.strip()[1:]} is a size")
    if text.isdecimal() and int(text):
        raise UsageError(f"{text}: a size needs a unit", hint=f"{text}M or {text}G")
    return bytes_of(text)
