"""How qvm knows that nothing has changed since the last state: not by the disks alone."""

from __future__ import annotations

from pathlib import Path

from tests.support.archives import archived_states, make_archive, state_name
from tests.support.programs import qemu_img
from tests.support.world import Blank

SAME = ["nothing has changed since; nothing was copied"]


def test_settings_that_changed_are_archived_without_the_disks(blank: Blank, tmp_path: Path) -> None:
    vm = blank(VM_PRE_START="./hook")
    (vm.directory / "hook").write_text("#!/bin/sh\n")
    (vm.directory / "hook").chmod(0o700)
    names = [state_name(make_archive(vm))]
    (vm.directory / "hook").write_text("#!/bin/sh\n")  # the same words, written again
    (vm.directory / ".qvm/tpm").mkdir()
    assert make_archive(vm)["notes"] == SAME

    def has_changed() -> None:
        names.append(state_name(make_archive(vm)))
        assert make_archive(vm)["notes"] == SAME
        assert [f"{row['archive']}/{row['stamp']}" for row in archived_states(vm)] == names

    vm.ok("config", "VM_MACHINE_MEM=99")
    has_changed()
    (vm.directory / "hook").write_text("#!/bin/bash\n")
    has_changed()
    (vm.directory / "hook").chmod(0o755)
    has_changed()
    (vm.directory / ".qvm/tpm/tpm2-00.permall").write_text("keys")
    has_changed()
    (vm.directory / ".qvm/tpm/tpm2-00.permall").unlink()
    has_changed()
    vm.ok("archive", "--verify")
    made = tmp_path / "twin"
    vm.ok("restore", names[2], made)
    assert "99" in (made / ".vmrc").read_text()
    assert (made / "hook").read_text() == "#!/bin/bash\n"


def test_disk_added_or_removed_makes_a_new_state(blank: Blank) -> None:
    """The machine's own settings name it elsewhere: in those of all machines."""
    vm = blank()
    qemu_img(vm, "create", "-q", "-f", "qcow2", "./data.qcow2", "1M")
    first = make_archive(vm)
    everywhere = vm.world.home / "global-vmrc"
    everywhere.write_text("VM_DISKS=data.qcow2:qcow2\n")
    second = make_archive(vm)
    assert state_name(second) != state_name(first)
    assert make_archive(vm)["notes"] == SAME
    everywhere.write_text("")
    third = make_archive(vm)
    assert state_name(third) not in (state_name(first), state_name(second))
    assert make_archive(vm)["notes"] == SAME


def test_archive_full_copies_all_and_replaces_a_damaged_state(blank: Blank) -> None:
    vm = blank()
    first = make_archive(vm)
    second = make_archive(vm, "--full")
    assert state_name(second) != state_name(first)
    assert second["copied_bytes"] > 0
    tar = vm.directory / second["archive"] / f"demo-settings-{second['stamp']}.tar"
    tar.write_bytes(b"x" * tar.stat().st_size)
    assert state_name(make_archive(vm)) != state_name(second)
