"""A command that owns the terminal, as a process of its own that the shell begins.

May import: `cli.main`.

    python -P -m qvmsh.shell.child -C /vm/demo ssh uname

It is `qvm` but for one thing: the process stays beside the program that it runs (`ssh`), and so tells
the shell of Ctrl-C with status 130. ssh itself ends with 255 then, as if the guest were gone.
"""

from __future__ import annotations

import sys

from qvmsh.cli.main import Call, main
from qvmsh.io import Io


class ChildCall(Call):
    """A command line whose process is not replaced by another program."""

    def new_io(self, *, level: int, debug: bool, json: bool) -> Io:
        return Io(level=level, debug=debug, json=json, capture=json)


if __name__ == "__main__":
    sys.exit(main(call=ChildCall()))
