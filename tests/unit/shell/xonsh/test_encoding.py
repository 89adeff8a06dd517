"""What plumbum reads and writes keeps every byte."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from plumbum import local

from qvmsh.shell.session import encoding

ALL = bytes(range(256)) + "grün".encode() + b"gr\xfcn\xe2\x82"


def test_every_byte_comes_back_whatever_the_errors_are_to_be() -> None:
    for errors in ("strict", "ignore", "replace"):
        text = ALL.decode(encoding.NAME, errors)
        assert text.encode(encoding.NAME, errors) == ALL
    decoder = codecs.getincrementaldecoder(encoding.NAME)(errors="ignore")
    parts = [decoder.decode(ALL[at : at + 1]) for at in range(len(ALL))] + [decoder.decode(b"", final=True)]
    assert "".join(parts) == ALL.decode("utf-8", "surrogateescape")


def test_plumbum_reads_and_writes_a_file_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(local), "custom_encoding", encoding.NAME)
    (tmp_path / "f").write_bytes(ALL)
    text = local["cat"](tmp_path / "f")
    (local["tee"][tmp_path / "g"] << text)()
    assert (tmp_path / "g").read_bytes() == ALL
    assert (local["cat"][tmp_path / "f"] | local["cat"])() == text
