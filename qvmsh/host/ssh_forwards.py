"""Ports that the first cached connection to a guest forwards, and that its next one opens again.

    ask(link, "forward", "127.0.0.1:2201:127.0.0.1:80")     # "", or what ssh says
    keep(link, [*kept(link), "127.0.0.1:2201:127.0.0.1:80"])

A line is as for `ssh -L`. Source: ssh(1), `-O ctl_cmd`.
"""

from __future__ import annotations

from qvmsh.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    class Link(Protocol):
        """What is used of an `ssh_connection.Link`."""

        host: str
        lost: Callable[[str, str], None] | None

        @property
        def control(self) -> str: ...

        def arguments(self) -> list[str]: ...

        def words_in(self, log: str) -> str: ...


ANSWER_S = 20.0


def kept(link: Link) -> list[str]:
    """The lines of the ports that it forwards, or will again."""
    return link.words_in(_file(link)).split()


def keep(link: Link, lines: Sequence[str]) -> None:
    """Note what it forwards."""
    files.write_atomic(_file(link), "".join(f"{line}\n" for line in lines), 0o600)


def ask(link: Link, what: str, line: str) -> str:
    """Let it `forward` or `cancel` a port; why it did not, "" if it did.

    Raises:
        TimeoutError: it does not answer.
    """
    import subprocess

    argv = [*link.arguments(), "-O", what, "-L", line, "--", link.host]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ANSWER_S
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError("the cached connection does not answer") from None
    return (done.stderr.strip().splitlines() or ["nothing"])[0] if done.returncode else ""


def open_again(link: Link) -> None:
    """Open the ports on a new connection; those that cannot be are reported and forgotten.

    Not by `-L` at the login: ssh would go on without a port that is taken, and say that it has it.
    """
    lines = kept(link)
    lost = []
    for line in lines:
        try:
            why = ask(link, "forward", line)
        except TimeoutError as error:
            why = str(error)
        if why:
            lost.append(line)
            if link.lost is not None:
                link.lost(line, why)
    if lost:
        keep(link, [line for line in lines if line not in lost])


def _file(link: Link) -> str:
    return f"{link.control}.forwards"
