"""The program inside a terminal multiplexer's session: receives what QEMU inherits, becomes QEMU.

Run as a program of its own (`python -I -S pane.py SOCKET`), so it may import nothing of qvm. A
multiplexer's server gives its children no descriptors, so qvm hands them over by a Unix socket,
together with the argument list: each gets the number that it has in qvm, the last is standard error.

    python -I -S pane.py exec PROGRAM WORD...     # PROGRAM, with no signal blocked
"""

import fcntl
import json
import os
import socket
import sys
from _signal import SIG_SETMASK, pthread_sigmask

MOST_FDS = 64
HIGH = 300


def receive(path: str) -> tuple[dict[str, list[object]], list[int]]:
    """What is sent at `path`: a JSON document and descriptors."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        data, fds, _, _ = socket.recv_fds(line, 65536, MOST_FDS)
        while more := line.recv(65536):
            data += more
    return json.loads(data), fds


def place(fds: list[int], numbers: list[int]) -> None:
    """Give each descriptor its number."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, HIGH) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(high, numbers, strict=True):
        os.dup2(fd, number, inheritable=True)
        os.close(fd)


def main() -> None:
    pthread_sigmask(SIG_SETMASK, [])  # qvm holds Ctrl-C back while it starts us
    if sys.argv[1] == "exec":
        os.execvp(sys.argv[2], sys.argv[2:])
    document, fds = receive(sys.argv[1])
    place(fds, [int(str(number)) for number in document["numbers"]])
    argv = [os.fsencode(str(word)) for word in document["argv"]]
    os.chdir(os.fsencode(str(document["cwd"][0])))
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
