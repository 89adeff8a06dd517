"""Who decides what a path means, and what of root's goes to VM_MACHINE_OWNER."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvmsh.cli import fanout, parse
from qvmsh.commands.index import COMMANDS
from qvmsh.errors import ConfigError, QvmError
from qvmsh.machine import handover, owner
from qvmsh.machine.machine import BaseMachine

NOBODY, DAEMON = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")


def who(path: Path | str, **environ: str) -> str | None:
    account = owner.of(str(path), environ)
    return account.name if account else None


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/theirs/machine, where `theirs` belongs to `nobody`; beside it a machine of root's."""
    for name in ("theirs/machine", "own"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("theirs", "theirs/machine"):
        os.chown(tmp_path / name, NOBODY.pw_uid, NOBODY.pw_gid)
    return tmp_path


@as_root
def test_owner_is_whose_the_directory_is(tree: Path) -> None:
    assert who(tree / "own") is None
    assert who(tree / "theirs/machine") == "nobody"
    os.chown(tree / "theirs/machine", 0, 0)
    assert who(tree / "theirs/machine") == "nobody"  # an account that can replace it
    assert who(tree / "theirs/not-there") == "nobody"
    assert who(tree / "not-there/at/all") is None


@as_root
def test_owner_of_a_link_is_its_creator(tree: Path) -> None:
    (tree / "link").symlink_to("own")
    assert who(tree / "link") is None
    os.chown(tree / "link", DAEMON.pw_uid, -1, follow_symlinks=False)
    assert who(tree / "link") == "daemon"
    (tree / "through").symlink_to("theirs/../own")
    assert who(tree / "through") == "nobody"
    (tree / "round").symlink_to("round")
    assert who(tree / "round/x") is None  # nothing is there


@as_root
def test_owner_where_only_the_state_is_anothers(tree: Path) -> None:
    (tree / "own/.qvm").symlink_to("/etc")
    assert who(tree / "own") is None
    os.chown(tree / "own/.qvm", NOBODY.pw_uid, -1, follow_symlinks=False)
    assert who(tree / "own") == "nobody"


@as_root
def test_owner_behind_sudo_is_trusted_with_folders_above_only(tree: Path) -> None:
    os.chown(tree / "theirs/machine", 0, 0)
    sudo = {"SUDO_UID": str(NOBODY.pw_uid)}
    assert who(tree / "theirs/machine", **sudo) is None
    os.chown(tree / "theirs/machine", NOBODY.pw_uid, -1)
    assert who(tree / "theirs/machine", **sudo) == "nobody"
    assert who(tree / "theirs/machine", SUDO_UID="x") == "nobody"


@as_root
@pytest.mark.parametrize(("place", "mode"), [("own", 0o777), ("", 0o777)])
def test_owner_where_everybody_can_write_is_an_error(tree: Path, place: str, mode: int) -> None:
    (tree / place).chmod(mode)
    with pytest.raises(QvmError, match="everybody can change") as caught:
        who(tree / "own")
    assert f"chmod o-w {tree / place}" in str(caught.value.hint)
    (tree / place).chmod(0o755)
    assert who(tree / "own") is None


@as_root
def test_owner_without_an_account_is_an_error(tree: Path) -> None:
    os.chown(tree / "own", 54321, -1)
    with pytest.raises(QvmError, match="belongs to uid 54321"):
        who(tree / "own")


@as_root
def test_machine_of_another_account_is_not_opened_by_root(tree: Path) -> None:
    (tree / "theirs/machine/.vmrc").write_text("VM_MACHINE_NAME=x\n")
    with pytest.raises(QvmError, match="belongs to nobody") as caught:
        BaseMachine(tree / "theirs/machine")
    assert f"qvm -C {tree / 'theirs/machine'}" in str(caught.value.hint)


@as_root
def test_foreign_home_is_not_roots(tree: Path) -> None:
    environ = {
        "HOME": str(tree / "theirs"), "XDG_DATA_HOME": str(tree / "theirs/x"), "XDG_CACHE_HOME": str(tree),
    }  # fmt: skip
    owner.leave_foreign_home(environ)
    assert environ == {"HOME": pwd.getpwuid(0).pw_dir, "XDG_CACHE_HOME": str(tree)}


def of_root(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.lstat().st_uid == 0}


@as_root
def test_hand_over_gives_the_machine_and_nothing_else(tree: Path) -> None:
    folder, outside = tree / "own", tree / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    (outside / "twin").touch()
    (folder / ".vmrc").write_text(
        "VM_MACHINE_NAME=demo\nVM_MACHINE_ID=33\nVM_MACHINE_OWNER=nobody\nVM_DISKS=extra.qcow2\n"
        "VM_LOG=../outside/secret\n"
    )
    (folder / ".qvm/log").mkdir(parents=True)
    for name in ("demo-base.qcow2", "demo-seed.qcow2", "extra.qcow2", "mine.txt", ".qvm/uuid", ".qvm/log/x"):
        (folder / name).touch()
    (folder / ".qvm/link").symlink_to(outside / "secret")
    (folder / ".qvm/hard").hardlink_to(outside / "twin")
    os.mkfifo(folder / ".qvm/fifo")
    vm = BaseMachine(folder, environ={"HOME": str(tree), "VM_GLOBAL_CONFIG": "/dev/null"})
    account = owner.named(vm.loaded, vm.directory)
    assert account is not None
    assert account.name == "nobody"
    handover.hand_over(vm, account)
    assert folder.stat().st_uid == NOBODY.pw_uid
    assert of_root(folder) == {
        ".vmrc", "demo-seed.qcow2", "mine.txt", ".qvm/link", ".qvm/hard", ".qvm/fifo",
    }  # fmt: skip
    assert of_root(outside) == {"secret", "twin"}


@as_root
def test_hand_over_never_gives_a_home(tree: Path) -> None:
    home = Path(pwd.getpwuid(0).pw_dir)
    vm = BaseMachine(home, environ={"HOME": str(tree)})
    account = owner.above(str(tree / "theirs"), {})
    assert account is not None
    before = stat.S_IMODE(home.stat().st_mode), home.stat().st_uid
    with pytest.raises(ConfigError, match="is the home directory of an account"):
        handover.hand_over(vm, account)
    assert (stat.S_IMODE(home.stat().st_mode), home.stat().st_uid) == before


WORDS = st.text("ab-=/ .'\n*é", max_size=4)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_words_for_another_process_mean_the_same(data: st.DataObject) -> None:
    """What is bound, written as words and bound again, is the same: of every command."""
    verb = data.draw(st.sampled_from(sorted(COMMANDS)))
    bound = parse.Bound(parse.Entry(verb))
    if data.draw(st.booleans()):
        bound.common |= {"json": True, "set": (data.draw(WORDS), data.draw(WORDS))}
    for row in bound.entry.options:
        if row[1] == "last" and bound.entry.words == "machines":
            continue
        excluded = {
            other for name in bound.options for r in bound.entry.options if r[0] == name for other in r[7]
        }
        if row[0] in excluded or bool(set(row[7]) & set(bound.options)) or data.draw(st.booleans()):
            continue
        value: object = data.draw(WORDS)
        if row[5]:
            value = data.draw(st.sampled_from(row[5]))
        elif row[1] in ("yes", "no"):
            value = row[1] == "yes"
        elif row[1] == "integer":
            value = data.draw(st.integers(0, 99))
        elif row[1] == "number":
            value = float(data.draw(st.integers(0, 99)))
        elif row[1] == "list":
            value = (value, data.draw(WORDS))
        bound.options[row[0]] = value
    if bound.entry.words != "machines":
        least = len([row for row in bound.entry.positionals if row[1]])
        most = 4 if any(row[2] for row in bound.entry.positionals) else len(bound.entry.positionals)
        bound.words = [data.draw(WORDS) for _ in range(data.draw(st.integers(least, max(least, most))))]
    words = fanout.words(bound, "/vm/demo")
    common, rest = parse.common(words)
    found = parse.verb_of(rest)
    assert found is not None
    assert found[0] == verb
    again = parse.bind(verb, rest[found[1] :])
    assert common == bound.common | {"directory": "/vm/demo"}
    assert (again.options, again.words, again.common) == (bound.options, bound.words, {})
