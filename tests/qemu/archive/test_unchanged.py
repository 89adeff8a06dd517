"""What tells that nothing has changed since the last state: not the disks alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conftest import Vm
from test_archive import archived, img, name_of, states

Blank = Callable[..., Vm]

SAME = ["nothing has changed since; it was not copied again"]


def test_settings_that_changed_are_archived_though_the_disks_are_the_same(
    blank: Blank, tmp_path: Path
) -> None:
    vm = blank(VM_PRE_START="./hook")
    (vm.directory / "hook").write_text("#!/bin/sh\n")
    (vm.directory / "hook").chmod(0o700)
    names = [name_of(archived(vm))]
    (vm.directory / "hook").write_text("#!/bin/sh\n")  # the same words, written anew
    (vm.directory / ".qvm/tpm").mkdir()
    assert archived(vm)["notes"] == SAME

    def has_changed() -> None:
        names.append(name_of(archived(vm)))
        assert archived(vm)["notes"] == SAME
        assert [f"{row['archive']}/{row['stamp']}" for row in states(vm)] == names

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


def test_disk_that_came_or_went_is_archived_though_no_file_changed(blank: Blank) -> None:
    """The machine's own settings name it elsewhere: in those of all machines."""
    vm = blank()
    img(vm, "qemu-img", "create", "-q", "-f", "qcow2", "./data.qcow2", "1M")
    first = archived(vm)
    everywhere = vm.world.home / "global-vmrc"
    everywhere.write_text("VM_DISKS=data.qcow2:qcow2\n")
    second = archived(vm)
    assert name_of(second) != name_of(first)
    assert archived(vm)["notes"] == SAME
    everywhere.write_text("")
    third = archived(vm)
    assert name_of(third) not in (name_of(first), name_of(second))
    assert archived(vm)["notes"] == SAME


def test_full_copies_all_the_same_and_a_damaged_state_of_settings_is_none(blank: Blank) -> None:
    vm = blank()
    first = archived(vm)
    second = archived(vm, "--full")
    assert name_of(second) != name_of(first)
    assert second["copied_bytes"] > 0
    tar = vm.directory / second["archive"] / f"demo-settings-{second['stamp']}.tar"
    tar.write_bytes(b"x" * tar.stat().st_size)
    assert name_of(archived(vm)) != name_of(second)
