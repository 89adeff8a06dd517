"""The values in a JSON file of qvm, each with its type checked: it may be where another account can write.

Values({"pid": 7}).number("pid")       # 7
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Values:
    """The values of a JSON object, each with its type checked."""

    def __init__(self, found: Any) -> None:
        if not isinstance(found, dict):
            raise ValueError(f"{found!r} is invalid")
        self.found = found

    def text(self, key: str, default: str | None = None) -> str:
        value = self.found[key] if default is None else self.found.get(key, default)
        return checked(key, value)

    def number(self, key: str) -> int:
        value = self.found.get(key, 0)
        if not isinstance(value, int):
            raise ValueError(f"{key} is invalid")
        return value

    def flag(self, key: str) -> bool:
        value = self.found[key]
        if not isinstance(value, int):  # a bool is one
            raise ValueError(f"{key} is invalid")
        return bool(value)

    def rows(self, key: str) -> list[Any]:
        value = self.found[key]
        if not isinstance(value, list):
            raise ValueError(f"{key} is invalid")
        return value

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        return tuple((checked(key, first), checked(key, second)) for first, second in self.rows(key))


def checked(key: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{key} is invalid")
    return value
