"""`qvm delete`, `undelete`, `prune`: only the machine's own files, and never half of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.errors import require_error
from tests.support.kill_steps import interrupted_at, killed_at
from tests.support.programs import write_script
from tests.support.pty_terminal import PtyTerminal
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, QVM, Blank, Vm, World

NOBODY = 65534
STEPS = 200
"""More steps than any of the commands has."""


def tree(vm: Vm) -> dict[str, bytes]:
    """Every file of the machine but locks, logs, temporary files and the note of a deletion, by its path."""
    found = {}
    for path in sorted(vm.directory.rglob("*")):
        name = str(path.relative_to(vm.directory))
        is_kept = not name.startswith((".qvm/log", ".qvm/deleted", ".qvm/work.lock")) and ".part" not in name
        if path.is_file() and not path.is_symlink() and is_kept:
            found[name] = path.read_bytes()
    return found


def trash(world: World) -> list[str]:
    folder = world.home / ".local/share/qvm/trash"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(name if name.startswith(".") else name.partition("-")[2] for name in names)


def test_delete_and_undelete_keep_every_byte(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("snapshot", "save", "ready")
    vm.ok("archive")
    before = tree(vm)
    result = world.run("delete", "-y", "web")
    assert result.out == "web: deleted; `qvm undelete web` takes it back\n"
    assert not vm.directory.exists()
    assert trash(world) == ["web"]
    assert world.run("list").out == ""
    assert world.run("undelete").out == f"web: back in {vm.directory}\n"
    assert tree(vm) == before
    assert trash(world) == []
    assert json.loads(world.run("--json", "list").out)["machines"][0]["machine"] == "web"


def test_delete_keeps_what_is_not_the_machines(blank: Blank, world: World, tmp_path: Path) -> None:
    vm = blank("web")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    (outside / "big.qcow2").write_bytes((vm.directory / "web-base.qcow2").read_bytes())
    (vm.directory / "mine").write_text("mine")
    (vm.directory / "disks").mkdir()
    (vm.directory / "disks/data.raw").write_bytes(b"\0" * 512)
    (vm.directory / "disks/notes").write_text("notes")
    (vm.directory / "way").symlink_to(outside)
    (vm.directory / ".qvm/way").symlink_to(outside)
    vm.set(VM_DISKS=f"disks/data.raw:raw\n{outside}/big.qcow2")
    vm.ok("archive")
    result = world.run("--json", "delete", "--now", "-y", "web")
    report = json.loads(result.out)
    assert report["foreign"] == ["disks/notes", "mine", "way"]
    assert report["outside"] == [f"{outside}/big.qcow2"]
    assert report["trash"] is None
    assert sorted(path.name for path in vm.directory.rglob("*")) == ["disks", "mine", "notes", "way"]
    assert sorted(path.name for path in outside.iterdir()) == ["big.qcow2", "precious"]
    assert world.run("list").out == ""


def test_archives_and_disks_elsewhere_stay_and_are_named(blank: Blank, world: World) -> None:
    vm = blank("web")
    (world.home / "shared.raw").write_bytes(bytes(512))
    vm.set(VM_DISKS="../shared.raw:raw", VM_ARCHIVE="../store")
    vm.ok("archive")
    terminal = PtyTerminal(vm, "delete")
    terminal.until("Move it into the trash")
    os.write(terminal.master, b"n\n")
    assert terminal.end() != 0
    kept = re.findall("elsewhere, and kept: (.*)\r\n", terminal.text)
    assert kept == [f"{world.home}/shared.raw", f"1 archived state in {world.home}/store"]
    assert "with 1" not in terminal.text
    result = world.run("delete", "-y", "web")
    assert result.out.splitlines()[1:] == [
        f"web: kept: {world.home}/shared.raw",
        f"web: kept: 1 archived state in {world.home}/store",
    ]
    world.run("undelete", "web")
    report = json.loads(world.run("--json", "delete", "-y", "web").out)
    assert (report["archives"], report["archives_there"]) == (f"{world.home}/store", 1)
    world.run("undelete", "web")
    vm.set(VM_ARCHIVE="ssh://nosuch.invalid/store")
    assert "web: kept: what is archived in ssh://nosuch.invalid/store" in world.run("delete", "-y", "web").out


def test_delete_asks_and_refuses(blank: Blank, world: World) -> None:
    vm = blank("web")
    before = tree(vm)
    result = world.run("delete", "web")
    assert result.status == 2
    assert "hint: `qvm delete --yes web` does not ask" in result.err
    vm.set(VM_PROTECT="yes")
    result = world.run("delete", "-y", "web")
    assert (result.status, "it is protected (VM_PROTECT=yes)" in result.err) == (3, True)
    vm.set(VM_PROTECT="no")
    vm.ok("start", "--no-wait")
    result = world.run("delete", "-y", "web")
    assert (result.status, "cannot delete: it is running" in result.err) == (3, True)
    vm.ok("kill")
    other = blank("other")
    overlay = other.directory / "linked.qcow2"
    base = ["-F", "qcow2", "-b", str(vm.directory / "web-base.qcow2")]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, overlay], check=True)
    result = world.run("delete", "-y", "web")
    assert result.status == 3
    assert f"{overlay} is backed by web-base.qcow2" in result.err
    assert {name for name in before if name != ".vmrc"} <= set(tree(vm))


def test_delete_of_a_snapshot_is_a_word(blank: Blank, world: World) -> None:
    vm = blank("web")
    for name in ("one", "two", "asdföklj"):
        vm.ok("snapshot", "save", name)
    assert world.run("delete", "web:one").status == 2
    result = world.run("delete", "-y", "web:one", "web:asdföklj")
    assert result.status == 0, result
    report = json.loads(vm.ok("--json", "snapshot", "list").out)
    assert [each["name"] for each in report["snapshots"]] == ["two"]
    result = world.run("delete", "-y", "web:three")
    assert (result.status, "there is no snapshot three" in result.err) == (3, True)
    assert world.run("delete", "-y", "mail:x").status == 2
    assert vm.directory.exists()


def test_undelete_takes_the_latest_of_a_name(blank: Blank, world: World) -> None:
    first = blank("web")
    (first.directory / ".qvm/which").write_text("first")
    world.run("delete", "-y", "web")
    second = blank("web")
    (second.directory / ".qvm/which").write_text("second")
    world.run("delete", "-y", "web")
    assert world.run("undelete", "web").status == 0
    assert (first.directory / ".qvm/which").read_text() == "second"
    result = world.run("undelete", "web")
    assert result.status == 3
    assert f"{first.directory} is taken" in result.err
    result = world.run("undelete", "mail")
    assert (result.status, "hint: in the trash: web" in result.err) == (2, True)
    assert (
        world.run("prune", "-y").out == "nothing to remove; 1 machine in the trash (`qvm undelete --list`)\n"
    )
    assert world.run("undelete", "--list").out.startswith("web: deleted ")
    assert world.run("prune", "--older", "0").status == 2
    assert world.run("prune", "--older", "0", "-y").out.startswith("removed web: ")
    assert trash(world) == []
    assert world.run("undelete").status == 2


def test_delete_several_reports_each(blank: Blank, world: World) -> None:
    machines = [blank(f"web{n}") for n in range(3)]
    machines[1].set(VM_PROTECT="yes")
    result = world.run("delete", "-y", "web*")
    assert result.status == 3
    assert [vm.directory.exists() for vm in machines] == [False, True, False]


def test_delete_of_all_takes_linked_clones_first(blank: Blank, world: World) -> None:
    vm, user = blank("web"), blank("user")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", vm.directory / "data.qcow2", "1M"], check=True)
    user.set(VM_DISKS=f"{vm.directory}/data.qcow2:ro")
    vm.ok("clone", "../mail", "--linked")
    mail = Vm(world, world.home / "mail")
    mail.set(VM_PROTECT="yes")
    result = world.run("delete", "web", "mail", "user", "--now", "-y")
    assert result.status == 3, result
    assert "web: cannot delete: mail, which needs disks of it, was not deleted" in result.err
    assert (vm.directory.exists(), mail.directory.exists(), user.directory.exists()) == (True, True, False)
    mail.set(VM_PROTECT="no")
    result = world.run("delete", "--all", "-y")
    hint = "mail is in the trash: `qvm undelete mail`, or `qvm prune --older 0`, which empties it"
    assert (result.status, hint in result.err, trash(world)) == (3, True, ["mail"]), result
    assert world.run("undelete", "mail").status == 0
    result = world.run("delete", "--all", "-y", "--now")
    assert (result.status, result.err) == (0, ""), result
    assert [path.name for path in vm.directory.iterdir()] == ["data.qcow2"]


def test_delete_at_a_terminal_names_what_was_not_deleted(blank: Blank, world: World) -> None:
    one, two = blank("one"), blank("two")
    terminal = PtyTerminal(one, "delete", str(one.directory), str(two.directory))
    for name, answer in (("one", b"y\n"), ("two", b"n\n")):
        terminal.until(f"(?s){name} in .*Move it into the trash[^\n]*N] ")
        os.write(terminal.master, answer)
    terminal.until("two: delete: nothing was changed")
    assert terminal.end() == 1
    assert (one.directory.exists(), two.directory.exists()) == (False, True)


@pytest.mark.parametrize("is_now", [False, True])
def test_delete_interrupted_at_each_step_says_what_was_done(
    blank: Blank, world: World, tmp_path: Path, is_now: bool
) -> None:
    vm = blank("web")
    kept = vm.directory.rename(tmp_path / "kept")
    for step in range(STEPS):
        subprocess.run(["cp", "-r", kept, vm.directory], check=True)
        done = interrupted_at(world, step, "-C", "web", "delete", "-y", *(["--now"] if is_now else []))
        is_gone = not (vm.directory / ".vmrc").exists()
        if done.returncode == 0:
            break
        assert ("web: interrupted too late: it " in done.stderr) is is_gone, (step, done.stderr)
        is_in_trash = world.run("undelete", "web").status == 0
        assert is_in_trash is ("`qvm undelete web` takes it back" in done.stderr), (step, done.stderr)
        shutil.rmtree(vm.directory, ignore_errors=True)
    assert 4 < step < STEPS - 1


def test_delete_without_the_right_to_write_to_own_trash(blank: Blank, world: World) -> None:
    vm = blank("web")
    folder = world.home / ".local/share/qvm"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o500)
    bare = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else ["env"]
    words = [*bare, QVM, "delete", "-y"]
    done = subprocess.run(words, cwd=vm.directory, env=world.environ, capture_output=True, text=True)
    folder.chmod(0o700)
    assert (done.returncode, vm.directory.exists()) == (1, True), done
    assert f"hint: `chmod u+rwx {folder}` lets you, its owner, change it" in done.stderr


@pytest.mark.parametrize("has_foreign", [False, True])
def test_delete_killed_at_each_step_is_whole_or_undone(blank: Blank, world: World, has_foreign: bool) -> None:
    vm = blank("web")
    if has_foreign:
        (vm.directory / "mine").write_text("mine")
    before = tree(vm)
    other = blank("other")
    for step in range(STEPS):
        is_over = killed_at(world, step, "delete", "-y", "web") == 0
        other.ok("config", f"VM_LABELS=a{step}")  # a command that looks
        world.run("doctor", "--fix", cwd=other.directory)
        if vm.directory.exists() and (vm.directory / ".vmrc").exists():
            assert trash(world) == [], step
        else:
            assert trash(world) == ["web"], step
            assert sorted(os.listdir(vm.directory)) == ["mine"] if has_foreign else not vm.directory.exists()
            assert world.run("undelete", "web").status == 0
        assert tree(vm) == before, step
        if is_over:
            break
    else:
        pytest.fail("it never came to its end")


@pytest.mark.parametrize("has_foreign", [False, True])
def test_undelete_killed_at_each_step_is_whole_or_undone(
    blank: Blank, world: World, has_foreign: bool
) -> None:
    vm = blank("web")
    if has_foreign:
        (vm.directory / "mine").write_text("mine")
    before = tree(vm)
    other = blank("other")
    for step in range(STEPS):
        assert world.run("delete", "-y", "web").status == 0
        is_over = killed_at(world, step, "undelete", "web") == 0
        world.run("doctor", "--fix", cwd=other.directory)
        if not (vm.directory / ".vmrc").exists():
            assert trash(world) == ["web"], step
            assert world.run("undelete", "web").status == 0
        assert tree(vm) == before, step
        assert world.run("prune", "--older", "0", "-y").status == 0
        if is_over:
            break
    else:
        pytest.fail("it never came to its end")


def test_verbs_on_a_full_disk_lose_nothing(world: World, tmp_path: Path) -> None:
    small = tmp_path / "small"
    with small_disk(small, 8):
        for name in ("web", "db"):
            assert world.run("create", small / name, "1M").status == 0
        vm = Vm(world, small / "web")
        vm.ok("snapshot", "save", "ready")
        with contextlib.suppress(OSError), (small / "fill").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        before = tree(vm)
        for words in (("rename", "web", "mail"), ("clone", "web", small / "mail"), ("renew", "-y", "web")):
            result = world.run(*words)
            assert (result.status, "No space left on device" in result.err) == (1, True), result
            assert tree(vm) == before
        require_error(
            world.run("delete", "-y", "web"),
            1,
            "web: cannot delete: the disk is full, and the trash needs room for a note",
            "`qvm delete --now web` needs none",
        )
        assert tree(vm) == before
        assert sorted(os.listdir(small)) == ["db", "fill", "web"]
        result = world.run("move", "web", small / "there")  # a rename needs no room
        assert result.status == 0, result
        moved = Vm(world, small / "there")
        assert tree(moved) == before
        result = world.run("delete", "-y", "--now", "web")
        assert (result.status, result.out.startswith("web: removed")) == (0, True), result
        assert sorted(os.listdir(small)) == ["db", "fill"]
        assert trash(world) == []
        assert [row["machine"] for row in json.loads(world.run("--json", "list").out)["machines"]] == ["db"]


def test_undelete_replaces_no_file_and_scatters_none(blank: Blank, world: World) -> None:
    vm = blank("web")
    (vm.directory / "disks").mkdir()
    (vm.directory / "disks/data.raw").write_bytes(b"\1" * 512)
    vm.set(VM_DISKS="disks/data.raw:raw")
    before = tree(vm)
    assert world.run("delete", "-y", "web").status == 0
    (vm.directory / "disks").mkdir(parents=True)
    (vm.directory / "disks/data.raw").write_text("mine")
    result = world.run("undelete", "web")
    assert (result.status, "disks/data.raw is there, and is not the machine's" in result.err) == (3, True)
    assert [path.name for path in vm.directory.rglob("*")] == ["disks", "data.raw"]
    assert (vm.directory / "disks/data.raw").read_text() == "mine"
    (vm.directory / "disks/data.raw").rename(vm.directory / "disks/mine")
    assert world.run("undelete", "web").status == 0
    (vm.directory / "disks/mine").unlink()
    before[".qvm/place"] = tree(vm)[".qvm/place"]  # the directory is a new one
    assert tree(vm) == before


def test_machine_reached_by_a_link_is_the_one_that_goes(blank: Blank, world: World, tmp_path: Path) -> None:
    vm = blank("web")
    way = tmp_path / "way"
    way.symlink_to(vm.directory)
    before = tree(vm)
    assert world.run("delete", "-y", way).status == 0
    assert (way.is_symlink(), vm.directory.exists()) == (True, False)
    assert world.run("undelete").status == 0
    assert tree(vm) == before
    result = world.run("rename", way, "mail")
    assert result.status == 0, result
    assert (vm.directory.with_name("mail") / ".vmrc").exists()


def test_deletions_at_one_moment_are_two_in_the_trash(world: World) -> None:
    for name in ("web", "db", "mail"):
        (world.home / name).mkdir()
        assert world.run("create", f"{name}/same", "1M").status == 0
    result = world.run("delete", "-y", "web/same", "db/same", "mail/same")
    assert result.status == 0, result
    assert trash(world) == ["same", "same", "same"]
    listed = [line for line in world.run("undelete", "--list").out.splitlines() if line.startswith("same")]
    assert sorted(line.rpartition(" ")[2] for line in listed) == [
        str(world.home / name / "same") for name in ("db", "mail", "web")
    ]


def test_delete_takes_bases_and_what_the_settings_name(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("clone", "../linked", "--linked")
    assert world.run("export", "linked", "x.tar").status == 0
    assert world.run("import", "x.tar", "twin").status == 0
    twin = Vm(world, world.home / "twin")
    assert list(twin.directory.glob("disks/*")), "its base came from elsewhere"
    write_script(twin.directory, "hook", "#!/bin/sh\n")
    twin.set(VM_PRE_START="./hook")
    report = json.loads(world.run("--json", "delete", "-y", "--now", "twin").out)
    assert report["foreign"] == []
    assert not twin.directory.exists()


def test_two_prunes_at_a_time_remove_everything(world: World) -> None:
    names = [f"web{n}" for n in range(6)]
    for name in names:
        assert world.run("create", name, "1M").status == 0
    assert world.run("delete", "-y", *names).status == 0
    children = [world.popen("--json", "prune", "-y", "--older", "0") for _ in range(2)]
    outputs = [child.communicate(timeout=DEADLINE_S) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert sorted(name for out, _ in outputs for name in json.loads(out)["machines"]) == names
    assert trash(world) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second account")
def test_accounts_have_a_trash_each_beside_their_machines(world: World) -> None:
    top = Path(tempfile.mkdtemp(prefix="qvmt-shared-"))
    far, home = top / "far", top / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    top.chmod(0o755)
    names = ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    env = dict.fromkeys(names, str(home)) | {"VM_GLOBAL_CONFIG": os.devnull}
    other = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", QVM]
    try:
        with small_disk(far, 64):
            far.chmod(0o1777)
            assert world.run("create", far / "web", "1M").status == 0
            assert world.run("delete", "-y", "web").status == 0
            for words in (["create", "mail", "1M"], ["delete", "-y", "mail"], ["undelete", "mail"]):
                result = world.run(*other, *words, cwd=far, env=env, program="setpriv")
                assert result.status == 0, result
            (far / f".trash-{NOBODY}").rmdir()
            (far / f".trash-{NOBODY}").mkdir(0o777)  # made by another account, which could read it
            result = world.run(*other, "delete", "-y", "mail", cwd=far, env=env, program="setpriv")
            assert (result.status, "belongs to root" in result.err) == (1, True), result
            assert (far / "mail/.vmrc").exists()
            assert world.run("undelete", "web").status == 0
    finally:
        shutil.rmtree(top)


def test_delete_takes_disks_named_through_a_link(blank: Blank, world: World) -> None:
    vm = blank("web")
    (world.home / "la").symlink_to(vm.directory)
    (vm.directory / "data.raw").write_bytes(bytes(512))
    vm.set(VM_DISKS=f"{world.home}/la/data.raw:raw")
    report = json.loads(world.run("--json", "delete", "-y", "web").out)
    assert (report["foreign"], report["outside"]) == ([], [])
    assert not vm.directory.exists()
