"""One command for several machines in parallel: one process each, their lines as they arrive.

A process for each machine keeps Ctrl-C, working directories and failures apart. The exit status
is that of the first machine named that failed.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys

from qvmsh.errors import Terminated, visible
from qvmsh.io import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any

    from qvmsh.cli.parse import Bound
    from qvmsh.io import Io

JOIN = ","


def run(bound: Bound, directories: Sequence[str], io: Io) -> int:
    """Run the bound command for each of `directories` and return the joint exit status."""
    children = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "qvmsh", *words(bound, directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=os.getcwd(),
        )
        for directory in dict.fromkeys(directories)
    ]
    documents = _relay(children, io)
    if io.json:
        io.write(f'{{"version": 1, "command": "{bound.entry.verb}", "machines": [{JOIN.join(documents)}]}}\n')
    statuses = [child.returncode for child in children]
    failed = [128 - status if status < 0 else status for status in statuses if status]
    return failed[0] if failed else 0


def words(bound: Bound, directory: str | None) -> list[str]:
    """The command line of `bound` for the machine in `directory` (None = as the words say)."""
    found = [] if directory is None else ["-C", directory]
    for name, value in bound.common.items():
        if name == "set":
            found += [part for each in value for part in ("--set", each)]
        elif value is True:
            found.append({"json": "--json", "verbose": "-v", "silent": "-q", "debug": "--debug"}[name])
    found += bound.entry.verb.split()
    rows: dict[str, tuple[Any, ...]] = {row[0]: row for row in bound.entry.options}
    last: list[str] = []
    for name, value in bound.options.items():
        kind, flag = rows[name][1], rows[name][2][-1]
        if kind in ("yes", "no"):
            found.append(flag)
        elif kind == "last":  # everything after its value is a word
            last = [flag, str(value)]
        else:
            found += [
                part
                for each in (value if isinstance(value, tuple) else (value,))
                for part in (flag, str(each))
            ]
    if bound.entry.words == "machines" or not bound.words:  # the directory names the machine
        return [*found, *last]
    return [*found, *last, *bound.words] if last else [*found, "--", *bound.words]


def _relay(children: Sequence[subprocess.Popen[bytes]], io: Io) -> list[str]:
    """Forward the children's complete lines; with `--json` collect their documents instead."""
    chooser = selectors.DefaultSelector()
    rests: dict[Any, bytes] = {}
    documents: dict[int, str] = {}
    for at, child in enumerate(children):
        assert child.stdout is not None
        assert child.stderr is not None
        chooser.register(child.stdout, selectors.EVENT_READ, (at, True))
        chooser.register(child.stderr, selectors.EVENT_READ, (at, False))
    while chooser.get_map():
        try:
            for key, _ in chooser.select():
                stream: IO[bytes] = key.fileobj  # type: ignore[assignment]  # only pipes are registered
                at, is_stdout = key.data
                data = os.read(stream.fileno(), 65536)
                text = rests.pop(key.fd, b"") + data
                whole, mark, rest = text.rpartition(b"\n")
                rests[key.fd] = rest
                lines = (whole + mark).decode(errors="replace")
                if not data:
                    chooser.unregister(stream)
                    lines += rests.pop(key.fd).decode(errors="replace")
                if is_stdout and io.json:
                    documents[at] = documents.get(at, "") + lines.strip()
                elif lines and is_stdout:
                    io.write(visible(lines))
                elif lines:
                    tell(io.stderr, lines, end="")
        except KeyboardInterrupt:
            continue  # the children get it too, and end cleanly
        except Terminated:
            for child in children:
                child.terminate()
    for child in children:
        child.wait()
    return [documents[at] for at in sorted(documents) if documents[at]]
