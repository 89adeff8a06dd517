"""Bringing QEMU up, as one transaction: launched and known, or ended and nothing left.

    qemu = launch(vm, Launch(request))      # qemu.pid, qemu.note.ssh_port

Order: work lock, checks, sockets, note, process, greeting. From the lock to the greeting other
commands report who is at work; after it, QEMU's lock on the pid file shows that it runs. After a kill at any
of these points, the next command finds either no process or one that it can reach.
"""

from __future__ import annotations

import errno
import os
import secrets
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass

from qvmsh.config.shares import VIRTIOFS
from qvmsh.config.words import joined
from qvmsh.errors import LaunchError
from qvmsh.host import files as host_files
from qvmsh.host import lock_and_exec, locks, logfiles, process, sockets
from qvmsh.machine import crash, identity, launch_record, programs, state
from qvmsh.machine import paths as machine_files
from qvmsh.machine.guest import serial
from qvmsh.machine.guest.shares import aside, devices, virtiofsd
from qvmsh.machine.guest.shares import plan as share_plan
from qvmsh.machine.launch_record import LaunchRecord
from qvmsh.machine.power import hardware as hw
from qvmsh.machine.power import launch_failure, limits, logs, ports, tpm
from qvmsh.machine.storage import dependents, own_disk, volumes
from qvmsh.machine.storage import supplies as disks
from qvmsh.machine.work import cleanup, hooks, kill
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import accelerator, qemuimg, sandbox
from qvmsh.qemu.commandline import Endpoint, arguments, ssh_rule
from qvmsh.qemu.qmp import Exchange

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from typing import IO, Protocol

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.power.request import Launch
    from qvmsh.qemu.shares import Share

    Companion = tpm.Companion | serial.Keeper | virtiofsd.Companion

    class Child(Protocol):
        """A QEMU's process, as much of `subprocess.Popen` as is used of it."""

        pid: int

        def poll(self) -> int | None: ...
        def wait(self) -> int: ...


GREETING_S = 120.0
FULL = (errno.ENOSPC, errno.EDQUOT)
PORT_ATTEMPTS = 5


@dataclass
class Qemu:
    """A QEMU that this process began.

    Args:
        child: its process.
        note: what it was given.
        argv: its argument list.
        attach: the command that shows its terminal, "" where it has none.
        shown: its console, which is to be shown on our standard output; None where it is elsewhere.
    """

    child: Child
    note: LaunchRecord
    argv: list[str]
    attach: str = ""
    shown: serial.Shown | None = None

    @property
    def pid(self) -> int:
        return self.child.pid


def launch(vm: BaseMachine, plan: Launch, begun: list[Qemu], port: int = 0) -> Qemu:
    """Start QEMU and return once it answers on its monitor.

    Args:
        begun: gets the QEMU as soon as its process exists, so that an interrupted caller knows
            what to end.
        port: for ssh, if it is free and VM_SSH_PORT names none (0 = any).

    Raises:
        StateError, LockedError: it runs already, or another command is at work on it.
        LaunchError: QEMU ended; nothing is left of it.
        ConfigError, ImageError, MissingProgramError: before anything was started.
    """
    vm.settings  # noqa: B018  # all problems of the files first, before a lock is taken
    try:
        with work_lock(vm, plan.verb) as lock:
            seen = state.observe(vm)
            hint = seen.hint or "`qvm status` shows more, `qvm stop` powers it off"
            state.require_off(vm, seen, plan.verb, hint)
            programs.remember_accepted(vm)
            cleanup.clear(vm)
            hw.require_room(vm)
            limits.require_sound(vm)
            ports.require_free(vm)
            hooks.pre_start(vm)
            try:
                return _Attempt(vm, plan, lock, begun, port).run()
            except BaseException:
                hooks.post_stop(vm)
                raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise launch_failure.no_room(
            vm, plan.verb, host_files.mount_of(error.filename or vm.files.state)
        ) from None


def require_top(vm: BaseMachine, plan: Launch) -> None:
    """Refuse a run that would write to backing files of other images, unless forced.

    Raises:
        ImageError: another image is backed by one of the disks.
    """
    if plan.request.disposable or plan.request.is_forced:
        return
    written = volumes.written(volumes.configured(vm))
    # that of the base is `images.require_writable_base`
    paths = [each.path for each in written if not (plan.request.base_only and each.source == "machine")]
    dependents.require_top(vm, paths, plan.verb)


class _Outliving(subprocess.Popen[bytes]):
    """A child that may outlive its parent: not waiting for it is fine (subprocess would warn)."""

    def __del__(self) -> None:
        super().__del__(_warn=lambda *_, **__: None)  # type: ignore[call-arg]  # not in typeshed


class _Attempt:
    """One launch under the work lock; tries again only where an automatic port was just taken."""

    def __init__(
        self, vm: BaseMachine, plan: Launch, lock: locks.WorkLock, begun: list[Qemu], port: int
    ) -> None:
        self.vm = vm
        self.plan = plan
        self.lock = lock
        self.begun = begun
        self.port = port
        self.has_sandbox = True
        self.binary = programs.qemu(vm)
        self.supplies = disks.gather(vm)
        self.disk = (
            "" if own_disk.is_by_hand(vm) else own_disk.require_disk(vm, base_only=plan.request.base_only)
        )
        if not self.disk and not own_disk.is_by_hand(vm):
            vm.io.warn(f"{vm.name}: has no disk of its own: {own_disk.disk_name(vm)} does not exist")
        disks.require(vm, self.supplies)
        require_top(vm, plan)
        if tpm.is_wanted(vm):
            tpm.program(vm)
        self.lines = share_plan.configured(vm)
        share_plan.require_usable(vm, self.lines)
        wanted = "tcg" if own_disk.is_by_hand(vm) else vm.settings.text("VM_QEMU_ACCEL")
        self.accel = accelerator.choose(self.binary, wanted, vm.io, environ=vm.environ).accelerator
        disks.prepare(vm, self.supplies)
        self.scope = limits.scope(vm)

    def run(self) -> Qemu:
        guest_port = self.vm.settings.integer("VM_SSH_GUEST_PORT")
        for attempt in range(PORT_ATTEMPTS):
            port = ports.ssh_port(self.vm, 0 if attempt else self.port)
            try:
                return self._launch(port)
            except LaunchError as error:
                if self.has_sandbox and sandbox.is_refusal(error.details) and self._may_do_without():
                    self.has_sandbox = False
                    self.vm.io.say(f"  no sandbox around QEMU: {error.details[-1]}")
                    continue
                taken = ports.refused_rule(error.details) == ssh_rule(port, guest_port)
                is_auto = self.vm.settings.text("VM_SSH_PORT") == "auto"
                if not taken or not is_auto or attempt == PORT_ATTEMPTS - 1:
                    raise
                self.vm.io.trace(f"port {port} was taken meanwhile; trying another")
        raise AssertionError("unreachable")

    def _may_do_without(self) -> bool:
        return self.vm.settings.text("VM_QEMU_SANDBOX") == "auto"

    def _launch(self, port: int) -> Qemu:
        vm = self.vm
        token = secrets.token_hex(4) if self.plan.request.disposable else ""
        overlays = self._overlays(token) if self.plan.request.disposable else {}
        runtime = identity.runtime_folder(vm)
        door = ports.open_door(vm)
        logs.begin(vm)
        os.close(logfiles.append_to(vm.files.serial_log))
        host_files.remove(os.path.join(runtime, launch_record.CONSOLE_READY))
        listening = sockets.listening(runtime, hw.endpoints(vm)) | ({"telnet": door} if door else {})
        companions: list[Companion] = []
        shown: serial.Shown | None = None
        note = self._record(port, runtime)
        try:
            note.write(vm.files.launch_record)
            host_files.link(vm.directory, note.socket("dir"))
            endpoints = {name: Endpoint(fd=each.fileno()) for name, each in listening.items()}
            if "serial" in listening:
                companions.append(serial.Keeper(vm, runtime, listening.pop("serial")))
                endpoints["serial"] = Endpoint(fifos=serial.fifos(runtime))
            tpms_end = None
            if tpm.is_wanted(vm):
                companions.append(companion := tpm.Companion(vm, token))
                tpms_end = Endpoint(fd=companion.qemus_end.fileno())
            resources = hw.Resources(
                self.binary, self.accel, port, endpoints, self.supplies, overlays, tpms_end, self.has_sandbox,
                self._shares(runtime, companions),
            )  # fmt: skip
            argv = arguments(hw.hardware(vm, self.plan, resources))
            ports.warn_of_doors(vm, argv)
            with process.Shielded():
                fds = [each.fileno() for each in listening.values()]
                shown = self._shown(argv, companions, runtime)
                child = self._spawn(argv, fds, runtime, companions, has_output=shown is not None)
                qemu = Qemu(child, note, argv, getattr(child, "attach", ""), shown)
                self.begun.append(qemu)
            # of a virtiofsd that fails at once, QEMU must see the end
            _close(each for each in companions if isinstance(each, virtiofsd.Companion))
            self._greeting(qemu.child, note)
            if self.plan.request.loadvm:
                self._load(note, self.plan.request.loadvm)
            for overlay in overlays.values():
                os.unlink(os.path.join(vm.directory, overlay))
            return qemu
        except BaseException:
            is_crash = crash.has_crashed(vm)
            _close([*companions, *listening.values()])
            for begun in self.begun:
                kill.end_child(begun.pid)
                begun.child.wait()
            self.begun.clear()
            if shown is not None:
                shown.close()
            cleanup.clear(vm, has_hook=False, keeps_crash=is_crash)  # `launch` runs the hook, once
            raise
        finally:
            _close([*companions, *listening.values()])

    def _load(self, note: LaunchRecord, snapshot: str) -> None:
        """Load a state, and attach the shares that it was saved without."""
        from qvmsh.machine.snapshot import restore as snapshot_restore

        snapshot_restore.load(self.vm, note, snapshot, is_forced=self.plan.request.is_forced)
        aside.put_back(self.vm, note)

    def _record(self, port: int, runtime: str) -> LaunchRecord:
        """The launch record."""
        return LaunchRecord(
            runtime=runtime,
            boot=process.boot_id(),
            ssh_port=port,
            user=self.vm.settings.text("VM_MACHINE_USER"),
            disposable=self.plan.request.disposable,
            base_only=self.plan.request.base_only,
            loading=self.plan.request.loadvm or "",
            ready=self.vm.settings.text("VM_READY"),
            shares=share_plan.recorded(self.lines),
            directory=launch_record.place(self.vm.directory),
        )

    def _shares(self, runtime: str, companions: list[Companion]) -> tuple[Share, ...]:
        """The directories for the guest; `companions` gets their virtiofsd."""
        found = []
        virtiofsd.begin_log(self.vm)
        for line in self.lines:
            is_attached = self.plan.attached is None or line.tag in self.plan.attached
            chardev = ""
            if is_attached and line.kind == VIRTIOFS:
                companions.append(own := virtiofsd.Companion(self.vm, runtime, line))
                chardev = own.chardev
            found.append(devices.of_line(line, chardev, is_attached=is_attached))
        return tuple(found)

    def _overlays(self, token: str) -> dict[str, str]:
        """A fresh overlay on every disk that the guest writes to: node, and name from the directory."""
        vm = self.vm
        below = disks.overlays(vm, self.supplies)
        if self.disk:
            below[own_disk.MAIN] = (
                os.path.join(vm.directory, self.disk),
                own_disk.image_format(vm, self.disk),
            )
        made = {}
        for node, (path, kind) in below.items():
            overlay = vm.files.disposable(f"{token}-{node}")
            stands_on = os.path.relpath(path, vm.files.state) if path.startswith(vm.directory + "/") else path
            qemuimg.create_overlay(programs.qemu_img(vm), overlay, stands_on, kind)
            made[node] = os.path.relpath(overlay, vm.directory)
        return made

    def _shown(self, argv: list[str], companions: list[Companion], runtime: str) -> serial.Shown | None:
        """The console of a QEMU that reads our standard input, if it is kept."""
        is_kept = any(isinstance(each, serial.Keeper) for each in companions)
        is_ours = self.plan.is_foreground and not self.plan.request.is_encapsulated
        is_here = any(word.startswith("stdio,id=serial,") for word in argv)
        return serial.Shown(runtime) if is_kept and is_ours and is_here else None

    def _spawn(
        self,
        argv: list[str],
        fds: list[int],
        runtime: str,
        companions: list[Companion],
        *,
        has_output: bool,
    ) -> Child:
        """QEMU by way of `host/lock_and_exec.py`, in a session of its own unless it has the terminal.

        Args:
            has_output: its standard output is the console, which is kept.
        """
        vm, foreground = self.vm, self.plan.is_foreground
        if vm.io.level >= 2:
            vm.io.say(f"{vm.name}: {joined(argv)}")
        vm.io.trace("exec " + " ".join(argv))
        program = [
            *self.scope, sys.executable, "-I", "-S", lock_and_exec.__file__, machine_files.PID_FILE,
            str(self.lock.fd),
        ]  # fmt: skip
        for companion in companions:
            fds += companion.fds
            program += companion.words
        keeper = next(each for each in companions if isinstance(each, serial.Keeper)) if has_output else None
        with ExitStack() as stack:
            out = stack.enter_context(host_files.new(vm.files.qemu_stdout))
            err = stack.enter_context(host_files.new(vm.files.qemu_stderr))
            if self.plan.request.is_encapsulated:
                from qvmsh.host import encapsulate

                return encapsulate.begin(
                    program + argv,
                    [*fds, self.lock.fd],
                    cwd=vm.directory,
                    folder=runtime,
                    name=vm.name,
                    stderr=err.fileno(),
                    environ=vm.environ,
                    checkpoint=vm.io.checkpoint,
                )
            streams: dict[str, IO[bytes] | int | None] = {"stdin": None, "stdout": None, "stderr": err}
            if not foreground or self.plan.is_background:
                streams["stdin"] = subprocess.DEVNULL
            if keeper is not None:
                streams["stdout"] = stack.enter_context(keeper.output())
            elif not foreground:
                streams["stdout"] = out
            child: subprocess.Popen[bytes] = _Outliving(
                program + argv,
                cwd=vm.directory,
                pass_fds=[*fds, self.lock.fd],
                start_new_session=not foreground,
                **streams,  # type: ignore[call-overload]  # Popen's overloads want each by name
            )
        return child

    def _greeting(self, child: Child, note: LaunchRecord) -> None:
        """Wait until QEMU answers on its monitor, or ends."""
        with process.Process(child.pid) as handle:
            connection = Exchange(note.socket("qmp"), GREETING_S)
            try:
                ready = process.wait_readable(
                    [handle.fd, connection.fileno()], GREETING_S, self.vm.io.checkpoint
                )
                if ready == connection.fileno():
                    try:
                        connection.negotiate()
                        return
                    except OSError:  # it went away with QEMU
                        handle.wait(5.0)
            finally:
                connection.close()
        if ready is None:
            raise LaunchError(f"QEMU does not answer within {GREETING_S:.0f} s", machine=self.vm.name)
        raise launch_failure.of(self.vm, self.plan.verb, self.binary, child.wait())


def _close(given: Iterable[socket.socket | Companion]) -> None:
    """Close our copies of what QEMU and its companions have, so that these end with QEMU."""
    for each in given:
        each.close()
