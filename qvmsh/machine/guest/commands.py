"""Commands in the guest.

shell(vm, ("uname", "-r"), wants_tty=False)      # "6.1.0-amd64\n" for Python
"""

from __future__ import annotations

from qvmsh.errors import CommandError, DeadlineError, GuestUnreachableError
from qvmsh.host import files as host_files
from qvmsh.host import ssh_connection
from qvmsh.io import isatty, unwritable
from qvmsh.machine.guest import ssh as guest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.machine.machine import BaseMachine


class Output(str):
    """What a command in the guest wrote to its standard output, as text, and how it ended.

    `bytes(output)` is what it wrote, byte by byte.
    """

    argv: Sequence[str]
    status: int
    stderr: str

    def __new__(
        cls, stdout: str = "", *, argv: Sequence[str] = (), status: int = 0, stderr: str = ""
    ) -> Output:
        made = super().__new__(cls, stdout)
        made.argv, made.status, made.stderr = tuple(argv), status, stderr
        return made

    @property
    def stdout(self) -> str:
        """The text itself."""
        return str(self)

    def __bytes__(self) -> bytes:
        return self.encode(errors="surrogateescape")

    def as_json(self) -> dict[str, object]:
        return {"output": str(self), "stderr": self.stderr, "status": self.status}


def shell(
    vm: BaseMachine,
    words: Sequence[str],
    *,
    wants_tty: bool,
    timeout_s: float | None = None,
    data: str | bytes | None = None,
    is_checked: bool = True,
) -> Output:
    """Run `words` (none: a login shell) in the guest's shell.

    With a capturing `Io` the output is returned as text; else it goes to the streams of the caller.

    Args:
        timeout_s, data, is_checked: for a capturing `Io`: how long it may take, what it reads, and whether
            an exit status that is not 0 is an error.

    Raises:
        CommandError: the command's exit status is not 0.
        GuestUnreachableError: its exit status is not known.
        DeadlineError: it has not ended.
    """
    is_interactive = isatty(vm.io.stdin) and not vm.io.capture
    if vm.io.capture and not words:
        raise GuestUnreachableError(
            "a login shell needs a terminal", machine=vm.name, hint='pass a command: ssh("uname -a")'
        )
    log_in_s = min(guest.LOG_IN_S, timeout_s or guest.LOG_IN_S)
    with guest.taken(vm, "reach the guest", interactive=is_interactive, timeout_s=log_in_s) as own:
        log = host_files.unique(f"{own.log}-")
        with host_files.Removed(log):
            if vm.io.capture:
                return _capture(vm, own, words, log, timeout_s, data, is_checked=is_checked)
            return _pass_on(vm, own, words, log, tty=wants_tty or (not words and is_interactive))


def _pass_on(
    vm: BaseMachine, own: ssh_connection.Link, words: Sequence[str], log: str, *, tty: bool
) -> Output:
    from qvmsh.host import pass_streams  # late: Python's own start is most of what a command takes

    argv = own.command(words, tty=tty, log=log)
    vm.io.stdout.flush()
    streams = {
        "stdin": _descriptor(vm.io.stdin, 0),
        "stdout": _descriptor(vm.io.stdout, 1),
        "stderr": _descriptor(vm.io.stderr, 2),
    }
    try:
        with own.ended_by_failure():
            status = pass_streams.run(argv, **streams, tty=tty, host=own.host)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(error, vm.name) from None
    said = _require_known(vm, own, log, status)
    if said:
        print(said, file=vm.io.stderr)
    if status:
        raise Failed(" ".join(words) or "the login shell", argv=argv, status=status, machine=vm.name)
    return Output(argv=argv)


def _descriptor(stream: object, own: int) -> int:
    """The descriptor behind a text stream; the process' own where it has none."""
    try:
        return int(stream.fileno())  # type: ignore[attr-defined]  # that is the question
    except (AttributeError, OSError, ValueError):
        return own


def _require_known(vm: BaseMachine, own: ssh_connection.Link, log: str, status: int) -> str:
    """What ssh itself said of a command whose exit status is known."""
    known, said = own.outcome(log, status)
    if known is not None:
        return said
    if said:  # it had to make a connection of its own, and could not
        raise guest.refusal(vm, own, ssh_connection.reason(said))
    if not own.is_open():
        raise GuestUnreachableError(
            "the connection to the guest was lost while the command ran: its exit status is unknown",
            machine=vm.name,
            hint="`qvm status` shows the machine's state",
        )
    raise GuestUnreachableError(
        "the command in the guest ended without an exit status: a signal ended it, or the guest's ssh server",
        machine=vm.name,
        hint="`COMMAND; exit $?` gives 128+N if signal N ends COMMAND",
    )


class Failed(CommandError):
    """A guest's command failed and has already said why on the shared standard error."""

    is_silent = True


def _capture(
    vm: BaseMachine,
    own: ssh_connection.Link,
    words: Sequence[str],
    log: str,
    timeout_s: float | None,
    data: str | bytes | None,
    *,
    is_checked: bool,
) -> Output:
    import subprocess

    argv = own.command(words, tty=False, log=log)
    given = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    stdin = subprocess.DEVNULL if given is None else None
    try:
        with own.ended_by_failure():
            done = subprocess.run(argv, stdin=stdin, input=given, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        raise DeadlineError(
            f"in the guest, `{' '.join(words)}` had not ended after {timeout_s:g} s",
            machine=vm.name,
            details=output.splitlines()[-5:],
            hint="it may still be running; `timeout` is the limit in seconds",
        ) from None
    status = 128 - done.returncode if done.returncode < 0 else done.returncode
    said = _require_known(vm, own, log, status)
    output, errors = (data.decode(errors="surrogateescape") for data in (done.stdout, done.stderr))
    if status and is_checked:
        raise CommandError(
            f"in the guest, `{' '.join(words)}` failed with status {status}",
            argv=argv,
            status=status,
            stdout=output,
            stderr=errors,
            machine=vm.name,
            details=(errors.strip() or said).splitlines()[-5:],
        )
    return Output(output, argv=argv, status=status, stderr=errors)
