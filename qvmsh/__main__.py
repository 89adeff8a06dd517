"""`qvm` and `python -m qvmsh`."""

from __future__ import annotations

import atexit
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
    status = run()
    shell = sys.modules.get("qvmsh.shell.run")
    if shell.is_over() if shell else "threading" not in sys.modules and not atexit._ncallbacks():
        _leave_at_once(status)
    sys.exit(status)


def _leave_at_once(status: int) -> None:
    """End a command that nothing waits for: to take all modules apart costs a third of `qvm status -s`."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # AttributeError: there is none
        return  # Python itself reports it
    os._exit(status)


if __name__ == "__main__":
    main()
