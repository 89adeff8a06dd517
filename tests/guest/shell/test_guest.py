"""The guest in the shell: plumbum on the cached connection, `vm ssh` as a word, both for scripts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support.tmux_terminal import qvm_shell
from tests.support.world import DEADLINE_S, SAVED, Result, Vm

pytestmark = pytest.mark.guest


def script(vm: Vm, text: str, *words: str | Path) -> Result:
    """Run a Python script in the machine's context."""
    path = vm.world.home / "script.py"
    path.write_text(text)
    return vm.qvm("sh", path, *words)


def test_guest_runs_commands_pipes_and_raises(running: Vm) -> None:
    result = script(
        running,
        """
import json
print(json.dumps([
    guest["uname"](),
    guest["echo"]["a b", "$HOME", "it's; 'q'"](),
    (local["printf"]["one\\ntwo\\n"] | guest["wc"]["-l"])().strip(),
    (guest["cat"]["/etc/hostname"] | local["tr"]["a-z", "A-Z"])(),
    "sh" in guest, "nosuch" in guest,
    guest.env["USER"] if "USER" in guest.env else None,
]))
try:
    guest["sh"]["-c", "echo out; echo err >&2; exit 7"]()
except Exception as error:
    print(type(error).__name__, error.retcode, repr(error.stdout), repr(error.stderr))
guest["sh"]["-c", "exit 9"]()
""",
    )
    assert result.status == 9, str(result)
    values, failure = result.out.splitlines()
    assert json.loads(values)[:6] == ["Linux\n", "a b $HOME it's; 'q'\n", "2", "TINY\n", True, False]
    assert failure == "ProcessExecutionError 7 'out\\n' 'err\\n'"
    assert 'line 15, in <module>\n    guest["sh"]["-c", "exit 9"]()' in result.err
    assert "plumbum/" not in result.err


def test_guest_moves_files_of_any_name_and_content(running: Vm, tmp_path: Path) -> None:
    data = bytes(range(256)) * 300
    (tmp_path / "höst, a=b.bin").write_bytes(data)
    result = script(
        running,
        """
import sys
source, target = sys.argv[1:]
guest.upload(source, "/tmp/up load.bin")
print(guest.path("/tmp/up load.bin").stat().st_size)
guest.download("/tmp/up load.bin", target)
print([str(each) for each in guest.path("/tmp") // "up*"])
with guest.cwd("/tmp"):
    print(guest["pwd"](), end="")
(guest.path("/tmp") / "note").write("näh")
print(guest["cat"]("/tmp/note"))
guest.path("/tmp/up load.bin").delete()
""",
        tmp_path / "höst, a=b.bin",
        tmp_path / "back",
    )
    assert result.status == 0, str(result)
    assert result.out == f"{len(data)}\n['/tmp/up load.bin']\n/tmp\nnäh\n"
    assert (tmp_path / "back").read_bytes() == data


def test_guest_and_word_share_one_connection_and_leave_nothing(running: Vm) -> None:
    running.ok("ssh", "true")
    before = running.world.processes()  # QEMU, the connection, and what ends by itself
    connections = running.world.pids("ControlMaster=yes")
    script(running, "guest['true'](); guest['true']()")
    running.ok("sh", stdin="vm ssh true\nx = vm.ssh('hostname')\nprint(x)\n")
    assert set(running.world.pids("ControlMaster=yes")) <= set(connections)
    deadline = time.monotonic() + DEADLINE_S
    while left := running.world.processes().keys() - before.keys():
        assert time.monotonic() < deadline, (left, running.world.processes())
        time.sleep(0.1)


def test_ssh_word_has_bytes_statuses_and_pipes_of_its_own(running: Vm, tmp_path: Path) -> None:
    code = f"""
vm ssh uname | tr a-z A-Z
x = $(vm ssh echo one)
print(repr(x))
head -c 100000 /dev/urandom > {tmp_path}/in
cat {tmp_path}/in | vm ssh cat > {tmp_path}/out
cmp {tmp_path}/in {tmp_path}/out && echo same
print(vm.ssh("echo two"), end="")
vm ssh 'exit 6' || echo @($LAST_RETURN_CODE if False else "failed")
for word in ["three", "four"]:
    vm ssh echo @(word)
vm ssh 'exit 7'
echo never
"""
    result = running.qvm("sh", stdin=code)
    assert result.out == "LINUX\n'one'\nsame\ntwo\nfailed\nthree\nfour\n", str(result)
    assert result.status == 7


def test_prompt_in_a_guest_and_back(running: Vm) -> None:
    with qvm_shell(running.world, running.directory) as screen:
        screen.ready()
        assert screen.run('guest["uname"]()') == "'Linux\\n'"
        assert "ssh answers on port" in screen.run("status")
        screen.type("vm ssh")
        screen.key("Enter")
        # its shell asks where the cursor is; an answer that comes late is shown, and read all the same
        screen.wait(r"^.*[$#] ?(\^\[\[\d+;\d+R)?$")
        screen.type("tty; exit 5")
        screen.key("Enter")
        screen.wait(r"^/dev/pts/\d")
        screen.wait(r"^\[5\] demo:running>")
        count = screen.begin("vm ssh 'echo begun; sleep 60' || echo never")
        screen.wait("^begun")
        screen.key("C-c")
        assert screen.ready(count)["status"] == "130"
        assert "\nnever" not in screen.text


def test_start_then_guest_then_stop_in_one_script(loadable: Vm) -> None:
    """Each run of the guest has its own port and shell; `guest` follows, and says when there is none."""
    text = f"""
SAVED = {SAVED!r}
from qvmsh.errors import StateError
def refused():
    try:
        guest["true"]()
    except StateError as error:
        print(error)
refused()
for run in range(2):
    ready = start(loadvm=SAVED).ready
    print(ready, guest["cat"]("/proc/sys/kernel/random/boot_id") != "", guest["uname"](), end="")
    print(stop().machine)
refused()
"""
    result = script(loadable, text)
    assert result.status == 0, str(result)
    cannot = "demo: cannot reach the guest: it is stopped"
    one = "True True Linux\ndemo\n"
    assert result.out == f"{cannot}\n{one}{one}{cannot}\n"


def test_guest_object_keeps_bytes_that_are_not_utf8(running: Vm) -> None:
    script = running.directory / "bytes.py"
    script.write_text(
        "vm.ssh('printf \"gr\\\\374n\\\\342\\\\202\" >/tmp/f')\n"
        "text = guest['cat']('/tmp/f')\n"
        "assert text == ssh('cat /tmp/f') == 'gr\\udcfcn\\udce2\\udc82', ascii(text)\n"
        "(guest['tee']['/tmp/g'] << text)()\n"
        "guest.path('/tmp/h').write(guest.path('/tmp/f').read())\n"
        "assert (guest['cat']['/tmp/f'] | local['cat'])() == text\n"
        "assert (local['printf'][text] | guest['cat'])() == text\n"
        "guest['cmp']('/tmp/f', '/tmp/g')\n"
        "guest['cmp']('/tmp/f', '/tmp/h')\n"
        "print('same')\n"
    )
    result = running.ok("sh", script)
    assert result.out == "same\n", result


def test_forked_child_has_a_shell_of_its_own_in_the_guest(running: Vm) -> None:
    result = script(
        running,
        """
import multiprocessing, os
def work(n):
    return guest["echo"][str(n)]().strip(), ssh(f"echo {n}").strip()
print("first", end=" ")
print(guest.path("/tmp").exists())
pid = os.fork()
if pid == 0:
    print("child", guest.path("/etc").exists(), end=" ")
    raise SystemExit(guest["sh"]["-c", "exit 0"] & __import__("plumbum").TF)
print(os.waitpid(pid, 0)[1] >> 8, guest.path("/tmp").exists())
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map(work, range(2)))
""",
    )
    assert result.out == "first True\nchild True 1 True\n[('0', '0'), ('1', '1')]\n", str(result)


def test_single_quotes_and_order_reach_the_guest(running: Vm) -> None:
    code = "print('one', end=' ')\nvm ssh 'echo $HOME; printf \"a\\tb\\n\"'\n"
    code += "print('two')\nvm ssh \"echo three\"\nprint('end')"
    home = script(running, "print(ssh('echo \"$HOME\"'), end='')").out
    result = running.ok("sh", "-c", code)
    assert result.out == f"one {home}a\tb\ntwo\nthree\nend\n"
