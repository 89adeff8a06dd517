"""Start a machine and wait for its guest; what `dryrun` prints.

start(vm, Request(disposable=True), ssh_attempts=None, is_waiting=True)
"""

from __future__ import annotations

import os
import time

from qvmsh.config.shares import VIRTIOFS
from qvmsh.errors import ConfigError, QvmError, Terminated, UsageError
from qvmsh.host import logout, tty_mode
from qvmsh.machine import crash, handover, identity, log, ready_sign, registry
from qvmsh.machine import programs as tools
from qvmsh.machine.create import layers
from qvmsh.machine.guest import readiness as ready
from qvmsh.machine.guest import renewal
from qvmsh.machine.guest.clock import put_clock_right
from qvmsh.machine.guest.shares import aside, devices, virtiofsd
from qvmsh.machine.guest.shares import plan as share_plan
from qvmsh.machine.power import hardware as hw
from qvmsh.machine.power import launch, ports, tpm
from qvmsh.machine.power.reports import Started
from qvmsh.machine.power.request import Launch, Request
from qvmsh.machine.reports import CommandLine
from qvmsh.machine.snapshot import of_s2e
from qvmsh.machine.storage import linked, own_disk
from qvmsh.machine.storage import supplies as disks
from qvmsh.machine.work import cleanup, kill
from qvmsh.machine.work.lock import require_no_archive
from qvmsh.qemu import accelerator, displays, programs, sandbox
from qvmsh.qemu.commandline import Endpoint, arguments, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


def start(
    vm: BaseMachine, request: Request, *, ssh_attempts: int | None, is_waiting: bool, port: int = 0
) -> Started:
    """Launch in the background and wait for the guest; see `commands.start`.

    Args:
        port: for ssh, if it is free and VM_SSH_PORT names none (0 = any).
    """
    _require_attempts(vm, ssh_attempts)
    handover.require_roots(vm)
    registry.warn_of_copy(vm)
    require_no_archive(vm, "start", is_disposable=request.disposable)
    tools.require_accepted(vm)
    plan = plan_of(vm, request, "start")
    begun: list[launch.Qemu] = []
    try:
        with vm.io.stage("starting QEMU") as stage:
            qemu = launch.launch(vm, plan, begun, port)
            stage.note = f"pid {qemu.pid}"
        log.note(vm, f"started, pid {qemu.pid}" + (f"; {qemu.attach} shows it" if qemu.attach else ""))
        registry.remember(vm)
        linked.keep(vm)
        logout.warn(vm.io, vm.name)
        sign = ready_sign.of(vm, qemu.note)
        has_ssh = ready_sign.is_ssh(vm, qemu.note)
        timeout_s = ready.attempt_seconds(vm, qemu.pid, ssh_attempts)
        seconds = _wait(vm, qemu, timeout_s, is_boot=not request.loadvm) if is_waiting else 0.0
        clock = put_clock_right(vm, qemu.note) if request.loadvm and is_waiting else ""
        renewed = _renewed(vm, qemu) if is_waiting and has_ssh else []
        shares = aside.mount_wanted(vm, qemu.note, has_waited=is_waiting and sign != "none")
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
        sign=sign,
        seconds=seconds,
        accelerator=_accelerator(qemu.argv),
        disposable=request.disposable,
        clock=clock,
        attach=qemu.attach,
        renewed=renewed,
        shares=shares,
    )


def _renewed(vm: BaseMachine, qemu: launch.Qemu) -> list[str]:
    """Renew the guest of a clone that is to be renewed; what was done."""
    if not renewal.is_asked(vm):
        return []
    from qvmsh.machine.create import create

    with vm.io.stage("renewing the guest"):
        return renewal.renew(vm, qemu.note, create.guest_name(vm.name))


def require_startable(vm: BaseMachine, request: Request, ssh_attempts: int | None) -> None:
    """Find what would stop a start before the machine is powered off.

    Raises:
        UsageError, ConfigError, ImageError, MissingProgramError: it runs on as it is.
    """
    _require_attempts(vm, ssh_attempts)
    handover.require_roots(vm)
    require_no_archive(vm, "start", is_disposable=request.disposable)
    plan = plan_of(vm, request, "start")
    hw.require_room(vm)
    tools.qemu(vm)
    if not own_disk.is_by_hand(vm):
        own_disk.require_disk(vm, base_only=request.base_only)
    disks.require(vm, disks.gather(vm))
    share_plan.require_usable(vm, share_plan.configured(vm))
    launch.require_top(vm, plan)


def _require_attempts(vm: BaseMachine, ssh_attempts: int | None) -> None:
    if ssh_attempts is not None and ssh_attempts < 1:
        raise UsageError(f"start: --ssh-attempts {ssh_attempts}: must be at least 1", machine=vm.name)


def _accelerator(argv: list[str]) -> str:
    """The accelerator in an argument list; hardware by hand may leave it to QEMU, which takes tcg."""
    if "-accel" in argv:
        return argv[argv.index("-accel") + 1]
    return "kvm" if "-enable-kvm" in argv else "tcg"


def _wait(vm: BaseMachine, qemu: launch.Qemu, timeout_s: float, *, is_boot: bool) -> float:
    """Wait until the guest of a QEMU that was just started is ready; return the seconds it took."""
    began = time.monotonic()
    try:
        if not ready.await_guest(vm, "start", qemu.pid, qemu.note, timeout_s, is_boot=is_boot):
            return 0.0
    except QvmError:
        status = qemu.child.poll()
        if status is not None:
            is_crash = crash.has_crashed(vm)
            cleanup.tidy(vm)
            if is_crash:
                raise crash.error(vm, "while the guest was starting", status) from None
        raise
    seconds = time.monotonic() - began
    log.note(vm, f"ready after {seconds:.1f} s")
    return seconds


def _end_begun(vm: BaseMachine, qemu: launch.Qemu) -> None:
    """End a machine whose start was interrupted."""
    vm.io.warn(f"{vm.name}: interrupted; ending the machine that was starting")
    kill.end_child(qemu.pid)
    qemu.child.wait()
    cleanup.tidy(vm, is_asked=True)
    log.note(vm, "start was interrupted, the machine was ended", is_error=True)


def dry_run(vm: BaseMachine, request: Request, *, is_foreground: bool) -> CommandLine:
    """The argument list that `start` or `run` would use, with sockets by path so that it runs."""
    plan = plan_of(vm, request, "run" if is_foreground else "start")
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
    before = [tpm.by_hand(vm, control)] if control else []
    shares = []
    for number, line in enumerate(share_plan.configured(vm)):
        path = os.path.join(folder, f"fs{number}")
        is_attached = plan.attached is None or line.tag in plan.attached
        if line.kind == VIRTIOFS and is_attached:
            before.append(
                ["setsid", "-f", *virtiofsd.program(vm.environ).words(line, f"--socket-path={path}")]
            )
        shares.append(devices.of_line(line, f"path={escape(path)}", is_attached=is_attached))
    resources = hw.Resources(
        binary, choice.accelerator, port, endpoints, supplies, {}, tpm_end, has_sandbox, tuple(shares)
    )
    argv = arguments(hw.hardware(vm, plan, resources))
    return CommandLine(vm.name, argv, before)


def plan_of(vm: BaseMachine, request: Request, verb: str) -> Launch:
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
    _require_kept(vm, request)
    if own_disk.is_by_hand(vm):
        _require_plain(vm, request, verb)
    return Launch(
        request,
        verb=verb,
        is_foreground=verb == "run",
        is_background=verb == "run" and _is_in_background(vm),
        window=_window(vm) if verb == "run" else "",
        machine=_machine_type(vm, request.loadvm) if request.loadvm else "",
        attached=_attached(vm, request.loadvm) if request.loadvm else None,
    )


def _require_kept(vm: BaseMachine, request: Request) -> None:
    """Refuse to load a snapshot of S2E; warn that they become worthless."""
    if request.loadvm:
        of_s2e.require_not(vm, request.loadvm)
    if not request.disposable and of_s2e.paths(vm):
        vm.io.warn(
            f"{vm.name}: once the guest writes to the disk, the snapshots of S2E no longer fit; "
            "`--disposable` leaves it unchanged"
        )


def _window(vm: BaseMachine) -> str:
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


def _is_in_background(vm: BaseMachine) -> bool:
    try:
        return tty_mode.is_in_background(vm.io.stdin.fileno())
    except (OSError, ValueError):  # a stream of Python's own
        return False


def _machine_type(vm: BaseMachine, snapshot: str) -> str:
    """VM_QEMU_MACHINE for a run that continues from a snapshot."""
    from qvmsh.machine.snapshot import hardware as snapshot_hardware
    from qvmsh.machine.snapshot.catalogue import Catalogue

    return snapshot_hardware.machine_type(vm.settings, Catalogue.read(vm).entries.get(snapshot, {}))


def _attached(vm: BaseMachine, snapshot: str) -> tuple[str, ...]:
    """Tags of the shares that a snapshot was saved with."""
    from qvmsh.machine.snapshot.catalogue import Catalogue

    return tuple(Catalogue.read(vm).entries.get(snapshot, {}).get("shares", ()))


def _require_plain(vm: BaseMachine, request: Request, verb: str) -> None:
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
