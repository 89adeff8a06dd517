"""Lines of a setting, added to and removed from the text of a `.vmrc`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qvmsh.config.words import quote
from qvmsh.errors import ConfigError
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.settings import lines

NAME = "VM_DISKS"
HEAD = "VM_MACHINE_NAME=demo\nVM_MACHINE_ID=01\nVM_MACHINE_OWNER=root\nSUB=sub\n"


def machine(folder: Path, text: str, **environ: str) -> BaseMachine:
    (folder / ".vmrc").write_text(HEAD + text)
    where = {"HOME": str(folder), "VM_GLOBAL_CONFIG": "/dev/null", "XDG_CONFIG_HOME": str(folder / "config")}
    overrides = [(NAME, "only.raw")]  # it is for one command: neither kept nor lost
    return BaseMachine(folder, environ=where | environ, overrides=overrides)


def written(vm: BaseMachine) -> str:
    return Path(vm.files.vmrc).read_text().removeprefix(HEAD)


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("", "VM_DISKS=new.raw\n"),
        ("VM_DISKS=\n", "VM_DISKS=new.raw\n"),
        ("VM_DISKS=''\n", "VM_DISKS=new.raw\n"),
        ("VM_DISKS=a.raw  # why\n", "VM_DISKS='a.raw\nnew.raw'  # why\n"),
        ("VM_DISKS='a.raw\nb.raw'\n", "VM_DISKS='a.raw\nb.raw\nnew.raw'\n"),
        ('VM_DISKS="\n  $SUB/a.raw\n"\n', 'VM_DISKS="\n  $SUB/a.raw\n  new.raw\n"\n'),
        ('VM_DISKS="\n\ta.raw\n  "\n', 'VM_DISKS="\n\ta.raw\n\tnew.raw\n  "\n'),
        ("VM_DISKS=$SUB.raw\n", "VM_DISKS=$SUB.raw'\nnew.raw'\n"),
        ("VM_DISKS=\"a\"'.raw'\n", "VM_DISKS=\"a\"'.raw''\nnew.raw'\n"),
        ("VM_DISKS=a.raw\nVM_DISKS=b.raw\n", "VM_DISKS=a.raw\nVM_DISKS='b.raw\nnew.raw'\n"),
    ],
)
def test_add_keeps_what_is_written(tmp_path: Path, text: str, added: str) -> None:
    vm = machine(tmp_path, text)
    before = lines.own(vm, NAME)
    lines.add(vm, NAME, ["new.raw"])
    assert lines.own(vm, NAME) == [*before, "new.raw"]
    assert written(vm) == added
    assert vm.settings[NAME] == "only.raw"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("VM_DISKS=gone.raw # why\n", "VM_DISKS= # why\n"),
        ("VM_DISKS='gone.raw'\n", "VM_DISKS=\n"),
        ("VM_DISKS='gone.raw\nb.raw'\n", "VM_DISKS='b.raw'\n"),
        ("VM_DISKS='b.raw\ngone.raw'\n", "VM_DISKS='b.raw'\n"),
        ('VM_DISKS="\n  $SUB/a.raw\n  gone.raw\n"\n', 'VM_DISKS="\n  $SUB/a.raw\n"\n'),
        ('VM_DISKS="\n  gone.raw\n"\n', "VM_DISKS=\n"),
        ("VM_DISKS=$SUB.raw'\ngone.raw'\n", "VM_DISKS=$SUB.raw''\n"),
        ('G=gone\nVM_DISKS="$G.raw\na.raw"\n', 'G=gone\nVM_DISKS="a.raw"\n'),
        ("VM_DISKS=a.raw\n", "VM_DISKS=a.raw\n"),
    ],
)
def test_remove_keeps_what_is_written(tmp_path: Path, text: str, left: str) -> None:
    vm = machine(tmp_path, text)
    before = lines.own(vm, NAME)
    lines.remove(vm, NAME, lambda line: line == "gone.raw")
    assert lines.own(vm, NAME) == [each for each in before if each != "gone.raw"]
    assert written(vm) == left


def test_remove_of_what_is_not_a_line_changes_nothing(tmp_path: Path) -> None:
    text = "ALL='a.raw\nb.raw'\nVM_DISKS=$ALL\n"
    vm = machine(tmp_path, text)
    with pytest.raises(ConfigError, match=r"not written line by line in .*:7") as caught:
        lines.remove(vm, NAME, lambda line: line == "a.raw")
    assert caught.value.hint == "`qvm config edit` changes it"
    assert written(vm) == text


def test_lines_of_the_environment_are_not_written(tmp_path: Path) -> None:
    vm = machine(tmp_path, "", VM_DISKS="of-env.raw")
    assert lines.own(vm, NAME) == []
    lines.add(vm, NAME, ["new.raw"])
    assert written(vm) == "VM_DISKS=new.raw\n"


def test_lines_of_a_shared_file_stay_there(tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("VM_DISKS='\n/a.raw\n'\n")
    vm = machine(tmp_path, "", VM_GLOBAL_CONFIG=str(tmp_path / "shared"))
    with pytest.raises(ConfigError, match=r"shared:1 would override the new value of VM_DISKS"):
        lines.remove(vm, NAME, lambda line: line == "/a.raw")
    lines.add(vm, NAME, ["new.raw"])
    assert written(vm) == 'VM_DISKS="$VM_DISKS\nnew.raw"\n'
    assert lines.own(vm, NAME) == ["/a.raw", "new.raw"]


def test_lines_that_an_include_sets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("VM_DISKS=b.raw\n")
    vm = machine(tmp_path, "VM_DISKS=a.raw\nVM_INCLUDE=more\n")
    with pytest.raises(ConfigError, match="would override the new value of VM_DISKS"):
        lines.add(vm, NAME, ["new.raw"])
    assert written(vm) == "VM_DISKS=a.raw\nVM_INCLUDE=more\n"


word = st.text(st.sampled_from("ab '\"$\\`~#"), min_size=1, max_size=6).map(lambda each: f"x{each}x.raw")
forms = st.sampled_from(["quoted", "double", "indented"])


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(word, min_size=1, max_size=3, unique=True), new=word, form=forms)
@example(rows=["a.raw"], new="it's.raw", form="quoted")
def test_lines_of_any_text_come_and_go(tmp_path: Path, rows: list[str], new: str, form: str) -> None:
    name = "VM_APPEND"  # any text is valid
    between = "\n\t" if form == "indented" else "\n"
    text = between.join(["", *rows, ""]) if form == "indented" else "\n".join(rows)
    plain = text.translate({ord(each): f"\\{each}" for each in '\\"$`'})
    vm = machine(
        tmp_path, f"{name}={quote(text) if form == 'quoted' else chr(34) + plain + chr(34)}\nVM_KERNEL=k\n"
    )
    lines.add(vm, name, [new])
    assert lines.own(vm, name) == [*rows, new]
    lines.remove(vm, name, lambda line: line == rows[0])
    assert lines.own(vm, name) == [each for each in [*rows, new] if each != rows[0]]
