"""The terminal while a person may be typing: the prompt painted anew, lines put above it.

May import: prompt_toolkit; no xonsh.

    screen = Screen(lambda: repl.app)
    screen.repaint()                        # from any thread
    screen.tell("qvm: demo: it was reset")  # likewise; the text being typed stays
"""

from __future__ import annotations

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
    """What the watcher of the machine draws on; on a terminal that only shows lines they wait.

    Args:
        app: gives what reads at the prompt; None where lines are read without prompt_toolkit.
        renew: called before the prompt is painted anew, in its thread.
    """

    def __init__(
        self, app: Callable[[], Application[Any] | None], renew: Callable[[], None] = _nothing
    ) -> None:
        self._app = app
        self._renew = renew
        self._lines: deque[str] = deque()

    @property
    def is_live(self) -> bool:
        """True if a prompt that stands there can be changed."""
        return self._app() is not None

    def tell(self, line: str) -> None:
        """Show a line above the prompt, now or before the next one (from any thread)."""
        self._lines.append(line)
        self._at_prompt(lambda _: run_in_terminal(self.show))

    def say(self, text: str, end: str) -> None:
        """Show what a word in the background prints: above the prompt, or at once if none is there."""
        app = self._app()
        if app is not None and app.is_running:
            self.tell(text)
        else:
            tell(sys.__stdout__ or sys.stdout, text, end=end)

    def repaint(self) -> None:
        """Draw the prompt with what it has to say now (from any thread)."""
        self._at_prompt(self._paint)

    def show(self) -> None:
        """Print the lines that wait."""
        while self._lines:
            tell(sys.stdout, self._lines.popleft())

    def _paint(self, app: Application[Any]) -> None:
        self._renew()
        app.invalidate()

    def _at_prompt(self, action: Callable[[Application[Any]], object]) -> None:
        """Call `action` in the thread of the prompt, if there is one on the screen."""
        app = self._app()
        loop = app.loop if app is not None and app.is_running else None
        if app is not None and loop is not None:
            with contextlib.suppress(RuntimeError):  # the prompt has just been left
                loop.call_soon_threadsafe(action, app)
