"""Run a machine in the foreground: its console, screen or monitor on the terminal."""

from __future__ import annotations

import contextlib

from qvmsh.errors import ConfigError, QvmError, UsageError
from qvmsh.host import inotify, process, tty_mode
from qvmsh.io import isatty, tell
from qvmsh.machine import crash, handover, log, registry
from qvmsh.machine import programs as tools
from qvmsh.machine.power import hardware as hw
from qvmsh.machine.power import launch, logs, start
from qvmsh.machine.power.request import Launch, Request
from qvmsh.machine.reports import Ended
from qvmsh.machine.storage import linked
from qvmsh.machine.work import cleanup, kill
from qvmsh.machine.work.lock import require_no_archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.guest import serial
    from qvmsh.machine.machine import BaseMachine


LINES = 20
"""How many lines of QEMU's early output `run` passes on."""


@log.failures
def run(vm: BaseMachine, request: Request) -> Ended:
    """QEMU in the foreground; see `commands.run`."""
    if "-daemonize" in request.extra:
        raise UsageError(
            "run: -daemonize cannot be used in the foreground", machine=vm.name, hint="use `qvm start`"
        )
    handover.require_roots(vm)
    require_no_archive(vm, "run", is_disposable=request.disposable)
    tools.require_accepted(vm)
    plan = start.plan_of(vm, request, "run")
    has_terminal = isatty(vm.io.stdin) and isatty(vm.io.stdout) and not plan.is_background
    if hw.uses_curses(vm) and not has_terminal:
        what = "in the background it has none" if plan.is_background else "there is none here"
        raise ConfigError(
            f"VM_QEMU_DISPLAY=curses needs a terminal, and {what}",
            machine=vm.name,
            hint="`qvm start --encapsulate` gives it one in tmux or screen",
        )
    begun: list[launch.Qemu] = []
    try:
        with _terminal_kept(vm):
            qemu = launch.launch(vm, plan, begun)
            log.note(vm, f"runs in the foreground, pid {qemu.pid}")
            registry.remember(vm)
            linked.keep(vm)
            _print_ways(vm, plan, qemu)
            status = _wait_foreground(vm, qemu.child, qemu.shown)
    except BaseException:
        for each in begun:
            kill.end_child(each.pid)
            each.child.wait()
        cleanup.tidy(vm, is_asked=True)
        raise
    if crash.has_crashed(vm):
        log.note(vm, f"QEMU crashed ({process.signal_name(-status)})", is_error=True)
        vm.io.warn(f"{vm.name}: {crash.error(vm, 'while it ran', status).what}")
    cleanup.tidy(vm)
    log.note(vm, f"QEMU ended with status {status}")
    return Ended(vm.name, 128 - status if status < 0 else status)


def _terminal_kept(vm: BaseMachine) -> tty_mode.Kept:
    """QEMU switches the terminal's mode, and back unless it is killed."""
    try:
        return tty_mode.Kept(vm.io.stdin.fileno())
    except (OSError, ValueError):  # a stream of Python's own
        return tty_mode.Kept(-1)


def _print_ways(vm: BaseMachine, plan: Launch, qemu: launch.Qemu) -> None:
    """Say how to leave a console on this terminal, which may stay silent; or where it is."""
    if plan.is_background:
        vm.io.warn(f"{vm.name}: runs in the background (pid {qemu.pid}); `qvm console` opens its console")
    elif "mux=on" in " ".join(qemu.argv):
        vm.io.say(f"{vm.name}: the serial console; Ctrl-A X ends QEMU, Ctrl-A C opens its monitor")


def _wait_foreground(vm: BaseMachine, child: launch.Child, shown: serial.Shown | None) -> int:
    """Wait for QEMU's end, and pass on its logged output and its console.

    Ctrl-C is for QEMU, which has the terminal, and ends it in order.
    """
    with contextlib.ExitStack() as stack:
        follower = logs.Follower(vm, "stderr", LINES)
        stack.callback(follower.close)
        handle = stack.enter_context(process.Process(child.pid))
        fds = [handle.fd]
        with contextlib.suppress(OSError, QvmError):  # without a watch its output comes at its end
            changes = stack.enter_context(inotify.Watch(vm.files.logs))
            fds.append(changes.fileno())
        while True:
            try:
                ready = process.wait_readable(fds if shown is None else [shown.fileno(), *fds], None)
                if shown is not None and ready == shown.fileno():
                    if not shown.show():
                        shown = None
                    continue
                has_ended = ready == handle.fd
                while not hw.uses_curses(vm) and (data := follower.read()):
                    tell(vm.io.stderr, data.decode(errors="replace"), end="")
                if has_ended:
                    while shown is not None and shown.show():
                        pass
                    return child.wait()
                changes.drain()
            except KeyboardInterrupt:
                continue
