"""Completion at the prompt: qvm's words, as in every other shell.

XSH.completers = {"qvm": Completer(context), **XSH.completers}
"""

from __future__ import annotations

import re

from xonsh.built_ins import XSH
from xonsh.completers.path import contextual_complete_path
from xonsh.completers.tools import RichCompletion

from qvmsh.cli import complete
from qvmsh.cli.parse import verb_of
from qvmsh.machine.terminal import completion
from qvmsh.shell.session.names import Qmp
from qvmsh.shell.session.spelling import is_group, is_hosts
from qvmsh.shell.xonsh.words import Vm, Word

TYPE_CHECKING = False
QMP_CALL = re.compile(r"\bqmp\.([a-z]\w*)\(((?:[^()]*,)?\s*)(\w*)$")
KEYWORD = re.compile(r"(\w+)\s*=")

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.monitor_completion import Vocabulary
    from qvmsh.shell.session.context import Context


class Completer(complete.Surroundings):
    """A completer of xonsh for the lines that begin with one of our words."""

    contextual = True

    def __init__(self, context: Context) -> None:
        super().__init__(context.environ, lambda: context.machine(is_optional=True))
        self._context = context
        self._known: tuple[object, Vocabulary] | None = None
        self.__name__ = "complete_qvm"

    def vocabulary(self, vm: BaseMachine) -> Vocabulary | None:
        """As the base class, but cached: QEMU is asked for its commands once, not at each key."""
        run = completion.run_of(vm)
        if run is None:
            return None
        if self._known is None or self._known[0] != run:
            found = completion.of(vm)
            self._known = (run, found) if found is not None else None
        return self._known[1] if self._known is not None else None

    def __call__(self, context: Any) -> Any:
        command = context.command
        found = self._qmp_arguments(context.python)
        if found is not None:
            return found
        if command is None or command.arg_index < 1 or command.command_name is None:
            return None
        words = [arg.value for arg in command.args[: command.arg_index] if not arg.is_io_redir]
        line = self._line(words)
        if line is None:
            return None
        found = complete.complete([*line, command.prefix], self)
        rows = [self._rich(command, word, text) for word, text in found.rows]
        if found.kind:
            paths = contextual_complete_path(command, cdpath=False)
            rows += [
                path for path in paths[0] if found.kind == "file" or str(path).rstrip("'\"").endswith("/")
            ]
        if not rows:
            raise StopIteration  # nothing matches: file names would only mislead
        return rows, len(command.prefix)

    def _qmp_arguments(self, context: Any) -> Any:
        """The keywords that `qmp.NAME(` may have, as the running QEMU knows them; None elsewhere."""
        call = QMP_CALL.search(context.prefix) if context is not None else None
        if call is None or not isinstance(XSH.ctx.get("qmp"), Qmp):
            return None
        name, given, begun = call[1], call[2], call[3]
        words = [f"{word}=" for word in KEYWORD.findall(given)]
        found: list[str] = []
        for spelling in dict.fromkeys((name.replace("_", "-"), name)):
            rows = complete.complete(["qmp", spelling, *words, begun], self).rows
            found += [word[:-1] for word, _ in rows if word[:-1].isidentifier()]
        return [RichCompletion(f"{word}=", provider="qvm") for word in found], len(begun)

    def _line(self, words: list[str]) -> list[str] | None:
        """The words as qvm's command line; None if they are not qvm's."""
        if words[0] == "vm":
            return words[1:] if isinstance(XSH.aliases._raw.get("vm"), Vm) else None
        if is_hosts(words[0]) or (verb_of(words[:2]) is None and not is_group(words[0])):
            return None
        raw = XSH.aliases._raw.get(words[0])
        return words if isinstance(raw, Word) or raw == ["vm", words[0]] else None

    def _rich(self, command: Any, word: str, text: str) -> RichCompletion:
        value, length = word, None
        if not command.opening_quote and any(c in word for c in " \t'\"$`*?[]{}()<>|&;#"):
            value, length = repr(word), len(command.raw_prefix)
        return RichCompletion(
            value,
            prefix_len=length,
            description=complete.short(text),
            append_space=not word.endswith(("=", ".")),
            provider="qvm",
        )


def register(context: Context) -> None:
    """Let xonsh ask us first."""
    others: Iterable[tuple[str, Any]] = list(XSH.completers.items())
    XSH.completers.clear()
    XSH.completers["qvm"] = Completer(context)
    XSH.completers.update(others)
