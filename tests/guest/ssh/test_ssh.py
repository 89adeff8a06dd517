"""`qvm ssh`: bytes, statuses, the cached connection, host keys, refusals."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.pty_terminal import PtyTerminal
from tests.support.world import DEADLINE_S, QVM, Vm, wait_until

pytestmark = pytest.mark.guest


@pytest.mark.parametrize("status", [0, 1, 7, 42, 127, 255])
def test_ssh_command_status_is_its_own(running: Vm, status: int) -> None:
    assert running.qvm("ssh", f"exit {status}").status == status


def test_ssh_bytes_are_exact_both_ways(running: Vm) -> None:
    data = os.urandom(300_000)
    done = subprocess.run(
        [QVM, "ssh", "cat"], cwd=running.directory, env=running.world.environ, input=data, capture_output=True
    )
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_ssh_streams_stay_apart(running: Vm) -> None:
    result = running.qvm("ssh", "echo out; echo err >&2; exit 3")
    assert (result.status, result.out, result.err) == (3, "out\n", "err\n")


def test_ssh_words_with_options_go_to_the_guest(running: Vm) -> None:
    assert running.ok("ssh", "echo", "-n", "--json", "x").out == "--json x"


def test_ssh_twice_uses_one_connection(running: Vm) -> None:
    running.ok("ssh", "true")
    before = [line for line in running.world.processes().values() if line.startswith("ssh")]
    running.ok("ssh", "true")
    after = [line for line in running.world.processes().values() if line.startswith("ssh")]
    assert len(before) == len(after) == 1


def test_ssh_signal_in_guest_is_a_status_unknown(running: Vm) -> None:
    """ssh's client does not report which signal it was, and its own status means nothing."""
    result = running.qvm("ssh", "kill -TERM $$")
    assert result.status == 125
    assert "demo: the command in the guest ended without an exit status: a signal ended it" in result.err
    assert running.qvm("ssh", "sh -c 'kill -TERM $$'; exit $?").status == 143


def test_ssh_without_terminal_gets_none(running: Vm) -> None:
    assert running.qvm("ssh", "tty").out == "not a tty\n"


def test_ssh_tty_option_gives_a_terminal(running: Vm) -> None:
    assert "/dev/pts/" in running.ok("ssh", "-t", "tty").out


def test_ssh_wrong_key_is_refused_with_an_explanation(running: Vm, tmp_path: Path) -> None:
    key = tmp_path / "other key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    running.ok("cmd", "info status")
    running.ok("ssh", "true")
    _close(running)
    result = running.qvm("--set", f"VM_SSH_IDENTITY={key}", "ssh", "true")
    assert result.status == 125
    assert "demo: the guest refused the ssh key for account qvm" in result.err
    assert "hint: VM_SSH_IDENTITY" in result.err
    running.ok("ssh", "true")


def test_ssh_another_host_key_is_refused_with_an_explanation(running: Vm) -> None:
    running.ok("ssh", "true")
    _close(running)
    known = running.directory / ".qvm/known_hosts"
    right = known.read_text()
    other = running.directory / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    alias = right.split()[0]
    known.write_text(f"{alias} {' '.join(Path(f'{other}.pub').read_text().split()[:2])}\n")
    try:
        result = running.qvm("ssh", "true")
        assert result.status == 125
        assert "another machine answers at 127.0.0.1:" in result.err
        assert "hint: if the guest was reinstalled, remove .qvm/known_hosts" in result.err
        assert running.qvm("status").status == 1
    finally:
        known.write_text(right)
    running.ok("ssh", "true")


def test_ssh_machine_that_is_off_fails_clearly(guest: Vm) -> None:
    result = guest.qvm("ssh", "true")
    assert result.status == 3
    assert result.err.splitlines()[0] == "qvm: demo: cannot reach the guest: it is stopped"


def test_ssh_port_is_not_open_to_others(running: Vm) -> None:
    """The forward listens on 127.0.0.1 alone."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    note = (running.directory / ".qvm/running").read_text()
    port = int(next(line.split()[1] for line in note.splitlines() if line.startswith("ssh_port ")))
    owners = [row.split()[1].partition(":")[0] for row in table if row.split()[1].endswith(f":{port:04X}")]
    assert owners[:1] == ["0100007F"]
    assert "00000000" not in owners


def test_start_silent_server_at_the_port_times_out_with_a_report(guest: Vm) -> None:
    """A guest that never boots: the report says what was already true."""
    guest.set(VM_QEMU_EXTRA="-S")
    result = guest.qvm("start", "--ssh-attempts", "1")
    assert result.status == 124
    assert "demo: the guest did not answer ssh within 2 s; it is still running" in result.err
    for fact in ("process: QEMU runs, pid", "state: paused", "ssh port: 127.0.0.1:", "ssh banner: none yet"):
        assert fact in result.err
    assert "hint:" in result.err


def test_start_explicit_port_in_use_names_the_program(guest: Vm) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        guest.set(VM_SSH_PORT=str(port))
        result = guest.qvm("start")
    assert result.status == 1
    assert f"demo: VM_SSH_PORT={port} is taken by " in result.err
    assert f"pid {os.getpid()}" in result.err


def _close(vm: Vm) -> None:
    """End the cached connection; `ssh` does not wait for the end of its process."""
    socket = vm.runtime / "ssh"
    subprocess.run(["ssh", "-O", "exit", "-S", socket, "x"], capture_output=True, env=vm.world.environ)
    wait_until(lambda: not socket.exists())


def test_status_at_once_without_a_connection_makes_one(running: Vm) -> None:
    running.ok("ssh", "true")
    _close(running)
    asked = [running.world.popen("status", cwd=running.directory) for _ in range(6)]
    results = [each.communicate() for each in asked]
    assert all(out.startswith("demo: running") for out, _ in results), results
    masters = [line for line in running.world.processes().values() if line.startswith("ssh")]
    assert len(masters) <= 1, masters  # none, if the guest's answer took a second


def test_ssh_known_hosts_that_cannot_be_used_is_an_error(running: Vm) -> None:
    running.ok("ssh", "true")
    _close(running)
    known = running.directory / ".qvm/known_hosts"
    right = known.read_text()
    known.unlink()
    known.mkdir()
    try:
        result = running.qvm("ssh", "true")
        assert result.status == 125
        assert "the host key cannot be pinned in .qvm/known_hosts: it is a directory" in result.err
    finally:
        known.rmdir()
        known.write_text(right)
    running.ok("ssh", "true")


def test_ssh_key_that_others_can_read_is_named(running: Vm) -> None:
    running.ok("ssh", "true")
    _close(running)
    key = running.directory / ".qvm/id_ed25519"
    key.chmod(0o644)
    try:
        result = running.qvm("ssh", "true")
        assert result.status == 125
        assert "ssh does not use the key .qvm/id_ed25519: others can read it" in result.err
        assert "hint: chmod 600 .qvm/id_ed25519" in result.err
    finally:
        key.chmod(0o600)
    running.ok("ssh", "true")


def test_ssh_runtime_folder_deleted_still_reaches_the_guest(loaded: Vm) -> None:
    folder = loaded.runtime
    _close(loaded)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert loaded.ok("ssh", "echo one").out == "one\n"
    assert loaded.ok("ssh", "echo two").out == "two\n"
    assert "powered off by ssh" in loaded.ok("stop").out


def test_connection_lost_while_a_command_runs_is_reported(loaded: Vm) -> None:
    command = "echo begun; sleep 600"
    terminal = PtyTerminal(loaded, "ssh", command)
    terminal.until("begun")
    child = loaded.world.popen("ssh", command, cwd=loaded.directory)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    loaded.ok("kill")
    assert terminal.end() == 125
    _, errors = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 125
    for said in (terminal.text, errors):
        assert "the connection to the guest was lost while the command ran" in said


@pytest.mark.parametrize("command", ["seq 1000000", "echo little", "echo little >&2"])
def test_ssh_output_that_cannot_be_written_ends_it(running: Vm, command: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [QVM, "ssh", command],
            cwd=running.directory,
            env=running.world.environ,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full if ">&2" in command else subprocess.PIPE,
            text=True,
            timeout=DEADLINE_S,
        )
    assert done.returncode == 1
    if done.stderr is not None:
        assert done.stderr == "qvm: demo: cannot write to standard output: No space left on device\n"


def test_ssh_closed_standard_output_is_an_error(running: Vm) -> None:
    line = f"{QVM} ssh echo lost >&-"
    done = subprocess.run(
        ["bash", "-c", line], cwd=running.directory, env=running.world.environ, stderr=subprocess.PIPE
    )
    assert done.returncode == 1
    assert done.stderr == b"qvm: demo: cannot write to standard output: Bad file descriptor\n"


@pytest.mark.parametrize(
    "line",
    [
        f"{QVM} ssh yes </dev/null | head -2",
        f"sleep 600 | {QVM} ssh yes | head -2",
        f"{QVM} sh -c 'vm ssh yes | head -2'",
        f"{QVM} sh -c 'print(*ssh(\"yes | head -2\").split(), sep=chr(10))'",
    ],
)
def test_ssh_reader_that_has_gone_ends_it(running: Vm, line: str) -> None:
    """Nothing is left of it, on the host or in the guest."""
    with subprocess.Popen(
        ["bash", "-c", line],
        cwd=running.directory,
        env=running.world.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.read(4) == b"y\ny\n"  # in the second line bash has it open, too
        running.ok("ssh", "while pidof yes; do usleep 50000; done")
        if "sleep" in line:  # bash waits for it, too
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(DEADLINE_S)
    wait_until(lambda: not [line for line in running.world.processes().values() if "yes" in line.split()])


def test_ssh_leaves_the_callers_pipe_as_it_was(running: Vm) -> None:
    """Not set to O_NONBLOCK: what is written there next would be lost."""
    line = f"({QVM} ssh echo first; seq 200000) | (sleep 1; sha256sum)"
    done = subprocess.run(
        ["bash", "-c", line], cwd=running.directory, env=running.world.environ, capture_output=True
    )
    whole = b"first\n" + b"".join(b"%d\n" % i for i in range(1, 200001))
    assert (done.stdout.split()[0].decode(), done.stderr) == (hashlib.sha256(whole).hexdigest(), b"")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ssh_ended_by_a_signal_has_its_status(running: Vm, number: int, status: int) -> None:
    child = running.world.popen("ssh", "echo begun; sleep 600", cwd=running.directory)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(number)
    assert child.communicate(timeout=DEADLINE_S) == ("", "")
    assert child.returncode == status


def test_ssh_in_python_has_input_status_errors_and_bytes(running: Vm) -> None:
    """`input`, `check` and the parts of the result."""
    script = r"""
done = ssh("cat; printf '\\374' >&2; exit 7", input=b"gr\374n", check=False)
same = bytes(done) == b"gr\374n" == done.stdout.encode(errors="surrogateescape")
print(done.status, same, len(done.stderr))
print(ssh("cat", input="text"), repr(ssh("cat")), ssh("exit 0").status)
try:
    ssh("echo out; echo err >&2; exit 3")
except Exception as error:
    print(type(error).__name__, error.status, error.stdout + error.stderr, end="")
"""
    assert running.ok("sh", "-c", script).out == "7 True 1\ntext '' 0\nCommandError 3 out\nerr\n"


def test_ssh_in_python_timeout_is_a_deadline(running: Vm) -> None:
    for timeout_s in (3, 10, 30, 90):  # a starved guest needs some seconds to begin
        result = running.qvm("sh", "-c", f"ssh('echo begun; sleep 600', timeout={timeout_s})")
        assert result.status == 124
        what = "in the guest, `echo begun; sleep 600` had not ended after"
        assert f"{what} {timeout_s} s" in result.err
        if "begun" in result.err.replace(what, ""):
            break
    assert "begun" in result.err.replace(what, "")


def test_ssh_in_python_status_unknown_is_unreachable(running: Vm) -> None:
    """Also where the status is not to be checked."""
    result = running.qvm("sh", "-c", "ssh('kill -9 $$', check=False)")
    assert result.status == 125
    assert "ended without an exit status" in result.err
