"""`--ui ptpython`: ptpython's editor for xonsh's language.

    install()       # before xonsh makes its shell

xonsh's own shell reads with prompt_toolkit; only the editor differs here. So words,
errors, statuses, history and events are the same, by construction. The editor runs in the main
thread, unlike ptpython's own: a signal that ends the session must find it there (in a thread of
its own it keeps reading a closed terminal).
"""

from __future__ import annotations

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import PygmentsTokens
from prompt_toolkit.history import ThreadedHistory
from prompt_toolkit.styles import merge_styles
from prompt_toolkit.validation import ValidationError, Validator
from ptpython.python_input import PythonInput
from xonsh.built_ins import XSH
from xonsh.events import events
from xonsh.shell import Shell
from xonsh.shells.ptk_shell import PromptToolkitShell
from xonsh.shells.ptk_shell.history import PromptToolkitHistory

from qvmsh.shell.prompt.ptpython_look import dress, read_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


class Editor(PythonInput):
    """ptpython's input, run in this thread, with a prompt and a history from outside.

    Args:
        namespace: what signatures and completion look into.
        history: what the arrow keys and F3 show.
        tokens: the prompt.
        validator: decides whether an input is complete and correct.
    """

    def __init__(
        self,
        namespace: Callable[[], dict[str, Any]],
        history: Any,
        tokens: Callable[[], Any],
        *,
        validator: Validator | None = None,
        completer: Completer | None = None,
    ) -> None:
        self._given_history = history
        super().__init__(get_globals=namespace, _validator=validator, _completer=completer)
        dress(self, tokens)

    def _create_buffer(self) -> Any:
        self.history = self._given_history
        return super()._create_buffer()

    def read(self) -> str:
        return read_here(self)


class _Whole(Validator):
    """Accepts what xonsh can compile; an open block is not complete yet."""

    def validate(self, document: Document) -> None:
        text = document.text
        if not text.strip():
            return
        try:
            XSH.execer.compile(text.strip("\n") + "\n", mode="single", glbs=XSH.ctx, locs={})
        except SyntaxError as error:
            raise ValidationError(len(text), f"Syntax error: {error.msg}") from None
        except Exception:  # running it will show the error
            return


class _OnTab(Completer):
    """xonsh's completion; during typing only if xonsh's settings ask for it."""

    def __init__(self, shell: PromptToolkitShell) -> None:
        self._shell = shell

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        found: Iterable[Completion] = self._shell.pt_completer.get_completions(document, complete_event)
        return found


class PtpythonShell(PromptToolkitShell):  # type: ignore[misc]  # xonsh has no types
    """xonsh's shell with ptpython's editor."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.prompter = self.editor = Editor(
            lambda: self.ctx,
            ThreadedHistory(PromptToolkitHistory()),
            self._shown_prompt,
            validator=_Whole(),
            completer=_OnTab(self),
        )
        style = self.editor._generate_style
        # ptpython has no other hook for a style that changes
        self.editor._generate_style = lambda: merge_styles([self.get_prompt_style(), style()])  # type: ignore[method-assign]
        self.editor._current_style = self.editor._generate_style()

    def _shown_prompt(self) -> Any:
        """The tokens of `$PROMPT`; its fields are evaluated again after a reset."""
        from prompt_toolkit.formatted_text import to_formatted_text

        found = self._get_prompt_tokens("PROMPT", "message")
        is_pygments = bool(found) and not isinstance(found[0][0], str)
        return to_formatted_text(PygmentsTokens(found) if is_pygments else found)

    def singleline(self, **_: Any) -> str:
        """Read one input."""
        events.on_pre_prompt_format.fire()
        XSH.env["PROMPT_FIELDS"].reset()
        if next_text := XSH.env.get("XONSH_PROMPT_NEXT_CMD", ""):
            XSH.env["XONSH_PROMPT_NEXT_CMD"] = ""
        self.settitle()
        events.on_pre_prompt.fire()
        if next_text:
            self.editor.app.pre_run_callables.append(
                lambda: self.editor.default_buffer.insert_text(next_text)
            )
        line = self.editor.read()
        events.on_post_prompt.fire()
        return line


_xonsh_construct = Shell.construct_shell_cls


def install() -> None:
    """Let xonsh make this shell where it would make that of prompt_toolkit."""

    def construct(backend: Any, **how: Any) -> Any:
        if backend == "prompt_toolkit":
            return PtpythonShell(**how)
        return _xonsh_construct(backend, **how)

    Shell.construct_shell_cls = staticmethod(construct)
