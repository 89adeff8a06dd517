"""The terminal while the user may be typing: repaints the prompt, prints lines above it.

    screen = Screen(lambda: repl.app)
    screen.begin()                          # before each prompt
    screen.repaint()                        # from any thread
    screen.tell("qvm: demo: it was reset")  # likewise; the text being typed stays

What is to be shown is kept until a prompt is drawn: what arrives while none
is on the screen is shown at the next drawing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque

from prompt_toolkit.application import run_in_terminal

from qvmsh.io import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from prompt_toolkit.application import Application


def _nothing() -> None:
    pass


class Screen:
    """Where the machine's watcher prints; without cursor control its lines wait for the next prompt.

    Args:
        app: returns what reads at the prompt; None without prompt_toolkit.
        renew: called before the prompt is repainted, in its thread.
    """

    def __init__(
        self, app: Callable[[], Application[Any] | None], renew: Callable[[], None] = _nothing
    ) -> None:
        self._app = app
        self._renew = renew
        self._lines: deque[str] = deque()
        self._is_stale = False
        self._drawn: Application[Any] | None = None
        self._telling: asyncio.Future[None] | None = None

    @property
    def is_live(self) -> bool:
        """True if a prompt on the screen can be changed."""
        return self._app() is not None

    def begin(self) -> None:
        """Before a prompt is drawn: print the lines that wait."""
        app = self._app()
        if app is not self._drawn:
            if self._drawn is not None:
                self._drawn.before_render -= self._before_drawing
            self._drawn = app
            if app is not None:
                app.before_render += self._before_drawing
        self._show()

    def tell(self, line: str) -> None:
        """Show a line above the prompt, now or before the next one (from any thread)."""
        self._lines.append(line)
        self._wake()

    def say(self, text: str, end: str) -> None:
        """Show what a word in the background prints: above the prompt, or at once if none is there."""
        app = self._app()
        if app is not None and app.is_running:
            self.tell(text)
        else:
            tell(sys.__stdout__ or sys.stdout, text, end=end)

    def repaint(self) -> None:
        """Repaint the prompt with its current values (from any thread)."""
        self._is_stale = True
        self._wake()

    def _show(self) -> None:
        while self._lines:
            tell(sys.stdout, self._lines.popleft())

    def _wake(self) -> None:
        """Repaint the prompt, if there is one; the next one shows the news anyway."""
        app = self._drawn
        loop = app.loop if app is not None else None
        if app is not None and loop is not None:
            with contextlib.suppress(RuntimeError):  # the prompt has just been left
                loop.call_soon_threadsafe(app.invalidate)

    def _before_drawing(self, app: Application[Any]) -> None:
        if self._is_stale:
            self._is_stale = False
            self._renew()
        if self._lines and not app.is_done and (self._telling is None or self._telling.done()):
            self._telling = asyncio.ensure_future(run_in_terminal(self._show))
