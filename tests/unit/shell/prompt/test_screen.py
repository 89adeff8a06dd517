"""What comes while no prompt is on the screen is shown by the next drawing, whichever that is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from qvmsh.shell.prompt.screen import Screen
from qvmsh.shell.prompt.watcher import Watcher

DEADLINE_S = 60.0


class Prompt:
    """A prompt of prompt_toolkit with a screen; its text is renewed only when the screen asks for it."""

    def __init__(self, keys: Any) -> None:
        self.keys = keys
        self.value = "old"
        self.session: PromptSession[str] = PromptSession(input=keys, output=DummyOutput())
        self.screen = Screen(lambda: self.session.app, self._renew)
        self.drawn: list[str] = []
        self.awaited: Callable[[], bool] = lambda: False
        self.session.app.after_render += self._note

    def _renew(self) -> None:
        self.session.message = self.value

    def _note(self, _: object) -> None:
        self.drawn.append(str(self.session.message))
        if self.awaited():
            self.awaited = lambda: False
            self.keys.send_text("\r")

    def read(self, *, until: Callable[[], bool]) -> None:
        """Draw a prompt with the present value, and leave it when `until` is so."""
        self.awaited = until
        late = threading.Timer(DEADLINE_S, lambda: self.keys.send_text("late\r"))
        late.start()
        try:
            self.screen.begin()
            self.between()
            assert self.session.prompt(self.value) == "", f"it was never so: {self.drawn}"
        finally:
            late.cancel()

    def between(self) -> None:
        """After the prompt's text was made, and before the prompt is on the screen."""


@pytest.fixture
def prompt() -> Iterator[Prompt]:
    with create_pipe_input() as keys:
        yield Prompt(keys)


def test_repaint_before_the_prompt_is_drawn_is_not_lost(prompt: Prompt) -> None:
    def between(_: object) -> None:  # prompt_toolkit: it is called `running`, and has drawn nothing
        prompt.session.app.before_render -= between
        assert prompt.session.message == "old"
        prompt.value = "new"
        prompt.screen.repaint()

    prompt.session.app.before_render += between
    prompt.read(until=lambda: prompt.drawn[-1] == "new")


def test_repaint_between_two_prompts_is_not_lost(prompt: Prompt) -> None:
    prompt.read(until=lambda: True)

    def change() -> None:
        prompt.screen.repaint()
        prompt.session.app.pre_run_callables.append(lambda: setattr(prompt, "value", "new"))

    prompt.between = change  # type: ignore[method-assign]
    prompt.read(until=lambda: prompt.drawn[-1] == "new")


def test_line_before_the_prompt_is_drawn_is_shown_above_it(
    prompt: Prompt, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = ""

    def is_shown() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return seen == "qvm: a line\nqvm: another\n"

    def tell() -> None:
        prompt.screen.tell("qvm: a line")
        prompt.screen.tell("qvm: another")

    prompt.between = tell  # type: ignore[method-assign]
    prompt.read(until=is_shown)


def test_what_another_thread_says_is_shown_while_a_prompt_waits(
    prompt: Prompt, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = ""

    def is_shown() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        if prompt.drawn == ["old"]:

            def speak() -> None:
                prompt.value = "new"
                prompt.screen.repaint()
                prompt.screen.tell("qvm: a line")

            threading.Thread(target=speak).start()
        return seen == "qvm: a line\n" and prompt.drawn[-1] == "new"

    prompt.read(until=is_shown)


def test_lines_of_another_prompt_are_drawn_by_that_prompt(prompt: Prompt) -> None:
    """As at a breakpoint inside a session: another editor reads, and then the first one again."""
    prompt.read(until=lambda: True)
    outer, prompt.session = prompt.session, PromptSession(input=prompt.keys, output=DummyOutput())
    prompt.session.app.after_render += prompt._note
    prompt.between = prompt.screen.repaint  # type: ignore[method-assign]
    prompt.value = "inner"
    prompt.read(until=lambda: prompt.drawn[-1] == "inner")
    prompt.session = outer
    prompt.value = "outer"
    prompt.read(until=lambda: prompt.drawn[-1] == "outer")
    count = len(outer.app.before_render._handlers)
    prompt.read(until=lambda: True)
    assert len(outer.app.before_render._handlers) == count


def test_state_of_the_previous_machine_is_never_shown(tmp_path: Path) -> None:
    def machine(name: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / ".vmrc").write_text(f"VM_MACHINE_NAME={name}\nVM_MACHINE_ID=5\n")
        return str(tmp_path / name)

    first, second = machine("first"), str(tmp_path / "second")
    context: Any = SimpleNamespace(directory=first, has_machine=True)
    repainted = threading.Event()
    watcher = Watcher(context, repaint=repainted.set, tell=lambda _: None)
    try:
        watcher.look(patience_s=DEADLINE_S)
        assert watcher.state == "stopped"
        context.directory = second
        assert watcher.state == "?"  # until it has been looked at
        repainted.clear()
        watcher.look(patience_s=DEADLINE_S)
        assert watcher.state == "gone"
        assert repainted.wait(DEADLINE_S)
        context.directory = first
        assert watcher.state == "?"
    finally:
        watcher.stop()
