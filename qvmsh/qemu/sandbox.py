"""The seccomp filter that QEMU puts around itself: which one, and whether this QEMU has it.

    option("auto", ("-device", "virtio-rng-pci"))     # "on"
    option("auto", ("-sandbox", "off"))               # None: the user's own words win

QEMU may be built without it, and a kernel or container may not allow it: then QEMU ends and reports
it (`is_refusal`), and it is started again without. `spawn=deny` is left to the user: QEMU is ended
by the kernel, and the guest with it, as soon as a monitor command (`migrate exec:`) wants a program.
Source: QEMU softmmu/qemu-seccomp.c.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROBE_S = 20.0


def option(wanted: str, extra: Sequence[str]) -> str | None:
    """The value of `-sandbox`; None for none.

    Args:
        wanted: VM_QEMU_SANDBOX: `auto`, `off`, or QEMU's own value.
        extra: the user's own words for QEMU.
    """
    if wanted == "off" or any(word.lstrip("-") == "sandbox" and word[0] == "-" for word in extra if word):
        return None
    if wanted != "auto":
        return wanted
    return None if _needs_privileged_helper(extra) else "on"


def _needs_privileged_helper(extra: Sequence[str]) -> bool:
    """True for a bridge that QEMU's setuid helper makes: under a filter no program gains rights."""
    return any(word.startswith("bridge") or '"type": "bridge"' in word or "helper=" in word for word in extra)


def is_refusal(words: Sequence[str]) -> bool:
    """True if QEMU ended because it has no sandbox, or may not have one here."""
    return any(mark in line for line in words for mark in ("-sandbox", "sandboxing request", "seccomp"))


def is_there(binary: str) -> bool:
    """True if this QEMU was built with it; asked only where nothing is started (`dryrun`)."""
    import subprocess

    try:
        done = subprocess.run(
            [binary, "-sandbox", "on", "-version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
