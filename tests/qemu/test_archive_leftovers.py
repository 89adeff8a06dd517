"""What a killed `archive` can leave: half a note, half a manifest. The next one removes it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from conftest import Vm

Blank = Callable[..., Vm]


def test_archive_removes_notes_that_a_killed_one_had_not_finished(blank: Blank) -> None:
    vm = blank()
    vm.ok("archive")
    folder = next(vm.directory.glob("demo-*/"))
    with subprocess.Popen(["sleep", "600"]) as alive:
        try:
            gone = subprocess.Popen(["true"])
            gone.wait()
            left = [
                folder / f"manifest.json.part{gone.pid}",
                vm.directory / f".qvm/staged-{gone.pid}-x.qcow2",
            ]
            left.append(vm.directory / f".qvm/archive.unfinished.part{gone.pid}")
            kept = vm.directory / f".qvm/staged-{alive.pid}-x.qcow2"  # somebody is at work on it
            for path in (*left, kept):
                path.write_text("{")
            vm.ok("archive")
            assert not [path for path in left if path.exists()]
            assert kept.exists()
        finally:
            alive.kill()
    assert "is good" in vm.ok("archive", "--verify", folder.name).out
