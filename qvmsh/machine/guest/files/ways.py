"""Scripts in the guest with a stream to them or from them, by ssh or by the guest agent.

    with by_ssh.opened(vm, note, limit) as way:
        way.ask(LOOK, ["/tmp"])                         # Result
        way.send(UNPACK, ["/tmp"], produce)             # the script reads what `produce` writes
        with way.received(PACK, ["/tmp"]) as stream:    # what the script writes
            stream.read(512)

Raises of all: GuestUnreachableError, the guest is lost; DeadlineError, see `Limit`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qvmsh.errors import GuestUnreachableError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Protocol

    from qvmsh.machine.guest.result import Result
    from qvmsh.machine.machine import BaseMachine

    Produce = Callable[[Callable[[bytes], None]], object]
    """Gets the function that writes to the script."""

    class Way(Protocol):
        """A way into the guest that is open."""

        name: str
        piece_bytes: int
        """The longest stream to a script, of what can be parted."""

        def ask(self, script: str, words: Sequence[str], data: bytes = b"") -> Result: ...
        def send(self, script: str, words: Sequence[str], produce: Produce) -> Result: ...
        def received(self, script: str, words: Sequence[str]) -> AbstractContextManager[Incoming]: ...


WAYS = ("ssh", "sftp", "agent")
"""The ways, in the order in which they are tried."""


@dataclass
class Incoming:
    """A stream from a script.

    Args:
        read: its next bytes; fewer than asked for only at the end.
        done: how the script ended; once the block has ended.
    """

    read: Callable[[int], bytes]
    done: Result | None = None


class Pieces:
    """Reads of any length from pieces that come one after the other; an empty one is the end."""

    def __init__(self, piece: Callable[[], bytes]) -> None:
        self._piece = piece
        self._rest = b""
        self._is_ended = False

    def read(self, count: int) -> bytes:
        parts = [self._rest]
        size = len(self._rest)
        while size < count and not self._is_ended:
            data = self._piece()
            self._is_ended = not data
            parts.append(data)
            size += len(data)
        data = b"".join(parts)
        self._rest = data[count:]
        return data[:count]


@dataclass
class Tried:
    """The ways that a transfer may use, and why earlier ones could not be used."""

    ways: tuple[str, ...]
    refused: dict[str, str] = field(default_factory=dict)

    def error(self, vm: BaseMachine) -> GuestUnreachableError:
        """No way leads there."""
        return GuestUnreachableError(
            "no way leads into the guest, so nothing was copied",
            machine=vm.name,
            details=[f"{way}: {reason}" for way, reason in self.refused.items()],
            hint="`qvm status` shows the machine's state; `qvm console` is the guest's serial console",
        )


def named(text: str | None, verb: str) -> tuple[str, ...]:
    """The ways of `--via`.

    Raises:
        UsageError: one of them is not known.
    """
    ways = WAYS if text is None else tuple(text.split(","))
    for way in ways:
        if way not in WAYS:
            raise UsageError(f"{verb}: --via {way}: must be one of {', '.join(WAYS)}")
    return ways
