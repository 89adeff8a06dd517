"""`sync`: rsync between host and guest, on the machine's ssh connection.

    sync(vm, ("src/", ":project/"), has_delete=False)       # Copied(via="rsync")

Source: rsync(1). Paths in the guest are sent by rsync's protocol (-s), so that no shell reads them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time

from qvmsh.errors import DeadlineError, GuestUnreachableError, MissingProgramError, QvmError, UsageError
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.files.limits import STALL_S
from qvmsh.machine.guest.files.names import guest_path
from qvmsh.machine.guest.files.reports import Copied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.host.ssh_connection import Link
    from qvmsh.machine.machine import BaseMachine

ASK_S = 15.0
_MARK = ":"
_PARTIAL, _TIMEOUT, _LOST = (23, 24, 25), (30, 35), (10, 12, 255)
"""Exit statuses of rsync: not all was copied; nothing moved; the connection or the other rsync has gone."""


def sync(vm: BaseMachine, words: tuple[str, ...], *, has_delete: bool) -> Copied:
    """Make the target like the sources; see `commands.sync`.

    Raises:
        UsageError: not exactly one side is the guest's.
        MissingProgramError: there is no rsync here.
        QvmError: there is none in the guest, or it fails.
        StateError, GuestUnreachableError: as `ssh`.
        DeadlineError: nothing has moved for a minute.
    """
    began = time.monotonic()
    require_sides(words)
    program = shutil.which("rsync")
    if program is None:
        raise MissingProgramError(
            "rsync is not installed", machine=vm.name, hint="install it, or use `qvm put` and `qvm get`"
        )
    with guest.taken(vm, "copy files", interactive=False) as own:
        try:
            found = own.run("command -v rsync", timeout_s=ASK_S)
        except subprocess.TimeoutExpired:
            raise DeadlineError(f"the guest has not answered within {ASK_S:.0f} s", machine=vm.name) from None
        if found.returncode:
            raise QvmError(
                "the guest has no rsync", machine=vm.name,
                hint="install it there, or use `qvm put` and `qvm get`",
            )  # fmt: skip
        argv = [program, *options(has_delete=has_delete), "-e", _shell(own), "--"]
        argv += [_path(word, own.host) for word in words]
        with own.ended_by_failure():
            status, output, errors = _run(vm, argv)
    failed = [line for line in errors if not line.startswith("rsync error:")]
    if status and status not in _PARTIAL:
        raise _failure(vm, status, failed or errors)
    return Copied(
        vm.name, _number(output, "Number of regular files transferred"),
        _number(output, "Total transferred file size"), "rsync", seconds=time.monotonic() - began,
        failed=failed if status else (),
    )  # fmt: skip


def require_sides(words: tuple[str, ...]) -> None:
    """Refuse words of which not exactly one side is the guest's.

    Raises:
        UsageError: the text says what.
    """
    hint = f"`qvm sync DIR/ {_MARK}DIR/` copies into the guest, `qvm sync {_MARK}DIR/ DIR/` from it"
    if len(words) < 2 or any(word in ("", _MARK) or "\0" in word for word in words):
        raise UsageError("sync: a source or the target is missing, or empty", hint=hint)
    sides = {word.startswith(_MARK) for word in words[:-1]}
    if len(sides) > 1 or words[-1].startswith(_MARK) in sides:
        what = f"either the sources or the target must be the guest's, with `{_MARK}` before its path"
        raise UsageError(f"sync: {what}", hint=hint)


def options(*, has_delete: bool) -> list[str]:
    """What is copied of each file: neither owners nor devices, as `put` and `get`."""
    more = ["--delete"] if has_delete else []
    return ["-rlptS", "-s", "--stats", "--info=progress2", f"--timeout={STALL_S:.0f}", *more]


def _path(word: str, host: str) -> str:
    """A word as rsync has it: without `/`, a name with a colon would be that of a host."""
    if word.startswith(_MARK):
        return f"{host}:{guest_path(word[1:])}"
    return word if word.startswith("/") else f"./{word}"


def _shell(own: Link) -> str:
    """The command for -e, which rsync splits at blanks; a quote in quotes is doubled."""
    argv = own.command([], tty=False)
    return " ".join("'" + word.replace("'", "''") + "'" for word in argv[: argv.index("--")])


def _run(vm: BaseMachine, argv: list[str]) -> tuple[int, str, list[str]]:
    """Run rsync with its progress shown; status, output, and lines of errors."""
    output, errors = "", list[bytes]()
    with (
        vm.io.stage("sync") as stage,
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=_environ(vm),
        ) as child,
    ):  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        thread = threading.Thread(target=lambda pipe=child.stderr: errors.extend(pipe), daemon=True)
        thread.start()
        try:
            while data := child.stdout.read1():  # type: ignore[attr-defined]  # it is buffered
                vm.io.checkpoint()
                output = (output + data.decode(errors="replace"))[-65536:]
                if "%" in (last := output.rpartition("\r")[2]):
                    stage.progress(" ".join(last.split()))
            status = child.wait()
        except BaseException:
            child.terminate()
            raise
        thread.join()
    return status, output, [line.decode(errors="replace").rstrip() for line in errors if line.strip()]


def _environ(vm: BaseMachine) -> dict[str, str]:
    kept = {name: value for name, value in vm.environ.items() if not name.startswith("RSYNC_")}
    return kept | {"LC_ALL": "C"}


def _number(output: str, title: str) -> int:
    found = re.search(rf"^{title}: ([0-9,]+)", output, re.MULTILINE)
    return int(found[1].replace(",", "")) if found else 0


def _failure(vm: BaseMachine, status: int, errors: list[str]) -> QvmError:
    details = errors[-3:]
    if status in _TIMEOUT:
        return DeadlineError(
            f"nothing has moved for {STALL_S:.0f} s", machine=vm.name, details=details,
            hint="`qvm status` shows the machine's state",
        )  # fmt: skip
    if status in _LOST:
        return GuestUnreachableError(
            "the connection to the guest was lost while files were copied", machine=vm.name, details=details,
            hint="`qvm status` shows the machine's state",
        )  # fmt: skip
    return QvmError(f"rsync failed with status {status}", machine=vm.name, details=details)
