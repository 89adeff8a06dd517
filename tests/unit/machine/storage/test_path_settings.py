"""A `.vmrc` that means the same files from another place."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvmsh.errors import StateError
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.storage import path_settings
from qvmsh.machine.storage.shift import Shift
from tests.support.world import bare_environ, write_vmrc


def relocatable(tmp_path: Path, lines: str, target: str = "deep/web") -> str:
    """The added lines of a `.vmrc` as they are written for another place."""
    here = tmp_path / "web"
    (tmp_path / "deep").mkdir(exist_ok=True)
    write_vmrc(here, "web")
    begin = (here / ".vmrc").read_text()
    text = begin + lines.format(here)
    (here / ".vmrc").write_text(text)
    vm = BaseMachine(here, environ=bare_environ(tmp_path))
    shift = Shift(str(here), str(tmp_path / target))
    return path_settings.relocatable(vm, shift, text, "move").removeprefix(begin)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("VM_DISKS={0}/a.raw", 'VM_DISKS="$VM_HOME/a.raw"'),
        ("VM_DISKS='{0}/a b.raw:raw\n/x/c.raw'", 'VM_DISKS="$VM_HOME/a b.raw:raw\n/x/c.raw"'),
        ("export VM_CDROM={0}/a.iso # it", 'export VM_CDROM="$VM_HOME/a.iso" # it'),
        ("VM_CDROM=$HOME/web/a.iso", 'VM_CDROM="$VM_HOME/a.iso"'),
        ("VM_CDROM=~/web/a.iso", 'VM_CDROM="$VM_HOME/a.iso"'),
        ("VM_CDROM='~/web/a.iso'", 'VM_CDROM="$VM_HOME/a.iso"'),
        ("VM_CDROM=../web/a.iso", 'VM_CDROM="$VM_HOME/a.iso"'),
        ("VM_CDROM={0}/../web/a.iso", 'VM_CDROM="$VM_HOME/a.iso"'),
        ("VM_CDROM=$VM_HOME/a.iso", None),
        ("VM_CDROM=$PWD/a.iso", None),
        ("VM_CDROM={0}2/a.iso", None),
        ("VM_CDROM=/srv{0}/a.iso", None),
        ("VM_KERNEL=k VM_APPEND='init={0}/init'", None),
        ("A={0}\nVM_CDROM=$A/a.iso", 'A="$VM_HOME"\nVM_CDROM=$A/a.iso'),
        ("A={0}:$HOME\\$", 'A="$VM_HOME:${{HOME}}\\$"'),
        ("A=${{B:-{0}}}/x", 'A="$VM_HOME/x"'),
        ("A='{0}/x y' B=\"{0}\"", None),
        ("VM_QEMU_EXTRA='-fw_cfg name=a,file={0}/x'", 'VM_QEMU_EXTRA="-fw_cfg name=a,file=$VM_HOME/x"'),
        ("VM_ARCHIVE=ssh://host{0}", None),
    ],
)
def test_vmrc_is_written_for_another_place(tmp_path: Path, line: str, wanted: str | None) -> None:
    if "B=" in line:
        line, wanted = line.replace(" B=", "\nB="), 'A="$VM_HOME/x y"\nB="$VM_HOME"'
    expected = (line if wanted is None else wanted).format(tmp_path / "web")
    assert relocatable(tmp_path, f"{line}\n") == f"{expected}\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("VM_CDROM=../isos/a.iso", "VM_CDROM names ../isos/a.iso, which would be another file there"),
        ("VM_PRE_START='../hook now'", "VM_PRE_START names ../hook"),
        ("VM_QEMU_EXTRA='-drive file=../x.raw,format=raw'", "VM_QEMU_EXTRA names ../x.raw"),
        ("VM_INCLUDE=../common", "VM_INCLUDE names ../common"),
        ("VM_INCLUDE=inner", "VM_LOG of web/inner names a file"),
    ],
)
def test_vmrc_that_would_mean_other_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web").mkdir()
    (tmp_path / "common").touch()
    (tmp_path / "web/inner").write_text(f"VM_LOG={tmp_path}/web/log\n")
    with pytest.raises(StateError) as found:
        relocatable(tmp_path, f"{line}\n")
    assert why in found.value.what
    if "inner" not in line:
        assert relocatable(tmp_path, f"{line}\n", "mail") == f"{line}\n"
