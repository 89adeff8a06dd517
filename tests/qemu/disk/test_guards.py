"""Whatever writes to an image on which others stand, or snapshots inside them, is refused with the remedy."""

from __future__ import annotations

import pytest

from tests.support.archives import make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.programs import file_hash, qemu_img, qemu_io
from tests.support.world import Blank, Result, Vm

WRONG = "would be silently corrupted"


def overlay(vm: Vm, name: str, below: str) -> None:
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, name)


class Pair:
    """A machine, and another one whose overlay is backed by its base."""

    def __init__(self, vm: Vm, other: Vm) -> None:
        self.vm = vm
        self.other = other
        self.base = vm.directory / "demo-base.qcow2"
        self.before = file_hash(self.base)
        self.inode = self.base.stat().st_ino

    def refused(self, *words: str, says: str = WRONG, status: int = 1, left: str = "") -> Result:
        """It is refused, names the other overlay and a remedy, and has changed nothing."""
        result = self.vm.qvm(*words)
        assert result.status == status, str(result)
        assert says in result.err, str(result)
        assert "other-backing.qcow2" in result.err or left in result.err, str(result)
        assert result.err.count("hint: ") == 1
        self.same()
        return result

    def same(self) -> None:
        assert (file_hash(self.base), self.base.stat().st_ino) == (self.before, self.inode)
        assert read_byte(self.other, "1M", "other-backing.qcow2") == 5


@pytest.fixture
def pair(blank: Blank) -> Pair:
    vm = blank()
    write_byte(vm, 5, "1M", "demo-base.qcow2")
    other = blank("other", has_images=False)
    overlay(other, "other-backing.qcow2", "../demo/demo-base.qcow2")
    other.ok("start", "--no-wait")  # from now on it is known
    other.ok("kill")
    return Pair(vm, other)


def test_base_only_is_refused_and_forced_or_disposable_it_runs(pair: Pair) -> None:
    vm = pair.vm
    for words in (["start", "--no-wait", "-b"], ["run", "-b"]):
        pair.refused(*words)
    (vm.directory / "demo-backing.qcow2").rename(vm.directory / "aside.qcow2")
    pair.refused("start", "--no-wait", "-b", left="aside.qcow2")
    (vm.directory / "aside.qcow2").rename(vm.directory / "demo-backing.qcow2")
    write_byte(vm, 7, "2M")
    pair.refused("start", "--no-wait", "-b", says="holds data that depends on the base", left="demo-backing")
    vm.ok("start", "--no-wait", "-b", "--disposable")
    write_live(vm, "-P 9 1M 64k")
    vm.ok("kill")
    pair.same()
    vm.ok("start", "--no-wait", "-b", "--force")
    vm.ok("kill")


def test_base_only_under_an_overlay_with_snapshots_is_refused(blank: Blank) -> None:
    vm = blank()
    vm.ok("snapshot", "save", "a")
    refused = vm.qvm("start", "--no-wait", "-b")
    assert refused.status == 1
    assert "demo-backing.qcow2 holds data that depends on the base" in refused.err
    assert "hint: " in refused.err


def test_start_on_a_disk_that_backs_others_is_refused(blank: Blank) -> None:
    """The machine's own disk, and one of VM_DISKS; `restart` refuses before it powers off."""
    vm = blank(VM_DISKS="data.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "1M")
    for disk in ("data.qcow2", "demo-backing.qcow2"):
        overlay(vm, "above.qcow2", disk)
        refused = vm.qvm("start", "--no-wait")
        assert refused.status == 1
        assert (
            f"demo: cannot start: above.qcow2 is backed by {disk}, which the guest writes to" in refused.err
        )
        line = "`qemu-img rebase -f qcow2 -b '' above.qcow2` copies all data into it"
        assert f"hint: `--disposable` leaves it unchanged; {line}; `--force` does" in refused.err
        vm.ok("start", "--no-wait", "--disposable")
        vm.ok("kill")
        vm.ok("start", "--no-wait", "--force")
        assert "above.qcow2" in vm.qvm("restart", "--force", "--timeout", "0").err
        assert vm.ok("status", "-s").out.startswith("demo: running")
        vm.ok("kill")
        (vm.directory / "above.qcow2").unlink()
    overlay(vm, "above.qcow2", "data.qcow2")
    vm.ok("--set", "VM_DISKS=data.qcow2:qcow2:writeback:ro", "start", "--no-wait")
    vm.ok("kill")


def test_disk_commit_is_refused_on_and_off(pair: Pair) -> None:
    vm = pair.vm
    write_byte(vm, 7, "2M")
    pair.refused("disk", "commit")
    vm.ok("start", "--no-wait")
    pair.refused("disk", "commit")
    vm.ok("kill")
    vm.ok("snapshot", "save", "a")
    (pair.other.directory / "other-backing.qcow2").rename(pair.other.directory / "gone")
    refused = vm.qvm("disk", "commit")
    assert "demo-backing.qcow2 holds snapshots (a)" in refused.err
    assert "hint: `qvm snapshot delete a` removes them" in refused.err
    assert file_hash(pair.base) == pair.before


FORMS = (
    "file:{}",
    'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{}"}}}}',
    'json:{{"driver":"qcow2","file.driver":"file","file.filename":"{}"}}',
    "json:{{'driver':'qcow2','file':{{'driver':'file','filename':'{}'}}}}",
    'json:{{"driver":"qcow2","file":{{"driver":"raw","file":{{"driver":"file","filename":"{}"}}}}}}',
)


def test_other_forms_of_a_backing_name_guard_the_base_too(blank: Blank) -> None:
    vm = blank()
    for at, form in enumerate(FORMS):
        below = form.format(vm.directory / "demo-base.qcow2")
        write_byte(vm, at + 1, "0")
        overlay(vm, "other.qcow2", below)
        refused = vm.qvm("disk", "commit")
        assert refused.status == 1, (form, str(refused))
        assert f"other.qcow2 is backed by it and {WRONG}" in refused.err, form
        assert read_byte(vm, "0", "other.qcow2") == at, form
        (vm.directory / "other.qcow2").unlink()
        qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, "demo-backing.qcow2")
        vm.ok("disk", "commit")  # and the machine's own overlay may say it so
        assert read_byte(vm, "0", "demo-base.qcow2") == at + 1, form


def test_overlay_behind_a_link_protects_its_backing_file(blank: Blank) -> None:
    """QEMU looks for a relative base beside the link that it opens."""
    vm = blank()
    write_byte(vm, 1, "0")
    away = vm.directory.parent / "away"
    away.mkdir()
    overlay(vm, "other.qcow2", "demo-base.qcow2")
    (vm.directory / "other.qcow2").rename(away / "real.qcow2")
    (vm.directory / "other.qcow2").symlink_to("../away/real.qcow2")
    (vm.directory / "zz.qcow2").symlink_to("../away/real.qcow2")
    (away / "demo-base.qcow2").touch()
    known = blank("known", has_images=False, VM_QEMU_ARGS="-m 64", where="away")
    known.ok("start", "--no-wait")
    known.ok("kill")
    refused = vm.qvm("disk", "commit")
    assert refused.status == 1, str(refused)
    assert f"real.qcow2 is backed by it and {WRONG}" in refused.err
    assert read_byte(vm, "0", "other.qcow2") == 0


def test_commit_into_what_is_not_a_file_is_refused(blank: Blank) -> None:
    vm = blank()
    qemu_img(vm, "rebase", "-u", "-F", "raw", "-b", "nbd:localhost:1", "demo-backing.qcow2")
    refused = vm.qvm("disk", "commit")
    assert refused.status == 1, str(refused)
    assert "demo-backing.qcow2 names 'nbd:localhost:1' (raw) as its backing file" in refused.err


def test_disk_verbs_on_a_base_used_as_a_disk_are_refused(pair: Pair) -> None:
    """VM_USE_SNAPSHOTS=no, and the other's overlay on that disk."""
    vm = pair.vm
    vm.set(VM_USE_SNAPSHOTS="no")
    disk = vm.directory / "demo.qcow2"
    pair.base.rename(disk)
    qemu_img(pair.other, "rebase", "-u", "-F", "qcow2", "-b", "../demo/demo.qcow2", "other-backing.qcow2")
    (vm.directory / "demo-backing.qcow2").unlink()
    pair.base = disk
    pair.inode = disk.stat().st_ino
    pair.refused("disk", "resize", "disk0", "+1M")
    pair.refused("disk", "resize", "disk0", "1M", "--shrink")
    assert "unchanged: other images are backed by it" in vm.ok("disk", "trim").out
    pair.refused("start", "--no-wait")
    vm.ok("start", "--no-wait", "--force")
    assert WRONG in vm.qvm("disk", "resize", "disk0", "+1M").err
    vm.ok("kill")
    pair.same()
    qemu_img(vm, "create", "-q", "-f", "qcow2", "new.qcow2", "16M")
    pair.before = file_hash(disk)
    pair.refused("disk", "rebase", "disk0", "new.qcow2", "--unsafe")


def test_disk_repair_of_a_base_is_refused_except_for_leaks(pair: Pair) -> None:
    vm = pair.vm
    whole = pair.base.read_bytes()
    with pair.base.open("r+b") as file:  # the refcount of a data cluster
        file.seek(2 * 65536 + 10)
        file.write(bytes(2))
    pair.before = file_hash(pair.base)
    checked = vm.qvm("disk", "check")
    assert checked.status == 1
    assert "demo-base.qcow2: damaged" in checked.out
    pair.refused("disk", "check", "--repair")
    aside = vm.world.home / "aside"
    (pair.other.directory / "other-backing.qcow2").rename(aside)
    assert "repaired: " in vm.ok("disk", "check", "--repair").out  # its own overlay wants that
    aside.rename(pair.other.directory / "other-backing.qcow2")
    pair.base.write_bytes(whole + bytes(65536))  # a cluster that is not used
    with pair.base.open("r+b") as file:
        file.seek(2 * 65536 + 2 * (len(whole) // 65536))
        file.write(b"\0\1")
    assert "1 leaked cluster" in vm.ok("disk", "check").out
    vm.ok("disk", "check", "--repair")
    assert read_byte(pair.other, "1M", "other-backing.qcow2") == 5


def test_init_over_a_disk_that_backs_others_is_refused(pair: Pair) -> None:
    vm = pair.vm
    pair.refused("init", "-b", "-k")
    overlay(vm, "above.qcow2", "demo-backing.qcow2")
    write_byte(vm, 7, "2M")
    refused = vm.qvm("init", "-k")
    assert refused.status == 1
    assert "cannot replace demo-backing.qcow2: above.qcow2 is backed by it" in refused.err
    assert read_byte(vm, "2M", "above.qcow2") == 7
    (vm.directory / "above.qcow2").unlink()
    vm.ok("init", "-k")  # the other machine does not care
    pair.same()


def test_archive_create_keeps_the_pair(pair: Pair) -> None:
    vm = pair.vm
    write_byte(vm, 7, "2M")
    output = make_archive(vm, "--create")["notes"][0]
    assert output.startswith(f"{pair.other.directory}/other-backing.qcow2 is also backed by demo-base.qcow2")
    pair.same()
    assert read_byte(vm, "2M") == 7


def test_restore_over_a_shared_base_needs_the_same_content(pair: Pair) -> None:
    vm = pair.vm
    write_byte(vm, 7, "2M")
    made = make_archive(vm)
    write_byte(vm, 8, "2M")
    vm.ok("restore", "--force", state_name(made))
    assert read_byte(vm, "2M") == 7
    pair.same()
    overlay(vm, "above.qcow2", "demo-backing.qcow2")
    refused = vm.qvm("restore", "--force", state_name(made))
    assert refused.status == 1
    assert (
        "cannot restore: above.qcow2 is backed by demo-backing.qcow2, which would be replaced" in refused.err
    )
    (vm.directory / "above.qcow2").unlink()
    write_byte(vm, 6, "1M", "demo-base.qcow2")  # by other tools: the base is another one now
    pair.before = file_hash(pair.base)
    for words in ([], ["--force"]):
        result = vm.qvm("restore", *words, state_name(made))
        assert result.status == (1), str(result)
        assert "other-backing.qcow2 is backed by demo-base.qcow2, which would be replaced" in result.err
        assert "hint: `qvm restore ARCHIVE DIR` makes a new machine" in result.err
        assert file_hash(pair.base) == pair.before
    vm.ok("restore", state_name(made), "../twin")
    assert read_byte(Vm(vm.world, vm.world.home / "twin"), "1M", "twin-backing.qcow2") == 5
    require_nothing_left(vm)


def test_restore_never_replaces_a_base_elsewhere(blank: Blank) -> None:
    """A disk of VM_DISKS on a base that machines share: unchanged it stays, else there is a new one."""
    vm = blank(VM_DISKS="data.qcow2\nmore.qcow2")
    shared = vm.world.home / "shared.qcow2"
    qemu_img(vm, "create", "-q", "-f", "qcow2", str(shared), "16M")
    qemu_io(vm, "-f", "qcow2", "-c", "write -P 5 1M 64k", str(shared))
    overlay(vm, "data.qcow2", str(shared))
    overlay(vm, "more.qcow2", str(shared))
    write_byte(vm, 7, "2M", "data.qcow2")
    made = make_archive(vm)
    before = file_hash(shared)
    write_byte(vm, 8, "2M", "data.qcow2")
    vm.ok("restore", "--force", state_name(made))
    assert [read_byte(vm, at, "data.qcow2") for at in ("1M", "2M")] == [5, 7]
    assert file_hash(shared) == before
    qemu_io(vm, "-f", "qcow2", "-c", "write -P 6 1M 64k", str(shared))
    before = file_hash(shared)
    vm.ok("restore", "--force", state_name(made))
    assert file_hash(shared) == before
    assert [read_byte(vm, "1M", name) for name in ("data.qcow2", "more.qcow2")] == [5, 5]
    assert read_byte(vm, "2M", "data.qcow2") == 7
    vm.ok("start", "--no-wait")
    twin = Vm(vm.world, vm.world.home / "twin")
    vm.ok("restore", state_name(made), "../twin")
    assert [read_byte(twin, "1M", name) for name in ("data.qcow2", "more.qcow2")] == [5, 5]
    twin.ok("start", "--no-wait")
    twin.ok("kill")
    require_nothing_left(vm)


def test_restore_of_two_disks_on_one_base_restores_both(blank: Blank) -> None:
    vm = blank(VM_DISKS="a.qcow2\nb.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "common.qcow2", "16M")
    write_byte(vm, 5, "1M", "common.qcow2")
    overlay(vm, "a.qcow2", "common.qcow2")
    overlay(vm, "b.qcow2", "common.qcow2")
    write_byte(vm, 1, "0", "a.qcow2")
    write_byte(vm, 2, "0", "b.qcow2")
    vm.ok("start", "--no-wait")
    make_archive(vm)
    write_live(vm, "-P 3 64k 64k", "disk2")
    made = make_archive(vm)
    vm.ok("kill")
    write_byte(vm, 9, "1M", "common.qcow2")
    vm.ok("restore", "--force", state_name(made))
    assert [read_byte(vm, at, "a.qcow2") for at in ("0", "1M")] == [1, 5]
    assert [read_byte(vm, at, "b.qcow2") for at in ("0", "64k", "1M")] == [2, 3, 5]
    require_nothing_left(vm)


def test_machines_that_share_a_name_are_all_looked_at(blank: Blank) -> None:
    """The list of known machines holds both; the name alone means only the last one used."""
    vm = blank()
    base = vm.directory / "demo-base.qcow2"
    overlays = []
    for folder in ("one", "two"):
        above = vm.world.home / folder
        above.mkdir()
        made = vm.world.run("create", "twin", "--image", str(base), cwd=above)
        assert made.status == 0, str(made)
        overlays.append(above / "twin/twin-backing.qcow2")
    qemu_img(vm, "rebase", "-u", "-F", "qcow2", "-b", str(base), str(overlays[0]))
    write_byte(vm, 7, "1M")
    refused = vm.qvm("disk", "commit")
    assert refused.status == 1
    assert "one/twin/twin-backing.qcow2" in refused.err
    files = [path.parent / ".vmrc" for path in overlays]
    numbers = [line for file in files for line in file.read_text().splitlines() if "VM_MACHINE_ID" in line]
    assert len(numbers) == len(set(numbers)) == 2


def test_disk_of_another_machine_is_no_base_to_commit_to(blank: Blank) -> None:
    vm, other = blank("web"), blank("other")
    other.ok("disk", "rebase", "disk0")
    write_byte(other, 1, "0", "other-backing.qcow2")
    vm.ok("disk", "rebase", "disk0", other.directory / "other-backing.qcow2")
    write_byte(vm, 2, "0", "web-backing.qcow2")
    refused = vm.qvm("disk", "commit")
    said = f"cannot commit to other-backing.qcow2: it is a disk of the machine in {other.directory}"
    assert (refused.status, said in refused.err) == (3, True), refused
    (vm.directory / "hard.qcow2").hardlink_to(other.directory / "other-backing.qcow2")
    vm.ok("disk", "rebase", "disk0", "hard.qcow2")
    refused = vm.qvm("disk", "commit")
    said = f"cannot commit to hard.qcow2: it is a disk of the machine in {other.directory}"
    assert (refused.status, said in refused.err) == (3, True), refused
    assert read_byte(other, "0", "other-backing.qcow2") == 1
    vm.ok("disk", "rebase", "disk0")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "web-backing.qcow2", "more.qcow2")
    vm.set(VM_DISKS="more.qcow2")
    refused = vm.qvm("disk", "commit", "disk1")
    assert (refused.status, "it is disk0 of this machine" in refused.err) == (3, True), refused


def test_disk_that_a_guest_writes_to_becomes_no_base(blank: Blank) -> None:
    vm, other = blank("web"), blank("other")
    other.ok("start", "--no-wait")
    for words in ([], ["--unsafe"]):
        refused = vm.qvm("disk", "rebase", "disk0", other.directory / "other-backing.qcow2", *words)
        assert (refused.status, "is in use by" in refused.err) == (1, True), refused
    other.kill()
    vm.ok("disk", "check")
