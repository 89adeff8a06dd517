"""What the last word of a command line may become, from the table of commands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from qvmsh.cli import complete as engine
from qvmsh.cli.complete import Surroundings, complete, short
from qvmsh.commands.index import COMMANDS
from qvmsh.machine.machine import BaseMachine
from qvmsh.qemu import monitor_completion
from tests.support.world import write_vmrc


def words(line: str) -> list[str]:
    return [word for word, _ in complete(line.split(" "), Surroundings({}, lambda: None)).rows]


def test_complete_nothing_offers_every_first_word_once() -> None:
    firsts = {verb.partition(" ")[0] for verb in COMMANDS}
    assert words("") == sorted(firsts)


@pytest.mark.parametrize("verb", list(COMMANDS))
def test_complete_every_command_offers_each_of_its_options(verb: str) -> None:
    offered = words(f"{verb} --")
    for row in COMMANDS[verb][8]:
        assert any(flag in offered for flag in row[2]), row[2]
    short_flags = words(f"{verb} -")
    assert len(short_flags) == len(set(short_flags))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sta", ["start", "status"]),
        ("-q sta", ["start", "status"]),
        ("-C x sta", ["start", "status"]),
        ("--set A=b sta", ["start", "status"]),
        ("img ", ["build", "list"]),
        ("img b", ["build"]),
        ("img build ", ["tiny"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("completion z", ["zsh"]),
        ("logs ", ["serial", "stdout", "stderr", "qvm"]),
        ("logs st", ["stdout", "stderr"]),
        ("logs serial ", []),
        ("disk resize ", []),
        ("--js", ["--json"]),
        ("start --lo", ["--loadvm"]),
        ("start -l", ["-l"]),
        ("stop --poweroff --re", []),
        ("stop --savevm x --po", []),
        ("start --no-wait --no", []),
        ("config VM_DISK_BUS=v", ["VM_DISK_BUS=virtio"]),
        ("config VM_USE_", ["VM_USE_SNAPSHOTS"]),
        ("--set VM_USE_", ["VM_USE_SNAPSHOTS="]),
        ("start --set VM_USE_", ["VM_USE_SNAPSHOTS="]),
        ("--set VM_USE_SNAPSHOTS=", ["VM_USE_SNAPSHOTS=yes", "VM_USE_SNAPSHOTS=no"]),
        ("--set VM_READY=n", ["VM_READY=none"]),
        ("--set VM_SNAPSHOT_BASEF", []),
        ("start --bri", []),
        ("logs -n 5 std", ["stdout", "stderr"]),
        ("shutd", ["shutdown"]),
        ("ssh ls --", []),
        ("qmp ", []),
        ("nosuch ", []),
        ("start --ssh-attempts ", []),
        ("start -- --lo", []),
    ],
)
def test_complete_offers_what_fits_and_nothing_else(line: str, offered: Sequence[str]) -> None:
    assert words(line) == list(offered)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("-C ", "dir"),
        ("img build -o ", "file"),
        ("img build --output=", "file"),
        ("create ", "dir"),
        ("create x --image ", "file"),
        ("sh ", "file"),
        ("sh ./deploy ", "file"),
        ("start ../", "dir"),
        ("use ..", "dir"),
        ("use ~", "dir"),
        ("./de", "file"),
        ("status --", ""),
        ("--set VM_KERNEL=", "file"),
        ("config VM_CDROM=li", "file"),
        ("restore ", "dir"),
        ("archive --verify ", "dir"),
    ],
)
def test_complete_leaves_names_of_files_to_the_shell(line: str, kind: str) -> None:
    assert complete(line.split(" "), Surroundings({}, lambda: None)).kind == kind


def test_complete_machines_are_known_ones_and_folders_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        write_vmrc(tmp_path / name, name)
    (tmp_path / "three").mkdir()
    data = tmp_path / "data/qvm"
    data.mkdir(parents=True)
    (data / "machines").write_text(f"before\t{tmp_path / 'two'}\n")
    monkeypatch.chdir(tmp_path)
    around = Surroundings({"XDG_DATA_HOME": str(tmp_path / "data")})
    assert [row[0] for row in complete(["start", ""], around).rows] == ["one", "two"]
    assert [row[0] for row in complete(["-M", "t"], around).rows] == ["two"]
    assert complete(["start", "one", "t"], around).rows == [("two", "in this folder")]


@pytest.mark.parametrize("line", ["restore ", "archive --delete ", "archive --verify "])
def test_complete_archives_are_offered_the_newest_first(tmp_path: Path, line: str) -> None:
    folder = tmp_path / "vm" / "demo-20300101000000"
    for stamp in ("20300101000000", "20300102000000"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"demo-backing-{stamp}.qcow2").touch()
    write_vmrc(tmp_path / "vm")
    vm = BaseMachine(str(tmp_path / "vm"), environ={})
    found = Surroundings({}, lambda: vm)
    rows = [row[0] for row in complete(line.split(" "), found).rows]
    assert rows == ["latest", "demo-20300101000000/20300102000000", "demo-20300101000000/20300101000000"]


def test_complete_a_machine_that_fails_offers_nothing() -> None:
    def broken() -> None:
        raise OSError

    for line in (["start", "--loadvm", ""], ["cmd", "in"]):
        assert complete(line, Surroundings({}, broken)).rows == []


def test_short_text_fits_beside_a_word() -> None:
    assert short("a\tb\nc") == "a b"
    assert len(short("x" * 200)) == 70


HELP = """\
announce_self [interfaces] [id] -- Trigger GARP/RARP announcements
block_resize device size -- resize a block image
c|cont  -- resume emulation
eject [-f] device -- eject a removable medium (use -f to force it)
loadvm tag -- restore a VM snapshot from its tag
watchdog_action [reset|shutdown|poweroff|pause|debug|none] -- change watchdog action
balloon name on|off -- a text
\t\t\tand so on
"""


def test_vocabulary_completes_what_qemu_has_reported() -> None:
    def ask(command: str, arguments: dict[str, object] | None) -> object:
        assert command == "human-monitor-command"
        return HELP.replace("\n", "\r\n")

    words = monitor_completion.Vocabulary(ask)
    assert [row[0] for row in words.human(["c"])] == ["c", "cont"]
    assert [row[0] for row in words.human(["eject", "-"])] == ["-f"]
    assert words.human(["eject", "-f", "-"]) == []
    assert [row[0] for row in words.human(["watchdog_action", "p"])] == ["pause", "poweroff"]
    assert [row[0] for row in words.human(["balloon", "on", "o"])] == ["off", "on"]
    assert words.human(["nosuch", ""]) == []


def test_completion_needs_next_to_nothing(tmp_path: Path) -> None:
    """A Tab must be quick: the modules are held, not the time."""
    import subprocess
    import sys

    program = (
        "import sys; before = set(sys.modules); from qvmsh.cli.main import main; main(sys.argv[1:]);"
        "print('MODULES', *sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "completion", "zsh", "--", "qvm", "start", "--lo"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("\n--loadvm\t")
    loaded = set(done.stdout.splitlines()[-1].split()[1:])
    assert not loaded & {
        "re",
        "json",
        "argparse",
        "subprocess",
        "asyncio",
        "qemu",
        "xonsh",
        "inspect",
        "pathlib",
    }
    assert {name for name in loaded if name.startswith("qvmsh.")} <= {
        "qvmsh.cli", "qvmsh.cli.main", "qvmsh.cli.parse",
        "qvmsh.cli.complete", "qvmsh.cli.completion_scripts",
        "qvmsh.commands", "qvmsh.commands.completion", "qvmsh.commands.index",
        "qvmsh.errors", "qvmsh.io",
        *(["qvmsh.machine", "qvmsh.machine.owner"] if os.geteuid() == 0 else []),
    }  # fmt: skip


def test_engine_knows_every_kind_that_a_command_declares() -> None:
    """A new kind of value needs a way to complete it."""
    kinds = {option[6] for row in COMMANDS.values() for option in row[8]}
    kinds |= {word[4] for row in COMMANDS.values() for word in row[9] if isinstance(word[4], str)}
    source = Path(engine.__file__).read_text()
    assert all(kind is None or f'"{kind}"' in source for kind in kinds), kinds
