"""Archives that were tampered with."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from typing import Any

from tests.support.world import Vm


def edit_manifest(vm: Vm, change: Callable[[dict[str, Any]], object], folder: str = "") -> None:
    """Change the manifest of the archive; without checksums, as after an edit by hand."""
    path = vm.directory / (folder or archive_folder(vm)) / "manifest.json"
    found = json.loads(path.read_text())
    for parts in (*found["layers"].values(), *(point["parts"] for point in found["points"])):
        for first_part in parts:
            for key, value in first_part.items():
                if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16,}", value):
                    first_part[key] = ""
    change(found)
    path.write_text(json.dumps(found))


def archive_folder(vm: Vm) -> str:
    return next(path.name for path in vm.directory.glob("demo-2*"))


def first_part(found: dict[str, Any], role: str = "main") -> dict[str, Any]:
    return next(each for each in found["points"][0]["parts"] if each["role"] == role)


def write_settings(vm: Vm, *members: tuple[str, str]) -> None:
    """Put another tar of settings into the archive: names and contents; a content `->x` is a link."""
    path = vm.directory / archive_folder(vm) / "demo-settings.tar"
    with tarfile.open(path, "w") as tar:
        for name, text in ((".vmrc", (vm.directory / ".vmrc").read_text()), *members):
            row = tarfile.TarInfo(name)
            if text.startswith("->"):
                row.type, row.linkname = tarfile.SYMTYPE, text[2:]
                tar.addfile(row)
            else:
                row.size = len(text.encode())
                tar.addfile(row, io.BytesIO(text.encode()))
    edit_manifest(vm, lambda found: first_part(found, "settings").update(stored_bytes=path.stat().st_size))
