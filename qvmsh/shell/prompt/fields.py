"""What the prompt shows: the machine's name and its state, without waiting for them.

demo:running ~/src >
"""

from __future__ import annotations

import os

from qvmsh.errors import printable
from qvmsh.shell.prompt.screen import Screen
from qvmsh.shell.prompt.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from prompt_toolkit.application import Application

    from qvmsh.shell.session.context import Context

FORMAT = (
    "{last_return_code_if_nonzero:[{BOLD_INTENSE_RED}{}{RESET}] }"
    "{BOLD_CYAN}{qvm_name}{RESET}{qvm_state}{BOLD_BLUE}{qvm_cwd}{RESET}> "
)

PLAIN = "{last_return_code_if_nonzero:[{}] }{qvm_name}{qvm_state}{qvm_cwd}> "
"""For terminals without colours."""

PATIENCE_S = 0.03
"""How long a prompt that cannot be repainted waits for the state; a healthy QEMU answers in 1 ms."""


def fields(context: Context, watcher: Watcher) -> dict[str, Callable[[], Any]]:
    """The fields of the prompt, for xonsh's PROMPT_FIELDS: read from memory, nothing is waited for."""

    def name() -> str:
        return printable(context.vm.name) if context.has_machine else "qvm"

    def shown_state() -> str:
        return f":{watcher.state}" if context.has_machine else ""

    def cwd() -> str:
        """The current directory, unless it is the machine's."""
        try:
            here = os.getcwd()
        except OSError:
            return " (gone)"
        if here == context.directory:
            return ""
        home = os.path.expanduser("~")
        short = "~" + here[len(home) :] if here == home or here.startswith(home + "/") else here
        return printable(f" {short}")

    return {"qvm_name": name, "qvm_state": shown_state, "qvm_cwd": cwd}


class Live:
    """The watched machine behind the prompts of a session or of a breakpoint.

    Args:
        app, renew: as for `Screen`.
    """

    def __init__(
        self,
        context: Context,
        app: Callable[[], Application[Any] | None],
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        self.screen = Screen(app, renew)
        self.watcher = Watcher(context, repaint=self.screen.repaint, tell=self.screen.tell)
        self.fields = fields(context, self.watcher)
        self.watcher.look()  # answered before the prompt is ready

    def begin(self) -> None:
        """Before a prompt is drawn: ask for the machine's state, print the lines that wait."""
        self.watcher.look(patience_s=0.0 if self.screen.is_live else PATIENCE_S)
        self.watcher.moved()
        self.screen.begin()

    def close(self) -> None:
        self.watcher.stop()
