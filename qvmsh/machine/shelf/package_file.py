"""Where a package goes: a file that gets its name at the end, or standard output.

with Target(vm, "demo.tar.zst", is_forced=False) as target:
    os.write(target.fd, data)
    target.finish()
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.errors import QvmError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.machine import BaseMachine

STDOUT = "-"
_PART = ".part"


class Target:
    """Where the package goes: a file that gets its name at the end, or standard output.

    Raises:
        StateError: the file exists.
        UsageError: standard output is a terminal.
    """

    def __init__(self, vm: BaseMachine, file: str, *, is_forced: bool) -> None:
        self.vm = vm
        self.file = file
        self.is_forced = is_forced
        self.fd = -1
        self.size_bytes: int | None = None
        self._part = ""

    def __enter__(self) -> Target:
        if self.file == STDOUT:
            self._open_standard_output()
            return self
        self._require_free()
        for left in _left_parts(self.file):
            host_files.remove(left)
        self._part = host_files.unique(f"{self.file}{_PART}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.fd = os.open(self._part, flags, 0o600)
        except OSError as error:
            raise QvmError(
                f"cannot export to {self.file}: {error.strerror}", machine=self.vm.name,
                hint="choose a folder that exists and that you can write to",
            ) from error  # fmt: skip
        return self

    def _open_standard_output(self) -> None:
        vm = self.vm
        if vm.io.json:
            raise UsageError("export: the package and the result of --json cannot both go to standard output")
        if vm.io.is_on_terminal:
            raise UsageError("export: a package is not written to a terminal", hint="`qvm export - > FILE`")
        try:
            vm.io.stdout.flush()
            self.fd = os.dup(vm.io.stdout.fileno())
        except (OSError, ValueError, AttributeError):
            raise UsageError(
                "export: standard output is not a file here", hint="give a file's name"
            ) from None

    def _require_free(self) -> None:
        if os.path.isdir(self.file):
            raise UsageError(
                f"export: {self.file} is a folder", hint=f"`qvm export {self.file}/{self.vm.name}.tar.gz`"
            )
        if os.path.lexists(self.file) and not self.is_forced:
            raise self._taken()

    def _taken(self) -> StateError:
        return StateError(
            f"{self.file} already exists",
            machine=self.vm.name,
            hint="--force replaces it; or give another name",
        )

    def finish(self) -> None:
        """Give the package its name; an interruption comes before that or after it."""
        if not self._part:
            return
        os.fsync(self.fd)
        self.size_bytes = os.fstat(self.fd).st_size
        with process.Shielded():
            if self.is_forced:
                os.rename(self._part, self.file)
            else:
                try:
                    os.link(self._part, self.file)  # unlike rename, never over a new file
                    host_files.remove(self._part)
                except FileExistsError:
                    raise self._taken() from None
                except OSError:  # a file system without links
                    os.rename(self._part, self.file)
            self._part = ""
        host_files.sync_folder(os.path.dirname(self.file))

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        if self._part:
            host_files.remove(self._part)


def _left_parts(file: str) -> Iterator[str]:
    """What killed exports to the same file left."""
    folder, name = os.path.split(file)
    with contextlib.suppress(OSError):
        for each in os.listdir(folder or "."):
            pid, _, rest = each.removeprefix(f"{name}{_PART}").partition("-")
            is_part = each.startswith(f"{name}{_PART}") and pid.isdigit() and len(rest) == 8
            if is_part and not process.exists(int(pid)):
                yield os.path.join(folder, each)
