"""The standard streams while words run in threads: each thread has its own, restored correctly.

xonsh 0.25 replaces `sys.stdout` by a stream for each thread while a word runs, and restores what
was there when it ends. Of two words that overlap, or of one that outlives its line (`p = !(start)`),
the last restores a stream that was closed meanwhile, and every word after it fails. Here the stream of
the threads stays while one of them needs it, and a closed one is never restored.

Source: xonsh 0.25, `procs/proxies.py` (`ProcProxyThread.run`), `shells/base_shell.py` (`_TeeStd`).
"""

from __future__ import annotations

import sys
import threading

from xonsh import tools
from xonsh.procs.proxies import FileThreadDispatcher
from xonsh.shells.base_shell import _TeeStd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _RedirectStream:
    _stream = ""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._before: list[Any] = []

    def __enter__(self) -> Any:
        self._before.append(getattr(sys, self._stream))
        setattr(sys, self._stream, self._target)
        return self._target

    def __exit__(self, *_: object) -> None:
        before = self._before.pop()
        if isinstance(self._target, FileThreadDispatcher):
            if getattr(sys, self._stream) is not self._target:  # the line has ended before the word
                return
            if set(self._target.registry) - {threading.get_ident()}:
                return
            while isinstance(before, _TeeStd) and before._name is None:
                before = before.std
        setattr(sys, self._stream, before)


class _Stdout(_RedirectStream):
    _stream = "stdout"


class _Stderr(_RedirectStream):
    _stream = "stderr"


def install() -> None:
    """Apply this to every word that xonsh starts from now on."""
    tools.redirect_stdout, tools.redirect_stderr = _Stdout, _Stderr
