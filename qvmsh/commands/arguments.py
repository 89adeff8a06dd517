"""The arguments of a command called from Python: paths become text, wrong types are refused.

    fit("disk add", (Path("/data/d.qcow2"), "1G"), {})      # (["/data/d.qcow2", "1G"], {})

The command line has parsed its words; from Python any type may come, and would fail somewhere deep
inside, or, as `start(wait="no")`, mean the opposite.
"""

from __future__ import annotations

import os

from qvmsh.commands.index import COMMANDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def fit(verb: str, words: Sequence[Any], options: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The words and options as the command's function takes them.

    Unknown parameters are left to Python's own check.

    Raises:
        TypeError: a value has the wrong type; the text begins with the name of the function.
    """
    row = COMMANDS[verb]
    shown = verb.replace(" ", ".")
    rows = row[9]
    found = []
    for at, word in enumerate(words):
        place = rows[min(at, len(rows) - 1)] if rows else None
        if place is None or (at >= len(rows) and not place[2]):
            found.append(word)  # one too many
        else:
            found.append(_word(shown, place, word))
    kinds = {option[0]: (option[1], option[-1]) for option in row[8]}
    kinds |= {place[0]: ("text", None if not place[1] else "") for place in rows if not place[2]}
    fitted = {
        name: _value(f"{shown}(): {name}", *kinds[name], value) if name in kinds else value
        for name, value in options.items()
    }
    return found, fitted


def fitting(verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a machine that converts and checks its arguments, and is at work while it runs."""
    import functools  # late: a small script has no such method

    @functools.wraps(function)
    def fitted(vm: Any, *words: Any, **options: Any) -> Any:
        words_, options_ = fit(verb, words, options)
        with vm.io.working(verb):
            return function(vm, *words_, **options_)

    return fitted


def _word(shown: str, place: tuple[Any, ...], word: Any) -> Any:
    name, is_required, is_rest = place[:3]
    if is_rest and isinstance(word, list | tuple):
        raise TypeError(f"{shown}(): {name} must be strings, not a {type(word).__name__}: {shown}(*{name})")
    default = "" if is_required or is_rest else None
    return _value(f"{shown}(): each of {name}" if is_rest else f"{shown}(): {name}", "text", default, word)


def _value(what: str, kind: str, default: Any, value: Any) -> Any:
    """`value` as an option of `kind` takes it."""
    if value is None and default is None:
        return None
    if kind in ("yes", "no"):
        wanted, is_fit = "True or False", isinstance(value, int) and value in (0, 1)
    elif kind == "integer":
        wanted, is_fit = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif kind == "number":
        wanted, is_fit = "a number", isinstance(value, int | float) and not isinstance(value, bool)
    elif kind == "list":
        wanted = "a list of strings"
        is_fit = isinstance(value, list | tuple | set | frozenset) and all(isinstance(x, str) for x in value)
    else:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        wanted, is_fit = "a string", isinstance(value, str)
    if not is_fit:
        shown = "None" if value is None else repr(value) if isinstance(value, str) else type(value).__name__
        raise TypeError(f"{what} must be {wanted}, not {shown}")
    return value
