"""What a killed `archive` can leave: half a journal, half a manifest. The next one removes it."""

from __future__ import annotations

import subprocess

from tests.support.world import Blank


def test_archive_removes_journals_of_a_killed_one(blank: Blank) -> None:
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
            notes = ("archive", "snapshot")
            left += [vm.directory / f".qvm/{each}.unfinished.part{gone.pid}" for each in notes]
            kept = vm.directory / f".qvm/staged-{alive.pid}-x.qcow2"  # a command is at work on it
            for path in (*left, kept):
                path.write_text("{")
            vm.ok("archive")
            assert not [path for path in left if path.exists()]
            assert kept.exists()
        finally:
            alive.kill()
    assert "is good" in vm.ok("archive", "--verify", folder.name).out


JOURNALS = [
    "", "[]", "{}", "\xff", '{"what": "archive"}', '{"what": "dance", "since": 1}', "[" * 100000,
    '{"what": "archive", "since": "x", "cuts": [], "is_frozen": 0, "is_held": 0}',
    '{"what": "archive", "since": 1e300, "cuts": [], "is_frozen": 0, "is_held": 0}',
    '{"what": "archive", "since": 1, "cuts": [7], "is_frozen": 0, "is_held": 0}',
    '{"what": "archive", "since": 1, "cuts": [{"cut": 1}], "is_frozen": 0, "is_held": 0}',
    '{"what": "archive", "since": 1, "cuts": [], "is_frozen": 0, "is_held": 0, "state": []}',
    '{"what": "restore", "since": 1}', '{"what": "restore", "since": 1, "swap": 5, "is_ready": 0}',
    '{"what": "restore", "since": 1, "swap": [[1, 2]], "is_ready": 0}',
]  # fmt: skip


def test_journal_that_is_invalid_is_reported(blank: Blank) -> None:
    vm = blank()
    note = vm.directory / ".qvm/archive.unfinished"
    for at, text in enumerate(JOURNALS):
        note.write_text(text, encoding="latin-1")
        refused = vm.qvm("archive")
        assert refused.status == 1, text[:99]
        assert "demo: cannot read .qvm/archive.unfinished: " in refused.err
        assert "hint: `.qvm/cut-*` may hold what the guest wrote last" in refused.err
        assert at % 3 or "Traceback" not in str(vm.qvm("doctor", "--fix")), text[:99]
        assert note.exists()
    refused = vm.qvm("start", "--no-wait")
    assert refused.status == 1, str(refused)
    assert "demo: cannot read .qvm/archive.unfinished: " in refused.err
    assert "cannot read .qvm/archive.unfinished: " in vm.qvm("stop").err  # it continues
    assert "cannot read .qvm/archive.unfinished: " in vm.ok("snapshot", "list").out
    assert note.exists()
