"""Words in single quotes that commands of qvm get as they were typed, as from a POSIX shell."""

from __future__ import annotations

import ast
import functools
import re

from xonsh.parsers.base import BaseParser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

AS_TYPED = "_qvm_as_typed"
"""Attribute of a string in xonsh's tree: the text between its single quotes."""


def keep(pipeline: ast.Call, words: Container[str]) -> None:
    """Give a command of qvm the words in single quotes as they were typed, as a POSIX shell does.

    xonsh would replace `$NAME` in them, before the guest's shell sees it, and read `\\n` as Python.
    """
    for command in pipeline.args:
        elements = command.elts if isinstance(command, ast.List) else []
        first = _literal(elements[0]) if elements else None
        if first is None or first.value not in words:
            continue
        for at, element in enumerate(elements):
            text = _literal(element)
            if text is None:
                continue
            typed = getattr(text, AS_TYPED, None)
            if typed is not None:
                text.value = typed
            if typed is not None or re.match(r"-?[-\w]+='.*'$", text.value, re.DOTALL):
                elements[at] = text


def _literal(node: Any) -> Any:
    """The string in `expand_path("...")`; None for anything else."""
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "expand_path":
        text = node.args[0]
        return text if isinstance(text, ast.Constant) and isinstance(text.value, str) else None
    return None


_xonsh_string = BaseParser.p_string_literal


@functools.wraps(_xonsh_string)  # its docstring is the grammar
def _string_literal(self: Any, p: Any) -> None:
    """Note the text in single quotes."""
    text = p[1].value
    _xonsh_string(self, p)
    if text.startswith("'"):
        width = 3 if text.startswith("'''") else 1
        setattr(p[0], AS_TYPED, text[width:-width].replace("\\'", "'"))


BaseParser.p_string_literal = _string_literal
