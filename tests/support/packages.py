"""Packages of machines: made, taken apart, tampered with."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvmsh.host import tar_format
from tests.support.world import Result, Vm

Members = dict[str, bytes]


def export(vm: Vm, file: str | Path, *words: str) -> dict[str, Any]:
    """Export a machine; returns the report."""
    report: dict[str, Any] = json.loads(vm.ok("--json", "export", file, *words).out)
    return report


def members_of(path: Path) -> Members:
    """Names and contents of a package, in its order."""
    with tarfile.open(path) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            found[member.name] = file.read() if file else b""
    return found


def manifest_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(members_of(path)["qvm.json"])
    return found


@dataclass
class Forged:
    """One member as somebody else may write it."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    size: int | None = None
    """What the header says, if not the truth."""

    def row(self) -> tarfile.TarInfo:
        row = tarfile.TarInfo(self.name)
        row.type, row.linkname, row.pax_headers = self.kind, self.link, self.headers
        row.size = len(self.data) if self.size is None else self.size
        row.mode = 0o755
        return row


def write_package(path: Path, members: Sequence[Forged], mode: str = "w:gz") -> Path:
    """Write the members as they are."""
    tar: tarfile.TarFile
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for each in members:
            tar.addfile(each.row(), io.BytesIO(each.data) if each.data else None)
    return path


def of_members(found: Members) -> list[Forged]:
    return [Forged(name, data) for name, data in found.items()]


def with_manifest(found: Members, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Members:
    """The members with a manifest that fits them, then changed."""
    manifest = json.loads(found["qvm.json"])
    known = {row["name"]: row for row in manifest["files"]}
    rows = []
    for name, data in found.items():
        if name != "qvm.json":
            row = {"role": "file", "format": ""} | known.get(name, {})
            rows.append(row | {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    manifest["files"] = rows
    change(manifest)
    return {"qvm.json": json.dumps(manifest).encode()} | {k: v for k, v in found.items() if k != "qvm.json"}


def require_refused(vm: Vm, package: Path, *reasons: str) -> Result:
    """`import` refuses it with one of the reasons, and nothing of it is left."""
    before = everything(vm)
    result = vm.world.run("import", package, "victim")
    assert result.status in (1, 2, 3), str(result)
    assert "Traceback" not in result.err, str(result)
    assert not reasons or any(reason in result.err for reason in reasons), str(result)
    assert everything(vm) == before
    return result


def everything(vm: Vm) -> list[Path]:
    """All files and folders, but for the one of the list of machines, which may be empty."""
    share = vm.world.home / ".local/share/qvm"
    return [path for path in sorted(vm.world.home.rglob("*")) if path not in (share, *share.parents)]


def sparse(name: str, size: int, table: Sequence[tuple[int, int]], data: bytes) -> bytes:
    """The blocks of a sparse member of version 1.0."""
    text = f"{len(table)}\n{''.join(f'{at}{chr(10)}{length}{chr(10)}' for at, length in table)}".encode()
    text += bytes(tar_format.padding(len(text)))
    records = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }  # fmt: skip
    stored = text + data
    head = tar_format.pax(records) + tar_format.header("x", len(stored), mode=0o600)
    return head + stored + bytes(tar_format.padding(len(stored)))
