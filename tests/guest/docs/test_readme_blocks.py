"""Every block of the README and of docs/ is run, in order, with a real guest, and prints what it shows."""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.direct_boot import boot_directly
from tests.support.shell_screen import screen_of
from tests.support.world import QVM, ROOT, SAVED, Vm, World, copy_of, create_tiny

pytestmark = [pytest.mark.guest]

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PROMPT = "demo:running> "
MAKES_ITS_MACHINE = ("README.md", "docs/tutorial.md")
"""Pages that begin without a machine; the others have one, `demo`, which is off."""

LOAD = f"qvm start --loadvm {SAVED} && qvm snapshot delete {SAVED} >/dev/null"
LOADS = {
    "docs/archive.md": [LOAD],
    "docs/console.md": [LOAD],
    "docs/guest.md": [LOAD],
    "docs/python.md": [],
    "docs/running.md": [LOAD, "qvm start --loadvm ready"],
    "docs/shell.md": [],
}
"""Pages whose machine has a saved state of its booted guest, and what each `qvm start` of them is typed as.

On the other pages `qvm start` boots the guest."""

RUN_IN_README = {"docs/shell.md": 0}
"""The number of a block that is, line by line, a part of the README's; what follows it has a loaded guest."""

NOT_RUN = {
    "./scripts/quickstart": "tests/guest/docs/test_quickstart.py runs it",
    "./scripts/test": "it is what runs this",
    "pipx install .": "wants a package index; tests/unit/test_wheel.py installs without one",
    "pipx ensurepath": "changes the user's own shell",
    "pipx inject --include-apps qvmsh pytest": "wants a package index",
    "python3 -m venv ~/.local/share/qvm-venv": "as above",
    "~/.local/share/qvm-venv/bin/pip install .": "as above",
    "ln -s ~/.local/share/qvm-venv/bin/qvm ~/.local/bin/qvm": "as above",
    "apt install openssh-server qemu-guest-agent sudo": "in a Debian guest with a network",
    "systemctl enable --now serial-getty@ttyS0": "in a Debian guest",
    "echo 'guido ALL=(ALL) NOPASSWD: /usr/bin/systemctl' > /etc/sudoers.d/qvm": "in a Debian guest",
    "ssh-copy-id -p 2201 guido@127.0.0.1": "asks for a password",
    "cloud-localds seed.iso user-data": "a program of the image's distribution",
    "cmd info blo": "is completed with Tab: tests/qemu/shell/test_live.py",
    "session save deploy.xsh 3-7 9": "nobody has typed nine lines: tests/qemu/shell/test_session.py",
}
"""What is not run here, and why."""

AGENT = "qvm ssh 'until pidof qemu-ga; do usleep 100000; done'"
BEFORE = {
    "qvm snapshot save ready": AGENT,
    "qvm archive --savevm now": f"qvm -q start --loadvm ready; {AGENT}",
    "pytest -q test_disk.py": LOAD,
    "qvm disk rebase disk0 other.qcow2": "cp demo-base.qcow2 other.qcow2",
    "qvm create web --image debian.qcow2 --user guido --mem 2048": (
        "qemu-img create -q -f qcow2 debian.qcow2 16M"
    ),
}
"""What a command of a page takes for granted."""


@dataclass
class Block:
    """One block of a page; one of Python is saved as `file`, the name that the line before it ends with."""

    file: str
    kind: str
    text: str

    @property
    def steps(self) -> list[tuple[str, str | None]]:
        """Commands, each with the output that is shown; None where none is."""
        if self.kind in ("vmrc", "python"):
            return []
        if self.kind == "sh":
            lines = [re.sub(r"\s{2,}#.*", "", line) for line in self.text.splitlines()]
            return [(line, None) for line in lines if line]
        found: list[tuple[str, str | None]] = []
        for line in self.text.splitlines():
            mark = "$ " if self.kind == "console" else PROMPT
            if line.startswith(mark):
                command = re.sub(r"\s{2,}#.*", "", line.removeprefix(mark))
                found.append((command, "" if self.kind == "console" else None))
            elif self.kind == "console" or not line.startswith("qvm: "):  # an event comes when it will
                command, output = found[-1]
                found[-1] = (command, (output or "") + line + "\n")
        return found


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    assert not re.search(r"\n\n {4}\S", text), f"{page}: a block without ``` is not run"
    pattern = r"(?:`([\w.]+)`:\n\n)?^```(\S*)\n(.*?)^```"
    found = [Block(*each) for each in re.findall(pattern, text, re.MULTILINE | re.DOTALL)]
    found = [block for block in found if block.kind != "{toctree}"]
    for block in found:
        if block.kind == "sh" and block.text.startswith("VM_"):
            block.kind = "vmrc"
        assert block.kind in ("sh", "console", "text", "python", "vmrc"), (page, block)
        assert block.kind != "text" or block.text.startswith(PROMPT), (page, block)
        assert block.kind != "python" or block.file, (page, block)
    return found


MOMENTS = {
    r"\((guest frozen for [\d.]+ m?s|crash-consistent)\)": "(HOW)",  # the agent has a second to answer
    r"by (guest agent|ssh)": "by guest agent",  # ssh, where the agent is not up yet
    r'"by": "(guest agent|ssh)", "seconds": [\d.]+': '"by": "guest agent", "seconds": N',
    r"; clock (is right|was .*)": "",
    r"\b(pid|port) \d+": r"\1 N",
    r"\b\d{14}\b": "STAMP",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "STAMP",
    r"\b\d+(\.\d+)? [KM]iB": "SIZE",
    r"\b\d+(\.\d+)? m?s\b": "TIME",
    r"\bin [\d.]+s( \([\d:]+\))?": "in TIME",  # as pytest has it
}


def plain(text: str) -> str:
    """Text without what depends on the moment: times, sizes, pids, ports."""
    for pattern, word in MOMENTS.items():
        text = re.sub(pattern, word, text)
    return text


class Reader:
    """A user who types what a page says.

    Args:
        where: the folder in which the first line is typed.
        starts: what each `qvm start` is typed as, if not as it is.
    """

    def __init__(self, world: World, where: Path, starts: list[str]) -> None:
        self.world = world
        self.where = where
        self.starts = list(starts)
        self.env = world.environ | {"PATH": f"{Path(QVM).parent}:{world.environ['PATH']}"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])

    def type(self, command: str) -> str:
        """Run one line in the folder that the lines before have led to; returns what it prints."""
        code = f"exec 2>&1\n{command}\n__status=$?; pwd >{self.world.home}/where; exit $__status"
        done = subprocess.run(
            ["bash", "-c", code],
            cwd=self.where,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, (command, done.stdout)
        self.where = Path((self.world.home / "where").read_text().rstrip("\n"))
        return done.stdout

    def read(self, block: Block) -> None:
        if block.kind == "vmrc":
            self.check(block.text)
            return
        if block.kind == "python":
            (self.where / block.file).write_text(block.text)
            return
        steps = [step for step in block.steps if step[0] not in NOT_RUN]
        if block.kind == "text":
            self.talk(steps)
            return
        for command, shown in steps:
            if command in BEFORE:
                self.type(BEFORE[command])
            found = self.type(self.here(command))
            assert shown is None or plain(found) == plain(shown), (command, found, shown)

    def talk(self, steps: list[tuple[str, str | None]]) -> None:
        """Type lines at the prompt of `qvm sh`."""
        with screen_of(self.world, self.where) as screen:
            screen.ready()
            for command, shown in steps:
                found = screen.run(command)
                lines = [line for line in found.splitlines() if not line.startswith("qvm: ")]
                assert lines, (command, found)
                assert shown is None or plain("\n".join(lines)) == plain(shown.rstrip()), (command, found)

    def here(self, command: str) -> str:
        """A command with the names that it has in this place."""
        if command == "qvm start" and self.starts:
            return self.starts.pop(0)
        command = command.replace("2201", self.port).replace("/usr/local/bin/vm", f"{self.world.home}/vm")
        if re.search(r"--delete demo-\d+/\d+", command):
            folder = next(self.where.glob("demo-2*"))
            state = min(re.findall(r"\d{14}", self.type("qvm archive --list").replace(folder.name, "")))
            command = re.sub(r"demo-\d+/\d+", f"{folder.name}/{state}", command)
        return command

    def check(self, text: str) -> None:
        """Judge the lines of a `.vmrc`, with what is mandatory if they have it not."""
        folder = self.world.home / "judged"
        folder.mkdir(exist_ok=True)
        owner = pwd.getpwuid(os.geteuid()).pw_name
        needed = f"VM_MACHINE_NAME=demo\nVM_MACHINE_ID=33\nVM_MACHINE_OWNER={owner}\n"
        (folder / ".vmrc").write_text(needed + text.replace("guido", owner))
        assert self.type(f"qvm -C {folder} config --check").endswith(": ok\n")


def first_machine(world: World, page: str, saved: Path) -> Path:
    """The folder that a page begins in: that of its machine, which is off, unless the page makes one."""
    if page in LOADS:
        return copy_of(world, saved).directory
    has_steps = any(block.kind in ("sh", "console", "text") for block in blocks(page))
    return create_tiny(world).directory if has_steps and page not in MAKES_ITS_MACHINE else world.home


def read_page(world: World, page: str, saved: Path) -> None:
    reader = Reader(world, first_machine(world, page, saved), LOADS.get(page, []))
    try:
        for number, block in enumerate(blocks(page)):
            if number == RUN_IN_README.get(page):
                reader.type(LOAD)
            else:
                reader.read(block)
        assert not reader.starts
    finally:
        for path in world.home.rglob(".vmrc"):
            if (path.parent / ".qvm").exists():
                Vm(world, path.parent).kill()


@pytest.mark.parametrize("page", PAGES)
def test_page_prints_what_it_shows(world: World, tiny: str, saved: Path, page: str) -> None:
    if page != "docs/archive.md":  # it shows what an archive leaves out, and that would be the kernel
        boot_directly(world, tiny)
    read_page(world, page, saved)


def test_what_is_not_run_is_still_there() -> None:
    commands = {step[0] for page in PAGES for block in blocks(page) for step in block.steps}
    assert (NOT_RUN.keys() | BEFORE.keys()) <= commands, (NOT_RUN.keys() | BEFORE.keys()) - commands


def test_block_that_the_readme_runs_is_the_same_there() -> None:
    def shown(block: Block) -> list[tuple[str, str]]:
        return [(command, plain(output or "")) for command, output in block.steps]

    for page, number in RUN_IN_README.items():
        steps = shown(blocks(page)[number])
        assert steps, page
        assert any(shown(block)[: len(steps)] == steps for block in blocks("README.md")), (page, steps)


def test_mandatory_vmrc_block_is_all_that_is_mandatory(world: World) -> None:
    (world.home / "x").mkdir()
    block = next(block for block in blocks("docs/configuration.md") if block.kind == "vmrc")
    (world.home / "x/.vmrc").write_text(block.text.replace("guido", pwd.getpwuid(os.geteuid()).pw_name))
    assert world.run("-C", "x", "config", "--check").status == 0


def test_readme_quickstart_commands_are_there() -> None:
    for name in ("quickstart", "test"):
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111
