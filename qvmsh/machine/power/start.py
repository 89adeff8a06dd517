"""Start, run, dry run: the daily life of a machine, from the request to the report.

start(vm, Request(disposable=True), ssh_attempts=None, is_waiting=True)
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from qvmsh.errors import ConfigError, QvmError, Terminated, UsageError
from qvmsh.host import logout, process, terminal, watch
from qvmsh.io import isatty, tell
from qvmsh.machine import crash, handover, identity, log, registry, state
from qvmsh.machine import programs as tools
from qvmsh.machine.create import layers
from qvmsh.machine.guest import readiness as ready
from qvmsh.machine.guest.clock import put_clock_right
from qvmsh.machine.monitor import ending
from qvmsh.machine.power import hardware as hw
from qvmsh.machine.power import launch, logs, ports, stop, tpm
from qvmsh.machine.power.reports import Restarted, Started
from qvmsh.machine.power.request import Launch, Request
from qvmsh.machine.reports import CommandLine, Ended
from qvmsh.machine.storage import own_disk
from qvmsh.machine.storage import supplies as disks
from qvmsh.machine.work import cleanup
from qvmsh.machine.work.lock import require_no_archive
from qvmsh.qemu import accelerator, displays, programs, sandbox
from qvmsh.qemu.commandline import Endpoint, arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.guest import serial
    from qvmsh.machine.machine import Machine


LINES = 20
"""How many lines of QEMU's early output `run` passes on."""


def start(
    vm: Machine, request: Request, *, ssh_attempts: int | None, is_waiting: bool, port: int = 0
) -> Started:
    """Launch in the background and wait for the guest; see `commands.start`.

    Args:
        port: for ssh, if it is free and VM_SSH_PORT names none (0 = any).
    """
    _require_attempts(vm, ssh_attempts)
    handover.require_roots(vm)
    require_no_archive(vm, "start", is_disposable=request.disposable)
    tools.require_accepted(vm)
    plan = _plan(vm, request, "start")
    begun: list[launch.Qemu] = []
    try:
        with vm.io.stage("starting QEMU") as stage:
            qemu = launch.launch(vm, plan, begun, port)
            stage.note = f"pid {qemu.pid}"
        log.note(vm, f"started, pid {qemu.pid}" + (f"; {qemu.attach} shows it" if qemu.attach else ""))
        registry.remember(vm)
        logout.warn(vm.io, vm.name)
        has_ssh = state.has_ssh(vm, qemu.note)
        timeout_s = ready.attempt_seconds(vm, qemu.pid, ssh_attempts)
        seconds = _wait(vm, qemu, timeout_s) if is_waiting and has_ssh else 0.0
        clock = put_clock_right(vm, qemu.note) if request.loadvm and is_waiting else ""
    except QvmError as error:
        log.note(vm, error.what, is_error=True)
        raise
    except (KeyboardInterrupt, Terminated):  # this call began it, this call ends it
        for each in begun:
            _end_begun(vm, each)
        raise
    return Started(
        vm.name,
        pid=qemu.pid,
        ssh_port=qemu.note.ssh_port or None,
        ready=is_waiting,
        has_ssh=has_ssh,
        seconds=seconds,
        accelerator=_accelerator(qemu.argv),
        disposable=request.disposable,
        clock=clock,
        attach=qemu.attach,
    )


def restart(
    vm: Machine,
    request: Request,
    *,
    force: bool,
    timeout_s: float | None,
    ssh_attempts: int | None,
    is_waiting: bool,
) -> Restarted:
    """Power off and start again; see `commands.restart`.

    What fits is kept: the ssh port, and whether the run before was disposable or of the base only.
    """
    tools.require_accepted(vm)
    seen = state.observe(vm)
    note = seen.note if seen.is_live else None
    if note is not None:
        request = replace(
            request,
            disposable=request.disposable or note.disposable,
            base_only=request.base_only or note.base_only,
            is_forced=request.is_forced or note.base_only,
        )
    _require_startable(vm, request, ssh_attempts)
    by, took_s = None, 0.0
    if seen.is_live:
        by, took_s = stop.stop(vm, force=force, timeout_s=stop.patience_s(vm, timeout_s))
    try:
        started = start(
            vm, request, ssh_attempts=ssh_attempts, is_waiting=is_waiting, port=note.ssh_port if note else 0
        )
    except QvmError as error:
        if by:
            error.details = (f"it was first powered off by {by}", *error.details)
        raise
    return Restarted(by, took_s, started)


def _require_startable(vm: Machine, request: Request, ssh_attempts: int | None) -> None:
    """Find what would stop a start before the machine is powered off.

    Raises:
        UsageError, ConfigError, ImageError, MissingProgramError: it runs on as it is.
    """
    _require_attempts(vm, ssh_attempts)
    handover.require_roots(vm)
    require_no_archive(vm, "start", is_disposable=request.disposable)
    plan = _plan(vm, request, "start")
    hw.require_room(vm)
    tools.qemu(vm)
    if not own_disk.is_by_hand(vm):
        own_disk.require_disk(vm, base_only=request.base_only)
    disks.require(vm, disks.gather(vm))
    launch.require_top(vm, plan)


def _require_attempts(vm: Machine, ssh_attempts: int | None) -> None:
    if ssh_attempts is not None and ssh_attempts < 1:
        raise UsageError(f"start: --ssh-attempts {ssh_attempts}: must be at least 1", machine=vm.name)


def _accelerator(argv: list[str]) -> str:
    """The accelerator in an argument list; hardware by hand may leave it to QEMU, which takes tcg."""
    if "-accel" in argv:
        return argv[argv.index("-accel") + 1]
    return "kvm" if "-enable-kvm" in argv else "tcg"


def _wait(vm: Machine, qemu: launch.Qemu, timeout_s: float) -> float:
    """Wait until the guest of a QEMU that was just started answers; return the seconds it took."""
    try:
        with ready.waiting(vm, "start"), vm.io.stage("waiting for ssh"):
            seconds = ready.wait(vm, qemu.pid, qemu.note, timeout_s=timeout_s)
    except QvmError:
        status = qemu.child.poll()
        if status is not None:
            is_crash = crash.has_crashed(vm)
            cleanup.tidy(vm)
            if is_crash:
                raise crash.error(vm, "while the guest was starting", status) from None
        raise
    log.note(vm, f"ready after {seconds:.1f} s")
    return seconds


def _end_begun(vm: Machine, qemu: launch.Qemu) -> None:
    """End a machine whose start was interrupted."""
    vm.io.warn(f"{vm.name}: interrupted; ending the machine that was starting")
    ending.end(qemu.pid)
    qemu.child.wait()
    cleanup.tidy(vm, is_asked=True)
    log.note(vm, "start was interrupted, the machine was ended", is_error=True)


@log.failures
def run(vm: Machine, request: Request) -> Ended:
    """QEMU in the foreground; see `commands.run`."""
    if "-daemonize" in request.extra:
        raise UsageError(
            "run: -daemonize cannot be used in the foreground", machine=vm.name, hint="use `qvm start`"
        )
    handover.require_roots(vm)
    require_no_archive(vm, "run", is_disposable=request.disposable)
    tools.require_accepted(vm)
    plan = _plan(vm, request, "run")
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
            _print_ways(vm, plan, qemu)
            status = _wait_foreground(vm, qemu.child, qemu.shown)
    except BaseException:
        for each in begun:
            ending.end(each.pid)
            each.child.wait()
        cleanup.tidy(vm, is_asked=True)
        raise
    if crash.has_crashed(vm):
        log.note(vm, f"QEMU crashed ({process.signal_name(-status)})", is_error=True)
        vm.io.warn(f"{vm.name}: {crash.error(vm, 'while it ran', status).what}")
    cleanup.tidy(vm)
    log.note(vm, f"QEMU ended with status {status}")
    return Ended(vm.name, 128 - status if status < 0 else status)


def _terminal_kept(vm: Machine) -> terminal.Kept:
    """QEMU switches the terminal's mode, and back unless it is killed."""
    try:
        return terminal.Kept(vm.io.stdin.fileno())
    except (OSError, ValueError):  # a stream of Python's own
        return terminal.Kept(-1)


def _print_ways(vm: Machine, plan: Launch, qemu: launch.Qemu) -> None:
    """Say how to leave a console on this terminal, which may stay silent; or where it is."""
    if plan.is_background:
        vm.io.warn(f"{vm.name}: runs in the background (pid {qemu.pid}); `qvm console` opens its console")
    elif "mux=on" in " ".join(qemu.argv):
        vm.io.say(f"{vm.name}: the serial console; Ctrl-A X ends QEMU, Ctrl-A C opens its monitor")


def _wait_foreground(vm: Machine, child: launch.Child, shown: serial.Shown | None) -> int:
    """Wait for QEMU's end, and pass on its logged output and its console.

    Ctrl-C is for QEMU, which has the terminal, and ends it in order.
    """
    with contextlib.ExitStack() as stack:
        follower = logs.Follower(vm, "stderr", LINES)
        stack.callback(follower.close)
        handle = stack.enter_context(process.Process(child.pid))
        fds = [handle.fd]
        with contextlib.suppress(OSError, QvmError):  # without a watch its output comes at its end
            changes = stack.enter_context(watch.Watch(vm.files.logs))
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


def dry_run(vm: Machine, request: Request, *, is_foreground: bool) -> CommandLine:
    """The argument list that `start` or `run` would use, with sockets by path so that it runs."""
    plan = _plan(vm, request, "run" if is_foreground else "start")
    hw.require_room(vm)
    binary, probed = tools.named(vm, "VM_QEMU_BIN"), tools.qemu(vm)
    folder = identity.runtime_folder(vm)
    port = ports.ssh_port(vm, is_planned=True)
    accel = "tcg" if own_disk.is_by_hand(vm) else vm.settings.text("VM_QEMU_ACCEL")
    choice = accelerator.choose(probed, accel, vm.io, environ=vm.environ)
    supplies = disks.gather(vm)
    disks.prepare(vm, supplies)
    control = os.path.join(folder, "tpm-control") if tpm.is_wanted(vm) else None
    endpoints = {name: Endpoint(path=os.path.join(folder, name)) for name in hw.endpoints(vm)}
    door = ports.door(vm)
    if door:
        endpoints["telnet"] = Endpoint(address=door)
    tpm_end = Endpoint(path=control) if control else None
    has_sandbox = sandbox.is_there(probed)
    resources = hw.Resources(binary, choice.accelerator, port, endpoints, supplies, {}, tpm_end, has_sandbox)
    argv = arguments(hw.hardware(vm, plan, resources))
    before = [tpm.by_hand(vm, control)] if control else []
    return CommandLine(vm.name, argv, before)


def _plan(vm: Machine, request: Request, verb: str) -> Launch:
    """Check the request against the configuration and turn it into a launch."""
    if request.base_only and not own_disk.is_by_hand(vm) and not own_disk.has_disk(vm):
        raise UsageError(
            f"{verb}: --base-only needs a disk, and {own_disk.disk_name(vm)} does not exist", machine=vm.name
        )
    if request.disposable and request.loadvm:
        raise UsageError(
            f"{verb}: --disposable and --loadvm exclude each other: a state is loaded into the disks",
            machine=vm.name,
            hint="`qvm snapshot save` first saves the current state, `qvm snapshot restore` goes back to it",
        )
    if request.base_only and not own_disk.is_by_hand(vm):
        layers.require_writable_base(vm, force=request.is_forced or request.disposable)
    for word in vm.settings.words("VM_QEMU_EXTRA") + list(request.extra):
        if word.lstrip("-") in ("daemonize", "pidfile") and word.startswith("-"):
            raise ConfigError(
                f"{word} in the extra arguments would take QEMU out of qvm's control",
                machine=vm.name,
                hint="remove it: `qvm start` runs QEMU in the background and knows its pid",
            )
        if word in ("-snapshot", "--snapshot") and not (request.disposable or own_disk.is_by_hand(vm)):
            raise ConfigError(
                f"{word} in the extra arguments would not cover the machine's own disks",
                machine=vm.name,
                hint="remove it; `--disposable` discards all that the guest writes",
            )
    if own_disk.is_by_hand(vm):
        _require_plain(vm, request, verb)
    return Launch(
        request,
        verb=verb,
        is_foreground=verb == "run",
        is_background=verb == "run" and _is_in_background(vm),
        window=_window(vm) if verb == "run" else "",
        machine=_machine_type(vm, request.loadvm) if request.loadvm else "",
    )


def _window(vm: Machine) -> str:
    """The display for `run` on a desktop if nothing else is configured; warns if QEMU has none."""
    settings, environ = vm.settings, vm.environ
    has_desktop = bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
    if not has_desktop or settings.text("VM_QEMU_DISPLAY") or settings.text("VM_QEMU_VNC"):
        return ""
    found = displays.window(displays.of(tools.qemu(vm)))
    if not found:
        way = programs.install("gtk")
        vm.io.warn(f"{vm.name}: this QEMU cannot open a window, so its console is here; {way} adds one")
    return found


def _is_in_background(vm: Machine) -> bool:
    try:
        return terminal.is_in_background(vm.io.stdin.fileno())
    except (OSError, ValueError):  # a stream of Python's own
        return False


def _machine_type(vm: Machine, snapshot: str) -> str:
    """VM_QEMU_MACHINE for a run that continues from a snapshot."""
    from qvmsh.machine.snapshot import hardware as snapshot_hardware
    from qvmsh.machine.snapshot.catalogue import Catalogue

    return snapshot_hardware.machine_type(vm.settings, Catalogue.read(vm).entries.get(snapshot, {}))


def _require_plain(vm: Machine, request: Request, verb: str) -> None:
    """Refuse what needs to know the disks, where only VM_QEMU_ARGS does."""
    hint = "VM_QEMU_ARGS names the disks; change it there"
    if request.base_only:
        raise UsageError(f"{verb}: --base-only needs disks that qvm manages", machine=vm.name, hint=hint)
    words = (*vm.settings.words("VM_QEMU_ARGS"), *vm.settings.words("VM_QEMU_EXTRA"), *request.extra)
    if request.disposable and any(word in ("-blockdev", "--blockdev") for word in words):
        raise UsageError(
            f"{verb}: --disposable is QEMU's -snapshot here, which does not cover -blockdev",
            machine=vm.name,
            hint="use -drive or -hda in VM_QEMU_ARGS, or your own overlays",
        )
