"""`qvm top` with real QEMUs: in a pipe, as a stream, with machines that come, go and hang."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qvmsh.machine.overview.top_frame import HEAD
from qvmsh.qemu import qmp
from tests.support.firmware import QUICK
from tests.support.monitor import monitor
from tests.support.world import DEADLINE_S, QVM, Blank, World, write_vmrc

TAP = "qvmt-top0"


class Stream:
    """The frames of a `qvm --json top` that runs."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child

    def frame(self) -> dict[str, dict[str, Any]]:
        """The machines of the next frame, by name."""
        assert self.child.stdout is not None
        found = json.loads(self.child.stdout.readline())
        assert (found["version"], found["command"]) == (1, "top")
        return {row["machine"]: row for row in found["machines"]}

    def until(self, is_so: Any) -> dict[str, dict[str, Any]]:
        """The first frame that is so."""
        deadline = time.monotonic() + DEADLINE_S
        while not is_so(found := self.frame()):
            assert time.monotonic() < deadline, found
        return found


@contextlib.contextmanager
def streamed(world: World, *words: str) -> Iterator[Stream]:
    """Run it, and end it with Ctrl-C: that is how it ends well."""
    with world.popen("--json", "top", "0.5", *words) as child:
        try:
            yield Stream(child)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=DEADLINE_S)
            assert (child.returncode, err) == (0, "")
        finally:
            child.kill()


def off_machines(world: World, count: int) -> None:
    """Known machines that are off."""
    path = world.home / ".local/share/qvm/machines"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for at in range(count):
            directory = world.home / f"off{at}"
            write_vmrc(directory, f"off{at}")
            file.write(f"off{at}\t{directory}\n")


def test_top_in_a_pipe_prints_one_frame_of_all_machines(blank: Blank, world: World) -> None:
    a, _ = blank("a", VM_MACHINE_CPUS="3"), blank("b", VM_MACHINE_ID="44")
    off_machines(world, 3)
    a.ok("start", "--no-wait")
    result = world.run("top", "1")
    assert result.status == 0, result
    title, head, first, *rest = result.out.splitlines()
    assert "  1 running, 5 machines  every " in title
    assert head.split() == list(HEAD)
    cells = dict(zip(HEAD, first.replace(" MiB", "MiB").replace(" B", "B").split(), strict=False))
    assert (cells["name"], cells["state"], cells["pid"]) == ("a", "running", str(a.pid))
    assert float(cells["%cpu"]) >= 0
    assert cells["rss"].endswith("MiB")
    assert (cells["vcpus"], cells["mem"], cells["accel"]) == ("3", "64MiB", "tcg")
    assert (cells["rd/s"][-1], cells["rx/s"], cells["tx/s"]) == ("B", "-", "-")
    assert [line.split()[:2] for line in rest] == [
        [name, "stopped"] for name in ("b", "off0", "off1", "off2")
    ]
    assert len(world.run("top", "0.5", "-n", "2", "off*").out.splitlines()) == 2 * 5 + 1


def test_top_stream_measures_disks_and_notices_every_change(blank: Blank, world: World) -> None:
    a, b = blank("a"), blank("b", VM_MACHINE_ID="44")
    a.ok("start", "--no-wait")
    with streamed(world, "--sort", "name") as stream:
        row = stream.frame()["a"]
        assert (row["state"], row["pid"], row["received_bytes_per_second"]) == ("running", a.pid, None)
        assert row["rss_bytes"] > 1 << 20
        device = "/machine/peripheral/disk0-device/virtio-backend"
        monitor(a, f'qemu-io -d {device} "aio_write -P 1 1M 4M"')  # a plain `write` is not counted
        assert stream.until(lambda each: each["a"]["written_bytes_per_second"])["b"]["state"] == "stopped"
        assert stream.until(lambda each: each["a"]["written_bytes_per_second"] == 0)
        a.ok("pause")
        stream.until(lambda each: each["a"]["state"] == "paused")
        a.ok("kill")
        gone = stream.until(lambda each: each["a"]["state"] == "stopped")["a"]
        assert (gone["cpu_percent"], gone["rss_bytes"], gone["pid"]) == (None, None, None)
        write_vmrc(b.directory, "b", VM_MACHINE_MEM="96")
        stream.until(lambda each: each["b"]["memory_mib"] == 96)
        blank("c", VM_MACHINE_ID="55")
        stream.until(lambda each: "c" in each)
        shutil.rmtree(b.directory)
        stream.until(lambda each: "b" not in each)


def test_top_of_named_machines_refuses_what_is_none(blank: Blank, world: World) -> None:
    blank("a")
    result = world.run("top", "x")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("qvm: no machine is known as 'x'\nhint: ")
    assert "may also be a number of seconds" in result.err
    assert world.run("top", "0.1").status == 2
    assert world.run("top", "x*").status == 2
    (world.home / "empty").mkdir()
    assert "no .vmrc in" in world.run("top", "./empty").err
    assert world.run("-M", "a", "top").status == 2
    named = json.loads(world.run("--json", "top", "0.5", "-n", "1", "a").out)
    assert [row["machine"] for row in named["machines"]] == ["a"]


def test_top_is_not_delayed_by_a_silent_or_broken_qemu(blank: Blank, world: World) -> None:
    vms = {name: blank(name, VM_MACHINE_ID=f"4{at}") for at, name in enumerate(("busy", "good", "frozen"))}
    assert world.run("start", "--all", "--no-wait").status == 0
    vms["good"].directory.joinpath("../odd").resolve().mkdir()
    os.mkfifo(world.home / "odd/.vmrc")
    with (world.home / ".local/share/qvm/machines").open("a") as file:
        file.write(f"odd\t{world.home / 'odd'}\n")
    qemu = qmp.Exchange(str(vms["busy"].runtime / "qmp"), DEADLINE_S).negotiate()
    os.kill(vms["frozen"].pid, signal.SIGSTOP)
    try:
        with streamed(world) as stream:
            found = stream.until(lambda each: each["busy"]["state"] == "broken")  # after 5 s
            assert {name: row["state"] for name, row in found.items()} == {
                "busy": "broken", "good": "running", "frozen": "broken", "odd": "broken",
            }  # fmt: skip
            assert found["good"]["cpu_percent"] is not None
            assert found["busy"]["rss_bytes"] > 0  # the host knows
            qemu.close()
            os.kill(vms["frozen"].pid, signal.SIGCONT)
            stream.until(lambda each: {each[name]["state"] for name in vms} == {"running"})
    finally:
        qemu.close()
        os.kill(vms["frozen"].pid, signal.SIGCONT)


def test_top_shows_frames_while_a_qemu_has_not_answered(blank: Blank, world: World) -> None:
    vm = blank("a")
    vm.ok("start", "--no-wait")
    qemu = qmp.Exchange(str(vm.runtime / "qmp"), DEADLINE_S).negotiate()
    try:
        with streamed(world) as stream:
            assert stream.frame()["a"]["state"] == "unknown"
            qemu.close()
            assert stream.until(lambda each: each["a"]["state"] == "running")["a"]["pid"] == vm.pid
    finally:
        qemu.close()


def test_top_keeps_no_socket_of_qemu_from_other_commands(blank: Blank, world: World) -> None:
    vm = blank("a")
    vm.ok("start", "--no-wait")
    with streamed(world) as stream:
        stream.frame()
        for _ in range(3):
            assert vm.ok("cmd", "info status").out == "VM status: running\n"
            assert stream.frame()["a"]["state"] == "running"
        vm.ok("snapshot", "save", "x")


def cpu_seconds(world: World, frames: int) -> float:
    """Processor time of a whole `qvm top`."""
    argv = [QVM, "--json", "top", "0.5", "-n", str(frames)]
    with subprocess.Popen(argv, cwd=world.home, env=world.environ, stdout=subprocess.DEVNULL) as child:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return used.ru_utime + used.ru_stime


def test_top_of_102_machines_takes_under_5_percent(blank: Blank, world: World) -> None:
    """2 run, 100 are off; every 3 seconds, the default, without the start of Python."""
    for at, name in enumerate(("a", "b")):
        blank(name, VM_MACHINE_ID=f"4{at}").ok("start", "--no-wait")
    off_machines(world, 100)
    few, many = cpu_seconds(world, 1), cpu_seconds(world, 11)
    a_frame = (many - few) / 10
    print(f"{a_frame * 1000:.1f} ms for a frame, {a_frame / 3 * 100:.2f} % of a core")
    assert a_frame / 3 < 0.05
    assert len(world.run("top", "0.5").out.splitlines()) == 104


@pytest.fixture
def tap() -> Iterator[str]:
    """A tap device of the host."""
    program = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if os.geteuid() or program is None or not Path("/dev/net/tun").exists():
        pytest.skip("making a tap device needs root, ip and /dev/net/tun")
    made = subprocess.run([program, "tuntap", "add", TAP, "mode", "tap"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no tap device: {made.stderr}")
    try:
        subprocess.run([program, "link", "set", TAP, "up"], check=True)
        yield TAP
    finally:
        subprocess.run([program, "link", "del", TAP], check=True)


def test_top_counts_the_traffic_of_a_tap_device(blank: Blank, world: World, tap: str) -> None:
    """A hub joins it with user networking: no guest is needed to receive."""
    words = f"-netdev tap,id=tap0,ifname={tap},script=no,downscript=no -netdev user,id=user0"
    for name in ("tap0", "user0"):
        words += f" -netdev hubport,id=hub-{name},hubid=0,netdev={name}"
    vm = blank("a", VM_QEMU_EXTRA=f"{QUICK} {words}", VM_QEMU_SANDBOX="off")
    vm.ok("start", "--no-wait")
    with streamed(world) as stream, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
        host.bind((tap, 0))

        def is_received(each: dict[str, dict[str, Any]]) -> bool:
            for _ in range(50):
                host.send(b"\xff" * 6 + b"\x02" * 6 + b"\x08\x00" + bytes(1000))
            row = each["a"]
            return bool(
                row["sent_bytes_per_second"] is not None and row["received_bytes_per_second"] > 10_000
            )

        stream.until(is_received)
