"""What a program says that may say too much, or nothing: a guest's command."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from subprocess import CompletedProcess

HEARD_BYTES = 65536
"""How much of the output is kept; it may never end."""


def heard(argv: Sequence[str], *, timeout_s: float) -> CompletedProcess[str]:
    """Run a command that a guest answers; only the beginning of its output is kept.

    Raises:
        subprocess.TimeoutExpired: it has not ended; it has been killed.
    """
    import selectors
    import subprocess

    deadline = time.monotonic() + timeout_s
    kept = {"stdout": b"", "stderr": b""}
    with (
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child,
        selectors.DefaultSelector() as streams,
    ):
        try:
            for name in kept:
                streams.register(getattr(child, name), selectors.EVENT_READ, name)
            while streams.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise subprocess.TimeoutExpired(argv, timeout_s)
                for key, _ in streams.select(left):
                    data = os.read(key.fd, 65536)
                    kept[key.data] = (kept[key.data] + data)[:HEARD_BYTES]
                    if not data:
                        streams.unregister(key.fileobj)
            child.wait(max(0.0, deadline - time.monotonic()))
        except BaseException:
            child.kill()
            raise
    texts = (data.decode(errors="replace") for data in kept.values())
    return subprocess.CompletedProcess(argv, child.returncode, *texts)
