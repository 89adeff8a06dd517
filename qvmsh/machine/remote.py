"""Commands in the guest.

May import: `host.ssh`, `machine.guest`; `subprocess` late.

    shell(vm, ("uname", "-r"), wants_tty=False)      # "6.1.0-amd64\n" for Python
"""

from __future__ import annotations

import os

from qvmsh.errors import CommandError, GuestUnreachableError
from qvmsh.host import files as host_files
from qvmsh.host import ssh
from qvmsh.io import isatty
from qvmsh.machine import guest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.machine.machine import Machine


def shell(vm: Machine, words: Sequence[str], *, wants_tty: bool) -> str:
    """Run `words` (none: a login shell) in the guest's shell.

    With a capturing `Io` the output is returned as text; else the streams of the caller are
    handed to ssh as they are, so bytes and exit status are the command's own.

    Raises:
        CommandError: the command's exit status is not 0.
    """
    is_interactive = isatty(vm.io.stdin) and isatty(vm.io.stdout)
    found = guest.connect(vm, "reach the guest", interactive=isatty(vm.io.stdin) and not vm.io.capture)
    if vm.io.capture:
        return _capture(vm, found, words)
    tty = wants_tty or (not words and is_interactive)
    argv = found.command(words, tty=tty, interactive=isatty(vm.io.stdin))
    vm.io.stdout.flush()
    has_person = isatty(vm.io.stdin)
    import subprocess  # late: Python's own start is most of what a command takes

    log = f"{found.log}-{os.getpid()}"
    with host_files.Removed(log):
        status = subprocess.run(
            argv if has_person else [*argv[:1], "-E", log, *argv[1:]],
            stdin=stream(vm.io.stdin),
            stdout=stream(vm.io.stdout),
            stderr=stream(vm.io.stderr),
        ).returncode
        said = found.words_in(log)
    if status == ssh.FAILED and said:  # it had to make a connection of its own, and could not
        raise guest.refusal(vm, found, ssh.reason(said))
    if status == ssh.FAILED and not found.is_open():
        raise _lost(vm)
    if said:
        print(said, file=vm.io.stderr)
    if status:
        status = 128 - status if status < 0 else status
        raise Failed(" ".join(words) or "the login shell", argv=argv, status=status, machine=vm.name)
    return ""


class Failed(CommandError):
    """A guest's command failed and has already told the user why on the shared standard error."""

    is_silent = True


def _lost(vm: Machine) -> GuestUnreachableError:
    """ssh's status is that of the guest's command, or its own: where its connection has gone, its own."""
    return GuestUnreachableError(
        "the connection to the guest was lost while the command ran: its exit status is not known",
        machine=vm.name,
        hint="`qvm status` tells what the machine does now",
    )


def stream(candidate: object) -> int | None:
    """The descriptor behind a text stream; None (inherit) where it has none."""
    try:
        return int(candidate.fileno())  # type: ignore[attr-defined]  # that is the question
    except (AttributeError, OSError, ValueError):
        return None


def _capture(vm: Machine, found: ssh.Link, words: Sequence[str]) -> str:
    argv = found.command(words, tty=False)
    if not words:
        raise GuestUnreachableError(
            "a login shell needs a terminal", machine=vm.name, hint='give a command: ssh("uname -a")'
        )
    import subprocess

    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode == ssh.FAILED and not found.is_open():
        raise _lost(vm)
    output, errors = (data.decode(errors="surrogateescape") for data in (done.stdout, done.stderr))
    if done.returncode:
        status = 128 - done.returncode if done.returncode < 0 else done.returncode
        raise CommandError(
            f"in the guest, `{' '.join(words)}` failed with status {status}",
            argv=argv,
            status=status,
            stdout=output,
            stderr=errors,
            machine=vm.name,
            details=errors.strip().splitlines()[-5:],
        )
    return output
