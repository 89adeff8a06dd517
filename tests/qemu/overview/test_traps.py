"""`qvm list` of directories that are traps: each is a row with its reason, and delays nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.world import QVM, Blank, World

DEAD = """
import ctypes, json, os, subprocess, sys
libc, mount = ctypes.CDLL(None, use_errno=True), os.fsencode(sys.argv[1])
fd = os.open("/dev/fuse", os.O_RDWR)  # what serves the file system, and never answers
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"dead", mount, b"fuse.dead", 0, options):
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
done = [subprocess.run(words, capture_output=True, text=True) for words in json.loads(sys.argv[2])]
print(json.dumps([(each.returncode, each.stdout, each.stderr) for each in done]))
"""


def test_list_odd_files_are_rows_with_a_reason(blank: Blank, world: World) -> None:
    good, *odd = [blank(name) for name in ("good", "fifo", "folder", "large", "link", "binary")]
    for vm in odd:
        (vm.directory / ".vmrc").unlink()
    fifo, folder, large, link, binary = (vm.directory / ".vmrc" for vm in odd)
    os.mkfifo(fifo)
    folder.mkdir()
    large.write_text("A=b\n" * 250000)
    link.symlink_to("/nowhere/at/all")
    binary.write_bytes(bytes(range(256)))
    rows = {row["machine"]: row for row in json.loads(world.run("--json", "list").out)["machines"]}
    assert rows.pop("good")["state"] == "stopped"
    assert {row["state"] for row in rows.values()} == {"broken"}
    assert "not a regular file" in rows["fifo"]["detail"]
    assert "directory" in rows["folder"]["detail"]
    assert "larger than 256 KiB" in rows["large"]["detail"]
    assert all(row["detail"] for row in rows.values())
    assert good.directory.is_dir()


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="mounts a file system")
def test_list_dead_mount_is_a_row_and_is_not_forgotten(blank: Blank, world: World, tmp_path: Path) -> None:
    good, far = blank("good"), blank("far", "mnt/far")
    linked = blank("linked")  # its settings are there
    (linked.directory / ".vmrc").rename(far.directory / "settings")
    (linked.directory / ".vmrc").symlink_to(far.directory / "settings")
    trash = world.home / ".local/share/qvm/trash"
    trash.mkdir(parents=True)
    (trash / "20261201-gone").symlink_to(far.directory.parent / ".trash/20261201-gone")
    words = ["list"], ["list", "--prune"], ["list"], ["list", "--tree", world.home], ["undelete", "--list"]
    lines = [[QVM, *map(str, each)] for each in (*words, ["-M", "good", "status"])]
    began = time.monotonic()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", DEAD, far.directory.parent, json.dumps(lines)],
        env=world.environ, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert time.monotonic() - began < 200, "it waited for the file system"
    assert done.returncode == 0, done.stderr
    for status, out, err in json.loads(done.stdout):
        assert (status, err) == (0, "") or out == "good: stopped\n", (status, out, err)
    for at in (2, 3):
        table = json.loads(done.stdout)[at][1]
        assert table.count(f"{far.directory.parent} does not answer") == 2, table
        assert good.directory.name in table
    assert "far" in world.run("list").out
