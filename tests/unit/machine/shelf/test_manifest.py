"""The manifest of a package, and packages with one that somebody has changed."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qvmsh.errors import QvmError
from qvmsh.host import scan
from qvmsh.host.tar_writer import Writer
from qvmsh.machine.shelf import manifest
from qvmsh.machine.shelf.manifest import Item, LeftOut, Manifest
from qvmsh.machine.shelf.unpack import unpack

SEED = 20261123
TEXT = b"VM_MACHINE_NAME=demo\n"
WHOLE = Manifest(
    "demo", "2312fd5c-7c56-416e-b737-668dbb174540", "7.2.22", "pc", "off", ("ready", "asdföklj"),
    {
        ".vmrc": Item(".vmrc", len(TEXT), scan.of_bytes(TEXT), "settings"),
        "demo.raw": Item("demo.raw", 3, scan.of_bytes(b"abc"), "main", "raw"),
    },
    (LeftOut("/srv/install.iso", "it is outside"),),
)  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e400, 1 << 70, "", "x", "\0", "\ud800", "../x", "/etc/passwd", "a" * 300,
    "data:" + "0" * 64, "0" * 64, [], {}, [[]], [{}], {"name": 1}, [None] * 50, "\u202e", ".qvm/running",
    ".qvm/unaccepted", "e\u0301", "\u00e9", "qvm.json", "demo.raw/x", ".vmrc",
]  # fmt: skip


def test_manifest_is_read_back() -> None:
    assert manifest.parse(WHOLE.text().encode()) == WHOLE


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a document, with each of its keys."""
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, each in rows:
        found += [(value, key), *places(each)]
    return found


def mutated(chooser: random.Random) -> bytes:
    """A manifest with some changes of its values, or of its text."""
    found = json.loads(WHOLE.text())
    for _ in range(chooser.randint(1, 3)):
        container, key = chooser.choice(places(found))
        kind = chooser.randrange(4)
        if kind == 0:
            container[key] = copy.deepcopy(chooser.choice(ODD))
        elif kind == 1:
            del container[key]
        elif kind == 2 and isinstance(container, dict):
            container[str(chooser.choice(ODD))[:50]] = container[key]
        elif isinstance(container, list):
            container += container[-1:] * chooser.choice((1, 3, 100))
        if not places(found):
            break
    data = bytearray(json.dumps(found).encode())
    if chooser.random() < 0.3:
        for _ in range(chooser.randint(1, 4)):
            at = chooser.randrange(len(data) or 1)
            data[at : at + chooser.randrange(3)] = bytes([chooser.randrange(256)]) * chooser.randrange(3)
    return bytes(data)


def require_no_traceback(count: int, tmp_path: Path) -> None:
    """A package with a changed manifest is unpacked, or refused with a reason."""
    chooser = random.Random(SEED)
    for number in range(count):
        data = mutated(chooser)
        with contextlib.suppress(ValueError):  # and nothing else
            manifest.parse(data)
        if number % 10 == 0:
            require_unpacked_or_refused(data, tmp_path / str(number))


def require_unpacked_or_refused(data: bytes, folder: Path) -> None:
    folder.mkdir()
    stream = io.BytesIO()
    writer = Writer(stream.write)
    for name, text in (("qvm.json", data), (".vmrc", TEXT), ("demo.raw", b"abc")):
        writer.text(name, text, mode=0o644)
    writer.end()
    stream.seek(0)
    with contextlib.suppress(QvmError):  # and nothing else
        unpack(stream.read, "x.tar", str(folder), lambda: None)
    assert {path.name for path in folder.rglob("*")} <= {".vmrc", "demo.raw"}


def test_mutated_manifests_are_refused_without_a_traceback(tmp_path: Path) -> None:
    require_no_traceback(1000, tmp_path)


@pytest.mark.long
def test_many_mutated_manifests_are_refused(tmp_path: Path) -> None:
    require_no_traceback(10_000, tmp_path)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    found = json.loads(WHOLE.text())
    change(found)
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (changed(lambda found: found.update(qvm_package=2)), "version 2"),
        (changed(lambda found: found["files"][0].update(size="1")), "size"),
        (changed(lambda found: found["files"][0].update(size=True)), "size"),
        (changed(lambda found: found["files"][0].update(size=-1)), "size"),
        (changed(lambda found: found["files"][0].update(sha256="0")), "checksum"),
        (changed(lambda found: found.update(files=found["files"] * 2)), "twice"),
        (changed(lambda found: found.update(files=[{}] * 20_000)), "name"),
        (changed(lambda found: found.update(uuid="../x")), "uuid"),
        (changed(lambda found: found.update(machine="a\0b")), "machine"),
        (changed(lambda found: found.update(machine="\ud800")), "machine"),
        (changed(lambda found: found.update(snapshots=["x"] * 100_000)), "snapshots"),
        (b'{"qvm_package": ' + b"9" * 10_000 + b"}", "not JSON"),
    ],
)
def test_manifest_of_the_wrong_form_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        manifest.parse(data)
