"""The last step before QEMU: take the lock of its pid file, then become QEMU.

Run as a program of its own (`python -I -S launch.py PIDFILE GUARD ARGV...`), so it may import
nothing of qvm. A record lock survives exec(2) and QEMU then takes the same lock again as the same
process, so from here to QEMU's end the pid file names the one process of the machine. GUARD is
the descriptor of the work lock of the `qvm start` that began this ("-" = none): it is let go only
once the pid file is locked, so even if that qvm is killed there is no moment at which a machine
that comes up looks stopped.

`--with FD COUNT WORDS...` in front of ARGV begins another program first, as our child, that keeps of
all descriptors only FD: it lives no longer than QEMU, since the kernel ends it with its parent
(Linux; elsewhere it must notice that the other end of FD is closed).

Exit status 75 (EX_TEMPFAIL): another process holds the pid file.
"""

import fcntl
import os
import sys
from _signal import (  # the `signal` module costs three times this program
    SIG_DFL,
    SIG_SETMASK,
    SIGPIPE,
    SIGTERM,
    pthread_sigmask,
    signal,
)

HELD = 75


def take(path: str) -> int:
    """Descriptor of the locked pid file; the file may vanish under us as an old QEMU ends."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)


def accompany(fd: int, words: list[str]) -> None:
    """Begin the program `words`; it ends with us, and with the QEMU that we become."""
    parent = os.getpid()
    if os.fork():
        os.close(fd)
        return
    try:
        os.setsid()  # Ctrl-C in the foreground is QEMU's, which ends in order
        os.closerange(3, fd)
        os.closerange(fd + 1, 1 << 20)
        _end_with_parent()
        if os.getppid() == parent:
            os.execv(words[0], words)
    except OSError as error:
        sys.stderr.write(f"{words[0]}: {error.strerror}\n")
    finally:
        os._exit(127)


def _end_with_parent() -> None:
    """Source: prctl(2), PR_SET_PDEATHSIG."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, SIGTERM, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def main() -> None:
    path, guard, argv = sys.argv[1], sys.argv[2], sys.argv[3:]
    companion: tuple[int, list[str]] | None = None
    if argv[0] == "--with":
        end = 3 + int(argv[2])
        companion, argv = (int(argv[1]), argv[3:end]), argv[end:]
    try:
        fd = take(path)
    except OSError as error:
        sys.stderr.write(f"{path}: {error.strerror}\n")
        sys.exit(HELD)
    os.set_inheritable(fd, True)  # closing any descriptor of the file would drop the lock
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    if guard != "-":
        os.set_inheritable(int(guard), False)
    pthread_sigmask(SIG_SETMASK, [])  # qvm holds Ctrl-C back while it starts us
    signal(SIGPIPE, SIG_DFL)  # Python ignores it, and exec would pass that on
    os.umask(0o077)  # what they make is private: memory, screenshots, the TPM's state
    if companion:
        accompany(*companion)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.unlink(path)
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()
