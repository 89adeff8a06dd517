"""The last step before QEMU: take the lock of its pid file, then become QEMU.

Run as a program of its own (`python -I -S lock_and_exec.py PIDFILE GUARD ARGV...`), so it may import
nothing of qvm. A record lock survives exec(2) and QEMU then takes the same lock again as the same
process, so from here to QEMU's end the pid file names the one process of the machine. GUARD is
the descriptor of the work lock of the `qvm start` that began this ("-" = none): it is released only
once the pid file is locked, so even if that qvm is killed there is no moment at which a machine
that is starting looks stopped.

`--with FDS COUNT WORDS...` in front of ARGV, any number of times, begins another program first, as our
child, that keeps of all descriptors only FDS (numbers with commas between): the kernel sends it a SIGTERM
when QEMU ends (Linux; elsewhere it must notice that the other end of one of FDS is closed).

Exit status 75 (EX_TEMPFAIL): another process holds the pid file; 74 (EX_IOERR): it cannot be written.
"""

import fcntl
import os
import sys
from _signal import SIG_DFL, SIG_SETMASK, SIGPIPE, SIGTERM, pthread_sigmask, signal  # quicker than `signal`
from errno import EDQUOT, ENOSPC

HELD = 75
NO_ROOM = 74


def take(path: str) -> int:
    """Descriptor of the locked pid file; the file may vanish meanwhile as an old QEMU ends."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)


def accompany(fds: list[int], words: list[str]) -> None:
    """Start the program `words`; it ends with this process, which becomes QEMU."""
    parent, (waiting, ours) = os.getpid(), os.pipe()
    if os.fork():
        os.close(ours)
        os.read(waiting, 1)  # until it holds no lock, and will end with us: on a busy host that takes a while
        for fd in (*fds, waiting):
            os.close(fd)
        return
    try:
        os.setsid()  # Ctrl-C in the foreground is QEMU's, which ends in order
        after = 3
        for fd in sorted((*fds, ours)):
            os.closerange(after, fd)
            after = fd + 1
        os.closerange(after, 1 << 20)
        _end_with_parent()
        os.close(ours)
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
    companions = []
    while argv[0] == "--with":
        end = 3 + int(argv[2])
        companions.append(([int(fd) for fd in argv[1].split(",")], argv[3:end]))
        argv = argv[end:]
    try:
        fd = take(path)
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            os._exit(NO_ROOM)
        sys.stderr.write(f"{path}: {error.strerror}\n")
        sys.exit(HELD)
    os.set_inheritable(fd, True)  # closing any descriptor of the file would drop the lock
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except OSError:  # the disk is full: no message can be written there either
        os.unlink(path)
        os._exit(NO_ROOM)
    if guard != "-":
        os.set_inheritable(int(guard), False)
    pthread_sigmask(SIG_SETMASK, [])  # qvm holds Ctrl-C back while it starts us
    signal(SIGPIPE, SIG_DFL)  # Python ignores it, and exec would keep that
    os.umask(0o077)  # the files that they make are private: memory, screenshots, the TPM's state
    for companion in companions:
        accompany(*companion)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.unlink(path)
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()
