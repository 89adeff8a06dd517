"""Nothing that a name, a value, an image or a log holds drives the terminal, whatever the verb.

Each verb runs on a terminal of its own, over machines whose directories, values, snapshots and logs are
full of control characters; what it writes there holds none but qvm's own.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pexpect
import pytest

from qvmsh.commands.index import COMMANDS
from qvmsh.errors import printable, visible
from tests.support.world import DEADLINE_S, QVM, Blank, World, write_vmrc

HOSTILE = "x\x1b]0;pwn\x07\x1b[2J\x9b31m\u202e\r\nforged: line\x1b[1A"
"""A title, a cleared screen, C1, a bidi override, another line, a move of the cursor."""
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[K")
BYTES = HOSTILE.encode() + b"\x9b2J\xff"
WORDS = {
    "agent": [HOSTILE],
    "archive": ["--list"],
    "clone": [HOSTILE],
    "cmd": ["info", "block"],
    "completion": ["bash", "--", "qvm", "snapshot", "show", ""],
    "config": [],
    "create": [HOSTILE, "--image", HOSTILE],
    "delete": [HOSTILE],
    "disk add": [HOSTILE],
    "disk commit": [HOSTILE],
    "disk rebase": [HOSTILE],
    "disk resize": [HOSTILE, "1M"],
    "exec": [HOSTILE],
    "export": [".", "-"],
    "forward add": [HOSTILE],
    "forward remove": [HOSTILE],
    "get": [HOSTILE, HOSTILE],
    "img build": [HOSTILE],
    "import": [HOSTILE],
    "logs": ["serial"],
    "move": [".", f"{HOSTILE}/{HOSTILE}"],
    "put": [HOSTILE, HOSTILE],
    "qmp": ["query-name"],
    "rename": [".", HOSTILE],
    "restore": [HOSTILE],
    "session save": [HOSTILE],
    "sh": [HOSTILE],
    "share add": [HOSTILE],
    "share remove": [HOSTILE],
    "snapshot delete": [HOSTILE],
    "snapshot diff": [HOSTILE],
    "snapshot restore": [HOSTILE],
    "snapshot show": [HOSTILE],
    "sync": [HOSTILE, f":{HOSTILE}"],
    "top": ["0.5", "-n", "1"],
    "undelete": [HOSTILE],
    "use": [HOSTILE],
}
OTHERS = [
    *(["config", "A"], ["config", "--check", "."], ["config", "--explain"], [HOSTILE], ["snapshot", HOSTILE]),
    *(["--set", HOSTILE, "status"], ["-C", HOSTILE, "status"], ["-M", HOSTILE, "status"]),
    *(["ssh", "-L", HOSTILE, "x"], ["ssh", "--copy-id", HOSTILE], ["ssh-config", HOSTILE]),
    *(["export", HOSTILE, HOSTILE], ["delete", f"nosuch:{HOSTILE}"], ["top", HOSTILE]),
    *(["status", HOSTILE, "."], ["start", f"--{HOSTILE}"], ["--debug", "config", HOSTILE]),
]


def on_terminal(world: World, cwd: Path, words: list[str]) -> str:
    """What qvm writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [QVM, *words],
        cwd=cwd,
        env=world.environ | {"EDITOR": "true"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    data, deadline = b"", time.monotonic() + 240
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the last one that had the terminal has gone
            break
        if not piece:
            break
        data += piece
    os.close(ours)
    child.wait(timeout=DEADLINE_S)
    return data.decode("utf-8", "surrogateescape")


def require_safe(text: str, what: list[str]) -> None:
    text = OWN.sub("", text.replace("\r\n", "\n").replace("\r  ", "\n  "))  # a stage is drawn over itself
    bad = {c for c in text if not c.isprintable() and c not in "\n\t"}
    assert not bad, (what, text)
    if what[0] not in ("env", "--debug"):  # data: a value with its lines, in quotes; a traceback
        assert not [line for line in text.splitlines() if line.startswith("forged")], (what, text)


@pytest.fixture
def hostile(blank: Blank) -> Path:
    """A machine in a folder with such a name; its values, snapshots, metadata and logs are likewise."""
    vm = blank()
    for name in ("demo-base.qcow2", "demo-backing.qcow2"):
        done = subprocess.run(
            ["qemu-img", "snapshot", "-c", os.fsdecode(BYTES[:120]), name],
            cwd=vm.directory,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
    vm.ok("snapshot", "save", "own", "-m", "first\nsecond")
    notes = next(
        path
        for path in (vm.directory / ".qvm").iterdir()
        if path.is_file() and b"second" in path.read_bytes()
    )
    rows = json.loads(notes.read_text())
    notes.write_text(json.dumps(rows).replace("second", json.dumps(HOSTILE)[1:-1]))
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    for log in ("serial.log", "qemu.stdout", "qemu.stderr", "qvm.log"):
        (vm.directory / ".qvm/log" / log).write_bytes(
            b"\x1b[31mred\x1b[0m " + BYTES.replace(b"\n", b"") + b"\n"
        )
    vm.set(A="a\u202eb\u2066c", VM_LABELS="l\u202eabel", VM_PRE_START="no\u202esuch")
    moved = vm.directory.parent / HOSTILE
    vm.directory.rename(moved)
    vm.directory = moved
    return moved


def test_every_verb_on_a_terminal_writes_no_control_character(hostile: Path, world: World) -> None:
    for verb in COMMANDS:
        words = [*verb.split(), *WORDS.get(verb, [])]
        require_safe(on_terminal(world, hostile, words), words)
    for words in OTHERS:
        require_safe(on_terminal(world, hostile, words), words)


def test_reports_in_a_pipe_are_clean_and_data_is_exact(hostile: Path, world: World) -> None:
    for words in (
        ["status"],
        ["list"],
        ["disk", "list"],
        ["snapshot", "list"],
        ["snapshot", "verify"],
        ["doctor"],
    ):
        result = world.run(*words, cwd=hostile)
        require_safe(result.out + result.err, words)
        assert result.out, result
    assert world.run("config", "A", cwd=hostile).out == "a\u202eb\u2066c\n"
    log = subprocess.run([QVM, "logs", "serial"], cwd=hostile, env=world.environ, capture_output=True).stdout
    assert log == (hostile / ".qvm/log/serial.log").read_bytes()
    names = [
        row["name"]
        for row in json.loads(world.run("--json", "snapshot", "list", cwd=hostile).out)["snapshots"]
    ]
    assert any("\x1b]0;pwn\x07" in name for name in names)


@pytest.mark.parametrize("char", ["\x1b", "\n", "\x9b", "\u202e"])
def test_name_with_what_cannot_be_seen_is_refused(world: World, char: str) -> None:
    for name, more in ((f"a{char}b", {}), ("demo", {"VM_QEMU_CPU": f"a{char}b"})):
        if more and char in "\n\u202e":
            continue  # a value may have lines, and any script
        write_vmrc(world.home / "m", name, **more)
        result = world.run("status", cwd=world.home / "m")
        assert result.status in (1, 2)
        require_safe(result.out + result.err, [char])
        checked = world.run("config", "--check", cwd=world.home / "m")
        assert checked.status == 2
        assert "VM_QEMU_CPU" in checked.out if more else "VM_MACHINE_NAME" in checked.out
    set_so = world.run("--set", f"VM_MACHINE_NAME=a{char}b", "config", "--check", cwd=world.home / "m")
    assert set_so.status == 2


def test_shell_on_a_terminal_shows_values_and_logs_harmless(hostile: Path, world: World) -> None:
    """xonsh passes on to the terminal what a word writes into its pipe."""
    child = pexpect.spawn(
        QVM, ["sh"], cwd=str(hostile), env=world.environ | {"TERM": "dumb"}, timeout=200,
        encoding="utf-8", codec_errors="surrogateescape",
    )  # fmt: skip
    child.logfile_read = seen = io.StringIO()
    for line in ("config A", "serial", "snapshot list", "vm logs qvm", "vm", "exit"):
        child.expect("stopped")
        child.sendline(line)
    child.expect(pexpect.EOF)
    child.close()
    text = seen.getvalue()
    assert "red" in text
    for harmful in ("\x1b]0;pwn", "\u202e", "\x1b[2J", "\x9b", "\udc9b"):
        assert harmful not in text, text


def test_common_option_without_its_value_says_which(world: World) -> None:
    for flag, metavar in (("-C", "DIR"), ("-M", "NAME"), ("--set", "NAME=VALUE")):
        result = world.run(flag)
        assert result.status == 2
        assert result.err == f"qvm: {flag} needs a value: {flag} {metavar}\nhint: `qvm --help` explains it\n"


def test_time_out_report_shows_console_lines_without_sequences(tmp_path: Path) -> None:
    from qvmsh.machine.paths import tail

    path = tmp_path / "serial.log"
    path.write_bytes(
        b"\x1b[2J\x1b[01;31mboot\x1b[0m \x1b]0;title\x07done\x1b(B\x1b[?7l\r\n\x1b[6nlogin: \x08\n"
    )
    assert tail(str(path), 5) == ["boot done", "login:"]


def test_visible_and_printable_leave_nothing_that_acts() -> None:
    every = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x202E, 0x2066, 0x2028, 0xDC9B)))
    assert printable(every).isprintable()
    assert visible("a\tb\nc") == "a\tb\nc"
    assert {c for c in visible(every) if not c.isprintable()} == {"\n", "\t"}
