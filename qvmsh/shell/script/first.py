"""What runs before the first prompt, or instead of one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.shell.script.python import Program


class First:
    """What runs before the prompt, or instead of one: a Python program, or xonsh lines.

    Args:
        argv: what it sees as `sys.argv`.
        program: the Python program; None for lines.
        name: where the lines come from: an absolute path, `<string>` or `<stdin>`.
        lines: xonsh code.
    """

    __slots__ = ("argv", "lines", "name", "program")

    def __init__(
        self, argv: Sequence[str], *, program: Program | None = None, name: str = "", lines: str = ""
    ) -> None:
        self.argv = list(argv)
        self.program = program
        self.name = name or (program.path if program else "")
        self.lines = lines
