"""The built-in guest with Debian's full kernel, which has 9p: built once, into a cache of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.world import REAL_CACHE, Vm, World

CACHE = Path(REAL_CACHE) / "qvm-test" / "generic"

BUILD = """
import sys
from qvmsh.images import tiny

tiny._KERNEL = "linux-image-amd64"
tiny._MODULES += " 9p 9pnet_virtio"
from qvmsh.__main__ import main

sys.exit(main())
"""


def build() -> str:
    """Path of the image."""
    CACHE.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, "--json", "img", "build", "tiny"],
        env=os.environ | {"XDG_CACHE_HOME": str(CACHE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    path: str = json.loads(done.stdout)["image"]
    return path


def create(world: World, name: str = "demo") -> Vm:
    """A machine on the image."""
    build()
    words = ["-c", BUILD, "create", name, "--image", "tiny", "--cpus", "1"]
    done = world.run(*words, program=sys.executable, env={"XDG_CACHE_HOME": str(CACHE)})
    assert done.status == 0, str(done)
    return Vm(world, world.home / name)
