"""`qvm` and `python -m qvmsh`."""

from __future__ import annotations

import gc
import sys

gc.disable()  # nothing of what is imported is garbage: to look for some costs a tenth of `qvm status -s`
from qvmsh.cli.main import main as run  # noqa: E402


def main() -> None:
    """The console script."""
    gc.set_threshold(20_000)  # still on for whoever stays: `sh`, `monitor`
    gc.enable()
    sys.exit(run())


if __name__ == "__main__":
    main()
