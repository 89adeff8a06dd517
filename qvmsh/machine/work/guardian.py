"""A small process beside one that works on a running guest: if that is killed, the guest is resumed.

    with Guardian(vm):
        ...freeze the guest's file systems, cut the disks, join them...

`kill -9`, or a kernel short of memory, may end qvm while the guest's file systems are frozen, its writes
wait, or it is stopped. The next command recovers that from the journals, but until then the guest would not
run. So a shell waits at the end of a pipe, which costs a millisecond. It ends at the word `done`; if the
pipe breaks first it becomes `python -m qvmsh.machine.work.guardian_main ORDER`, which does what the next
command would do, and leaves messages for that one. A machine that has ended is left to the next command.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

from qvmsh import errors
from qvmsh.host import files as host_files
from qvmsh.machine import journal
from qvmsh.machine.machine import BaseMachine


class Guardian:
    """Watches this process while the block lasts; does nothing if no process can be started."""

    def __init__(self, vm: BaseMachine) -> None:
        self.vm = vm
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe = -1

    def __enter__(self) -> Guardian:
        order = json.dumps({"directory": self.vm.directory, "overrides": self.vm.overrides})
        words = [sys.executable, "-X", "utf8", "-P", "-m", "qvmsh.machine.work.guardian_main", order]
        package = os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__)))
        paths = [package, os.environ.get("PYTHONPATH", "")]
        reader, self._pipe = os.pipe()
        try:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r done || exec "$@"', "qvm-guardian", *words],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
                start_new_session=True,  # what is meant for our group does not end it
            )
        except OSError as error:
            self.vm.io.trace(f"this process has no guardian: {error.strerror}")
        finally:
            os.close(reader)
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        pipe, self._pipe = self._pipe, -1
        is_interrupted = error is not None and not isinstance(error, Exception) and journal.is_left(self.vm)
        if not is_interrupted:
            with contextlib.suppress(BrokenPipeError):  # somebody has ended it
                os.write(pipe, b"done\n")
        os.close(pipe)
        if self._child is not None and not is_interrupted:
            self._child.wait()


def take_messages(vm: BaseMachine) -> list[str]:
    """What a guardian has done since the last command; each message only once."""
    try:
        found = host_files.read(vm.files.recovered).text.splitlines()
    except FileNotFoundError:
        return []
    except OSError:  # something else is there
        found = []
    with contextlib.suppress(OSError):
        host_files.remove(vm.files.recovered)
    return found
