"""What a guardian runs when the command that it watches is killed: the recovery of its work."""

from __future__ import annotations

import json
import sys
import time

from qvmsh.errors import QvmError
from qvmsh.host import files as host_files
from qvmsh.host import locks
from qvmsh.machine import journal, log, programs
from qvmsh.machine.machine import BaseMachine


def recover(vm: BaseMachine, timeout_s: float = locks.RECOVERY_S) -> None:
    """Do what the next command would do about interrupted work, if QEMU runs, and note what it was.

    Args:
        timeout_s: how long to wait for the work lock: others may hold it to recover the same.
    """
    from qvmsh.machine.work import recovery

    deadline = time.monotonic() + timeout_s
    while journal.is_left(vm):
        try:
            lock = locks.WorkLock(vm.files.work_lock, locks.RECOVERING).acquire()
        except locks.Held:
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)  # a lock's end cannot be waited for with a limit
            continue
        with lock:
            if locks.holder(vm.files.pid_file) is None:
                return
            lines = []
            for record in journal.pending(vm):
                try:
                    lines.append(recovery.message(record, recovery.recover(vm, record)))
                except QvmError as error:
                    log.note(vm, f"interrupted work could not be recovered: {error}", is_error=True)
            if lines:
                host_files.write_atomic(vm.files.recovered, "\n".join(lines) + "\n")
        return


def main() -> None:
    order = json.loads(sys.argv[1])
    overrides = [(name, value) for name, value in order["overrides"]]
    vm = BaseMachine(order["directory"], overrides=overrides)
    programs.require_accepted(vm)  # as the interrupted command did
    recover(vm)


if __name__ == "__main__":
    main()
