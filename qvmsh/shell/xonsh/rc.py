"""The machine's own `.qvmrc.xsh`: loaded once the user has allowed its content.

    rc = Rc(engine)
    rc.look()       # at the first prompt, and at each one after it

It is code that runs as the user, and it comes with a directory that may come from anywhere. So it is
loaded only with a content that `qvm allow` has accepted, as direnv does it; what was checked is what
runs. `use` removes its variables, names and aliases.
"""

from __future__ import annotations

import os
import sys

from xonsh.built_ins import XSH

from qvmsh.config import files, trust
from qvmsh.errors import printable
from qvmsh.shell.script import report
from qvmsh.shell.session import calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

    from qvmsh.shell.xonsh.engine import Engine

_MISSING = object()


class Rc:
    """The `.qvmrc.xsh` of the session's machine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._context = engine.context
        self._done: str | None = None
        """The directory whose file was loaded, or does not exist."""
        self._reported: tuple[str, bytes] | None = None
        self._seen: tuple[int, int, int] | None = None
        self._undo: list[tuple[MutableMapping[str, Any], dict[str, Any], dict[str, Any]]] = []
        self._context.leavers.append(self.leave)

    def look(self) -> None:
        """Load the file if it exists and is allowed; warn, once, if it is not allowed."""
        directory = self._context.directory
        if directory is None or directory == self._done:
            return
        path = os.path.join(directory, trust.RC)
        try:
            source = files.read(path)
        except FileNotFoundError:
            return
        except files.Unreadable as error:
            self._context.io.warn(f"{path} is not loaded: {error}")
            self._done = directory
            return
        status, data = source.status, source.data
        seen = (status.st_ino, status.st_mtime_ns, _mtime(trust.allowed_file(self._context.environ)))
        if seen == self._seen:
            return
        self._seen = seen
        if not trust.is_allowed(path, data, self._context.environ, trust.CODE):
            self._report(path, data)
            return
        self._done = directory
        self._load(path, data)

    def _report(self, path: str, data: bytes) -> None:
        if self._reported == (path, data) or self._context.io.level < 1:
            return
        self._reported = (path, data)
        print(
            f"qvm: {printable(path)} is not loaded: you have not allowed its content\n"
            "hint: look at it, then `allow` loads it, now and in later sessions",
            file=sys.stderr,
        )

    def _load(self, path: str, data: bytes) -> None:
        places: list[MutableMapping[str, Any]] = [XSH.env._d, XSH.ctx, XSH.aliases._raw]
        before = [dict(place) for place in places]
        try:
            self._engine.run(data.decode(), path)
        except BaseException as error:
            if isinstance(error, calls.Leaving):
                raise
            status = report.ended(error, script=path, debug=self._context.io.debug)
            if status:
                self._context.io.warn(f"{path} ended with status {status}: the rest of it is not loaded")
        XSH.exit = None  # its end is not the session's
        self._undo = [
            (place, old, {k: v for k, v in place.items() if old.get(k, _MISSING) is not v})
            for place, old in zip(places, before, strict=True)
        ]

    def leave(self) -> None:
        """Undo what the file has set and what has not been changed since."""
        for place, before, mine in self._undo:
            for name, value in mine.items():
                if place.get(name, _MISSING) is not value:
                    continue
                target = XSH.env if place is XSH.env._d else place
                if name in before:
                    target[name] = before[name]
                else:
                    del target[name]
        self._undo = []
        self._done = self._seen = None


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
