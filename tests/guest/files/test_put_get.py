"""`put` and `get` with a real guest: names, trees, holes, streams, targets, by each way."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.odd_names import make_sparse, make_tree, seen
from tests.support.world import QVM, Result, Vm

pytestmark = pytest.mark.guest

WAYS = ("ssh", "sftp", "agent")


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No part and no other trace of a copy stays in the guest."""
    yield
    if "running" in request.fixturenames:
        vm: Vm = request.getfixturevalue("running")
        found = vm.ok("exec", "--via", "agent", "--shell", "find / -xdev -name '*.part-*' -o -name '.qvm-*'")
        assert found.out == ""
        vm.ok("exec", "--via", "agent", "--shell", "chmod -R u+w /tmp/*; rm -rf /tmp/*")


def report(vm: Vm, *words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vm.ok("--json", *words).out)
    return found


def refusal(vm: Vm, *words: str | Path) -> Result:
    result = vm.qvm(*words)
    assert result.status != 0, str(result)
    assert "Traceback" not in result.err
    return result


@pytest.mark.parametrize("way", WAYS)
def test_put_and_get_a_tree_keep_every_name_and_mode(running: Vm, tmp_path: Path, way: str) -> None:
    make_tree(tmp_path / "tree")
    done = report(running, "put", "--via", way, tmp_path / "tree", "/tmp/")
    assert (done["via"], done["failed"]) == (way, [])
    back = report(running, "get", "--via", way, "/tmp/tree", tmp_path / "back")
    assert (back["via"], back["files"], back["failed"]) == (way, done["files"], [])
    assert seen(tmp_path / "back") == seen(tmp_path / "tree")


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    names=st.sets(
        st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name),
        min_size=40,
        max_size=60,
    )
)
def test_put_and_get_keep_names_of_any_bytes(
    running: Vm, tmp_path_factory: pytest.TempPathFactory, way: str, names: set[bytes]
) -> None:
    top = tmp_path_factory.mktemp("names")
    kept = [name for name in names if name not in (b".", b"..")]
    for at, name in enumerate(kept):
        Path(os.fsdecode(os.path.join(os.fsencode(top), name))).write_bytes(b"%d" % at)
    running.ok("put", "--via", way, top, "/tmp/names")
    running.ok("get", "--via", way, "/tmp/names", f"{top}-back")
    assert seen(Path(f"{top}-back")) == seen(top)
    running.ok("ssh", "sudo rm -rf /tmp/names")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [b"a b", b"-rf", b"new\nline", b"q'uote", b"$HOME", b"\xff" * 255, b"-"])
def test_put_and_get_one_file_of_any_name(running: Vm, tmp_path: Path, way: str, name: bytes) -> None:
    source = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    source.write_bytes(os.urandom(70_000))
    source.chmod(0o640)
    os.utime(source, (1_234_567_890, 1_234_567_890))
    there = b"/tmp/" + name
    words = [b"put", b"--via", way.encode(), os.fsencode(source), b"/tmp"]
    for each in (words, [b"get", b"--via", way.encode(), there, b"back"]):
        done = subprocess.run(
            [QVM.encode(), *each], cwd=running.directory, env=running.world.environ, capture_output=True
        )
        assert done.returncode == 0, done.stderr
    back = running.directory / "back"
    assert back.read_bytes() == source.read_bytes()
    status = back.stat()
    assert (status.st_mode & 0o7777, int(status.st_mtime)) == (0o640, 1_234_567_890)


@pytest.mark.parametrize("way", WAYS)
def test_put_and_get_keep_holes(running: Vm, tmp_path: Path, way: str) -> None:
    make_sparse(tmp_path / "disk", 12 << 20, 1 << 20, 9 << 20)
    (tmp_path / "tree").mkdir()
    make_sparse(tmp_path / "tree/disk", 8 << 20, 4 << 20)
    for name in ("disk", "tree"):
        running.ok("put", "--via", way, tmp_path / name, "/tmp/")
        running.ok("get", "--via", way, f"/tmp/{name}", f"{tmp_path}/back/")
    for name in ("disk", "tree/disk"):
        back = tmp_path / "back" / name
        assert back.read_bytes() == (tmp_path / name).read_bytes()
        assert back.stat().st_blocks * 512 < 1 << 20
    used = running.ok("ssh", "du -k /tmp/disk").out.split()[0]
    assert int(used) < 1024


def test_put_file_with_more_holes_than_programs_is_right(running: Vm, tmp_path: Path) -> None:
    make_sparse(tmp_path / "disk", 60 << 20, *range(0, 60 << 20, 256 << 10))
    running.ok("put", tmp_path / "disk", "/tmp/disk")
    running.ok("get", "/tmp/disk", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "disk").read_bytes()


@pytest.mark.parametrize("way", WAYS)
def test_put_stdin_and_get_stdout_are_exact(running: Vm, way: str) -> None:
    data = os.urandom(300_000)
    how: dict[str, Any] = {"cwd": running.directory, "env": running.world.environ, "capture_output": True}
    put = subprocess.run([QVM, "put", "--via", way, "-", "/tmp/in put"], input=data, **how)
    assert (put.returncode, put.stderr) == (0, b"")
    assert put.stdout.startswith(b"booted: 1 file, 293.0 KiB in ") or b": 1 file, 293.0 KiB in " in put.stdout
    got = subprocess.run([QVM, "get", "--via", way, "/tmp/in put", "-"], stdin=subprocess.DEVNULL, **how)
    assert (got.returncode, got.stdout, got.stderr) == (0, data, b"")
    assert running.ok("exec", "stat", "-c", "%a", "/tmp/in put").out == "644\n"
    line = f"exec {QVM} put --via {way} - '/tmp/in put' <&-"
    closed = subprocess.run(["bash", "-c", line], stdin=subprocess.DEVNULL, **how)
    assert closed.returncode == 1
    assert b"cannot read standard input: it is closed; nothing was copied" in closed.stderr
    assert running.ok("exec", "stat", "-c", "%s", "/tmp/in put").out == f"{len(data)}\n"


def test_put_targets_are_those_of_cp(running: Vm, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/f").write_text("f")
    running.ok("put", tmp_path / "a", "/tmp/new name")
    running.ok("put", tmp_path / "a", tmp_path / "b", tmp_path / "d", "/tmp/made/")
    running.ok("ssh", "mkdir -p /tmp/d/e; echo old >/tmp/d/f; echo kept >/tmp/d/g; ln -s a /tmp/d/e/l")
    running.ok("put", tmp_path / "d", "/tmp")
    running.ok("put", tmp_path / "a", "~/in home")
    running.ok("put", tmp_path / "b", "in home")
    listing = "cd /tmp; find . -type f -exec sh -c 'echo $1 $(cat \"$1\")' _ {} ';' | sort; cat ~/in\\ home"
    assert running.ok("ssh", f"{listing}; rm ~/in\\ home").out == (
        "./d/f f\n./d/g kept\n./made/a a\n./made/b b\n./made/d/f f\n./new name a\nb"
    )
    running.ok("put", tmp_path / "a", "/tmp/made by one/")
    assert running.ok("ssh", "stat -c %a /tmp/made '/tmp/made by one'").out == "755\n755\n"


def test_get_targets_are_those_of_cp(running: Vm, tmp_path: Path) -> None:
    running.ok(
        "ssh", "cd /tmp; mkdir -p d/e; echo a >a; echo b >b; echo f >d/f; ln -s /tmp/d link; ln -s a la"
    )
    (tmp_path / "d").mkdir()
    (tmp_path / "d/g").write_text("kept\n")
    running.ok("get", "/tmp/a", tmp_path / "new name")
    running.ok("get", "/tmp/a", "/tmp/b", "/tmp/d", f"{tmp_path}/made/")
    running.ok("get", "/tmp/d", tmp_path)
    running.ok("get", "/tmp/link", "/tmp/la", f"{tmp_path}/links/")  # a link that is named is followed
    found = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {
        "new name": "a\n", "made/a": "a\n", "made/b": "b\n", "made/d/f": "f\n", "d/f": "f\n", "d/g": "kept\n",
        "links/link/f": "f\n", "links/la": "a\n",
    }  # fmt: skip
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["put", "nosuch", "/tmp/"], 1, "cannot put nosuch: No such file or directory; nothing was copied"),
        (["put", ".vmrc"], 2, "put: the target is missing"),
        (["put"], 2, "put: nothing to copy is given"),
        (["put", ".vmrc", "/nosuch/x"], 1, "cannot put /nosuch/x in the guest: its directory does not exist"),
        (["put", ".vmrc", "/dev/null"], 1, "cannot put /dev/null in the guest: it is a device"),
        (["put", ".vmrc", "/etc/"], 1, "cannot write to /etc/ in the guest"),
        (["put", ".vmrc", "./.vmrc", "/tmp/"], 2, "have the same name"),
        (["put", ".vmrc", ".qvm", "/tmp/f"], 2, "/tmp/f is not a directory in the guest"),
        (["put", "-", ".vmrc", "/tmp/"], 2, "standard input cannot be copied together"),
        (["put", "--via", "telnet", ".vmrc", "/tmp/"], 2, "--via telnet: must be one of ssh, sftp, agent"),
        (["get", "/nosuch", "."], 1, "cannot get /nosuch from the guest: it does not exist"),
        (["get", "/etc/passwd", "no/such/"], 0, ""),
        (["get", "/etc/passwd", "nosuch/x"], 1, "nosuch is not a directory; nothing was copied"),
        (["get", "/etc/shadow", "x"], 1, "cannot read /etc/shadow in the guest"),
        (["get", "/dev/null", "x"], 1, "cannot get /dev/null from the guest: it is a device"),
        (["get", "/etc", "-"], 2, "only one file can be written to standard output"),
        (["get", "/etc/passwd", "/dev/null"], 1, "/dev/null is a device"),
        (["get", "/", "x"], 2, "get: / has no name of its own"),
        (["sync", ".vmrc", "/tmp"], 2, "either the sources or the target must be the guest's"),
        (["sync", ".vmrc", ":/tmp/"], 1, "the guest has no rsync"),
    ],
)
def test_copy_that_cannot_be_made_says_why(running: Vm, words: list[str], status: int, said: str) -> None:
    before = {path.name for path in running.directory.iterdir()}
    result = running.qvm(*words)
    assert (result.status, said in result.err) == (status, True), str(result)
    assert {path.name for path in running.directory.iterdir()} - before <= {"no"}


def test_get_what_cannot_be_read_is_named_and_the_rest_copied(running: Vm, tmp_path: Path) -> None:
    running.ok(
        "ssh", "mkdir /tmp/d; echo x >/tmp/d/x; echo y >/tmp/d/y; chmod 0 /tmp/d/y; mkfifo /tmp/d/pipe"
    )
    result = refusal(running, "get", "/tmp/d", tmp_path)
    assert result.status == 1
    assert "not copied: d/pipe: it is a FIFO" in result.out
    assert "Permission denied" in result.out
    assert sorted(os.listdir(tmp_path / "d")) == ["x"]


@pytest.mark.parametrize("way", ["ssh", "sftp"])
def test_put_over_a_running_program_replaces_it(running: Vm, tmp_path: Path, way: str) -> None:
    """A file that is in use is replaced as a whole, never written to."""
    (tmp_path / "prog").write_text("#!/bin/sh\necho new\n")
    (tmp_path / "prog").chmod(0o755)
    running.ok("ssh", "printf '#!/bin/sh\\nread x\\necho old\\n' >/tmp/prog; ln /tmp/prog /tmp/other")
    running.ok("put", "--via", way, tmp_path / "prog", "/tmp/prog")
    assert running.ok("ssh", "/tmp/prog; cat /tmp/other | tail -1").out == "new\necho old\n"


@pytest.mark.parametrize("way", WAYS)
def test_put_read_only_folders_twice(running: Vm, tmp_path: Path, way: str) -> None:
    """Below a folder that is there already they cannot be moved by their owner, nor written to."""
    for content in ("first", "second"):
        tree = tmp_path / content / "tree"
        (tree / "closed/inner").mkdir(parents=True)
        for name in ("a", "closed/b", "closed/inner/c"):
            (tree / name).write_text(content)
        for name in ("closed/inner", "closed"):
            (tree / name).chmod(0o555)
        running.ok("ssh", "mkdir -p /tmp/tree")
        assert report(running, "put", "--via", way, tree, "/tmp/")["failed"] == []
        found = running.ok(
            "ssh", "cd /tmp/tree; cat a closed/b closed/inner/c; stat -c %a closed closed/inner"
        )
        assert found.out == f"{content * 3}555\n555\n"


def test_upload_and_download_of_the_shell_go_the_same_way(running: Vm, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    script = tmp_path / "script.py"
    script.write_text(
        """
import sys
here = sys.argv[1]
guest.upload(here + "/tree", "/tmp/up")
guest.download("/tmp/up", here + "/down")
print(guest.path("/tmp/up").is_dir(), vm.put(here + "/script.py", "/tmp/").via)
done = vm.get("/tmp/script.py", here + "/copy")
print(bool(done), done.files, done.bytes > 0)
"""
    )
    result = running.ok("sh", script, tmp_path)
    assert result.out == "True ssh\nTrue 1 True\n"
    assert seen(tmp_path / "down") == seen(tmp_path / "tree")
