"""An account that owns machines on which root works."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import qvmsh
from tests.support.world import DEADLINE_S, Result, Vm, World

IS_IN_USE = 8
"""Source: userdel(8)."""


@contextlib.contextmanager
def throw_away_account() -> Iterator[pwd.struct_passwd]:
    name = f"qvmt{uuid.uuid4().hex[:8]}"
    home = tempfile.mkdtemp(prefix="qvmt-home-")
    subprocess.run(
        ["useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True
    )
    row = pwd.getpwnam(name)
    os.chown(home, row.pw_uid, row.pw_gid)
    yield row
    deadline = time.monotonic() + DEADLINE_S
    while (done := subprocess.run(["userdel", name], capture_output=True, text=True)).returncode == IS_IN_USE:
        assert time.monotonic() < deadline, done.stderr  # one of its processes has not ended
        time.sleep(0.05)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(home)
    shutil.rmtree(f"/tmp/qvm-{row.pw_uid}", ignore_errors=True)


class Owner:
    """A throw-away account."""

    def __init__(self, name: str, mark: str) -> None:
        self.name = name
        self.row = pwd.getpwnam(name)
        self.mark = mark

    def run(self, *words: str | Path, cwd: Path) -> Result:
        """Run qvm as this account."""
        argv = ["/usr/bin/python3", "-P", "-m", "qvmsh", *map(str, words)]
        packages = [each for each in sys.path if each.endswith("site-packages")]
        package = os.pathsep.join([str(Path(qvmsh.__file__).parents[1]), *packages])
        done = subprocess.run(
            argv,
            user=self.row.pw_uid,
            group=self.row.pw_gid,
            extra_groups=[],
            cwd=cwd,
            env={
                "PATH": os.environ["PATH"],
                "HOME": self.row.pw_dir,
                "PYTHONPATH": package,
                "VM_QEMU_ACCEL": "tcg",
                "QVM_TEST_MARK": self.mark,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        return Result(argv, done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str | Path, cwd: Path) -> Result:
        result = self.run(*words, cwd=cwd)
        assert result.status == 0, str(result)
        return result


class OpenWorld(World):
    """A world whose shared configuration every account can read."""

    @property
    def environ(self) -> dict[str, str]:
        return super().environ | {"VM_GLOBAL_CONFIG": "/dev/null"}


def give(vm: Vm, owner: Owner) -> None:
    """The folder above, the machine's directory and all in it are the owner's; root trusts the `.vmrc`."""
    os.chown(vm.directory.parent, owner.row.pw_uid, owner.row.pw_gid)
    for path in (vm.directory, *vm.directory.rglob("*")):
        if path.name != ".vmrc":
            os.chown(path, owner.row.pw_uid, owner.row.pw_gid, follow_symlinks=False)
