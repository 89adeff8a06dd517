"""Every block of the README is run, in order, in one folder, with a real guest."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import QVM, Vm, World

pytestmark = pytest.mark.guest

README = Path(__file__).parents[2] / "README.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def plain(text: str) -> str:
    """Text with every number as N, so that only they may differ."""
    text = re.sub(r"by (guest agent|ssh)", "by guest agent", text)  # ssh, where the agent is not up yet
    return re.sub(r"\d+(\.\d+)?", "N", text)


def steps(block: str) -> list[tuple[str, str]]:
    """Commands of a console block, each with the output that is shown."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            command, output = found[-1]
            found[-1] = (command, output + line + "\n")
    return found


def test_readme_console_blocks_print_what_they_show(world: World, tiny: str) -> None:
    where = world.home
    env = world.environ | {"PATH": f"{Path(QVM).parent}:{world.environ['PATH']}"}
    try:
        for command, shown in [step for block in blocks("console") for step in steps(block)]:
            words = shlex.split(command)
            if words[0] == "cd":
                where = where / words[1]
                continue
            done = subprocess.run(
                ["bash", "-c", command], cwd=where, env=env, capture_output=True, text=True, timeout=240
            )
            assert done.returncode == 0, (command, done)
            assert plain(done.stdout) == plain(shown), (command, done)
        script = where / "readme.py"
        for body in blocks("python"):
            script.write_text(body)
            script.chmod(0o755)
            done = subprocess.run(
                [str(script)], cwd=where, env=env, capture_output=True, text=True, timeout=240
            )
            assert (done.returncode, done.stdout) == (0, "demo 512\nLinux\n"), done
    finally:
        Vm(world, world.home / "demo").kill()


def test_readme_vmrc_block_is_all_that_is_mandatory(world: World) -> None:
    (world.home / "x").mkdir()
    (world.home / "x/.vmrc").write_text(blocks("sh")[0].replace("guido", pwd.getpwuid(os.geteuid()).pw_name))
    assert world.run("-C", "x", "config", "--check").status == 0


def test_readme_quickstart_commands_are_there() -> None:
    for name in ("quickstart", "test"):
        assert (README.parent / "scripts" / name).stat().st_mode & 0o111
