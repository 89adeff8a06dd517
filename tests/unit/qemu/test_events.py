"""QEMU's events: the connection that receives them."""

from __future__ import annotations

import io
import logging

from qvmsh.qemu import events  # noqa: F401  # it sets the logger up


def test_log_of_the_qmp_package_reaches_no_other_handler() -> None:
    """Some packages give the root logger a handler; its lines would appear at the prompt."""
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    logging.getLogger().addHandler(handler)
    try:
        logging.getLogger("qemu.qmp.protocol.qvm-watch").error("Failed to receive Greeting")
        assert shown.getvalue() == ""
    finally:
        logging.getLogger().removeHandler(handler)
