"""`vm` of a session: its methods count as commands at work, as its words and functions do.

vm = Machine(directory, io=SessionIo(context))
vm.kill()         # the prompt knows the cause, and does not report QEMU's end
"""

from __future__ import annotations

import functools

from qvmsh import api
from qvmsh.commands.index import COMMANDS
from qvmsh.shell.session.io import SessionIo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Machine(api.Machine):
    """The machine of a session; every command's method is at work while it runs."""


def _working(verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def working(self: Machine, *words: Any, **options: Any) -> Any:
        if not isinstance(self.io, SessionIo):
            return function(self, *words, **options)
        with self.io.session.works.running(verb):
            return function(self, *words, **options)

    return working


for _verb, _entry in COMMANDS.items():
    if _entry[1] in vars(api.Machine):
        setattr(Machine, _entry[1], _working(_verb, vars(api.Machine)[_entry[1]]))
