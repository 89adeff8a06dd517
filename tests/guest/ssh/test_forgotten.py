"""A cached connection that the guest has forgotten: `ssh` notices, and makes another; nothing runs twice."""

from __future__ import annotations

import pytest

from qvmsh.qemu import qmp
from tests.support.world import DEADLINE_S, Vm

pytestmark = pytest.mark.guest

COUNTED = "echo x >>/tmp/count; wc -l </tmp/count"


def behind_its_back(vm: Vm, line: str) -> None:
    """A line for the monitor that no qvm sees."""
    words = {"command-line": line}
    assert qmp.ask(str(vm.runtime / "qmp"), "human-monitor-command", words, timeout_s=DEADLINE_S) == ""


@pytest.mark.parametrize("words", [["ssh"], ["exec", "--shell"]])
def test_command_that_takes_its_time_keeps_its_connection(loaded: Vm, words: list[str]) -> None:
    loaded.ok("ssh", "true")
    result = loaded.ok(*words, "seq 3; sleep 12; seq 20000 | tail -1")
    assert (result.out, result.err) == ("1\n2\n3\n20000\n", "")


def test_ssh_after_a_foreign_loadvm_has_a_new_connection(loaded: Vm) -> None:
    loaded.ok("ssh", "true")
    behind_its_back(loaded, "savevm before")
    loaded.ok("ssh", "seq 1000")  # the connection goes on without that guest
    behind_its_back(loaded, "loadvm before")
    assert (loaded.runtime / "ssh").is_socket()
    result = loaded.ok("ssh", COUNTED)
    assert (result.out, result.err) == ("1\n", "")
    assert loaded.ok("ssh", COUNTED).out == "2\n"
    behind_its_back(loaded, "loadvm before")
    script = f"print(ssh({COUNTED!r}), end=''); print(vm.ssh('exit 3', check=False).status)"
    assert loaded.ok("sh", "-c", script).out == "1\n3\n"


def test_ssh_after_a_reset_waits_for_the_new_boot(loaded: Vm) -> None:
    loaded.ok("ssh", "touch /tmp/before")
    loaded.ok("cmd", "system_reset")
    result = loaded.ok("ssh", "test -e /tmp/before || echo booted")
    assert (result.out, result.err) == ("booted\n", "")


def test_ssh_to_a_paused_guest_is_refused_and_then_works(loaded: Vm) -> None:
    loaded.ok("ssh", "true")
    loaded.ok("pause")
    result = loaded.qvm("ssh", "true")
    assert result.status == 3
    assert "cannot reach the guest: it is paused" in result.err
    loaded.ok("resume")
    assert loaded.ok("ssh", "echo back").out == "back\n"


@pytest.mark.long
def test_ssh_to_an_sshd_that_stands_still_ends_by_itself(loaded: Vm) -> None:
    """All of its processes are stopped: the old connection is silent, and no new one is greeted."""
    loaded.ok("ssh", "true")
    loaded.ok("exec", "--via", "serial", "--", "killall", "-STOP", "dropbear")
    result = loaded.qvm("ssh", "touch /tmp/run")
    assert result.status == 125
    assert "demo: the guest has not taken the command within 60 s; nothing was run" in result.err
    loaded.ok("exec", "--via", "serial", "--", "killall", "-CONT", "dropbear")
    assert loaded.ok("ssh", "test -e /tmp/run || echo not run").out == "not run\n"
