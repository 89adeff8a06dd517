"""The disks of a machine that is off are not locked: what writes to one while it is copied is noticed.

The compressor here does what it should, after a program of the test's has had its time.
"""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support.archives import archived_states, make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, write_byte
from tests.support.world import Blank

WRITES = "qemu-io -f qcow2 -c 'write -P 9 0 64k' {}"


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("demo-backing.qcow2", WRITES.format("demo-backing.qcow2")),
        ("demo-base.qcow2", WRITES.format("demo-base.qcow2")),
        ("demo-backing.qcow2", "cp -p demo-backing.qcow2 x && mv x demo-backing.qcow2"),
    ],
    ids=["overlay", "base", "another-file"],
)
def test_archive_of_a_disk_being_written_to_fails(blank: Blank, name: str, harm: str, is_first: bool) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    before = [] if is_first else [state_name(make_archive(vm))]
    write_byte(vm, 2, "1M")
    home, gzip = vm.world.home, shutil.which("gzip")
    (home / "bin").mkdir()
    (home / "bin/pigz").write_text(
        f"#!/bin/sh\n[ ! -e ~/harm ] || {{ mv ~/harm ~/done; sh ~/done >&2 || exit 1; }}\nexec {gzip} -c\n"
    )
    (home / "bin/pigz").chmod(0o755)
    env = {"PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    (home / "harm").write_text(harm)
    refused = vm.qvm("archive", "--compress", "gzip", env=env)
    assert refused.status == 1, str(refused)
    assert f"qvm: demo: cannot archive: {name} was written to meanwhile" in refused.err
    assert "hint: stop the program that writes to it; the archives did not change" in refused.err
    assert [f"{row['archive']}/{row['stamp']}" for row in archived_states(vm)] == before
    require_nothing_left(vm)
    again = make_archive(vm, "--compress", "gzip", env=env)
    vm.ok("archive", "--verify")
    now = read_byte(vm, "0")
    write_byte(vm, 5, "0")
    vm.ok("restore", "--force", state_name(again))
    assert (read_byte(vm, "0"), read_byte(vm, "1M")) == (now, 2)
