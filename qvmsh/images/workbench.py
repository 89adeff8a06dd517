"""The workbench of a build: a folder, and the host's programs run in it.

    bench = Workbench("/home/ann/.cache/qvm/images/.tiny.part", io, environ)
    bench.run("mke2fs", "-q", "-t", "ext4", "root.img")

Programs run in the folder with relative names, so that whatever the path to the cache holds
(a comma, a space, `@@`, which mtools reads as an offset) never reaches a program that gives
such characters a meaning.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping

from qvmsh.errors import CommandError, MissingProgramError
from qvmsh.host import process
from qvmsh.io import Io

PACKAGES = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "debugfs": "e2fsprogs",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
}
"""The programs that a build needs on the host, and the Debian package of each."""

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # not on every user's PATH; e2fsprogs lives there


class Workbench:
    """A folder to work in and the programs that may be run there.

    Args:
        folder: where programs run; relative file names are meant in it.
        io: the caller; its `checkpoint` can interrupt every wait.
        environ: the caller's environment (PATH, proxies for apt, ...).
    """

    def __init__(self, folder: str, io: Io, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.io = io
        self.environ = {**environ, "LC_ALL": "C.UTF-8", "MTOOLSRC": "/dev/null", "MTOOLS_SKIP_CHECK": "1"}
        self.lock_fd = -1
        """A lock that the programs are to hold too: a killed qvm may leave one running for a moment."""
        self.tools = ""
        """A folder, relative to `folder`, of programs that go before the host's (unpacked ones)."""

    @property
    def search_path(self) -> str:
        """PATH of the programs. A relative folder in it is right where they run, and only there."""
        own = f"{self.tools}:" if self.tools else ""
        return f"{own}{self.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"

    def find(self, program: str) -> str | None:
        """The path of a program, None if it is not there."""
        own = self.path(self.tools, program)
        return own if self.tools and os.path.exists(own) else shutil.which(program, path=self.search_path)

    def path(self, *names: str) -> str:
        """The absolute path of something in the folder."""
        return os.path.join(self.folder, *names)

    def require(self, programs: Mapping[str, str] = PACKAGES) -> None:
        """Make sure that the host has the programs.

        Raises:
            MissingProgramError: naming all that are not there.
        """
        missing = [name for name in programs if not self.find(name)]
        if not missing:
            return
        packages = " ".join(sorted({programs[name] for name in missing}))
        hint = f"`apt-get install {packages}` as root"
        if "apt-get" in missing:
            hint = "use `--image FILE` with your own disk, or one that `qvm img build -o` made on Debian"
        names = ", ".join(missing)
        raise MissingProgramError(f"cannot build a guest: not installed: {names}", hint=hint)

    def run(self, *argv: str, cwd: str = "") -> str:
        """Run a program in the folder (or in `cwd` below it) and return what it wrote.

        Raises:
            CommandError: it failed; with its status and its own words. It has ended, as it has
                after KeyboardInterrupt and whatever else `io.checkpoint` raises.
        """
        self.io.trace(f"run {shlex.join(argv)}")
        child = process.begin(
            argv,
            executable=self.find(argv[0]),
            cwd=self.path(cwd),
            env={**self.environ, "PATH": self.search_path},
            pass_fds=(self.lock_fd,) if self.lock_fd >= 0 else (),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        with child:
            out, err = self._await(child)
        if child.returncode:
            raise _failed(argv, child.returncode, out, err)
        return out

    def _await(self, child: subprocess.Popen[str]) -> tuple[str, str]:
        """What the program wrote; it is killed if the wait is interrupted."""
        try:
            while True:
                try:
                    return child.communicate(timeout=0.2)
                except subprocess.TimeoutExpired:
                    self.io.checkpoint()
        except BaseException:
            child.kill()
            raise


def _failed(argv: tuple[str, ...], status: int, out: str, err: str) -> CommandError:
    name = " ".join(argv[:1]) if status > 0 else argv[0]
    how = f"failed with status {status}" if status > 0 else f"was killed by signal {-status}"
    words = [line for line in (err.strip() or out.strip()).splitlines() if line.strip()]
    return CommandError(
        f"{name} {how}",
        argv=argv,
        status=status if status > 0 else 128 - status,
        stdout=out,
        stderr=err,
        details=words[-6:],
    )
