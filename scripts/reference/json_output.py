"""docs/json.md: the keys that each command prints with `--json`, from the classes of its results."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from unittest.mock import MagicMock

from markdown import WRITTEN, prose, table

from qvmsh import errors
from qvmsh.cli.main import JSON_VERSION
from qvmsh.commands import describe

PAGE = "json.md"

OPENING = f"""\
With `--json` a command prints one JSON object on one line: `version` ({JSON_VERSION}), `command`, and the
keys of its result below. For several machines, `machines` is the list of their objects. `version` changes
when a key is removed or changes its meaning; new keys may be added. Sizes are in bytes (`..._bytes`),
durations in seconds (`..._seconds`), times in ISO 8601 with the time zone. In Python the same names are
attributes of the result, `status().state`; what is `None` there is `null` here. Bytes that are not UTF-8, of
a command's output or a name, are shown as U+FFFD: JSON cannot hold them. `console`, `monitor` and `sh` take
no `--json`.

These keys mean the same in every result:
"""

ERRORS = """\
## Errors

A command that fails prints `error` instead of the keys of its result:
"""

WITHOUT = ("console", "monitor", "sh")
"""Commands that refuse `--json`: they open a terminal."""

COMMON = {
    "directory": "the machine's directory",
    "disks": "the ids of the disks, or an object for each",
    "file": "path of the file",
    "machine": "name of the machine",
    "pid": "process id of QEMU, or null",
    "problems": "an object for each problem",
    "ready": "true if the guest is ready",
    "seconds": "how long it took",
    "snapshot": "name of the snapshot",
    "ssh_port": "port on 127.0.0.1 for ssh, or null",
    "warnings": "an object for each warning",
}
"""Keys that mean the same in every result."""


def page() -> str:
    """The text of the page."""
    common = table(("key", "meaning"), ((f"`{key}`", meaning) for key, meaning in COMMON.items()))
    errors = table(("key", "meaning"), _error_rows())
    parts = ["# JSON\n", WRITTEN.format("the classes of the results"), OPENING, "\n".join(common) + "\n"]
    parts += [ERRORS, "\n".join(errors) + "\n"]
    seen = ""
    for verb, kind in results():
        parts += [] if verb == seen else [f"## {verb}\n"]
        parts.append(_result(kind))
        seen = verb
    return "\n".join(parts)


def results() -> Iterator[tuple[str, type | str]]:
    """Each command with the class of each of its results; `str` where it prints plain text."""
    for verb, (module, function) in sorted(describe.functions().items()):
        if verb in WITHOUT:
            continue
        imported = {
            name.name: node.module
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.ImportFrom) and node.module
            for name in node.names
        }
        for name in function.__annotations__["return"].split(" | "):
            if name in imported:
                yield verb, getattr(import_module(imported[name]), name)
            elif name != "None":
                yield verb, name


def _result(kind: type | str) -> str:
    if isinstance(kind, str):
        return "Key: `output`, the text that is printed without `--json`.\n"
    doc = inspect.getdoc(kind) or ""
    text = re.split(r"\n\n?(?:Args|Example):", doc)[0]
    meanings = describe._argument_help(doc)
    lines = [prose(text), "", f"Keys: {', '.join(f'`{key}`' for key in keys(kind))}.", ""]
    listed = [f"- `{key}`: {prose(meanings[key])}" for key in keys(kind) if key in meanings]
    return "\n".join([*lines, *listed, *([""] if listed else [])])


def keys(kind: Any) -> list[str]:
    """The keys of a result's JSON, in the order in which they are printed."""
    if issubclass(kind, str):
        return list(kind().as_json())
    blank = kind.__new__(kind)
    for name in getattr(kind, "__slots__", ()) or kind.__annotations__:
        object.__setattr__(blank, name, MagicMock())
    return list(blank.as_json())


def _error_rows() -> list[tuple[str, str]]:
    meanings = {
        "kind": "the class of the error, see [exit statuses](exit-status.md#errors)",
        "message": "what could not be done, and why",
        "machine": "name of the machine, or null",
        "hint": "what to do next, or null",
        "details": "additional lines: QEMU's own output, the end of a log",
        "status": "the exit status",
    }
    return [(f"`error.{key}`", meanings[key]) for key in errors.QvmError("").as_json()]
