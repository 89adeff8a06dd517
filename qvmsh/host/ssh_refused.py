"""Why ssh could not log in, from its own messages.

raise reason("guido@127.0.0.1: Permission denied (publickey).")     # Refused, of the kind `key`
"""

from __future__ import annotations


class Refused(Exception):
    """ssh could not log in; the text is ssh's own.

    `kind`: `key`, `host key`, `connection`, `client`, `forward`; `busy`: another login waits for its user.
    """

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words


def reason(words: str) -> Refused:
    """Why a login failed, from ssh's own messages."""
    if "HOST IDENTIFICATION HAS CHANGED" in words or "Host key verification failed" in words:
        return Refused("host key", words)
    if "Permission denied" in words or "Too many authentication failures" in words:
        return Refused("key", words)
    if "Could not request local forwarding" in words or "remote port forwarding failed" in words:
        return Refused("forward", words)
    if "Bad configuration option" in words or "unknown option" in words or "usage: ssh" in words:
        return Refused("client", words)
    return Refused("connection", words)
