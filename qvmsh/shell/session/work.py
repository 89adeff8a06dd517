"""Which commands of a session are at work, so that the prompt knows the causes of QEMU's events.

with works.running("stop"):
    ...
"""

from __future__ import annotations

from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

JUST_NOW_S = 1.0
"""How long after its end a command may still cause an event."""


class Works:
    """The commands that run now, and the one that ended last."""

    def __init__(self) -> None:
        self._verbs: list[str] = []
        self._last = ("", 0.0)

    def running(self, verb: str) -> Work:
        """A command (`start &`: in the background) runs as long as the block."""
        return Work(self, verb)

    def begin(self, verb: str) -> None:
        self._verbs.append(verb)

    def end(self, verb: str) -> None:
        self._verbs.remove(verb)
        self._last = (verb, monotonic())

    @property
    def current(self) -> str:
        """The command that has begun last in this process and still runs; empty if none does."""
        return next((verb for verb in reversed(self._verbs) if not verb.endswith(" &")), "")

    def has(self, words: Collection[str]) -> bool:
        """True if a command that begins with one of `words` runs, or has ended just now."""
        verb, ended = self._last
        recent = [verb] if monotonic() - ended < JUST_NOW_S else []
        return any(each.partition(" ")[0] in words for each in (*self._verbs, *recent))


class Work:
    """One command at work."""

    __slots__ = ("_verb", "_works")

    def __init__(self, works: Works, verb: str) -> None:
        self._works = works
        self._verb = verb

    def __enter__(self) -> None:
        self._works.begin(self._verb)

    def __exit__(self, *_: object) -> None:
        self._works.end(self._verb)
