"""The process that keeps the serial console, with FIFOs in QEMU's place."""

from __future__ import annotations

import os
import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvmsh.host import console_keeper as keeper
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.power.logs import Follower
from tests.support.world import wait_until

DEADLINE_S = 120


def numbered(first: int, count: int) -> bytes:
    """Lines of 64 bytes that all differ."""
    return b"".join(b"%063d\n" % number for number in range(first, first + count))


class Kept:
    """A keeper, and this test as its QEMU."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "serial.log"
        for name in ("in", "out"):
            os.mkfifo(folder / name)
        out = os.open(folder / "out", os.O_RDONLY | os.O_NONBLOCK)
        into = os.open(folder / "in", os.O_RDWR | os.O_NONBLOCK)
        logs = os.open(folder, os.O_RDONLY)
        life, self.life = os.pipe()
        self.door = str(folder / "door")
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(self.door)
            door.listen()
            fds = [life, out, into, door.fileno(), logs]
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, *map(str, fds), "serial.log"],
                pass_fds=fds,
            )
        self.written = os.open(folder / "out", os.O_WRONLY)
        self.typed = os.open(folder / "in", os.O_RDONLY)
        for fd in (life, out, into, logs):
            os.close(fd)

    @property
    def worker(self) -> int:
        """Pid of the process that works; the other waits for its end."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait_until(lambda: bool(children.read_text()))
        return int(children.read_text())

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.written, data) :]

    def is_logged(self, size: int) -> bool:
        return self.log.exists() and self.log.stat().st_size >= size

    def client(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(DEADLINE_S)
        made.connect(self.door)
        return made

    def end(self) -> bytes:
        """End as QEMU does; the log then."""
        os.close(self.life)
        os.close(self.written)
        os.close(self.typed)
        self.life = -1
        assert self.process.wait(DEADLINE_S) == 0
        return self.log.read_bytes() if self.log.exists() else b""


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    if made.life >= 0:
        made.end()


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(min(65536, size - len(data)) if size > 1 else 65536)
        assert more, data
        data += more
    return data


def require_whole(shown: bytes, data: bytes) -> None:
    """Every byte of `data` is in `shown`, or in one of its notes."""
    for piece in re.split(rb"(\r\n\[qvm: \d+ bytes left out\]\r\n)", shown):
        if piece.startswith(b"\r\n[qvm: "):
            data = data[int(piece.split()[1]) :]
        else:
            assert data.startswith(piece)
            data = data[len(piece) :]
    assert data == b""


def test_keeper_under_a_flood_keeps_beginning_and_end(kept: Kept) -> None:
    data = numbered(0, 800_000)  # 49 MiB
    most = 0
    for at in range(0, len(data), 1 << 20):
        kept.write(data[at : at + (1 << 20)])
        if kept.log.exists():
            most = max(most, kept.log.stat().st_size)
    log = kept.end()
    most = max(most, len(log))
    assert most <= keeper.HEAD_BYTES + keeper.MARK_BYTES + 2 * keeper.TAIL_BYTES + (1 << 20)
    assert log[: keeper.HEAD_BYTES] == data[: keeper.HEAD_BYTES]
    end = log[keeper.HEAD_BYTES + keeper.MARK_BYTES :]
    assert len(end) >= keeper.TAIL_BYTES
    assert data.endswith(end)
    missing = len(data) - keeper.HEAD_BYTES - len(end)
    assert log[keeper.HEAD_BYTES :].startswith(keeper.LEFT_OUT % missing)
    assert not kept.log.with_name("serial.log.part").exists()


def test_keeper_gives_every_client_every_byte_and_types_for_each(kept: Kept) -> None:
    with kept.client() as one, kept.client() as two:
        one.sendall(b"first")
        assert os.read(kept.typed, 100) == b"first"
        two.sendall(b"second")
        assert os.read(kept.typed, 100) == b"second"  # both are in by now
        data = numbered(0, 1000)
        for at in range(0, len(data), 1000):
            kept.write(data[at : at + 1000])
        assert receive(one, len(data)) == receive(two, len(data)) == data
        kept.process.send_signal(signal.SIGTERM)  # it ends with QEMU, not before
        kept.write(b"more")
        assert receive(one, 4) == b"more"
        assert kept.end() == data + b"more"
        assert one.recv(1) == b""


def test_keeper_types_what_a_client_typed_before_it_left(kept: Kept) -> None:
    """Also where the guest writes at the same moment, which the client does not get any more."""
    descriptors = Path(f"/proc/{kept.worker}/fd")
    with kept.client() as other:
        kept.write(b"login: ")  # from then on the log is open
        assert receive(other, 7) == b"login: "
        before = len(list(descriptors.iterdir()))
        client = kept.client()
        client.sendall(b"y")
        assert os.read(kept.typed, 1) == b"y"
        os.kill(kept.worker, signal.SIGSTOP)
        client.sendall(b"exit\n")
        client.close()
        kept.write(b"$ ")
        os.kill(kept.worker, signal.SIGCONT)
        assert os.read(kept.typed, 100) == b"exit\n"
        assert receive(other, 2) == b"$ "
        wait_until(lambda: len(list(descriptors.iterdir())) == before)


@pytest.mark.parametrize("has_ended", [False, True])
def test_keeper_client_that_does_not_read_gets_every_byte_later(kept: Kept, has_ended: bool) -> None:
    data = numbered(0, 100_000)
    with kept.client() as slow, kept.client() as quick:
        for client in (slow, quick):
            client.sendall(b"x")
            os.read(kept.typed, 1)
        shown: list[bytes] = []
        reader = threading.Thread(target=lambda: shown.append(receive(quick, len(data))))
        reader.start()
        kept.write(data)  # nothing waits for the slow client
        reader.join(DEADLINE_S)
        assert shown == [data]
        wait_until(lambda: kept.is_logged(len(data)))
        if has_ended:
            assert kept.end() == data
            assert receive(slow, len(data)) == data
            assert slow.recv(1) == b""
        else:
            assert receive(slow, len(data) // 2) == data[: len(data) // 2]
            kept.write(b"the end")
            assert receive(slow, len(data) // 2 + 7) == data[len(data) // 2 :] + b"the end"
            kept.write(b", and more")
            assert receive(slow, 10) == b", and more"


def test_keeper_client_gets_the_size_of_what_left_the_log(kept: Kept) -> None:
    data = numbered(0, 10 * keeper.TAIL_BYTES // 4 // 64)
    with kept.client() as slow:
        slow.sendall(b"x")
        os.read(kept.typed, 1)
        kept.write(data)
        kept.write(b"the end")
        shown = b""
        while not shown.endswith(b"the end"):
            shown += receive(slow, 1)
    assert len(data) - len(shown) < 2 * keeper.TAIL_BYTES
    assert len(shown) > keeper.TAIL_BYTES
    require_whole(shown, data + b"the end")


def test_keeper_input_waits_for_a_guest_that_takes_nothing(kept: Kept) -> None:
    text = numbered(0, 20_000)
    with kept.client() as client:
        client.setblocking(False)
        sent = 0
        while select.select([], [client], [], 1)[1]:  # until nothing takes any more
            sent += client.send(text[sent : sent + 1000])
            assert sent < len(text)
        client.setblocking(True)
        taken = b""
        while len(taken) < sent:
            taken += os.read(kept.typed, 65536)
        assert taken == text[:sent]


def test_keeper_that_is_killed_has_a_successor_that_reports_it(kept: Kept) -> None:
    kept.write(b"before")
    wait_until(lambda: kept.is_logged(6))
    os.kill(kept.worker, signal.SIGKILL)
    kept.write(b"after")
    with kept.client() as client:
        wait_until(lambda: kept.is_logged(6 + len(keeper.GAP) + 5))
        client.sendall(b"typed")
        assert os.read(kept.typed, 100) == b"typed"
    assert kept.end() == b"before" + keeper.GAP + b"after"


def test_keeper_without_its_parent_runs_until_the_end(kept: Kept) -> None:
    worker = kept.worker
    kept.process.kill()
    kept.process.wait()
    kept.write(b"after")
    wait_until(lambda: kept.is_logged(5))
    handle = os.pidfd_open(worker)
    for fd in (kept.life, kept.written, kept.typed):
        os.close(fd)
    kept.life = -1
    assert select.select([handle], [], [], DEADLINE_S)[0]
    os.close(handle)


def test_keeper_with_a_full_disk_serves_and_reports_the_gap(kept: Kept) -> None:
    resource.prlimit(kept.worker, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    with kept.client() as client:
        client.sendall(b"x")
        os.read(kept.typed, 1)
        kept.write(b"a" * 3000)
        assert receive(client, 3000) == b"a" * 3000
        resource.prlimit(kept.worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        kept.write(b"b")
        assert receive(client, 1) == b"b"
    assert kept.end() == b"a" * 1000 + keeper.MISSED % 2000 + b"b"


def test_keeper_memory_is_small(kept: Kept) -> None:
    kept.write(numbered(0, 100_000))
    wait_until(lambda: kept.is_logged(6_400_000))
    total = 0
    for pid in (kept.process.pid, kept.worker):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(re.findall(r"Pss: +(\d+)", rollup)[0])
    assert total < 15 << 10


def test_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "log").symlink_to("precious")
    folder = os.open(tmp_path, os.O_RDONLY)
    log = keeper.Log(folder, "log")
    log.add(b"bytes")
    assert (tmp_path / "precious").read_text() == "kept"
    (tmp_path / "log").unlink()
    log.add(b"more")
    assert (tmp_path / "log").read_bytes() == keeper.MISSED % 5 + b"more"
    os.close(folder)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[keeper.Log, BaseMachine]]:
    """A log that is shortened early, and its machine."""
    monkeypatch.setattr(keeper, "HEAD_BYTES", 500)
    monkeypatch.setattr(keeper, "TAIL_BYTES", 1000)
    (tmp_path / ".vmrc").write_text("VM_MACHINE_NAME=demo\n")
    vm = BaseMachine(str(tmp_path))
    os.makedirs(vm.files.logs)
    folder = os.open(vm.files.logs, os.O_RDONLY)
    Path(vm.files.serial_log).touch()
    yield keeper.Log(folder, "serial.log"), vm
    os.close(folder)


@pytest.mark.parametrize("seed", range(20))
def test_follower_of_a_shortened_log_reads_or_counts_each_byte(
    small: tuple[keeper.Log, BaseMachine], seed: int
) -> None:
    log, vm = small
    chance = random.Random(seed)
    data = numbered(0, 400)
    follower = Follower(vm, "serial", 0)
    at, shown = 0, b""
    while at < len(data):
        for _ in range(chance.choice([1, 1, 3, 60])):
            step = chance.randrange(1, 200)
            log.add(data[at : at + step])
            at += step
        while more := follower.read():
            shown += more
        assert follower.end == min(at, len(data))
        assert not follower.renew()
    follower.close()
    require_whole(shown, data)
    size = os.stat(vm.files.serial_log).st_size
    assert size <= keeper.HEAD_BYTES + keeper.MARK_BYTES + 2 * keeper.TAIL_BYTES
    with open(vm.files.serial_log, "rb") as file:
        log_now = file.read()
    assert log_now.startswith(data[: keeper.HEAD_BYTES])
    assert data.endswith(log_now[-1000:])


def test_follower_of_a_shortened_log_continues_with_the_next_run(
    small: tuple[keeper.Log, BaseMachine],
) -> None:
    log, vm = small
    follower = Follower(vm, "serial", 0)
    log.add(numbered(0, 100))
    while follower.read():
        pass
    os.rename(vm.files.serial_log, vm.files.serial_log + ".1")
    Path(vm.files.serial_log).write_bytes(b"new")
    assert follower.read() == b""
    assert follower.renew()
    assert follower.read() == b"new"
    follower.close()


def test_log_that_was_removed_begins_anew(small: tuple[keeper.Log, BaseMachine]) -> None:
    log, vm = small
    log.add(b"first")
    os.unlink(vm.files.serial_log)
    log.add(numbered(0, 100))
    log.add(b"last")
    assert Path(vm.files.serial_log).read_bytes() == b"last"
