"""Five doors, one behaviour: each command, through every door it has, gives one result, error and status.

The doors: a one-shot command; a word of the shell; a function of the shell; a script in Python; the
library, as a method of `Machine` and as a name of `qvmsh.here`. What differs by nature (a pid, a port,
seconds) is made equal first.
"""

from __future__ import annotations

import builtins
import json
import keyword
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qvmsh.cli.parse import Entry
from qvmsh.commands.index import COMMANDS
from qvmsh.shell.session.spelling import REFUSED, is_hosts
from tests.support.world import QVM, Vm, World, create_blank

Outcome = tuple[int, Any]

TELL = """
import json
from qvmsh.errors import QvmError
def tell(call, *words, **options):
    try:
        result = call()(*words, **options)
        found = result.as_json() if hasattr(result, "as_json") else {"output": result}
        status = getattr(result, "exit_status", 0)
    except QvmError as error:
        found, status = {"error": error.as_json()}, error.status
    print(json.dumps([status, found]))
"""


def made_equal(value: Any) -> Any:
    """The result without what no two runs have in common."""
    if isinstance(value, dict):
        hidden = ("version", "command", "pid", "seconds", "ssh_port", "port", "since", "uptime_s", "agent")
        return {key: made_equal(each) for key, each in value.items() if key not in hidden}
    if isinstance(value, list):
        return [made_equal(each) for each in value]
    return re.sub(r"\d+\.\d+|\d{3,}", "N", value) if isinstance(value, str) else value


Case = tuple[str, list[str], str]
"""A command, its words, and the same as arguments of a Python call."""


def run(
    vm: Vm, argv: list[str], stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, cwd=cwd or vm.directory, env=vm.world.environ, input=stdin,
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def one(vm: Vm, argv: list[str], cwd: Path | None) -> Outcome:
    """What one process gives."""
    done = run(vm, argv, cwd=cwd)
    assert done.stdout.strip(), (argv, done.stderr)
    return done.returncode, made_equal(json.loads(done.stdout))


def many(vm: Vm, argv: list[str], code: str, cwd: Path | None) -> list[Outcome]:
    """What a session gives that prints a line of JSON for each command: `[status, text or object]`."""
    done = run(vm, argv, code, cwd)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return [
        (status, made_equal(json.loads(found) if isinstance(found, str) else found)) for status, found in rows
    ]


def is_name(verb: str) -> bool:
    """True if the command exists as a Python name in the shell."""
    word = verb.partition(" ")[0]
    is_taken = word in {*keyword.kwlist, *keyword.softkwlist, *vars(builtins), "sh"}
    return word.isidentifier() and not is_taken


def is_word(verb: str) -> bool:
    """True if the command is typed bare in the shell."""
    word = verb.partition(" ")[0]
    return word not in REFUSED and not is_hosts(word)


def line(case: Case) -> str:
    verb, words, _ = case
    return " ".join([verb, "--json", *(f"r'''{word}'''" for word in words)])


def reported_call(call: str, case: Case) -> str:
    return f"tell(lambda: {call}{', ' if case[2] else ''}{case[2]})\n"


def through_all(
    vm: Vm, cases: Sequence[Case], cwd: Path | None = None, *, has_here: bool = True
) -> list[dict[str, Outcome]]:
    """What each command gives through each of its doors."""
    found: list[dict[str, Outcome]] = [{} for _ in cases]
    everywhere = range(len(cases))
    for at in everywhere:
        verb, words, _ = cases[at]
        found[at]["one-shot"] = one(vm, [QVM, *verb.split(), "--json", *words], cwd)
        code = " ".join(["vm", verb, "--json", *words])
        found[at]["plain code"] = one(vm, [QVM, "sh", "-c", code], cwd)
    names = [at for at in everywhere if is_name(cases[at][0])]
    methods = [at for at in everywhere if Entry(cases[at][0]).machine != "none"]
    script = vm.world.home / "doors.py"
    function = "".join(reported_call(cases[at][0].replace(" ", "."), cases[at]) for at in names)
    script.write_text(TELL + function)
    here = "import qvmsh.here as here\n" + "".join(
        reported_call(f"getattr(here, {cases[at][0].split()[0]!r})" + _second(cases[at][0]), cases[at])
        for at in names
    )
    library = "from qvmsh import Machine\n" + "".join(
        reported_call(f"Machine.open().{Entry(cases[at][0]).function}", cases[at]) for at in methods
    )
    word = "import json\nr = !({})\nprint(json.dumps([r.rtn, r.out]))\n"
    bare = [at for at in everywhere if is_word(cases[at][0])]
    python = [sys.executable, "-P", "-c"]
    for door, places, argv, stdin in (
        (
            "vm word",
            everywhere,
            [QVM, "sh"],
            "".join(word.format("vm " + line(cases[at])) for at in everywhere),
        ),
        ("word", bare, [QVM, "sh"], "".join(word.format(line(cases[at])) for at in bare)),
        ("function", names, [QVM, "sh"], TELL + function),
        ("script", names, [QVM, "sh", str(script)], ""),
        ("here", names if has_here else [], [*python, TELL + here], ""),
        ("method", methods, [*python, TELL + library], ""),
    ):
        for at, each in zip(places, many(vm, argv, stdin, cwd) if places else (), strict=True):
            found[at][door] = each
    return found


def _second(verb: str) -> str:
    """`.build` of `img build`."""
    return "".join(f".{word}" for word in verb.split()[1:])


def assert_same(found: dict[str, Outcome]) -> Outcome:
    first = found["one-shot"]
    assert {door: each for door, each in found.items() if each != first} == {}, f"one-shot: {first}"
    return first


@pytest.fixture(scope="module")
def off(module_world: World) -> Iterator[Vm]:
    vm = create_blank(module_world, "off", VM_MACHINE_ID="33")
    vm.ok("start", "--no-wait")  # from here on it has its uuid and its logs
    vm.ok("kill")
    yield vm
    vm.kill()


@pytest.fixture(scope="module")
def on(module_world: World) -> Iterator[Vm]:
    settings = {"VM_READY": "none", "VM_GUEST_AGENT": "no"}  # no command waits for a guest that never answers
    vm = create_blank(module_world, "on", VM_MACHINE_ID="44", **settings)
    vm.ok("start", "--no-wait")
    yield vm
    vm.kill()


def test_every_command_without_a_machine_has_the_same_error(off: Vm) -> None:
    where = off.world.home / "empty"
    where.mkdir()
    verbs = [verb for verb in COMMANDS if Entry(verb).machine == "needed"]
    cases: list[Case] = []
    for verb in verbs:
        words = ["x" for row in Entry(verb).positionals if row[1]]
        cases.append((verb, words, ", ".join(map(repr, words))))
    # `qvmsh.here` says it when it is imported, so it is not a door without a machine
    for verb, found in zip(verbs, through_all(off, cases, where, has_here=False), strict=True):
        status, result = assert_same(found)
        assert status == 2, verb
        assert result["error"]["message"].startswith("no .vmrc in"), verb


OFF: list[tuple[str, list[str], str, int]] = [
    ("status", [], "", 1),
    ("status", ["-s"], "ssh_check=False", 1),
    ("stop", [], "", 3),
    ("stop", ["--savevm", "x"], "savevm='x'", 3),
    ("kill", [], "", 3),
    ("pause", [], "", 3),
    ("resume", [], "", 3),
    ("suspend", [], "", 3),
    ("wakeup", [], "", 3),
    ("reboot", [], "", 3),
    ("restart", ["--ssh-attempts", "0"], "ssh_attempts=0", 2),
    ("cmd", ["info", "status"], "'info', 'status'", 3),
    ("qmp", ["query-status"], "'query-status'", 3),
    ("ssh", ["true"], "'true'", 3),
    ("ssh", ["--copy-id"], "copy_id=True", 3),
    ("exec", ["true"], "'true'", 3),
    ("exec", ["-s", "true", "--via", "mail"], "shell='true', via='mail'", 2),
    ("put", [".vmrc", "/tmp/"], "'.vmrc', '/tmp/'", 3),
    ("put", [".vmrc"], "'.vmrc'", 2),
    ("get", ["/etc/hosts", "."], "'/etc/hosts', '.'", 3),
    ("get", ["/etc/hosts", ".", "--via", "mail"], "'/etc/hosts', '.', via='mail'", 2),
    ("sync", [".", ":there"], "'.', ':there'", 3),
    ("share list", [], "", 0),
    ("share add", [".:work"], "'.:work'", 2),
    ("share add", [".:work:ro"], "'.:work:ro'", 3),
    ("share remove", ["work"], "'work'", 2),
    ("ssh-config", [], "", 0),
    ("ssh-config", ["nosuch"], "'nosuch'", 2),
    ("ssh-config", ["--install"], "install=True", 2),
    ("forward list", [], "", 0),
    ("forward add", ["8080:80"], "'8080:80'", 3),
    ("forward remove", ["8080"], "'8080'", 3),
    ("agent", ["guest-ping"], "'guest-ping'", 3),
    ("freeze", [], "", 3),
    ("thaw", [], "", 3),
    ("info", [], "", 3),
    ("ip", [], "", 3),
    ("set-time", [], "", 3),
    ("start", ["--ssh-attempts", "0"], "ssh_attempts=0", 2),
    ("run", ["-daemonize"], "'-daemonize'", 2),
    ("config", ["VM_MACHINE_MEM"], "'VM_MACHINE_MEM'", 0),
    ("config", ["VM_MACHINE_MEM=lots"], "'VM_MACHINE_MEM=lots'", 2),
    ("config", ["VM_NOSUCH"], "'VM_NOSUCH'", 2),
    ("config", ["--check"], "check=True", 0),
    ("env", [], "", 0),
    ("dryrun", [], "", 0),
    ("dryrun", ["-daemonize"], "'-daemonize'", 2),
    ("doctor", [], "", 0),
    ("init", [], "", 1),
    ("init", ["--dry-run"], "dry_run=True", 1),
    ("allow", [], "", 0),
    ("img list", [], "", 0),
    ("snapshot list", [], "", 0),
    ("snapshot restore", ["nosuch"], "'nosuch'", 3),
    ("snapshot save", ["12"], "'12'", 2),
    ("snapshot prune", [], "", 2),
    ("snapshot prune", ["--keep", "3"], "keep=3", 3),
    ("list-disk", [], "", 0),
    ("snapshot verify", [], "", 0),
    ("disk list", [], "", 0),
    ("disk check", [], "", 0),
    ("disk resize", ["disk9", "1G"], "'disk9', '1G'", 2),
    ("img build", ["nosuch"], "'nosuch'", 2),
    ("create", ["."], "'.'", 2),
    ("top", ["0.1"], "'0.1'", 2),
    ("top", ["nosuch"], "'nosuch'", 2),
    ("completion", ["fish"], "'fish'", 0),
    ("completion", ["tcsh"], "'tcsh'", 2),
]

ON: list[tuple[str, list[str], str, int]] = [
    ("status", ["-s"], "ssh_check=False", 0),
    ("start", [], "", 3),
    ("cmd", ["info", "status"], "'info', 'status'", 0),
    ("cmd", ["nosuch"], "'nosuch'", 1),
    ("qmp", ["query-status"], "'query-status'", 0),
    ("qmp", ["nosuch"], "'nosuch'", 1),
    ("qmp", ["device_del", "id=nosuch"], "'device_del', 'id=nosuch'", 1),
    ("agent", ["guest-ping"], "'guest-ping'", 125),
    ("agent", ["guest-ping", "x"], "'guest-ping', 'x'", 2),
    ("exec", ["true"], "'true'", 125),
    ("exec", ["--via", "agent", "true"], "'true', via='agent'", 125),
    ("put", [".vmrc", "/tmp/"], "'.vmrc', '/tmp/'", 125),
    ("put", ["nosuch", "/tmp/"], "'nosuch', '/tmp/'", 1),
    ("get", ["/etc/hosts", "."], "'/etc/hosts', '.'", 125),
    ("share remove", ["work"], "'work'", 2),
    ("freeze", ["--timeout", "0"], "timeout=0", 2),
    ("freeze", [], "", 125),
    ("thaw", [], "", 125),
    ("ip", [], "", 0),
    ("ip", ["-4"], "ipv4=True", 125),
    ("wakeup", [], "", 3),
    ("ssh", ["-L", "1:2", "true"], "'true', local=['1:2']", 2),
    ("forward list", [], "", 0),
    ("forward add", ["80"], "'80'", 2),
    ("forward remove", ["8080"], "'8080'", 3),
    ("snapshot restore", ["nosuch"], "'nosuch'", 3),
    ("disk commit", [], "", 0),
    ("init", ["--clobber-backing"], "clobber_backing=True", 3),
    ("archive", ["--create"], "create=True", 3),
    ("archive", ["--list"], "list=True", 0),
    ("archive", ["--delete", "none"], "'none', delete=True", 2),
    ("restore", ["latest"], "'latest'", 2),
    ("undelete", [], "", 2),
    ("undelete", ["nosuch"], "'nosuch'", 2),
    ("prune", ["--older", "0", "-y"], "older=0, yes=True", 0),
    ("clone", ["."], "'.'", 2),
    ("rename", ["a/b"], "'a/b'", 2),
    ("move", ["no/such/place"], "'no/such/place'", 3),
    ("export", ["one.tar.gz", "two.tar.gz"], "'one.tar.gz', 'two.tar.gz'", 2),
    ("import", ["none.tar.gz"], "'none.tar.gz'", 2),
    ("stop", ["--savevm", "a/b"], "savevm='a/b'", 3),
]


@pytest.fixture(scope="module")
def while_off(off: Vm) -> list[dict[str, Outcome]]:
    return through_all(off, [row[:3] for row in OFF])


@pytest.fixture(scope="module")
def while_on(on: Vm) -> list[dict[str, Outcome]]:
    return through_all(on, [row[:3] for row in ON])


def named(rows: list[tuple[str, list[str], str, int]]) -> list[str]:
    return [" ".join([row[0], *row[1]]) for row in rows]


@pytest.mark.parametrize("at", range(len(OFF)), ids=named(OFF))
def test_command_gives_the_same_through_all_doors_while_off(
    while_off: list[dict[str, Outcome]], at: int
) -> None:
    assert assert_same(while_off[at])[0] == OFF[at][3]


@pytest.mark.parametrize("at", range(len(ON)), ids=named(ON))
def test_command_gives_the_same_through_all_doors_while_running(
    while_on: list[dict[str, Outcome]], at: int
) -> None:
    assert assert_same(while_on[at])[0] == ON[at][3]


def test_commands_that_change_the_state_act_alike_in_all_doors(off: Vm) -> None:
    """One life of a machine, through each door: every step has the same result."""
    life: list[Case] = [
        ("start", ["--no-wait"], "wait=False"),
        ("pause", [], ""),
        ("resume", [], ""),
        ("kill", [], ""),
        ("start", ["--no-wait", "--loadvm", "nosuch"], "wait=False, loadvm='nosuch'"),
        ("status", ["-s"], "ssh_check=False"),
    ]
    lives: dict[str, list[Outcome]] = {
        "one-shot": [one(off, [QVM, *case[0].split(), "--json", *case[1]], None) for case in life],
        "plain code": [
            one(off, [QVM, "sh", "-c", " ".join(["vm", case[0], "--json", *case[1]])], None) for case in life
        ],
    }
    word = "import json\nr = !(vm {})\nprint(json.dumps([r.rtn, r.out]))\n"
    function = TELL + "".join(reported_call(case[0], case) for case in life)
    script = off.world.home / "life.py"
    script.write_text(function)
    python = [sys.executable, "-P", "-c"]
    here = (
        TELL
        + "import qvmsh.here as here\n"
        + "".join(reported_call(f"here.{case[0]}", case) for case in life)
    )
    method = (
        TELL
        + "from qvmsh import Machine\n"
        + "".join(reported_call(f"Machine.open().{case[0]}", case) for case in life)
    )
    lives["word"] = many(off, [QVM, "sh"], "".join(word.format(line(case)) for case in life), None)
    lives["function"] = many(off, [QVM, "sh"], function, None)
    lives["script"] = many(off, [QVM, "sh", str(script)], "", None)
    lives["here"] = many(off, [*python, here], "", None)
    lives["method"] = many(off, [*python, method], "", None)
    assert [status for status, _ in lives["one-shot"]] == [0, 0, 0, 0, 3, 1]
    assert {door: each for door, each in lives.items() if each != lives["one-shot"]} == {}


def test_sh_itself_gives_its_scripts_status_through_all_doors(off: Vm) -> None:
    script = off.world.home / "seven.py"
    script.write_text("import sys\nsys.exit(7)\n")
    code = f"from qvmsh import Machine\nimport sys\nsys.exit(Machine.open().sh({str(script)!r}).exit_status)"
    for argv, stdin in (
        ([QVM, "sh", str(script)], ""),
        ([QVM, str(script)], ""),
        ([QVM, "sh"], f"vm sh {script}\n"),
        ([sys.executable, "-P", "-c", code], ""),
    ):
        done = subprocess.run(
            argv,
            cwd=off.directory,
            env=off.world.environ,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (7, ""), (argv, done.stderr)


def test_table_leaves_no_command_out() -> None:
    tried = {row[0] for row in (*OFF, *ON)}
    tried |= {"sh", "use", "session list", "session save"}  # of a session: tests/qemu/shell/
    tried |= {"list"}  # of all machines, so no method of one: tests/qemu/overview/test_list.py
    needs_no_machine = {verb for verb in COMMANDS if Entry(verb).machine != "needed"}
    assert needs_no_machine <= tried, "the others are in test_every_command_says_the_same..."
