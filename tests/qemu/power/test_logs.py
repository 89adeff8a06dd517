"""Logs of machines whose firmware writes to the console; no guest system."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.tmux_terminal import Terminal
from tests.support.world import DEADLINE_S, QVM, Blank, Vm

FIRST_BYTES = b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS"
"""What SeaBIOS writes first, where there is no graphics card; QEMU's UART sees nothing before it."""


@pytest.fixture
def speaking(blank: Blank) -> Vm:
    """A machine whose firmware writes to the serial console, and soon gives up without a network."""
    return blank(VM_QEMU_MACHINE="pc,graphics=off", VM_NET_MODEL="none")


def serial_of(vm: Vm, what: bytes = b"No bootable device.\r\n") -> bytes:
    """The serial log, once it holds `what`."""
    deadline = time.monotonic() + DEADLINE_S
    while what not in (data := (vm.directory / ".qvm/log/serial.log").read_bytes()):
        assert time.monotonic() < deadline, data
        time.sleep(0.05)
    return data


def raw(vm: Vm, *words: str) -> bytes:
    """The output of qvm, byte by byte."""
    return subprocess.run(
        [QVM, *words], cwd=vm.directory, env=vm.world.environ, check=True, stdout=subprocess.PIPE
    ).stdout


def test_serial_log_begins_with_the_first_byte(speaking: Vm) -> None:
    speaking.ok("start", "--no-wait")
    data = serial_of(speaking)
    assert data.startswith(FIRST_BYTES)
    assert raw(speaking, "logs", "serial", "-n", "100000") == data
    assert raw(speaking, "serial", "-n", "1") == data.splitlines(keepends=True)[-1]
    report = json.loads(speaking.ok("--json", "logs", "-n", "2").out)
    assert report["log"] == "serial"
    assert len(report["lines"]) == 2
    assert any("No bootable device" in line for line in report["lines"])


def test_start_begins_new_logs_and_keeps_the_five_before(speaking: Vm) -> None:
    folder = speaking.directory / ".qvm/log"
    for _ in range(3):
        speaking.ok("start", "--no-wait")
        serial_of(speaking)
        speaking.ok("kill")
    assert sorted(path.name for path in folder.glob("serial.log*")) == [
        "serial.log", "serial.log.1", "serial.log.2"
    ]  # fmt: skip
    assert all(path.read_bytes().count(b"SeaBIOS") == 1 for path in folder.glob("serial.log*"))
    assert raw(speaking, "serial", "--previous", "-n", "1000") == (folder / "serial.log.1").read_bytes()


def test_start_with_a_link_as_serial_log_leaves_its_target(speaking: Vm, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    folder = speaking.directory / ".qvm/log"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("serial.log", "qemu.stderr", "qemu.stdout", "qvm.log"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
    refused = speaking.qvm("logs", "serial")
    assert refused.status == 1
    assert "is a link, which is not followed" in refused.err
    speaking.ok("start", "--no-wait")
    assert serial_of(speaking).startswith(FIRST_BYTES)
    assert target.read_text() == "kept"
    assert speaking.ok("logs", "qvm").out  # in its own file again


def test_logs_of_a_machine_never_started_are_refused(blank: Blank) -> None:
    vm = blank()
    for words in (["logs"], ["stdout"], ["logs", "stderr"], ["serial", "-p"]):
        result = vm.qvm(*words)
        assert result.status == 3, str(result)
        assert "hint:" in result.err
    wrong = vm.qvm("logs", "demo")
    assert (wrong.status, "no log 'demo'" in wrong.err) == (2, True)
    both = vm.qvm("--json", "logs", "-f")
    assert (both.status, "--json and --follow" in both.err) == (2, True)
    assert vm.qvm("logs", "-f", "-p").status == 2


def test_logs_follow_continues_with_the_next_run_until_ctrl_c(speaking: Vm) -> None:
    following = speaking.world.popen("logs", "serial", "-f", cwd=speaking.directory)
    assert following.stdout is not None
    seen = []
    for _ in range(2):
        speaking.ok("start", "--no-wait")
        for line in following.stdout:
            seen.append(line)
            if "No bootable device" in line:
                break
        speaking.ok("kill")
    following.send_signal(signal.SIGINT)
    assert following.wait(DEADLINE_S) == 130
    following.communicate()
    assert "".join(seen).count("SeaBIOS (version") == 2


def test_logs_follow_ends_when_its_reader_ends(speaking: Vm) -> None:
    speaking.ok("start", "--no-wait")
    serial_of(speaking)
    done = subprocess.run(
        ["bash", "-c", f"{QVM} serial -f -n 3 | head -n 1; echo ${{PIPESTATUS[0]}}"],
        cwd=speaking.directory,
        env=speaking.world.environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout.splitlines()[-1] == "1", done
    assert "Traceback" not in done.stderr


def test_logs_on_a_terminal_are_harmless_and_raw_in_a_pipe(speaking: Vm) -> None:
    speaking.ok("start", "--no-wait")
    data = serial_of(speaking)
    words = [QVM, "logs", "serial", "-n", "1000", "-f"]
    terminal = Terminal(words, speaking.directory, speaking.world.environ)
    try:
        screen = terminal.wait("No bootable device")
        assert "^[c^[[?7l^[[2J" in screen  # not done, but shown
        assert "SeaBIOS (version" in screen  # the screen was not cleared after it
        terminal.key("C-c")
    finally:
        terminal.close()
    assert b"\x1bc" in data


def test_follow_in_the_shell_ends_by_ctrl_c_and_the_shell_stays(speaking: Vm) -> None:
    speaking.ok("start", "--no-wait")
    serial_of(speaking)
    terminal = Terminal([QVM, "sh"], speaking.directory, speaking.world.environ)
    try:
        terminal.ready()
        terminal.begin("serial -f")
        terminal.wait("No bootable device")
        terminal.key("C-c")
        assert terminal.ready(2)["status"] == "130"
        assert "No bootable" in terminal.run("serial -n 5 | grep -c No && vm logs serial -n 5")
    finally:
        terminal.close()


def test_users_logs_have_runs_and_failures(blank: Blank, tmp_path: Path) -> None:
    vm = blank(VM_LOG=str(tmp_path / "log"), VM_ERRLOG=str(tmp_path / "errors"), VM_DATEFMT="%Y|")
    vm.ok("-q", "start", "--no-wait")
    assert vm.qvm("-q", "start").status == 3
    vm.ok("-q", "kill")
    assert vm.qvm("-q", "kill").status == 3
    year = time.strftime("%Y")
    log = (tmp_path / "log").read_text().splitlines()
    assert [line.startswith(f"{year}| demo: ") for line in log] == [True, True]
    assert "started, pid" in log[0]
    assert "killed by" in log[1]
    errors = (tmp_path / "errors").read_text().splitlines()
    assert len(errors) == 2
    assert "cannot start: it is already running" in errors[0]
    assert "cannot kill: it is stopped" in errors[1]
    own = vm.ok("logs", "qvm").out.splitlines()
    assert len(own) == 4
    assert sum("failed: cannot" in line for line in own) == 2
    assert all(f"{os.environ.get('USER', 'root')}[" in line for line in own)


def test_users_log_alone_gets_the_failures_too(blank: Blank, tmp_path: Path) -> None:
    vm = blank(VM_LOG=str(tmp_path / "log"))
    assert vm.qvm("kill").status == 3
    assert "demo: cannot kill" in (tmp_path / "log").read_text()


def test_users_log_that_is_a_link_is_not_followed(blank: Blank, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "log").symlink_to("precious")
    vm = blank(VM_LOG=str(tmp_path / "log"))
    result = vm.ok("start", "--no-wait")
    assert "cannot write the log" in result.err
    assert (tmp_path / "precious").read_text() == "kept"
