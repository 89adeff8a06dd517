"""`qvm exec`: words, bytes, statuses, input and time limits, over each way into a guest."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.errors import require_error
from tests.support.tmux_terminal import qvm_in_shell
from tests.support.world import DEADLINE_S, QVM, Vm, wait_until

pytestmark = pytest.mark.guest

WAYS = ("ssh", "agent", "serial")
ODD = [
    b"a b", b"it's", b'say "hi"', b"$HOME", b"`id`", b"*", b"a\nb", b"\n", b"trailing\n\n", b"-n", b"--", b"",
    b"\\", b"\\n", b"%s", b"\xff\xfe", "äöü 日本".encode(), b"x" * 255, b"!", b"#", b"~",
    b";", b"&", b"\t\x01\x7f",
]  # fmt: skip
PRINT = b'for each; do printf "%s" "$each" | od -An -v -tx1 | tr -d " \\n"; echo; done'


CALLS = """
done = execute('sh', '-c', 'echo a; echo b; echo e >&2; exit 3')
print(bool(done), done.status, done.lines, done.stderr, done.via, done.argv[0])
print(execute('cat', input='x\\n'), execute('echo', '[1]').json(), succeed('true', 'echo y | cat'))
print(bool(fail('exit 4')), vm.execute('id', '-un', via='agent'))
for call in (lambda: succeed('exit 5'), lambda: fail('true'), lambda: execute('false', check=True)):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error.status)
"""


def run(vm: Vm, *words: str | bytes, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [QVM, "exec", *words], cwd=vm.directory, env=vm.world.environ, input=data or b"",
        capture_output=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def arrived(vm: Vm, way: str, words: list[bytes]) -> list[bytes]:
    """The words as a program in the guest gets them."""
    done = run(vm, "--via", way, "--", "sh", "-c", PRINT, "sh", *words)
    assert done.returncode == 0, done
    return [bytes.fromhex(line.decode()) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("way", WAYS)
def test_words_arrive_byte_by_byte(running: Vm, way: str) -> None:
    assert arrived(running, way, ODD) == ODD


@pytest.mark.parametrize("way", WAYS)
def test_any_words_arrive_byte_by_byte(running: Vm, way: str) -> None:
    word = st.binary(max_size=80).map(lambda data: data.replace(b"\0", b""))

    @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(word, min_size=10, max_size=30))
    def check(words: list[bytes]) -> None:
        assert arrived(running, way, words) == words

    check()


@pytest.mark.parametrize("way", WAYS)
def test_status_streams_and_bytes_are_the_commands_own(running: Vm, way: str) -> None:
    for status in (0, 1, 42, 255):
        assert run(running, "--via", way, "--shell", f"exit {status}").returncode == status
    done = run(
        running, "--via", way, "--shell", "printf 'a\\000b\\377\\n\\n'; printf 'e\\r\\n' >&2; kill -9 $$"
    )
    if way == "ssh":  # its client is not given the number of the signal by dropbear
        assert done.returncode in (125, 137)
    else:
        assert (done.returncode, done.stdout, done.stderr) == (137, b"a\0b\xff\n\n", b"e\r\n")
    done = run(
        running, "--via", way, "--", "sh", "-c", "printf 'a\\000b\\377\\n\\n'; printf 'e\\r\\n' >&2; exit 3"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"a\0b\xff\n\n", b"e\r\n")
    assert run(running, "--via", way, "--", "no-such-program").returncode == 127


@pytest.mark.parametrize("way", WAYS)
def test_input_arrives_and_only_where_it_is_asked_for(running: Vm, way: str) -> None:
    data = os.urandom(30_000) + b"\x04\x03\r\n\xff"
    assert run(running, "--via", way, "-i", "--", "cat", data=data).stdout == data
    assert run(running, "--via", way, "--", "cat", data=b"not asked for").stdout == b""
    words = [QVM, "--json", "exec", "--via", way, "-i", "--", "cat"]
    done = subprocess.run(
        words, cwd=running.directory, env=running.world.environ, input=b"x\n", capture_output=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["output"] == "x\n", done


@pytest.mark.parametrize("words", [["exec", "-i", "--via", "agent", "cat"], ["put", "-", "/tmp/x"]])
def test_input_that_does_not_end_is_not_waited_for(running: Vm, words: list[str]) -> None:
    limit = "6" if words[0] == "exec" else "25"  # `put` looks at its target first
    command = [QVM, words[0], "--timeout", limit, *words[1:]]
    with subprocess.Popen(
        command, cwd=running.directory, env=running.world.environ, stdin=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stderr is not None
        assert child.wait(DEADLINE_S) == 124
        assert "standard input had not ended in time" in child.stderr.read()
    assert running.ok("exec", "--via", "agent", "--", "ls", "-A", "/tmp").out == ""


@pytest.mark.parametrize("way", ["agent", "serial"])
def test_input_without_an_end_is_refused(running: Vm, way: str) -> None:
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless:
        done = subprocess.run(
            [QVM, "exec", "-i", "--via", way, "--", "head", "-1"], cwd=running.directory,
            env=running.world.environ, stdin=endless.stdout, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        endless.kill()
    assert (done.returncode, "its input is larger than" in done.stderr) == (125, True), done.stderr


@pytest.mark.parametrize("words", [["exec", "--via", "ssh"], ["exec", "--via", "agent"], ["ssh"]])
def test_command_that_is_too_long_is_refused(running: Vm, words: list[str]) -> None:
    refused = running.qvm(*words, "--", "echo", *["x" * 50_000] * 3)
    require_error(refused, 2, "the command is 146 KiB long", "`qvm put` copies a file")


@pytest.mark.parametrize("way", WAYS)
def test_environment_folder_and_account(running: Vm, way: str) -> None:
    words = ["--env", "A=a b\n$c'", "-e", "B=", "--cwd", "/usr/bin", "--shell", 'echo "$PWD|$A|$B|${C-no}"']
    assert run(running, "--via", way, *words).stdout == b"/usr/bin|a b\n$c'||no\n"
    assert run(running, "--via", way, "--cwd", "/no such", "--", "pwd").returncode == 126
    accounts = {"ssh": b"qvm\n", "agent": b"root\n", "serial": b"root\n"}
    assert run(running, "--via", way, "--", "id", "-un").stdout == accounts[way]
    if way != "ssh":  # there its key is needed
        assert run(running, "--via", way, "-u", "qvm", "--", "id", "-un").stdout == b"qvm\n"
        assert run(running, "--via", way, "-u", "qvm", "--", "echo", "it's", "a  b").stdout == b"it's a  b\n"
        assert b"unknown user qvm; id" in run(running, "--via", way, "-u", "qvm; id", "--", "true").stderr


@pytest.mark.parametrize("way", WAYS)
def test_command_that_takes_too_long_is_ended(running: Vm, way: str) -> None:
    limit = "40" if way == "serial" else "4"  # the login counts
    line = "trap '' INT TERM HUP; sleep 4321 & while :; do :; done"
    words = ["--via", way, "--timeout", limit, "--shell", line]
    late = running.qvm("exec", *words)
    require_error(late, 124, f"had not ended after {limit} s", "it was ended")

    def is_gone() -> bool:
        return "4321" not in running.ok("exec", "--via", "agent", "--", "ps").out

    wait_until(is_gone)


def test_way_that_leads_nowhere_is_named_and_the_next_taken(running: Vm) -> None:
    other = ["--set", "VM_SSH_IDENTITY=/dev/null", "exec", "-u", "root", "--via"]
    done = json.loads(running.ok("--json", *other, "ssh,agent", "--", "echo", "x").out)
    assert (done["via"], done["output"], done["status"]) == ("agent", "x\n", 0)
    assert [*done["refused"]] == ["ssh"]
    refused = running.qvm(*other, "ssh", "--", "true")
    require_error(refused, 125, "no way leads into the guest, so nothing was run")
    assert "  ssh: " in refused.err


def test_console_in_use_is_left_alone(running: Vm) -> None:
    with qvm_in_shell(running, "console") as terminal:
        terminal.wait("login:")
        refused = running.qvm("exec", "--via", "serial", "--", "true")
        require_error(refused, 125, "no way leads into the guest")
        assert "  serial: the console is in use" in refused.err
    assert running.ok("exec", "--via", "serial", "--", "echo", "free").out == "free\n"


def test_shell_that_a_killed_command_left_is_used(running: Vm) -> None:
    def shown() -> str:
        return running.ok("exec", "--via", "agent", "--", "ps").out

    child = running.world.popen("exec", "--via", "serial", "--", "sleep", "5432", cwd=running.directory)
    wait_until(lambda: "sleep 5432" in shown())
    child.kill()
    child.communicate()
    assert running.ok("exec", "--via", "serial", "--", "echo", "x").out == "x\n"
    assert "sleep 5432" not in shown()


def test_functions_return_results_and_raise(running: Vm) -> None:
    result = running.qvm("sh", "-c", CALLS)
    assert result.out.splitlines() == [
        "False 3 ['a', 'b'] e", " ssh sh", "x", " [1] y", "", "False root", "",
        "CommandError 5", "CommandError 0", "CommandError 1",
    ], result  # fmt: skip


def test_word_in_a_session_is_the_command(running: Vm) -> None:
    result = running.qvm("sh", stdin="vm exec -- echo one\nvm exec -s 'exit 7'\n")
    assert (result.out, result.status) == ("one\n", 7), result
