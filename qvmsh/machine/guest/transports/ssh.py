"""Commands in the guest by ssh: as `qvm ssh` has them, and as a way of `qvm exec`.

shell(vm, ("uname", "-r"), wants_tty=False)      # "6.1.0-amd64\n" for Python
run(vm, note, Wish(("uname", "-r")))             # the same; its output is written, or in the result
"""

from __future__ import annotations

import os
import time

from qvmsh.errors import CommandError, DeadlineError, GuestUnreachableError, QvmError
from qvmsh.host import files as host_files
from qvmsh.host import ssh_connection, ssh_watch
from qvmsh.host.ssh_watch import Silent, Watch
from qvmsh.io import isatty, unwritable
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.result import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from contextlib import ExitStack

    from qvmsh.machine.guest.wish import Wish
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

END_S = 15.0
"""How long a command that must end may take for it."""
_LONG = 20_000
"""Characters of a command whose bytes are counted."""
LOOK_S = 3.0
"""How long ssh is waited for where another way could be used instead."""


def shell(
    vm: BaseMachine,
    words: Sequence[str],
    *,
    wants_tty: bool,
    timeout_s: float | None = None,
    data: str | bytes | None = None,
    is_checked: bool = True,
    options: Sequence[str] = (),
) -> Result:
    """Run `words` (none: a login shell) in the guest's shell.

    With a capturing `Io` the output is returned as text; else it goes to the streams of the caller.

    Args:
        timeout_s, data, is_checked: for a capturing `Io`: how long it may take, what it reads, and whether
            an exit status that is not 0 is an error.
        options: words for ssh; with them the command has a connection to itself.

    Raises:
        UsageError: ssh does not take these options.
        CommandError: the command's exit status is not 0.
        GuestUnreachableError: its exit status is not known.
        DeadlineError: it has not ended.
    """
    is_interactive = isatty(vm.io.stdin) and not vm.io.capture
    if vm.io.capture and not words:
        raise GuestUnreachableError(
            "a login shell needs a terminal", machine=vm.name, hint='pass a command: ssh("uname -a")'
        )
    if sum(map(len, words)) > _LONG:
        from qvmsh.machine.guest import wish  # late: hardly ever

        wish.require_short(" ".join(words))
    log_in_s = min(guest.LOG_IN_S, timeout_s or guest.LOG_IN_S)
    began = time.monotonic()
    with guest.taken(
        vm, "reach the guest", interactive=guest.may_ask(vm), timeout_s=log_in_s, options=options
    ) as own:
        if vm.io.capture:
            given = data.encode(errors="surrogateescape") if isinstance(data, str) else data
            done = _capture(vm, own, words, words, timeout_s, given)
            done.duration_s = time.monotonic() - began
            return done.check() if is_checked else done
        tty = wants_tty or (not words and is_interactive)
        status = _pass_on(vm, own, words, tty=tty)
    if status:
        raise Failed(" ".join(words) or "the login shell", argv=words, status=status, machine=vm.name)
    return Result(argv=words, machine=vm.name)


def run(vm: BaseMachine, pid: int, note: LaunchRecord, wish: Wish) -> Result:
    """Run a command as a way of `exec`; its output is written where the caller does not capture it.

    Raises:
        Unusable: ssh does not lead into the guest.
        GuestUnreachableError: the connection was lost while the command ran.
        DeadlineError: it has not ended in time.
    """
    import contextlib
    import subprocess

    from qvmsh.machine import state
    from qvmsh.machine.guest import wish as wishes

    began = time.monotonic()
    is_captured = vm.io.capture or vm.io.json
    tty = wish.is_interactive and not is_captured and isatty(vm.io.stdin)
    words = [wishes.script(wish)]
    with contextlib.ExitStack() as stack:
        own = _opened(vm, note, wish, stack, is_interactive=tty and guest.may_ask(vm))
        left = None if wish.timeout_s is None else max(0.1, wish.timeout_s - (time.monotonic() - began))
        try:
            if is_captured and wish.is_interactive and wish.data is None:
                return _collected(vm, own, words, wish.argv, left)
            if is_captured:
                return _capture(vm, own, words, wish.argv, left, wish.data)
            status = _pass_on(vm, own, words, tty=tty, has_input=wish.is_interactive, timeout_s=left)
        except (TimeoutError, DeadlineError) as error:
            late = error if isinstance(error, DeadlineError) else _late(vm, wish.argv, 0.0, b"")
            late.hint = "it may still be running; `--timeout` is the limit in seconds"
            is_paused = state.observe(vm).kind == state.PAUSED  # it can end nothing
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                if not is_paused and own.run(wishes.ending(wish.tag), timeout_s=END_S).returncode == 0:
                    late.hint = "it was ended; `--timeout` is the limit in seconds"
            late.what = f"in the guest, `{wish.shown}` had not ended after {wish.timeout_s:g} s"
            raise late from None
    done = Result(argv=wish.argv, status=status, machine=vm.name)
    done.is_streamed = True
    return done


def _opened(
    vm: BaseMachine, note: LaunchRecord, wish: Wish, stack: ExitStack, *, is_interactive: bool
) -> ssh_connection.Link:
    """A connection for the command, until the stack ends.

    Raises:
        Unusable: there is none.
    """
    from qvmsh.machine.guest.wish import Unusable

    if not note.ssh_port:
        raise Unusable("the machine has no network for ssh")
    try:
        found = guest.link(vm, note)
        if wish.user is not None:
            found = found.of_user(wish.user)
        is_last = wish.ways[-1] == "ssh"
        if not (is_last or found.is_open() or guest.speaks(found, timeout_s=LOOK_S)):
            raise Unusable(f"ssh does not answer at {found.host}:{found.port}")
        limit_s = min(guest.LOG_IN_S, wish.timeout_s or guest.LOG_IN_S)
        try:
            return stack.enter_context(found.taken(interactive=is_interactive, timeout_s=limit_s))
        except ssh_connection.Refused as refused:
            raise guest.refusal(vm, found, refused) from None
    except QvmError as error:
        raise Unusable(error.what) from None


def _pass_on(
    vm: BaseMachine,
    own: ssh_connection.Link,
    words: Sequence[str],
    *,
    tty: bool,
    has_input: bool = True,
    timeout_s: float | None = None,
    into: tuple[int, int] | None = None,
) -> int:
    """Run a command on the caller's streams; its exit status.

    Args:
        into: descriptors for its output and its errors instead.

    Raises:
        TimeoutError: it has not ended in time.
    """
    from qvmsh.host import pass_streams  # late: Python's own start is most of what a command takes

    with _log(own) as log, open("/dev/null", "rb") as nothing:
        argv = own.command(words, tty=tty, log=log)
        vm.io.stdout.flush()
        stdin = _descriptor(vm.io.stdin, 0) if has_input else nothing.fileno()
        out, errors = into or (_descriptor(vm.io.stdout, 1), _descriptor(vm.io.stderr, 2))
        try:
            with own.ended_by_failure():
                status = pass_streams.run(
                    argv, stdin=stdin, stdout=out, stderr=errors, tty=tty, host=own.host,
                    timeout_s=timeout_s, watch=Watch(own, log),
                )  # fmt: skip
        except Silent:
            raise _silent(vm, own) from None
        except (BrokenPipeError, TimeoutError):
            raise
        except OSError as error:
            raise unwritable(error, vm.name) from None
        said = _require_known(vm, own, log, status)
    if said:
        print(said, file=vm.io.stderr)
    return status


def _collected(
    vm: BaseMachine,
    own: ssh_connection.Link,
    words: Sequence[str],
    argv: Sequence[str],
    timeout_s: float | None,
) -> Result:
    """As `_capture`, of a command that reads the caller's standard input."""
    import contextlib

    with contextlib.ExitStack() as stack:
        files = [open(os.memfd_create("qvm"), "rb") for _ in range(2)]  # the stack closes them
        for each in files:
            stack.enter_context(each)
        into = (files[0].fileno(), files[1].fileno())
        status = _pass_on(vm, own, words, tty=False, timeout_s=timeout_s, into=into)
        output, errors = (os.pread(fd, os.fstat(fd).st_size, 0) for fd in into)
    return Result.of_bytes(output, errors, argv=argv, status=status, machine=vm.name)


def _log(own: ssh_connection.Link) -> host_files.Removed:
    """The file for ssh's own messages of one command."""
    return host_files.Removed(host_files.unique(f"{own.log}-"))


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
    argv: Sequence[str],
    timeout_s: float | None,
    data: bytes | None,
) -> Result:
    """Run a command and return what it writes.

    Args:
        words: what ssh gets.
        argv: the command as the caller knows it.
    """
    import subprocess

    with _log(own) as log:
        line = own.command(words, tty=False, log=log)
        try:
            with own.ended_by_failure():
                done = _communicate(line, data, timeout_s, Watch(own, log))
        except Silent:
            raise _silent(vm, own) from None
        except subprocess.TimeoutExpired as error:
            raise _late(vm, argv, timeout_s or 0.0, error.stdout or b"") from None
        status = 128 - done.returncode if done.returncode < 0 else done.returncode
        said = _require_known(vm, own, log, status)
    errors = done.stderr or said.encode()
    return Result.of_bytes(done.stdout, errors, argv=argv, status=status, machine=vm.name)


def _communicate(
    argv: Sequence[str], data: bytes | None, timeout_s: float | None, watch: Watch
) -> subprocess.CompletedProcess[bytes]:
    """As `subprocess.run`, with looks whether the guest has taken the command."""
    import subprocess

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    stdin = subprocess.DEVNULL if data is None else subprocess.PIPE
    with subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            while True:
                moment = min((each for each in (deadline, watch.at) if each is not None), default=None)
                left = None if moment is None else max(0.0, moment - time.monotonic())
                try:
                    out, errors = child.communicate(data, timeout=left)
                    return subprocess.CompletedProcess(argv, child.returncode, out, errors)
                except subprocess.TimeoutExpired:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise
                    watch.look()
        except BaseException:
            child.kill()
            raise


def _silent(vm: BaseMachine, own: ssh_connection.Link) -> GuestUnreachableError:
    return GuestUnreachableError(
        f"the guest has not taken the command within {ssh_watch.LOST_S:.0f} s; nothing was run",
        machine=vm.name,
        details=[f"ssh at {own.host}:{own.port} does not answer"],
        hint="`qvm status` shows its state; its console is in .qvm/log/serial.log",
    )


def _late(vm: BaseMachine, argv: Sequence[str], timeout_s: float, output: bytes) -> DeadlineError:
    return DeadlineError(
        f"in the guest, `{' '.join(argv)}` had not ended after {timeout_s:g} s",
        machine=vm.name,
        details=output.decode(errors="replace").splitlines()[-5:],
        hint="it may still be running; `timeout` is the limit in seconds",
    )
