"""The front ends, `use` and scripts of the old vm with a real guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.direct_boot import boot_directly
from tests.support.shell_screen import run_at_breakpoint, screen_of, wait_for_breakpoint
from tests.support.world import SAVED, Vm, write_vmrc

pytestmark = pytest.mark.guest

OLD = """#!/usr/local/bin/vm
. $VM_LIB/functions-net.sh
vm_check_prog cat
vm_die_if_error
echo "$(vm_get_status) $(vm_check_ssh) $(vm_ssh uname -s)"
vm_sync || vm_die no sync
vm_ssh 'exit 7' || echo "status $?"
RES=`vm_ssh nosuchprogram`
echo "$RES $($SSH uname)" | sed 's/.*: //'
vm cmd info status
cd /tmp && sh -c 'vm ssh hostname'
echo from the host | vm_ssh cat
vm_sudo id -u
echo "sudo $?"
[ "$VM_PARAMS" = -u ] && vm_ssh uptime
vm_ssh 'exit 9'
"""


def test_script_of_the_old_vm_reaches_the_guest(running: Vm, tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_text(OLD)
    result = running.qvm("sh", "--shell", path, "-u")
    assert result.status == 9, str(result)
    lines = result.out.splitlines()
    name = running.ok("ssh", "hostname").out.strip()
    assert lines[:5] == ["running ok Linux", "status 7", "not found Linux", "VM status: running", name]
    assert lines[5:8] == ["from the host", "0", "sudo 0"]
    assert result.err == ""
    assert "load average" in lines[-1]


SLEEP = """#!/usr/local/bin/vm
echo "control $(vm_get_control_method) $(vm_get_suspend_method)"
vm_suspend; vm_get_status
vm wakeup >/dev/null
vm_check_ssh
vm_poweroff
while vm_check_running; do sleep 0.1; done
vm status -q || vm start --loadvm $1 >/dev/null
vm_check_ssh
"""


def test_script_of_the_old_vm_suspends_and_powers_off(loadable: Vm, tmp_path: Path) -> None:
    (tmp_path / "old").write_text(SLEEP)
    loadable.ok("start", "--loadvm", SAVED)
    result = loadable.qvm("sh", "--shell", tmp_path / "old", SAVED)
    assert result.out == "control /bin/systemctl /bin/systemctl suspend\npaused (suspended)\nok\nok\n", str(
        result
    )


@pytest.mark.parametrize("ui", ["ptpython", "python"])
def test_guest_answers_in_every_front_end(running: Vm, ui: str) -> None:
    with screen_of(running.world, running.directory, "--ui", ui) as screen:
        screen.ready()
        screen.state("running")
        assert screen.run('guest["uname"]()') == "'Linux\\n'"
        assert screen.run("status().ready") == "True"
        assert screen.run("vm.ssh('echo one')") == "'one\\n'"
        if ui == "python":
            screen.run("import asyncio")
            assert screen.run("await asyncio.to_thread(ssh, 'echo two')") == "'two\\n'"
            return
        assert screen.run("vm ssh uname | tr a-z A-Z") == "LINUX"
        count = screen.begin("vm ssh 'echo begun; sleep 60' || echo never")
        screen.wait("^begun")
        screen.key("C-c")
        assert screen.ready(count)["status"] == "130"
        screen.run("vm ssh 'exit 6'")
        assert screen.prompts()[-1]["status"] == "6"


def test_guest_follows_the_machine_that_is_used(running: Vm, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_vmrc(other, "other", VM_MACHINE_ID="44")
    path = tmp_path / "hop.py"
    path.write_text(f"""
print(guest["uname"](), end="")
use({str(other)!r})
try:
    guest["uname"]()
except Exception as error:
    print(error)
use({str(running.directory)!r})
print(guest["uname"](), status().ready)
""")
    result = running.qvm("sh", path)
    assert result.status == 0, str(result)
    assert result.out == "Linux\nother: cannot reach the guest: it is stopped\nLinux\n True\n"


def test_breakpoint_in_a_script_with_a_guest(running: Vm, tmp_path: Path) -> None:
    path = tmp_path / "stops.py"
    path.write_text('name = ssh("hostname").strip()\nbreakpoint()\nprint("left", name)\n')
    with screen_of(running.world, running.directory, path) as screen:
        screen._tmux("set-option", "-g", "remain-on-exit", "on")
        wait_for_breakpoint(screen, 2, state="running")
        assert run_at_breakpoint(screen, 2, "vm ssh hostname | tr a-z A-Z", state="running") == "DEMO"
        run_at_breakpoint(screen, 2, "name = 'changed'", state="running")
        screen.key("C-d")
        screen.wait("^left changed$")


def test_guest_without_a_waiting_command_is_reported_when_ready(loadable: Vm, tiny: str) -> None:
    with screen_of(loadable.world, loadable.directory) as screen:
        screen.ready()
        screen.state("stopped")
        screen.run(f"start --no-wait --loadvm {SAVED}")
        screen.type("'typed meanwhile'")
        screen.wait(r"^qvm: demo: the guest answers ssh on port \d+ \(\d\d:\d\d:\d\d\)$")
        screen.wait("demo:running> 'typed meanwhile'$")
        screen.key("Enter")
        screen.ready(3)
        loadable.kill()
        screen.state("stopped")
        boot_directly(loadable, tiny)
        assert "demo: ready after" in screen.run("start")
        assert screen.run("vm ssh echo hello") == "hello"
        # `start` itself has reported the other
        assert screen.text.count("the guest answers ssh") == 1, screen.text
