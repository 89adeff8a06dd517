"""The user's own programs around a run: VM_PRE_START and VM_POST_STOP.

    pre_start(vm)       # QvmError if the program fails: nothing is started
    post_stop(vm)       # a failure is a warning

Both run in the machine's directory, as the account that runs QEMU, with the machine's variables in
their environment and its name as the last argument; what they write is in `.qvm/log`. VM_POST_STOP
runs once for each VM_PRE_START that succeeded: after `stop`, `kill`, the end of `run`, a start that
failed; and where QEMU ended without qvm (the guest powered off, a crash), before the next start.
"""

from __future__ import annotations

import os
import subprocess

from qvmsh.errors import QvmError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import paths
from qvmsh.qemu import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

POST_STOP_S = 120.0
"""A program that takes longer after a stop is ended: the stop must come to its end."""
GRACE_S = 5.0
SHOWN_LINES = 20


def pre_start(vm: BaseMachine) -> None:
    """Run VM_PRE_START and wait for its end, however long it takes.

    Raises:
        QvmError: it failed or cannot be run; its last output is in the details.
    """
    words = vm.settings.words("VM_PRE_START")
    if not words:
        return
    with vm.io.stage(f"VM_PRE_START ({os.path.basename(words[0])})"):
        try:
            how = _run(vm, words, vm.files.hook_log("pre-start"), None)
        except QvmError as error:
            raise QvmError(
                f"VM_PRE_START: {error.what}; nothing was started",
                machine=vm.name,
                hint="a plain name is looked up on PATH, a path with / from the machine's directory",
            ) from None
        if how:
            raise QvmError(
                f"VM_PRE_START failed ({how}); nothing was started",
                machine=vm.name,
                details=paths.tail(vm.files.hook_log("pre-start"), SHOWN_LINES),
                hint=f"`qvm config VM_PRE_START` shows it: {' '.join(words)}",
            )


def post_stop(vm: BaseMachine) -> None:
    """Run VM_POST_STOP and wait for its end; nothing that happens to it stops the caller."""
    try:
        words = vm.settings.words("VM_POST_STOP")
        if not words:
            return
        with vm.io.stage(f"VM_POST_STOP ({os.path.basename(words[0])})"):
            how = _run(vm, words, vm.files.hook_log("post-stop"), POST_STOP_S)
    except QvmError as error:  # the configuration may be broken by now
        how = error.what
    except OSError as error:
        how = str(error)
    if how:
        vm.io.warn(f"{vm.name}: VM_POST_STOP failed ({how}); its output is in .qvm/log/post-stop.log")


def _run(vm: BaseMachine, words: list[str], log: str, timeout_s: float | None) -> str:
    """Run a program with its output in `log`; how it failed, "" if it did not."""
    program = programs.find(words[0], environ=vm.environ, directory=vm.directory)
    vm.io.trace("exec " + " ".join([program, *words[1:], vm.name]))
    vm.state_folder()
    child: subprocess.Popen[bytes] | None = None
    try:
        with host_files.new(log) as output:
            try:
                child = process.begin(
                    [program, *words[1:], vm.name],
                    cwd=vm.directory,
                    env={**vm.environ} | vm.settings.exported(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:  # no #! line, another machine's program
                raise QvmError(f"{program} cannot be run: {error.strerror}") from None
        with process.Process(child.pid) as handle:
            is_over = handle.wait(timeout_s, vm.io.checkpoint)
    except BaseException:
        if child is not None:
            _end(child)
        raise
    if not is_over:
        _end(child)
        return f"ended after {timeout_s:.0f} s"
    status = child.wait()
    return "" if status == 0 else f"signal {-status}" if status < 0 else f"exit status {status}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a program with what it began: SIGTERM, then SIGKILL, to its whole session."""
    for number in (process.SIGTERM, process.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):
            pass
        try:
            child.wait(GRACE_S)
            return
        except subprocess.TimeoutExpired:
            continue
