"""What both prompts in ptpython share: the prompt's look, the user's settings, reading in this thread.

dress(editor, lambda: [("", "demo:running> ")])
text = read_here(editor)
"""

from __future__ import annotations

import os

import ptpython.repl
from ptpython.prompt_style import PromptStyle
from ptpython.utils import unindent_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ptpython.python_input import PythonInput

CONFIG = os.path.join("ptpython", "config.py")


def config_file() -> str:
    """The user's own configuration of ptpython."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, CONFIG)


class Look(PromptStyle):
    """The prompt of qvm in ptpython."""

    def __init__(self, tokens: Callable[[], Any], out: Callable[[], Any] = list) -> None:
        self._tokens = tokens
        self._out = out

    def in_prompt(self) -> Any:
        return self._tokens()

    def in2_prompt(self, width: int) -> Any:
        return [("class:prompt.dots", "...".rjust(width - 1) + " ")]

    def out_prompt(self) -> Any:
        return self._out()


def dress(editor: PythonInput, tokens: Callable[[], Any]) -> None:
    """Set what a shell needs unlike a Python prompt, then load the user's configuration."""
    editor.all_prompt_styles["qvm"] = Look(tokens)
    editor.prompt_style = "qvm"
    editor.confirm_exit = False
    editor.enable_open_in_editor = True
    editor.insert_blank_line_after_output = False
    editor.show_signature = True
    editor.terminal_title = None
    if os.path.exists(config_file()):
        ptpython.repl.run_config(editor, config_file())


def read_here(editor: PythonInput) -> str:
    """One input, read in this thread.

    Raises:
        EOFError: Ctrl-D in an empty line.
    """
    while True:
        editor.default_buffer.reset()
        try:
            text: str = editor.app.run()
        except KeyboardInterrupt:
            continue
        text = unindent_code(text)
        if text.strip():
            return text
