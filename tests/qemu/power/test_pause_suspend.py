"""pause, resume, wakeup, suspend, reboot, restart and qmp with a real QEMU, no guest system."""

from __future__ import annotations

import json
import select
import subprocess

import pytest

from qvmsh.errors import QmpError, StateError, UsageError
from tests.support.monitor import ask, is_connected
from tests.support.world import DEADLINE_S, QVM, Blank, wait_until


@pytest.mark.both_qemus
def test_pause_and_resume_change_the_state_once(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert vm.ok("pause").out == "demo: paused; `qvm resume` resumes it\n"
    again = vm.qvm("pause")
    assert (again.status, again.err) == (
        3,
        f"qvm: demo: cannot pause: it is paused (pid {vm.pid})\nhint: `qvm resume` resumes it\n",
    )
    assert json.loads(vm.ok("--json", "resume").out)["paused"] is False
    again = vm.qvm("resume")
    assert (again.status, again.err) == (
        3,
        f"qvm: demo: cannot resume: it is running (pid {vm.pid})\nhint: `qvm pause` pauses it\n",
    )


def test_verb_of_a_stopped_machine_says_how_to_start_it(blank: Blank) -> None:
    vm = blank(has_images=False)
    for verb in ("pause", "resume", "suspend", "wakeup", "reboot", "qmp query-status"):
        refused = vm.qvm(*verb.split())
        assert refused.status == 3, verb
        assert ": it is stopped\nhint: `qvm start` starts it\n" in refused.err, verb


def test_wakeup_and_suspend_in_the_wrong_state_say_what_leads_on(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    awake = vm.qvm("wakeup")
    assert (awake.status, "hint: `qvm suspend` suspends it" in awake.err) == (3, True)
    vm.ok("pause")
    for verb in ("wakeup", "suspend", "reboot"):
        refused = vm.qvm(verb)
        assert refused.status == 3
        assert "it is paused" in refused.err
        assert "hint: `qvm resume` resumes it" in refused.err
    assert vm.qvm("status", "-s").out.startswith("demo: paused")


def test_guest_without_agent_says_that_it_has_no_port_for_one(blank: Blank) -> None:
    vm = blank(VM_READY="none", VM_GUEST_AGENT="no")
    vm.ok("start", "--no-wait")
    for words in (["suspend"], ["stop", "--savevm", "ready"], ["disk", "trim"]):
        refused = vm.qvm(*words)
        assert refused.status == 3, refused.err
        assert "guest agent: the machine has no port for one (VM_GUEST_AGENT=no)\n" in refused.err
    assert vm.qvm("status", "-s").out.startswith("demo: running")


def test_guest_after_a_failed_load_is_neither_resumed_nor_saved(blank: Blank) -> None:
    """QEMU 7.2 leaves `restore-vm`: memory and disks may not fit together any more."""
    vm = blank()
    vm.ok("start", "--no-wait")
    vm.qvm("cmd", "loadvm nosuch")
    refused = vm.qvm("resume")
    assert refused.status == 3
    assert "will not resume: QEMU says restore-vm" in refused.err
    words = (["stop", "-t", "1"], ["stop", "--savevm", "x", "--no-suspend"], ["snapshot", "save", "x"])
    for each in words:
        refused = vm.qvm(*each)
        assert refused.status == 3, each
        assert "QEMU says restore-vm, its memory and its disks may not fit together" in refused.err
        assert "hint: `qvm kill` ends it" in refused.err
        assert ask(vm, "query-status")["status"] == "restore-vm", each
    assert "no snapshots" in vm.ok("snapshot", "list").out
    assert "powered off by quit" in vm.ok("stop", "--force").out


def test_verbs_while_another_command_is_at_work_name_it(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    stopping = vm.world.popen("stop", "--timeout", "100", cwd=vm.directory)
    try:
        while not (vm.directory / ".qvm/work.lock").read_text().startswith(f"{stopping.pid} "):
            assert stopping.poll() is None
        for verb in ("pause", "suspend", "restart", "reboot"):
            refused = vm.qvm(verb)
            assert refused.status == 3, str(refused)
            assert f"`qvm stop`, pid {stopping.pid}" in refused.err, str(refused)
    finally:
        stopping.terminate()
        stopping.communicate()


def test_restart_that_could_not_start_again_leaves_it_running(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    pid = vm.pid
    for words in (["--set", "VM_QEMU_BIN=/nothing", "restart"], ["restart", "--ssh-attempts", "0"]):
        assert vm.qvm(*words).status in (1, 2)
    (vm.directory / "demo-base.qcow2").rename(vm.directory / "away")
    refused = vm.qvm("restart", "--force", "--timeout", "0")
    assert "orphaned" in refused.err
    assert vm.pid == pid
    vm.ok("cmd", "info", "status")
    (vm.directory / "away").rename(vm.directory / "demo-base.qcow2")


def test_restart_of_a_base_only_run_keeps_to_the_base(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait", "--base-only")
    vm.ok("restart", "--no-wait", "--force", "--timeout", "0")
    told_by_qemu = vm.ok("cmd", "info", "block").out
    assert "demo-base.qcow2" in told_by_qemu
    assert "demo-backing.qcow2" not in told_by_qemu


def test_restart_by_another_port_when_the_old_one_is_taken(blank: Blank) -> None:
    import socket

    vm = blank()
    vm.ok("start", "--no-wait")
    port = json.loads(vm.qvm("--json", "status", "-s").out)["ssh_port"]
    vm.ok("kill")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        vm.ok("restart", "--no-wait")
        assert json.loads(vm.qvm("--json", "status", "-s").out)["ssh_port"] != port


def test_reboot_force_resets_a_paused_machine_and_it_runs(blank: Blank) -> None:
    vm = blank(VM_NET_MODEL="none")
    vm.ok("start", "--no-wait")
    vm.ok("pause")
    assert "demo: rebooted by reset" in vm.ok("reboot", "--force").out
    assert vm.qvm("status", "-s").out.startswith("demo: running")


def test_reboot_of_a_machine_that_ends_at_a_reset_is_refused(blank: Blank) -> None:
    vm = blank(VM_NET_MODEL="none", VM_QEMU_EXTRA="-no-reboot")
    vm.ok("start", "--no-wait")
    ended = vm.qvm("reboot", "--force")
    assert ended.status == 3
    assert "the guest powered off instead of rebooting; QEMU has ended" in ended.err
    assert vm.qvm("status").out == "demo: stopped\n"


@pytest.mark.both_qemus
def test_qmp_words_json_and_stdin_give_json(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert json.loads(vm.ok("qmp", "query-name").out) == {"name": "demo"}
    assert json.loads(vm.ok("qmp", '{"execute": "query-name"}').out) == {"name": "demo"}
    many = vm.qvm(
        "qmp",
        stdin='{"execute": "stop"} {"execute":\n "query-status"}\n{"execute": "cont"}\n'
        '{"execute": "query-name"}',
    )
    answers = [json.loads(line) for line in many.out.splitlines()]
    assert (many.status, answers[0], answers[3]) == (0, {}, {"name": "demo"})
    assert answers[1]["status"] == "paused"
    node = json.dumps({"node-name": "more", "driver": "null-co", "size": 4096})
    vm.ok("qmp", "blockdev-add", node)
    vm.ok("qmp", "blockdev-add", "node-name=two", "driver=raw", "file.driver=null-co", "file.size=4096")
    nodes = {each["node-name"] for each in json.loads(vm.ok("qmp", "query-named-block-nodes").out)}
    assert {"more", "two"} <= nodes
    whole = json.loads(vm.ok("--json", "qmp", "query-name").out)
    assert whole == {"version": 1, "command": "qmp", "machine": "demo", "return": {"name": "demo"}}
    assert vm.ok("qmp", "quit").out == "{}\n"


def test_qmp_errors_are_qemus_words_and_end_the_input(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    refused = vm.qvm("qmp", "device_del", "id=nothing")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "qvm: demo: device_del: Device 'nothing' not found\n"
    unknown = vm.qvm("qmp", "nothing")
    assert (unknown.status, "hint: " in unknown.err) == (1, True)
    many = vm.qvm("qmp", stdin='{"execute": "query-name"} {"execute": "x"} {"execute": "stop"}')
    assert (many.status, many.out) == (1, '{"name": "demo"}\n')
    assert vm.qvm("status", "-s").out.startswith("demo: running")  # the one behind was not executed
    assert vm.qvm("qmp", stdin="query-status").status == 2
    assert vm.qvm("qmp", "--count", "1", "query-name").status == 2


def test_qmp_events_come_as_lines_until_count_timeout_or_ctrl_c(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    following = subprocess.Popen(
        [QVM, "qmp", "--events"], cwd=vm.directory, env=vm.world.environ,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stdout is not None
    wait_until(lambda: is_connected(vm, "events"))
    busy = vm.qvm("qmp", "--events", "--timeout", "0")
    assert (busy.status, "another client already follows its events" in busy.err) == (1, True)
    vm.ok("pause")
    vm.ok("resume")
    assert [json.loads(following.stdout.readline())["event"] for _ in range(2)] == ["STOP", "RESUME"]
    following.send_signal(2)
    assert following.wait(DEADLINE_S) == 130
    following.communicate()
    assert vm.ok("qmp", "-e", "-t", "0.2").out == ""
    late = vm.qvm("qmp", "-e", "-n", "1", "-t", "0.2")
    assert (late.status, "0 of 1 events" in late.err) == (124, True)
    wrong = vm.qvm("qmp", "--events", "stopp")
    assert (wrong.status, "did you mean STOP?" in wrong.err) == (2, True)


def test_qmp_events_end_with_qemu(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    following = vm.world.popen("qmp", "--events", "stop", "shutdown", cwd=vm.directory)
    assert following.stdout is not None
    while not select.select([following.stdout], [], [], 0)[0]:  # until it hears QEMU
        assert following.poll() is None
        ask(vm, "stop")
        ask(vm, "cont")
    vm.ok("kill")
    out, _ = following.communicate(timeout=DEADLINE_S)
    assert following.returncode == 0
    *others, last = [json.loads(line)["event"] for line in out.splitlines()]
    assert (set(others), last) == ({"STOP"}, "SHUTDOWN")


def test_qmp_and_pause_are_functions_of_the_library(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    machine = vm.library()
    assert machine.qmp("query-name")["name"] == "demo"
    assert machine.qmp("query-name").value == {"name": "demo"}
    assert machine.pause().paused
    with pytest.raises(StateError, match="it is paused"):
        machine.pause()
    assert not machine.resume().paused
    with pytest.raises(QmpError) as refused:
        machine.qmp("device_del", "id=nothing")
    assert refused.value.error_class == "DeviceNotFound"
    with pytest.raises(UsageError):
        machine.qmp(events=True)
    assert machine.qmp("STOP", events=True, timeout=0.1).answers == []


def test_verbs_in_the_shell_never_hide_the_hosts_programs(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert vm.ok("sh", "-c", "pause").out == "demo: paused; `qvm resume` resumes it\n"
    assert vm.ok("sh", "-c", "resume").out.startswith("demo: resumed")  # no host has such a program
    bare = vm.qvm("sh", "-c", "kill")
    assert (bare.status != 0, "demo: killed" in bare.out) == (True, False)
    refused = vm.qvm("sh", "-c", "reboot")
    assert (refused.status, "could mean the guest or this host" in refused.err) == (2, True)
    assert vm.ok("sh", "-c", "qmp query-name | cat").out == '{"name": "demo"}\n'
    assert vm.ok("sh", "-c", 'print(qmp("query-name")["name"], vm.pause().paused)').out == "demo True\n"
    piped = vm.ok("sh", "-c", 'echo \'{"execute": "query-name"}\' | qmp')
    assert piped.out == '{"name": "demo"}\n'
    assert "nothing was changed" in vm.ok("sh", "-c", "config edit", env={"VISUAL": "true"}).out
    assert vm.ok("sh", "-c", "print(config.edit().changed)", env={"VISUAL": "true"}).out == "False\n"


def test_two_waits_for_one_guest_do_not_disturb_each_other(blank: Blank) -> None:
    """A `reboot` while a `start` waits: the second finds the lock of the waiting one held."""
    vm = blank()
    starting = vm.world.popen("start", "--ssh-attempts", "1000", cwd=vm.directory)
    try:
        while "is waiting for it" not in vm.qvm("status").out:
            assert starting.poll() is None
        late = vm.qvm("--set", "VM_SSH_ATTEMPTS=1", "reboot", "--force")
        assert (late.status, "did not answer ssh within 2 s" in late.err) == (124, True)
        assert starting.poll() is None
    finally:
        starting.terminate()
        starting.communicate()
    assert vm.qvm("status").out == "demo: stopped\n"
