"""`qvm` and `python -m qvmsh`."""

from __future__ import annotations

import gc
import os
import sys

gc.disable()  # nothing of what is imported is garbage: to look for some costs a tenth of `qvm status -s`
from qvmsh.cli.main import main as run  # noqa: E402


def main() -> None:
    """The console script.

    Names of files are UTF-8 here, whatever the locale: in one of a byte a character Python would turn the
    same name into other bytes, and find no file.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    gc.set_threshold(20_000)  # on again for long commands: `sh`, `monitor`
    gc.enable()
    sys.exit(run())


if __name__ == "__main__":
    main()
