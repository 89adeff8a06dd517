"""What the firmware of a machine without a guest does."""

from __future__ import annotations

QUICK = "-global virtio-net-pci.romfile="
"""For VM_QEMU_EXTRA: nothing tries to boot by network, which takes more than a second of a processor."""
