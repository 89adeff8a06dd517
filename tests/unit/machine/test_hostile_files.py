"""Files of qvm's own whose place something else has taken: every command ends, and says what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvmsh.errors import QvmError
from qvmsh.host import files
from qvmsh.io import Io
from qvmsh.machine import identity, journal, state
from qvmsh.machine import launch_record as note
from qvmsh.machine import registry as known
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.work import guardian
from tests.support.world import World, write_vmrc

OURS = (
    "uuid", "running", "qemu.pid", "work.lock", "wait.lock", "snapshots.json", "snapshot.unfinished",
    "archive.unfinished", "disk.adding", "settled", "known_hosts", "log/serial.log", "log/qemu.stderr",
    "log/qvm.log",
)  # fmt: skip
MEMORY_BYTES = 1 << 30
PATIENCE_S = 240


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "giant": sparse,
    "junk": lambda path: path.write_bytes(b"[" * 100_000 + bytes(5000)),
}


def trapped(directory: Path, name: str, kind: str) -> Path:
    """A machine with something else at the name of one of its files."""
    write_vmrc(directory, directory.name, VM_MACHINE_ID="09")
    path = directory / ".qvm" / name
    path.parent.mkdir(parents=True)
    KINDS[kind](path)
    return directory


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "giant"])
def test_read_of_what_is_not_a_small_file_fails_at_once(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "x")
    with pytest.raises(OSError, match=r"it is (not a regular file|a directory|larger)"):
        files.read(str(tmp_path / "x"))


def test_read_of_dev_null_is_empty() -> None:
    assert files.read("/dev/null").data == b""


def perform(words: list[str], environ: dict[str, str], directory: Path, out: Path) -> tuple[int, str]:
    """qvm in a child of this process, which starts sooner, with little memory and little time."""
    mine = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    )  # the child has it too
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        try:
            fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(fd, 1), os.dup2(fd, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE_S)
            most = MEMORY_BYTES + mine
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            os.environ.clear()
            os.environ.update(environ)
            os.chdir(directory)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            sys.stdin = open(0, closefd=False)
            from qvmsh.cli.main import Call

            status = Call().perform(words)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 99
        os._exit(status)
    _, code = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(code), out.read_text(errors="replace")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", ["status", "stop", "snapshot list", "logs"])
def test_verb_on_a_machine_with_a_trap_ends_and_says_why(
    words: str, kind: str, world: World, tmp_path: Path
) -> None:
    for name in OURS:
        place = trapped(tmp_path / name.replace("/", "-").replace(".", "-"), name, kind)
        status, said = perform(words.split(), world.environ, place, tmp_path / "out")
        assert status in (0, 1, 2, 3), f"{words} with a {kind} at {name}: {status}\n{said}"
        assert "Traceback" not in said, f"{words} with a {kind} at {name}\n{said}"
        assert "bug in qvm" not in said, f"{words} with a {kind} at {name}\n{said}"
        assert status == 0 or said.strip()
        for each in sorted(place.rglob("*"), reverse=True):
            each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()


def test_list_shows_every_machine_beside_those_with_traps(world: World, tmp_path: Path) -> None:
    places = []
    for name in OURS:
        for kind in KINDS:
            place = tmp_path / f"{name.replace('/', '-').replace('.', '-')}-{kind}"
            places.append(trapped(place, name, kind))
    write_vmrc(tmp_path / "fine", "fine")
    listed = Path(world.environ["XDG_DATA_HOME"]) / "qvm/machines"
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(f"{each.name}\t{each}\n" for each in (*places, tmp_path / "fine")))
    began = time.monotonic()
    status, said = perform(["list"], world.environ, tmp_path, tmp_path / "out")
    assert time.monotonic() - began < PATIENCE_S
    assert status == 0, said
    shown = {line.split()[0] for line in said.splitlines()}
    assert shown >= {"fine", *(each.name for each in places)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
UNFINISHED = {
    "what": "commit", "name": "x", "phase": "pivot", "disks": [["main", "demo-backing.qcow2"]],
    "was_running": True, "has_memory": True, "is_frozen": False, "entry": None, "since": "then",
    "device": "disk0", "node": "main", "backing": "b", "backing_format": "qcow2",
}  # fmt: skip
INTERRUPTED = {
    "what": "archive", "since": 1.0, "pid": 1, "is_frozen": 0, "is_held": 0, "state": "",
    "cuts": [{"disk": "a", "format": "qcow2", "node": "n", "cut": "c", "cut_node": "d", "state": "open"}],
}  # fmt: skip
SNAPSHOTS = {
    "version": 1,
    "head": "x",
    "snapshots": [{"name": "x", "time": "then", "disks": [], "images": []}],
}


@st.composite
def wrong(draw: st.DrawFn, right: dict[str, Any]) -> Any:
    """A document of ours in which something has another value, or is missing; or any other."""
    if draw(st.booleans()):
        return draw(JSON)
    document = json.loads(json.dumps(right))
    for key in draw(st.lists(st.sampled_from(sorted(document)), max_size=2)):
        if draw(st.booleans()):
            document[key] = draw(JSON)
        else:
            document.pop(key, None)
    return document


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(wrong(UNFINISHED), wrong(INTERRUPTED), wrong(SNAPSHOTS))
def test_record_of_any_shape_is_sane_or_an_error(tmp_path: Path, one: Any, two: Any, three: Any) -> None:
    write_vmrc(tmp_path)
    vm = BaseMachine(str(tmp_path), io=Io(level=0, capture=True))
    (tmp_path / ".qvm").mkdir(exist_ok=True)
    for name, document in (
        ("snapshot.unfinished", one), ("archive.unfinished", two), ("snapshots.json", three),
    ):  # fmt: skip
        (tmp_path / ".qvm" / name).write_text(json.dumps(document))
    for look in (
        lambda: journal.is_of(vm, journal.Kind.SNAPSHOT_LOAD),
        lambda: journal.must_stand_still(vm),
        lambda: journal.require_none(vm),
        lambda: journal.message(vm),
        lambda: journal.pending(vm),
        lambda: Catalogue.read(vm).text(),
        lambda: state.observe(vm),
    ):
        with contextlib.suppress(QvmError):
            look()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300))
def test_small_file_of_any_bytes_is_read_or_absent(tmp_path: Path, data: bytes) -> None:
    write_vmrc(tmp_path)
    vm = BaseMachine(str(tmp_path), io=Io(level=0, capture=True))
    (tmp_path / ".qvm").mkdir(exist_ok=True)
    place = os.fsencode(note.place(str(tmp_path)))
    for name in ("uuid", "qemu.pid", "settled", "known_hosts", "work.lock", "wait.lock"):
        (tmp_path / ".qvm" / name).write_bytes(data)
    (tmp_path / ".qvm/running").write_bytes(b"runtime /nowhere\ndirectory " + place + b"\nssh_port " + data)
    (tmp_path / "qvm").mkdir(exist_ok=True)
    (tmp_path / "qvm/machines").write_bytes(data)
    assert identity.known_uuid(vm) in ("", data.decode(errors="surrogateescape").strip())
    assert state.observe(vm).kind in (state.STOPPED, state.CRASHED)
    guardian.take_messages(vm)
    known.rows({"XDG_DATA_HOME": str(tmp_path)})
