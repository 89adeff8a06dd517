"""The example scripts do what they say, with a real guest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.direct_boot import boot_directly
from tests.support.world import QVM, ROOT, Result, Vm

pytestmark = pytest.mark.guest

EXAMPLES = ROOT / "scripts/examples"


def run(vm: Vm, name: str, *words: str | Path, cwd: Path | None = None) -> Result:
    """Execute an example as a person would: by its shebang, with VM_HOME naming the machine."""
    env = {"PATH": f"{Path(QVM).parent}:{os.environ['PATH']}", "VM_HOME": str(vm.directory)}
    return vm.world.run(*words, program=str(EXAMPLES / name), cwd=cwd or vm.world.home, env=env)


def test_every_example_has_a_test_and_can_be_executed() -> None:
    text = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        assert os.access(path, os.X_OK), path
        assert f'"{path.name}"' in text, path


def test_about_shows_the_machine_and_the_uptime_of_its_guest(running: Vm, tmp_path: Path) -> None:
    result = run(running, "about", "-u", "a b", cwd=tmp_path)
    assert result.status == 0, str(result)
    owner = __import__("pwd").getpwuid(os.geteuid()).pw_name
    lines = [re.sub(" +", " ", line) for line in result.out.splitlines()]
    number = running.ok("config", "VM_MACHINE_ID").out.strip()
    assert lines[:6] == [
        "parameters: -u 'a b'", "name: demo", f"id: {number}", f"owner: {owner}",
        f"machine in: {running.directory}", f"called in: {tmp_path}",
    ]  # fmt: skip
    assert re.search(r"^uptime: .*up .*load average", lines[6])
    assert "uptime" not in run(running, "about").out


def test_backup_makes_archives_that_can_be_read_and_keeps_three(running: Vm, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"demo-2001010{number}T000000.tar.gz").touch()
    running.ok("ssh", "mkdir -p notes; echo one > notes/first")
    result = run(running, "backup.xsh", ".", "notes", "/etc/hostname", cwd=tmp_path)
    assert result.status == 0, str(result)
    archive = Path(result.out.strip())
    names = sorted(path.name for path in tmp_path.glob("*"))
    assert names == ["demo-20010101T000000.tar.gz", "demo-20010102T000000.tar.gz", archive.name]
    with tarfile.open(archive) as tar:
        assert tar.extractfile("notes/first").read() == b"one\n"  # type: ignore[union-attr]
    assert run(running, "backup.xsh", "x", "/nosuch", cwd=tmp_path).status != 0
    assert not list((tmp_path / "x").glob("*.gz"))


def test_health_reports_each_machine_and_fails_if_one_is_unwell(running: Vm) -> None:
    argv = [sys.executable, "-P", str(EXAMPLES / "health.py")]

    def health(*words: str | Path) -> tuple[int, str]:
        done = subprocess.run(
            [*argv, *map(str, words)], env=running.world.environ, cwd=running.world.home,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout

    status, out = health()
    assert status == 0, out
    assert re.fullmatch(r"demo: up 0\.\d h, disk \d+% full\n", out), out
    status, out = health(running.directory, "/nosuch")
    assert status == 1
    assert out.splitlines()[1].startswith("/nosuch: ")
    assert out.splitlines()[1].endswith("  <-- look at it")


def test_try_in_guest_brings_results_and_restores_the_machine(guest: Vm, tiny: str, tmp_path: Path) -> None:
    boot_directly(guest, tiny)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "in").write_text("b\na\n")
    before = (guest.directory / "demo-backing.qcow2").read_bytes()
    result = run(guest, "try-in-guest", folder, "sh", "-c", "sort in > out; echo done; exit 3")
    assert (result.status, result.out) == (3, "done\n"), str(result)
    assert (tmp_path / "work.out/out").read_text() == "a\nb\n"
    assert guest.qvm("status", "-s").out == "demo: stopped\n"
    assert (guest.directory / "demo-backing.qcow2").read_bytes() == before
    assert "no such folder" in run(guest, "try-in-guest", "nosuch", "true").err


def test_boot_times_boots_as_often_as_asked_and_stops(guest: Vm, tiny: str) -> None:
    boot_directly(guest, tiny)
    result = run(guest, "boot-times", "1")  # 3, if not asked
    assert result.status == 0, str(result)
    lines = r"boot 1: +[\d.]+ s\nmedian: +[\d.]+ s, from [\d.]+ to [\d.]+ s\n"
    assert re.fullmatch(lines, result.out), str(result)
    assert guest.qvm("status", "-s").out == "demo: stopped\n"
