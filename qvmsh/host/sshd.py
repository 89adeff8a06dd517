"""Whether an sshd answers at a port: its banner, also of one that is not up yet.

with Knocking("127.0.0.1", 2222) as knocking:
    knocking.step(-1, 1.0)      # "ssh", "open" or "closed"
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

BANNER = b"SSH-"


def banner(host: str, port: int, wait: int, timeout_s: float) -> str:
    """What answers at the port: `ssh` (its banner came), `open` (nothing came), `closed`.

    User mode networking accepts a connection before the guest is up and sends nothing on it; a
    later one gets the banner, so wait for a guest with `Knocking`.

    Args:
        wait: another descriptor (QEMU's pidfd) that ends the waiting; -1 = none.
    """
    with Knocking(host, port) as knocking:
        return knocking.look(wait, timeout_s)


class Knocking:
    """Looks repeatedly for the banner of an sshd that may not be up yet.

    Each look has a cost: user mode networking (libslirp 4.7) keeps offering the guest a connection
    that was closed here long ago, so that the guest gets all of them when it comes up, and
    OpenSSH starts a process, and a second program in it, for each. Without hardware acceleration
    that takes longer than a short look lasts, so that none is ever answered (seen: Debian, up after
    20 s, sent no banner in 240 s at ten looks a second, each closed after 0.1 s). So looks become
    rarer the longer it takes, and some stay open beside the newest, so that a slow answer is waited
    for. Few, since sshd counts those that have not logged in (dropbear: 5).

    Args:
        first_s: least time between two looks.
    """

    KEPT = 3
    SHARE = 0.05
    """Time between looks as a part of the time since the first: the most that an answer is late by."""

    def __init__(self, host: str, port: int, *, first_s: float = 0.1) -> None:
        self._address = (host, port)
        self._first_s = first_s
        self._probes: list[socket] = []
        self._began = time.monotonic()
        self._last = float("-inf")

    def __enter__(self) -> Knocking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        while self._probes:
            self._probes.pop().close()

    def step(self, wait: int, timeout_s: float, *, share: float = SHARE) -> str:
        """Begin a look if one is due, and listen for `timeout_s`, or until the next is due.

        Args:
            share: instead of SHARE, if it is known how likely an answer is.

        Returns:
            what `banner` returns; `closed` not at once, so that it can be called again. After
            `ssh` no connection stays open: they would count against the login.
        """
        now = time.monotonic()
        pause_s = max(self._first_s, (now - self._began) * share)
        if now >= self._last + pause_s:
            self._last = now
            self._begin_look()
        deadline = min(now + timeout_s, self._last + pause_s)
        answer = self._listen(wait, deadline)
        if answer == "closed":
            _readable([], wait, deadline)
        return answer

    def look(self, wait: int, timeout_s: float) -> str:
        """Open a new connection and listen on it and on those kept."""
        self._begin_look()
        return self._listen(wait, time.monotonic() + timeout_s)

    def _listen(self, wait: int, deadline: float) -> str:
        while self._probes and time.monotonic() < deadline:
            ready = _readable([probe.fileno() for probe in self._probes], wait, deadline)
            heard = [probe for probe in self._probes if probe.fileno() in ready]
            if any(_is_banner(probe) for probe in heard):
                self.close()
                return "ssh"
            for probe in heard:  # closed by the other side, or no sshd
                self._probes.remove(probe)
                probe.close()
            if wait in ready:
                break
        return "open" if self._probes else "closed"

    def _begin_look(self) -> None:
        import errno
        import socket

        while len(self._probes) >= self.KEPT:
            self._probes.pop(0).close()
        try:
            family, kind, proto, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)[0]
            probe = socket.socket(family, kind, proto)
        except OSError:
            return
        probe.setblocking(False)
        if probe.connect_ex(address) in (0, errno.EINPROGRESS):
            self._probes.append(probe)
        else:
            probe.close()


def _readable(descriptors: list[int], wait: int, deadline: float) -> list[int]:
    """Those that can be read, `wait` (-1 = none) among them, as soon as one can or at `deadline`."""
    import select

    poll = select.poll()
    for descriptor in [*descriptors, *([wait] if wait >= 0 else [])]:
        poll.register(descriptor, select.POLLIN)
    return [ready for ready, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]


def _is_banner(probe: socket) -> bool:
    try:
        return probe.recv(4) == BANNER
    except OSError:
        return False
