"""Every form in which a command can stand in the shell: as a word and as a function, from one definition.

The table is that of docs/adr/0004: to xonsh alone, with the names defined, `stop && start` is Python
and runs nothing. Each row runs the real `qvm sh` on a machine with a real QEMU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import Result, Vm, World, create_blank

STOPPED = "demo: stopped\n"
CANNOT = "qvm: demo: cannot stop: it is stopped"


@pytest.fixture(scope="module")
def vm(module_world: World) -> Iterator[Vm]:
    """One machine with an empty disk for all rows; each leaves it stopped."""
    made = create_blank(module_world)
    yield made
    made.kill()


def lines(vm: Vm, code: str, **kw: dict[str, str]) -> Result:
    """Run `code` as a script on standard input: never the short way of one plain command."""
    return vm.qvm("sh", stdin=code, **kw)


@pytest.mark.parametrize(
    ("code", "out"),
    [
        ("status -s", STOPPED),
        ("status -s; echo never", STOPPED),
        ("if True:\n    status -s", STOPPED),
        ("for i in range(3):\n    status -s", STOPPED),
        ("def f():\n    status -s\nf()", STOPPED),
        ("def f():\n    for i in [1]:\n        if i: status -s\nf()", STOPPED),
        ("try:\n    status -s\nfinally:\n    echo end", STOPPED + "end\n"),
        ("with open('/dev/null'):\n    status -s", STOPPED),
        ("s = 3; status -s", STOPPED),
        ("s = 3\nstatus -s", STOPPED),
        ("s = 1; status - s", ""),
        ("status -s && echo never", STOPPED),
        ("status -s and echo never", STOPPED),
        ("vm status -s", STOPPED),
        ("vm status -s && echo never", STOPPED),
        ("![status -s]", STOPPED),
        ("$[status -s]", STOPPED),
        ("status", STOPPED),
        ("(lambda: 1)(); status", STOPPED),
    ],
)
def test_word_that_fails_ends_the_script_with_its_status(vm: Vm, code: str, out: str) -> None:
    result = lines(vm, code)
    assert (result.out, result.status) == (out, 1 if out else 2), str(result)


END = "---- end of row"


def assert_prints(vm: Vm, rows: list[tuple[str, str]]) -> None:
    """All rows as one script, which succeeds: each prints what stands beside it."""
    result = lines(vm, "".join(f"{code}\n\necho {END!r}\n" for code, _ in rows))
    found = result.out.split(END + "\n")
    for (code, out), printed in zip(rows, found, strict=False):
        assert printed == out, (code, str(result))
    assert (result.status, len(found)) == (0, len(rows) + 1), str(result)


CHAINS = [
    ("status -s || echo or", STOPPED + "or\n"),
    ("status -s or echo or", STOPPED + "or\n"),
    ("status || stop || echo both", STOPPED + "both\n"),
    ("status || status || echo both", STOPPED + STOPPED + "both\n"),
    ("status -s | cat", STOPPED),
    ("status | cat", STOPPED),
    ("status -s | tr a-z A-Z | cat", STOPPED.upper()),
    ("vm status -s | cat", STOPPED),
    ("status > out || cat out", STOPPED),
    ("status -s > out || cat out", STOPPED),
    ("status -s o> out || cat out", STOPPED),
    ("stop e> err || cat err", CANNOT + "\n"),
    ("stop e>o | cat", CANNOT + "\n"),
    ("x = $(status -s | cat); print(repr(x))", "'demo: stopped'\n"),
    ("echo @($(status -s | cat))", STOPPED),
    ("x = !(status -s); print(x.rtn, x.out)", f"1 {STOPPED}"),
    ("status @('-s') | cat", STOPPED),
    ("o = ['-s', '--json']\nstatus @(o) | grep -o '\"state\": \"[a-z]*\"'", '"state": "stopped"\n'),
    ("vm @(['status', '-s']) | cat", STOPPED),
    ("$OPT = '-s'; status $OPT | cat", STOPPED),
    ("config VM_MACHINE_MEM=\"65\" > /dev/null; config VM_MACHINE_MEM", "65\n"),
    ("dryrun | head -1", "/usr/bin/qemu-system-x86_64 \\\n"),
    ("status --help | head -1", "usage: qvm status [options] [MACHINE ...]\n"),
    ("vm kill --help | head -1", "usage: qvm kill [MACHINE ...]\n"),
    ("run --help | head -1", "usage: qvm run [options] [ARGUMENT ...]\n"),
    ("aliases['st'] = 'status -s'\nst | cat", STOPPED),
    ("aliases['st'] = 'vm status'\nst -s | cat", STOPPED),
    ("aliases['k'] = 'vm kill'\nk --help | head -1", "usage: qvm kill [MACHINE ...]\n"),
    ("aliases['s'] = lambda: $[status -s]\ns || true", STOPPED),
]  # fmt: skip


def test_word_in_chain_pipe_and_capture_gives_its_text(vm: Vm) -> None:
    assert_prints(vm, CHAINS)


VALUES = [
    ("print(status())", STOPPED),
    ("print(vm.status().state)", "stopped\n"),
    ("x = status(ssh_check=False)\nprint(x.state, bool(x))", "stopped False\n"),
    ("print([status().state for i in range(2)])", "['stopped', 'stopped']\n"),
    ("if not status(): print('no')", "no\n"),
    ("f = lambda: status().state\nprint(f())", "stopped\n"),
    ("x = status\nprint(x().state)", "stopped\n"),
    ("print(repr(status)[:16])", "<command status:\n"),
    ("x = status() or 1; print(x)", "1\n"),
    ("try:\n    stop()\nexcept Exception as e:\n    print(type(e).__name__, e.status)", "StateError 3\n"),
    ("try:\n    stop()\nexcept Exception as e:\n    print(e.actual, e.required)", "stopped running\n"),
    ("print(settings.VM_MACHINE_CPUS + 1, settings['VM_MACHINE_NAME'])", "3 demo\n"),
    ("$[config VM_X=8 > /dev/null]\nprint(vm.settings['VM_X'], settings.VM_X)", "8 8\n"),
    ("print(vm.dryrun().argv[1:2])", "['-name']\n"),
    ("print(img.list().__class__.__name__, callable(img.build))", "Listing True\n"),
]  # fmt: skip


def test_function_returns_a_value_and_raises(vm: Vm) -> None:
    assert_prints(vm, VALUES)
    assert lines(vm, "print(kill, init, env, ssh, sep='\\n')").status == 0


@pytest.mark.parametrize(
    ("code", "out"),
    [
        ("status = 5; print(status)\nstatus\nstatus - 1", "5\n"),
        ("def f(status):\n    status\n    return status\nprint(f(2))", "2\n"),
    ],
)
def test_name_of_a_command_can_be_another_value(vm: Vm, code: str, out: str) -> None:
    result = lines(vm, code)
    assert (result.status, result.out) == (0, out), str(result)


def test_word_and_function_on_a_running_machine_give_the_same(vm: Vm) -> None:
    result = lines(
        vm,
        "start --no-wait > /dev/null\n"
        "status -s | grep -o running\n"
        "print(status(ssh_check=False).state)\n"
        "cmd info status | cat\n"
        "x = cmd('info status')\n"
        "print(x, end='')\n"
        "print(cmd('info', 'status') == x)\n"
        "cmd info block | grep -c virtio\n"
        "print(hasattr(qmp, 'query_status'), hasattr(qmp, 'nosuch'), hasattr(qmp, 'getdoc'))\n"
        "vm kill > /dev/null && status -s || echo gone\n",
    )
    status = "VM status: running\n"
    truths = "True False False\n"
    assert result.out == f"running\nrunning\n{status}{status}True\n1\n{truths}{STOPPED}gone\n", str(result)


def test_and_chain_runs_the_second_only_after_success(vm: Vm) -> None:
    result = lines(vm, "stop && start --no-wait")
    assert result.status == 3
    assert CANNOT in result.err
    assert "stopped" in vm.qvm("status", "-s").out
    result = lines(vm, "start --no-wait && vm kill && status -s")
    assert result.out.count("\n") == 3
    assert result.out.endswith(STOPPED)


HOSTS = [
    ("env | grep -c ^VM_MACHINE_NAME=demo", "1\n"),
    ("kill -l > /dev/null && echo host", "host\n"),
    ("ssh -V e>o | grep -c OpenSSH", "1\n"),
    ("sh -c 'echo host'", "host\n"),
    ("sh -c 'exit 0' && echo host", "host\n"),
]


def test_host_programs_keep_their_words(vm: Vm) -> None:
    assert_prints(vm, HOSTS)


@pytest.mark.parametrize("word", ["reboot", "poweroff", "shutdown", "halt"])
def test_bare_power_word_is_refused_and_names_both_ways(vm: Vm, word: str, tmp_path: Path) -> None:
    trap = tmp_path / "bin"
    trap.mkdir()
    (trap / word).write_text(f"#!/bin/sh\ntouch {tmp_path}/{word}-was-run\n")
    (trap / word).chmod(0o755)
    path = {"PATH": f"{trap}:{vm.world.environ['PATH']}"}
    forms = (f"{word} -f now", f"{word} && echo yes", f"echo x | {word}")
    for code in (word, *(forms if word == "reboot" else ())):
        result = lines(vm, code, env=path)
        assert result.status == 2, str(result)
        assert f"qvm: {word}: refused" in result.err
        assert f"`{trap}/{word}` this host" in result.err
        assert "`vm " in result.err
    assert not (tmp_path / f"{word}-was-run").exists()


def test_vm_alone_lists_every_command(vm: Vm) -> None:
    from qvmsh.commands.index import COMMANDS

    result = lines(vm, "vm")
    assert result.status == 0
    for verb, row in COMMANDS.items():
        assert any(verb in line and row[7] in line for line in result.out.splitlines()), verb
    assert "  vm kill " in result.out
    assert "  start " in result.out
    assert lines(vm, "vm | grep -c 'vm kill'").out == "1\n"
    lines(vm, "vm > listing")
    assert (vm.directory / "listing").read_text() == result.out


def test_vm_with_an_unknown_verb_is_an_error_with_a_suggestion(vm: Vm) -> None:
    result = lines(vm, "vm stauts")
    assert result.status == 2
    assert "did you mean `qvm status`?" in result.err


def test_wrong_option_is_the_same_error_behind_every_door(vm: Vm) -> None:
    results = [
        vm.qvm("start", "--lodvm", "x"),
        vm.qvm("sh", "-c", "start --lodvm x"),
        lines(vm, "start --lodvm x"),
        lines(vm, "vm start --lodvm x | cat && start --lodvm x"),
    ]
    assert {result.status for result in results} == {2}
    assert len({result.err.splitlines()[-1] for result in results}) == 1


def test_help_and_question_mark_explain_a_command(vm: Vm) -> None:
    for code in ("help(start)", "start?", "vm.start?"):
        result = lines(vm, code)
        assert "Start the machine and wait until its guest answers ssh." in result.out, str(result)
    assert "start(*, nat: bool = False" in lines(vm, "help(start)").out


def test_options_with_quoted_values_are_read_as_a_shell_does(vm: Vm) -> None:
    code = "config VM_QEMU_EXTRA=\"-name 'x y'\" > /dev/null\nconfig VM_QEMU_EXTRA"
    assert lines(vm, code).out == "-name 'x y'\n"
    vm.ok("config", "VM_QEMU_EXTRA=")
