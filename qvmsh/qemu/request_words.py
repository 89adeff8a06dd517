"""The words of a command line as a QMP command, for QEMU or for the guest agent.

    request(["query-status"])                        # ("query-status", {})
    request(["device_del", "id=nic0"])               # ("device_del", {"id": "nic0"})
    request(["guest-exec", "path=ls", 'arg=["-l"]'], "agent")

Source: QEMU docs/interop/qmp-spec; the words are those of QEMU's own qmp-shell.
"""

from __future__ import annotations

import json

from qvmsh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Request = tuple[str, dict[str, Any]]

EXAMPLES = {"qmp": "query-status", "agent": "guest-ping"}
"""A short command for each verb that takes such words."""
OTHERS = {"qmp": "`qvm cmd` takes HMP lines", "agent": "`qvm exec` runs programs in the guest"}


def request(words: Sequence[str], verb: str = "qmp") -> Request:
    """The command that the words of a command line mean.

    Args:
        words: one JSON object; or a command's name, then `key=value` (a value is JSON where it can
            be, else text; `a.b=1` is a value in an object) or one JSON object of arguments.
        verb: qvm's verb, for messages.

    Raises:
        UsageError: they mean none.
    """
    if words[0].lstrip().startswith("{"):
        return of_object(_document(" ".join(words), verb), verb)
    command, *rest = words
    arguments: dict[str, Any] = {}
    if rest and rest[0].lstrip().startswith("{"):
        found = _document(" ".join(rest), verb)
        if not isinstance(found, dict):
            raise UsageError(f"{verb}: the arguments must be one JSON object")
        return command, found
    for word in rest:
        key, mark, value = word.partition("=")
        if not mark or not key:
            way = f"`qvm {verb} {command} key=value ...`, or one JSON object; {OTHERS[verb]}"
            if word.startswith("-"):
                way = f"options are before the command: `qvm {verb} [OPTIONS] {command}`"
            raise UsageError(f"{verb}: {word!r} is not an argument", hint=way)
        _put(arguments, key, _value(value), verb)
    return command, arguments


def _put(arguments: dict[str, Any], key: str, value: object, verb: str) -> None:
    """Store a value; dots in its key lead into objects."""
    *path, last = key.split(".")
    target: Any = arguments
    for name in path:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UsageError(f"{verb}: {key}: {name} is already a value, not an object")
    if last in target:
        raise UsageError(f"{verb}: {key} is given twice")
    target[last] = value


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _document(text: str, verb: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{verb}: this is not JSON: {error}") from None


def of_object(value: object, verb: str = "qmp") -> Request:
    """The command in a request object.

    Raises:
        UsageError: it is not such an object.
    """
    known = {"execute", "arguments", "id"}
    if not isinstance(value, dict) or not isinstance(value.get("execute"), str) or set(value) - known:
        short = EXAMPLES[verb]
        raise UsageError(
            f"{verb}: a command is an object with `execute` and, if need be, `arguments`",
            hint=f'`qvm {verb} \'{{"execute": "{short}"}}\'`, or `qvm {verb} {short}` for short',
        )
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise UsageError(f"{verb}: `arguments` must be an object")
    return value["execute"], arguments
