"""The snapshot table of qcow2, read by hand, against what qemu-img says of the same file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from qvmsh.errors import ImageError
from qvmsh.machine.storage import chain, dependents
from qvmsh.qemu import qcow2
from tests.support.programs import qemu_img, qemu_io


@pytest.mark.parametrize("options", ["compat=1.1", "compat=0.10", "extended_l2=on,cluster_size=128k"])
def test_snapshots_are_those_of_qemu_img(tmp_path: Path, options: str) -> None:
    path = tmp_path / "a.qcow2"
    qemu_img(path.parent, "create", "-q", "-f", "qcow2", "-o", options, path, "16M")
    assert qcow2.snapshots(str(path)) == []
    for name in ("one", "asdföklj", "a b,c=d:e", "x" * 200):
        qemu_img(path.parent, "snapshot", "-c", name, path)
    qemu_img(path.parent, "snapshot", "-d", "one", path)
    report = json.loads(qemu_img(path.parent, "info", "--output=json", path))["snapshots"]
    found = qcow2.snapshots(str(path))
    assert [(each.id, each.name, each.date_s, each.vmstate_bytes) for each in found] == [
        (row["id"], row["name"], row["date-sec"], row["vm-state-size"]) for row in report
    ]
    assert {each.disk_bytes for each in found} <= {16 << 20, 0}


def test_snapshots_of_raw_missing_and_broken_files(tmp_path: Path) -> None:
    raw = tmp_path / "a.raw"
    raw.write_bytes(bytes(4096))
    assert chain.snapshots_in(str(raw), "qcow2") == []
    assert chain.snapshots_in(str(tmp_path / "none"), "qcow2") == []
    path = tmp_path / "b.qcow2"
    qemu_img(path.parent, "create", "-q", "-f", "qcow2", path, "16M")
    qemu_img(path.parent, "snapshot", "-c", "one", path)
    data = bytearray(path.read_bytes())
    data[64:72] = (1 << 40).to_bytes(8, "big")
    path.write_bytes(data)
    with pytest.raises(ImageError, match="table of snapshots in b"):
        chain.snapshots_in(str(path), "qcow2")


@pytest.mark.parametrize("options", ["cluster_size=64k", "extended_l2=on,cluster_size=128k"])
def test_changed_counts_what_was_written_between(tmp_path: Path, options: str) -> None:
    path = tmp_path / "a.qcow2"
    qemu_img(path.parent, "create", "-q", "-f", "qcow2", "-o", options, path, "1G")
    qemu_io(path.parent, "-f", "qcow2", "-c", "write -P 1 0 4M", path)
    qemu_img(path.parent, "snapshot", "-c", "one", path)
    assert qcow2.changed(str(path), "1", None) == 0
    qemu_io(path.parent, "-f", "qcow2", "-c", "write -P 2 1M 1M", "-c", "write -P 3 900M 512k", path)
    assert qcow2.changed(str(path), "1", None) == (1 << 20) + (512 << 10)
    qemu_img(path.parent, "snapshot", "-c", "two", path)
    assert qcow2.changed(str(path), "1", "2") == (1 << 20) + (512 << 10)
    assert qcow2.changed(str(path), "2", None) == 0
    qemu_img(path.parent, "snapshot", "-a", "one", path)
    assert qcow2.changed(str(path), "1", None) == 0
    assert qcow2.changed(str(path), "2", None) == (1 << 20) + (512 << 10)


def test_overlays_on_finds_the_whole_tree(tmp_path: Path) -> None:
    for name, on in (("base", None), ("a", "base"), ("b", "a"), ("c", "base"), ("d", None)):
        below = ["-b", f"{on}.qcow2", "-F", "qcow2"] if on else []
        size = [] if on else ["16M"]
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", *below, f"{name}.qcow2", *size]
        subprocess.run(argv, cwd=tmp_path, check=True)
    found = dependents.overlays_on(str(tmp_path / "base.qcow2"))
    assert sorted(Path(each).stem for each in found) == ["a", "b", "c"]
    assert [Path(each).stem for each in dependents.overlays_on(str(tmp_path / "a.qcow2"))] == ["b"]
    assert dependents.overlays_on(str(tmp_path / "d.qcow2")) == []
