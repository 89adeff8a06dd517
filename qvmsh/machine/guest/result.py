"""What a command in the guest did: its output, its exit status, and the way that reached the guest.

done = execute.execute(vm, Wish(["uname", "-r"]))
if done:                            # its status is 0
    print(done.lines[0], done.via)      # 6.1.0-amd64 ssh
"""

from __future__ import annotations

from qvmsh.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Self

SHOWN_LINES = 5
"""How many of the last lines of standard error an error shows."""


class Result(str):
    """What a command in the guest wrote to its standard output, as text, and how it ended.

    It is a string, but true if the command succeeded. `bytes(result)` is the output byte by byte.

    Args:
        argv: the words of the command, or the one line of a shell.
        status: the exit status; 128 + N where signal N ended it.
        stderr: what it wrote to standard error.
        via: the way that reached the guest: `ssh`, `agent` or `serial`.
        duration_s: how long it took, with the way to the guest.
        refused: why earlier ways could not be used, by their names.
        machine: the machine's name.
    """

    argv: tuple[str, ...]
    status: int
    stderr: str
    via: str
    duration_s: float
    refused: dict[str, str]
    machine: str | None
    is_streamed = False
    """The output has been written already."""

    def __new__(
        cls,
        stdout: str = "",
        *,
        argv: Sequence[str] = (),
        status: int = 0,
        stderr: str = "",
        via: str = "ssh",
        duration_s: float = 0.0,
        refused: Mapping[str, str] | None = None,
        machine: str | None = None,
    ) -> Self:
        made = super().__new__(cls, stdout)
        made.argv, made.status, made.stderr = tuple(argv), status, stderr
        made.via, made.duration_s, made.refused, made.machine = via, duration_s, dict(refused or {}), machine
        return made

    @classmethod
    def of_bytes(cls, stdout: bytes, stderr: bytes, **more: Any) -> Self:
        """A result from what the guest wrote; bytes that are no UTF-8 are kept as surrogates."""
        texts = (each.decode(errors="surrogateescape") for each in (stdout, stderr))
        return cls(next(texts), stderr=next(texts), **more)

    def __bool__(self) -> bool:
        return self.status == 0

    def __bytes__(self) -> bytes:
        return self.encode(errors="surrogateescape")

    @property
    def stdout(self) -> str:
        """The text itself."""
        return str(self)

    @property
    def exit_status(self) -> int:
        """The status for the command line."""
        return self.status

    @property
    def lines(self) -> list[str]:
        """The lines of the output; only a newline ends one."""
        lines = str(self).split("\n")
        return lines if lines[-1] else lines[:-1]

    def json(self) -> Any:
        """The value of an output that is JSON.

        Raises:
            ValueError: it is not JSON.
        """
        import json

        return json.loads(self)

    def check(self) -> Self:
        """The result itself, if the command succeeded.

        Raises:
            CommandError: its status is not 0.
        """
        if self.status:
            shown = " ".join(self.argv)
            raise CommandError(
                f"in the guest, `{shown}` failed with status {self.status}",
                argv=self.argv,
                status=self.status,
                stdout=str(self),
                stderr=self.stderr,
                machine=self.machine,
                details=self.stderr.strip().splitlines()[-SHOWN_LINES:],
            )
        return self

    def as_json(self) -> dict[str, object]:
        return {
            "argv": [*self.argv],
            "output": str(self),
            "stderr": self.stderr,
            "status": self.status,
            "via": self.via,
            "duration_s": round(self.duration_s, 3),
            "refused": self.refused,
        }
