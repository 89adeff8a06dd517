"""QMP's commands and their arguments as a running QEMU describes them: a line read, and completed.

    schema = Schema(qemu.execute("query-qmp-schema"))
    schema.request("device_del id=net0")     # {"execute": "device_del", "arguments": {"id": "net0"}}
    schema.completions("device_")            # ["device_add", "device_del"]

Source: QEMU docs/devel/qapi-code-gen, "Client JSON Protocol introspection"; the line's form is that of
QEMU's own qmp-shell: `command key=value key.inner=value`, or one JSON object.
"""

from __future__ import annotations

import json
import shlex

from qvmsh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_YES = ("true", "on", "yes")
_NO = ("false", "off", "no")


class Schema:
    """What QEMU understands.

    Args:
        entities: the answer to `query-qmp-schema`.
    """

    def __init__(self, entities: list[dict[str, Any]]) -> None:
        self._types = {each["name"]: each for each in entities}
        self.commands = sorted(each["name"] for each in entities if each["meta-type"] == "command")

    def members(self, kind: str, given: dict[str, str] | None = None) -> dict[str, str]:
        """Name and type of each member of the object type `kind`.

        Args:
            given: members with their values; the value of the tag chooses the variant. Without a
                tag, the members of all variants are there.
        """
        entity = self._types.get(kind, {})
        found = {each.get("name", ""): each.get("type", "") for each in entity.get("members", ())}
        tag = (given or {}).get(entity.get("tag", ""))
        for variant in entity.get("variants", ()):
            if tag is None or variant["case"] == tag:
                found = self.members(variant["type"], given) | found
        return found

    def arguments(self, command: str, given: dict[str, str] | None = None) -> dict[str, str]:
        """Name and type of each argument of `command`; none for an unknown one."""
        entity = self._types.get(command, {})
        return self.members(entity.get("arg-type", ""), given) if entity.get("meta-type") == "command" else {}

    def values(self, kind: str) -> list[str]:
        """The values of an enumeration or of a boolean."""
        entity = self._types.get(kind, {})
        if entity.get("json-type") == "boolean":
            return ["true", "false"]
        return list(entity.get("values", ()))

    def request(self, line: str) -> dict[str, Any]:
        """The request that `line` means.

        Raises:
            UsageError: it is not JSON, or a word is not `key=value`.
        """
        if line.lstrip().startswith("{"):
            try:
                found = json.loads(line)
            except ValueError as error:
                raise UsageError(f"this is not JSON: {error}") from None
            if not isinstance(found.get("execute"), str):
                raise UsageError('a request in JSON needs "execute"', hint='{"execute": "query-status"}')
            return dict(found)
        try:
            command, *words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"{line}: {error}") from None
        arguments: dict[str, Any] = {}
        given = dict(word.partition("=")[::2] for word in words)
        for word in words:
            path, mark, text = word.partition("=")
            if not mark or not path:
                raise UsageError(
                    f"{word}: must be key=value", hint=f"Tab after `{command} ` shows its arguments"
                )
            self._put(arguments, command, path, text, given)
        return {"execute": command} | ({"arguments": arguments} if arguments else {})

    def _put(
        self, arguments: dict[str, Any], command: str, path: str, text: str, given: dict[str, str]
    ) -> None:
        *folders, name = path.split(".")
        target, kinds = arguments, self.arguments(command, given)
        for folder in folders:
            target = target.setdefault(folder, {})
            if not isinstance(target, dict):
                raise UsageError(f"{path}: {folder} has a value already")
            kinds = self.members(kinds.get(folder, ""))
        target[name] = self._convert(kinds.get(name, ""), path, text)

    def _convert(self, kind: str, path: str, text: str) -> Any:
        """`text` as a value of the type `kind`; of an unknown one as JSON, else as text."""
        entity = self._types.get(kind, {})
        json_type = entity.get("json-type")
        if json_type == "string" or entity.get("meta-type") == "enum":
            return text
        if json_type == "boolean" and text in (*_YES, *_NO):
            return text in _YES
        if json_type == "int":
            try:
                return int(text, 0)
            except ValueError:
                raise UsageError(f"{path}={text}: must be a whole number") from None
        try:
            return json.loads(text)
        except ValueError:
            return text

    def completions(self, line: str) -> list[str]:
        """The words that the last word of `line` may become, in order."""
        words = line.split()
        last = "" if not words or line[-1].isspace() else words.pop()
        if line.lstrip().startswith("{"):
            return []
        if not words:
            return [name for name in self.commands if name.startswith(last)]
        given = dict(word.partition("=")[::2] for word in words[1:])
        path, mark, begun = last.partition("=")
        kinds = self.arguments(words[0], given)
        *folders, name = path.split(".")
        for folder in folders:
            kinds = self.members(kinds.get(folder, ""))
        head = "".join(f"{folder}." for folder in folders)
        if mark:
            values = self.values(kinds.get(name, ""))
            return [f"{path}={value}" for value in values if value.startswith(begun)]
        return sorted(
            f"{head}{key}" + ("." if self._is_object(kind) else "=")
            for key, kind in kinds.items()
            if key.startswith(name) and f"{head}{key}" not in given
        )

    def _is_object(self, kind: str) -> bool:
        return self._types.get(kind, {}).get("meta-type") == "object"
