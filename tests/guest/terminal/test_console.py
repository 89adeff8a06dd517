"""`qvm console` on real terminals, with a real guest's getty on the other side."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.support.pty_terminal import PtyTerminal
from tests.support.tmux_terminal import Terminal, qvm_below, qvm_in_shell, wait_for_exit
from tests.support.world import DEADLINE_S, QVM, SAVED, Vm, wait_until

pytestmark = pytest.mark.guest

LOG = ".qvm/log/serial.log"


@pytest.fixture(scope="module")
def running(running: Vm) -> Vm:
    """As after a boot: its console has shown a login prompt."""
    running.ok("console", stdin="\n")
    wait_until(lambda: b"login:" in (running.directory / LOG).read_bytes())
    return running


def log_in(vm: Vm, terminal: Terminal) -> None:
    """Log in as root, or find oneself logged in already.

    The log decides, not a first Enter: getty throws away what is typed while it writes its prompt again.
    """
    terminal.wait("detaches")
    if (vm.directory / LOG).read_bytes().rstrip().endswith(b"login:"):
        terminal.type("root")
    terminal.key("Enter")
    terminal.wait(r"# *\Z")


def test_console_log_in_detach_and_come_back(running: Vm) -> None:
    with qvm_in_shell(running, "console") as terminal:
        terminal.wait("login:")  # what came before is shown
        log_in(running, terminal)
        terminal.enter("echo $((6*7))x; sleep 100", "^42x")
        terminal.key("C-c")  # is the guest's
        terminal.wait(r"\^C")
        terminal.enter("echo still $((40+3))", "^still 43")
        terminal.key("C-]")
        assert "detached" in wait_for_exit(terminal, 0)
    with qvm_in_shell(running, "console --escape ^B") as terminal:
        terminal.wait("^still 43")
        terminal.enter("echo again $((40+4))", "^again 44")
        terminal.key("C-b")
        wait_for_exit(terminal, 0)


def test_console_in_use_is_refused_watched_and_taken_over(running: Vm) -> None:
    with qvm_in_shell(running, "console") as first, qvm_in_shell(running, "console --watch") as watcher:
        log_in(running, first)
        refused = running.qvm("console")
        assert refused.status == 3
        assert f"the console is in use (root, pid {qvm_below(first)}" in refused.err
        assert "--take" in refused.err
        watcher.wait("watching the console")
        watcher.type("echo watcher writes\r")
        first.enter("echo first $((1+1))", "^first 2")
        assert "watcher writes" not in watcher.wait("^first 2")
        with qvm_in_shell(running, "console --take") as second:
            assert "the console was taken over by root, pid " in wait_for_exit(first, 3)
            second.enter("echo second $((1+2))", "^second 3")
            watcher.wait("^second 3")
            assert "second 3" not in first.text
            watcher.key("C-c")
            wait_for_exit(watcher, 0)
            second.key("C-]")
            wait_for_exit(second, 0)


def test_console_whose_terminal_is_closed_ends(running: Vm) -> None:
    with qvm_in_shell(running, "console") as terminal:
        log_in(running, terminal)
        pid = qvm_below(terminal)
    deadline = time.monotonic() + DEADLINE_S
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert running.qvm("console").status == 0


def test_console_of_a_holder_that_is_stopped_is_not_taken(running: Vm) -> None:
    with qvm_in_shell(running, "console") as terminal:
        log_in(running, terminal)
        pid = qvm_below(terminal)
        os.kill(pid, signal.SIGSTOP)
        refused = running.qvm("console", "--take")
        os.kill(pid, signal.SIGCONT)
        assert refused.status == 3
        assert "does not release it" in refused.err
        assert "stopped" in refused.err
        wait_for_exit(terminal, 3)  # it was asked, and leaves as soon as it can


def has_prompt(log: Path) -> bool:
    """The shell waits for a line; it has asked where the cursor is."""
    return re.search(rb"# *(\x1b\[6n)?\Z", log.read_bytes()) is not None


def test_console_in_a_pipe_answers_and_ends(running: Vm) -> None:
    log = running.directory / LOG
    running.ok("console", stdin="\nroot\n\n")
    wait_until(lambda: has_prompt(log))
    for number in (1, 2):
        deadline, said = time.monotonic() + DEADLINE_S, ""
        while f"answer {40 + number}" not in said:  # a starved guest may be silent for three seconds
            assert time.monotonic() < deadline, said
            said = running.ok("console", "--linger", "3", stdin=f"echo answer $(({number}+40))\n").out
        wait_until(lambda: has_prompt(log))
    assert "login:" not in said  # only what is new
    assert running.ok("console").out.count("answer") == 0
    both = running.qvm("--json", "console")
    assert (both.status, "--json" in both.err) == (2, True)
    assert running.qvm("console", "--escape", "x").status == 2


COUNT = 10_000


def require_all(text: bytes, mark: str, what: str) -> None:
    """Each line with `mark` is there once, in order."""
    end = rb" %s abcdefgh end\r*\n" % mark.encode()
    found = [*map(int, re.findall(rb"^([1-9]\d*)" + end, text, re.MULTILINE))]
    wrong = next((at for at, number in enumerate(found, 1) if at != number), len(found) + 1)
    place = text.find(b"\n%d %s" % (wrong - 1, mark.encode()))
    assert found == [*range(1, COUNT + 1)], f"{what}: line {wrong}: {text[place : place + 300]!r}"


def write_lines(vm: Vm, mark: str) -> None:
    """Write the lines 1 to COUNT to the console; line 0 may stand behind the prompt of the login."""
    wait_until(lambda: b"login:" in (vm.directory / LOG).read_bytes())  # later it would stand in between
    vm.ok("ssh", f"seq 0 {COUNT} | sed 's/$/ {mark} abcdefgh end/' | sudo -n tee /dev/ttyS0 >/dev/null")


def wait_for_log(vm: Vm, mark: str) -> None:
    """Wait for the last line in the log: what the guest has written is on its way for a while."""
    last = f"\n{COUNT} {mark} abcdefgh end".encode()
    wait_until(lambda: last in (vm.directory / LOG).read_bytes())


def test_every_line_is_in_the_log_once_without_a_client(running: Vm) -> None:
    write_lines(running, "alone")
    wait_for_log(running, "alone")
    require_all((running.directory / LOG).read_bytes(), "alone", "the log")


def test_every_line_is_in_each_console_and_in_the_log_once(running: Vm, tmp_path: Path) -> None:
    """One has the console, one looks on, one is slow, one is stopped until all is written."""
    argv = [QVM, "-C", str(running.directory), "console"]
    shown: dict[str, bytes] = {"slow": b"", "stopped": b""}
    consoles: dict[str, subprocess.Popen[bytes]] = {}
    files = {name: (tmp_path / name).open("w+b") for name in ("first", "quick")}

    def read(name: str) -> None:
        output = consoles[name].stdout
        assert output is not None
        while data := os.read(output.fileno(), 4096):
            shown[name] += data
            time.sleep(0.02)

    readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in shown]
    try:
        for name in ("first", "quick", "slow", "stopped"):
            words = [] if name == "first" else ["--watch"]
            output = files.get(name, subprocess.PIPE)
            consoles[name] = subprocess.Popen(
                [*argv, *words], env=running.world.environ, stdin=subprocess.PIPE, stdout=output,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        for reader in readers:
            reader.start()
        attached(running, len(consoles))
        consoles["stopped"].send_signal(signal.SIGSTOP)
        write_lines(running, "seen")
        wait_for_log(running, "seen")
        consoles["stopped"].send_signal(signal.SIGCONT)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            for name, file in files.items():
                file.seek(0)
                shown[name] = file.read()
            if all(f"\n{COUNT} seen".encode() in text for text in shown.values()):
                break
            assert time.monotonic() < deadline, {name: text[-200:] for name, text in shown.items()}
            time.sleep(0.1)
    finally:
        for process in consoles.values():
            process.kill()
            process.communicate()
        for reader in readers:
            reader.join(DEADLINE_S)
        for file in files.values():
            file.close()
    for name, text in shown.items():
        require_all(text, "seen", name)
    require_all((running.directory / LOG).read_bytes(), "seen", "the log")


def test_run_on_a_stalled_terminal_logs_and_shows_every_line(loadable: Vm) -> None:
    terminal = PtyTerminal(loadable, "run", "--loadvm", SAVED)
    try:
        wait_until(lambda: loadable.qvm("ssh", "true").status == 0)
        os.write(terminal.master, b"\n")
        terminal.until("login:")
        write_lines(loadable, "run")  # the terminal is not read meanwhile
        wait_for_log(loadable, "run")
        terminal.until(f"\n{COUNT} run abcdefgh end")
        require_all((loadable.directory / LOG).read_bytes(), "run", "the log")
        os.write(terminal.master, b"\x01x")  # Ctrl-A X
    finally:
        loadable.kill()
        assert terminal.end() == 0, terminal.text[-1000:]
    require_all(terminal.text.encode(), "run", "the terminal")


def attached(vm: Vm, count: int) -> None:
    """Wait until so many consoles listen at the keeper: each has said so."""
    deadline = time.monotonic() + DEADLINE_S
    (door,) = (str(path) for path in vm.world.runtime.rglob("serial") if path.is_socket())
    while True:
        with open("/proc/net/unix") as file:
            found = [line for line in file if line.rstrip().endswith(door) and " 03 " in line]
        if len(found) >= count:
            return
        assert time.monotonic() < deadline, (door, found)
        time.sleep(0.1)


def log_out(vm: Vm) -> None:
    """End the shell on the console that another test has left."""
    log = vm.directory / LOG
    if not log.read_bytes().endswith(b"login: "):
        vm.ok("console", stdin="\x04")
    wait_until(lambda: log.read_bytes().endswith(b"login: "))


def test_console_in_a_pipe_logs_in_runs_and_logs_out(running: Vm) -> None:
    log = running.directory / LOG
    log_out(running)
    slow = (
        "(printf ro; sleep 0.5; echo ot; sleep 0.5; echo uname -a; echo exit) | exec qvm console --linger 10"
    )
    path = f"{os.path.dirname(QVM)}:{os.environ['PATH']}"
    for code in ("printf 'root\nuname -a\nexit\n' | exec qvm console --linger 10", slow):
        result = running.qvm("-c", code, program="sh", env={"PATH": path})
        assert "\nLinux " in result.out, str(result)
        deadline = time.monotonic() + DEADLINE_S
        while not log.read_text().endswith("login: "):  # no user is logged in any more
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


def test_console_history_gets_no_answer_from_the_terminal(running: Vm) -> None:
    """A shell asks where the cursor is; only the terminal of that time may answer, not this one."""
    log = running.directory / LOG
    log_out(running)
    running.ok("ssh", r"printf '\033[6n\033[c\nasked before\n' | sudo -n tee /dev/ttyS0")
    wait_until(lambda: b"asked before" in log.read_bytes())
    with qvm_in_shell(running, "console") as terminal:
        terminal.wait("^asked before")
        terminal.type("root")
        terminal.key("Enter")
        terminal.wait(r"# *\Z")
        terminal.key("C-]")
        wait_for_exit(terminal, 0)


def test_console_in_the_shell_owns_the_terminal(running: Vm) -> None:
    terminal = Terminal([QVM, "sh"], running.directory, running.world.environ)
    try:
        terminal.ready()
        terminal.begin("console")
        log_in(running, terminal)
        terminal.enter("echo in the guest $((2+2))", "^in the guest 4")
        terminal.key("C-]")
        terminal.wait("detached")
        assert terminal.ready(2)["name"] == "demo"
        assert "4" in terminal.run("echo @(2+2)")
    finally:
        terminal.close()


def test_console_stays_through_a_reboot_and_ends_at_a_power_off(loaded: Vm) -> None:
    following = loaded.world.popen("logs", "serial", "-f", "-n", "0", cwd=loaded.directory)
    with qvm_in_shell(loaded, "console") as terminal, qvm_in_shell(loaded, "console --watch") as watcher:
        terminal.wait("detaches")
        loaded.ok("reboot")
        terminal.wait(r"login: *\Z")
        log_in(loaded, terminal)
        terminal.type("poweroff")
        terminal.key("Enter")
        assert "QEMU has ended" in wait_for_exit(terminal, 0)
        wait_for_exit(watcher, 0)
    assert loaded.qvm("status").out == "demo: stopped\n"
    following.send_signal(signal.SIGINT)
    out, _ = following.communicate(timeout=DEADLINE_S)
    assert following.returncode == 130
    assert "built-in guest" in out
