"""The library door: `from qvmsh import Machine`.

    vm = Machine.open("/vm/demo")
    vm.start()
    print(vm.ssh("uname -r"))
    vm.stop()
    with Machine.open("/vm/demo").running(disposable=True) as vm:     # stops it if it started it
        print(vm.ssh("uname -r"))

A command's first parameter is the machine, so its function is used as a method: same names,
arguments, results and errors as through every other door. Nothing is printed; results are returned
and failures raised (`qvmsh.errors`). Importing this starts nothing and reads nothing.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from qvmsh.commands import agent as _agent
from qvmsh.commands import allow as _allow
from qvmsh.commands import archive as _archive
from qvmsh.commands import clone as _clone
from qvmsh.commands import cmd as _cmd
from qvmsh.commands import config as _config
from qvmsh.commands import console as _console
from qvmsh.commands import delete as _delete
from qvmsh.commands import disk as _disk
from qvmsh.commands import doctor as _doctor
from qvmsh.commands import dryrun as _dryrun
from qvmsh.commands import env as _env
from qvmsh.commands import exec_ as _exec
from qvmsh.commands import export as _export
from qvmsh.commands import forward as _forward
from qvmsh.commands import freeze as _freeze
from qvmsh.commands import get as _get
from qvmsh.commands import info as _info
from qvmsh.commands import init as _init
from qvmsh.commands import kill as _kill
from qvmsh.commands import logs as _logs
from qvmsh.commands import monitor as _monitor
from qvmsh.commands import pause as _pause
from qvmsh.commands import put as _put
from qvmsh.commands import qmp as _qmp
from qvmsh.commands import reboot as _reboot
from qvmsh.commands import rename as _rename
from qvmsh.commands import renew as _renew
from qvmsh.commands import restart as _restart
from qvmsh.commands import restore as _restore
from qvmsh.commands import resume as _resume
from qvmsh.commands import run as _run
from qvmsh.commands import sh as _sh
from qvmsh.commands import share as _share
from qvmsh.commands import snapshot as _snapshot
from qvmsh.commands import ssh as _ssh
from qvmsh.commands import ssh_config as _ssh_config
from qvmsh.commands import start as _start
from qvmsh.commands import status as _status
from qvmsh.commands import stop as _stop
from qvmsh.commands import suspend as _suspend
from qvmsh.commands import sync as _sync
from qvmsh.commands import wakeup as _wakeup
from qvmsh.commands.arguments import fitting as _fitting
from qvmsh.commands.index import COMMANDS as _COMMANDS
from qvmsh.config import locate
from qvmsh.errors import CommandError, DeadlineError, GuestUnreachableError, UsageError
from qvmsh.io import QUIET, Io
from qvmsh.machine import machine, owner, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Self

    from qvmsh.machine.guest.result import Result


class Machine(machine.BaseMachine):
    """A machine with every command as a method; see `machine.machine.BaseMachine`."""

    agent = _agent.agent
    allow = _allow.allow
    archive = _archive.archive
    clone = _clone.clone
    cmd = _cmd.cmd
    config = _config.config
    config_edit = _config.config_edit
    console = _console.console
    delete = _delete.delete
    disk_add = _disk.disk_add
    disk_check = _disk.disk_check
    disk_commit = _disk.disk_commit
    disk_list = _disk.disk_list
    disk_rebase = _disk.disk_rebase
    disk_resize = _disk.disk_resize
    disk_trim = _disk.disk_trim
    doctor = _doctor.doctor
    dryrun = _dryrun.dryrun
    env = _env.env
    execute = _exec.execute
    export = _export.export
    forward_add = _forward.forward_add
    forward_list = _forward.forward_list
    forward_remove = _forward.forward_remove
    freeze = _freeze.freeze
    info = _info.info
    init = _init.init
    ip = _info.ip
    kill = _kill.kill
    logs = _logs.logs
    monitor = _monitor.monitor
    move = _rename.move
    reboot = _reboot.reboot
    rename = _rename.rename
    renew = _renew.renew
    restore = _restore.restore
    run = _run.run
    serial = _logs.serial
    set_time = _info.set_time
    sh = _sh.sh
    share_add = _share.share_add
    share_list = _share.share_list
    share_remove = _share.share_remove
    snapshot_delete = _snapshot.snapshot_delete
    snapshot_diff = _snapshot.snapshot_diff
    list_disk = _snapshot.list_disk
    save_disk = _snapshot.save_disk
    snapshot_list = _snapshot.snapshot_list
    snapshot_prune = _snapshot.snapshot_prune
    snapshot_restore = _snapshot.snapshot_restore
    snapshot_save = _snapshot.snapshot_save
    snapshot_show = _snapshot.snapshot_show
    snapshot_verify = _snapshot.snapshot_verify
    ssh = _ssh.ssh
    ssh_config = _ssh_config.ssh_config
    put = _put.put
    get = _get.get
    start = _start.start
    status = _status.status
    stderr = _logs.stderr
    stdout = _logs.stdout
    stop = _stop.stop
    wakeup = _wakeup.wakeup
    suspend = _suspend.suspend
    thaw = _freeze.thaw
    sync = _sync.sync
    resume = _resume.resume
    restart = _restart.restart
    qmp = _qmp.qmp
    pause = _pause.pause

    def succeed(self, *lines: str, **how: Any) -> Result:
        """Let the guest's shell run each line, and raise if one fails.

        Args:
            lines: `"test -e /etc/passwd"`; the result is that of the last one.
            how: as for `execute`.

        Raises:
            CommandError: a line's exit status is not 0; the rest as `execute`.
        """
        return self._each(lines, how, is_failure=False)

    def fail(self, *lines: str, **how: Any) -> Result:
        """Let the guest's shell run each line, and raise if one succeeds; see `succeed`.

        Raises:
            CommandError: a line's exit status is 0; the rest as `execute`.
        """
        return self._each(lines, how, is_failure=True)

    def _each(self, lines: Sequence[str], how: Mapping[str, Any], *, is_failure: bool) -> Result:
        if not lines:
            raise UsageError("no line for the guest's shell is given", hint='`succeed("uname -r")`')
        for line in lines:
            done = self.execute(shell=line, **how)
            if not is_failure:
                done.check()
            elif done:
                raise CommandError(
                    f"in the guest, `{line}` succeeded, but had to fail",
                    argv=(line,), status=0, stdout=str(done), stderr=done.stderr, machine=self.name,
                    details=done.lines[-5:],
                )  # fmt: skip
        return done

    @classmethod
    def known(cls, *labels: str, environ: Mapping[str, str] | None = None) -> list[Self]:
        """Return the known machines that have all of `labels` (VM_LABELS)."""
        environ = os.environ if environ is None else environ
        found = [each for each in registry.directories(environ) if owner.of(each, environ) is None]
        return [
            cls(each, environ=environ) for each in found if {*labels} <= {*registry.labels(each, environ)}
        ]

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str] | None = None,
        *,
        io: Io = QUIET,
        environ: Mapping[str, str] | None = None,
        overrides: Sequence[tuple[str, str]] = (),
    ) -> Self:
        """Return the machine in `directory`, found by the rules of the command line.

        Args:
            directory: where its `.vmrc` is; None = `VM_HOME`, else the current directory.
            io: how its commands communicate with the caller.
            environ: the environment that the settings' environment layer is read from.
            overrides: `--set NAME=value` pairs, which override every file.

        Raises:
            ConfigError: there is no `.vmrc`.
        """
        environ = os.environ if environ is None else environ
        where = None if directory is None else os.fspath(directory)
        found = locate.find(where, environ, os.getcwd())
        return cls(found, io=io, environ=environ, overrides=overrides)

    @contextmanager
    def running(
        self,
        *,
        base_only: bool = False,
        disposable: bool = False,
        loadvm: str | None = None,
        ssh_attempts: int | None = None,
    ) -> Iterator[Self]:
        """Keep the guest running for a block: `with Machine.open(d).running() as vm:`.

        A machine that is off is started, and powered off when the block ends, also by an exception;
        a guest that does not power off is killed. A machine that is already running keeps running
        after the block; its guest is waited for first.

        Args:
            base_only, disposable, loadvm, ssh_attempts: as for `start`; ignored if the machine is
                already running.

        Raises:
            StateError: it is paused, suspended or broken. Nothing changed.
            LaunchError, DeadlineError: as for `start`; QEMU is ended if it was started.
        """
        from qvmsh.machine import state
        from qvmsh.machine.guest import readiness

        seen = state.observe(self)
        if seen.is_live:
            pid, note = state.require(self, seen, "use it", state.RUNNING, state.STARTING)
            timeout_s = readiness.attempt_seconds(self, pid, ssh_attempts)
            if readiness.is_awaited(self, note):
                readiness.wait(self, pid, note, timeout_s=timeout_s)
            yield self
            return
        try:
            self.start(base_only=base_only, disposable=disposable, loadvm=loadvm, ssh_attempts=ssh_attempts)
        except (DeadlineError, GuestUnreachableError) as error:  # `start` leaves it running then
            self.kill()  # nothing in it answers
            error.what = error.what.replace("it is still running", "it was ended")
            raise
        try:
            yield self
        finally:
            self._stop_if_live()

    def _stop_if_live(self) -> None:
        from qvmsh.machine import state

        if not state.observe(self).is_live:
            return
        try:
            self.stop(force=True)
        except BaseException:  # interrupted: nothing is left running either
            if state.observe(self).is_live:
                self.kill()
            raise


for _verb, _row in _COMMANDS.items():
    if hasattr(Machine, _row[1]):
        setattr(Machine, _row[1], _fitting(_verb, getattr(Machine, _row[1])))
