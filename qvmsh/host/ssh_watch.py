"""A command on a cached connection whose guest may have forgotten it: paused for long, restored, rebooted.

    watch = Watch(own, log)
    ...                             # until watch.at: whatever is to be done
    watch.look()                    # may end the connection, and then sets the next time

Such a guest answers nothing, and ssh would wait for its own `ServerAliveCountMax`. While the guest has not
taken the command, nothing has been run. If it greets a new connection meanwhile, the cached one is ended:
ssh's client, which then finds no master, makes a connection of its own and runs the command there. Source:
mux.c of OpenSSH, `muxclient` and `mux_client_request_session`.
"""

from __future__ import annotations

import time

from qvmsh.host import sshd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.host.ssh_connection import Link

FIRST_S = 5.0
"""How long a cached connection may be silent before the guest is asked by another."""
GREETING_S = 3.0
NEXT_S = 5.0
LOST_S = 60.0
"""How long a guest may need to take a command; after that it is given up."""
_BEGUN = (": mux_client_request_session: master session id:", ": Entering interactive session")
"""What ssh logs once the guest has taken the command: over a cached connection, over its own. How the line
begins depends on its version."""


class Silent(TimeoutError):
    """The guest has not taken the command; nothing was run."""


class Watch:
    """The looks at one command.

    Args:
        own: the connection that it uses.
        log: ssh's own messages about this command (`Link.command`).

    `at` is when to look next; None once there is nothing to look for.
    """

    def __init__(self, own: Link, log: str) -> None:
        self._own = own
        self._log = log
        self._until = time.monotonic() + LOST_S
        self._is_replaced = bool(own.private) or not own.is_own
        self.at: float | None = None if own.is_verbose else time.monotonic() + FIRST_S

    def look(self) -> None:
        """Look, if it is time.

        Raises:
            Silent: the guest has not taken the command in all this time.
        """
        now = time.monotonic()
        if self.at is None or now < self.at:
            return
        if self.has_begun():
            self.at = None
            return
        if now >= self._until:
            raise Silent
        if not self._is_replaced:
            # a guest that greets a new connection has had the time for the old one, too
            self._is_replaced = sshd.banner(self._own.host, self._own.port, -1, GREETING_S) == "ssh"
            if self._is_replaced and not self.has_begun():
                self._own.end()
        self.at = time.monotonic() + NEXT_S

    def has_begun(self) -> bool:
        """True once the guest has taken the command."""
        return any(mark in self._own.words_in(self._log) for mark in _BEGUN)
