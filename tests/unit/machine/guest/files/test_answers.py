"""What a guest answers where it may be hostile: refused, never a traceback or an endless loop."""

from __future__ import annotations

import struct

import pytest

from qvmsh.machine.guest.files import sftp, shell_get, shell_put
from qvmsh.machine.guest.files.limits import Limit
from qvmsh.machine.guest.result import Result
from qvmsh.machine.guest.wish import Unusable
from qvmsh.machine.machine import BaseMachine


class Session:
    """A server that answers each request in the same way."""

    def __init__(self, kind: int, payload: bytes) -> None:
        self._kind, self._payload = kind, payload
        self._data = struct.pack(">IBI", 5, 2, 3)

    def write(self, data: bytes) -> None:
        if data[4] != 1:
            body = data[5:9] + self._payload
            self._data += struct.pack(">IB", 1 + len(body), self._kind) + body

    def read(self, count: int) -> bytes:
        found, self._data = self._data[:count], self._data[count:]
        return found


def test_sftp_data_without_bytes_is_nonsense() -> None:
    client = sftp.Client(Session(103, sftp.packed(b"")), "demo")  # type: ignore[arg-type]
    with pytest.raises(sftp.Nonsense):
        list(client.read(b"handle", 0, "file"))


def test_sftp_data_longer_than_asked_for_is_nonsense() -> None:
    client = sftp.Client(Session(103, sftp.packed(bytes(40_000))), "demo")  # type: ignore[arg-type]
    with pytest.raises(sftp.Nonsense):
        list(client.read(b"handle", 0, "file"))


def test_sftp_failure_without_a_reason_says_so() -> None:
    payload = struct.pack(">I", 4) + sftp.packed(b"Failure") + sftp.packed(b"")
    client = sftp.Client(Session(101, payload), "demo")  # type: ignore[arg-type]
    with pytest.raises(
        sftp.Failed, match="cannot write to file in the guest: the guest's sftp server"
    ) as caught:
        client.write(b"handle", [(0, b"x")], "file")
    assert "df -h" in (caught.value.hint or "")


class Way:
    """A shell that writes always the same."""

    name, piece_bytes = "ssh", 1 << 62

    def __init__(self, text: str) -> None:
        self._text = text

    def ask(self, *_: object) -> Result:
        return Result(self._text)


@pytest.mark.parametrize("row", ["qvm", "qvm file", "qvm plain gzip"])
def test_look_at_sources_of_too_few_words_is_refused(row: str) -> None:
    sender = shell_get.ShellSender(BaseMachine("."), Way(f"qvm gnu gzip\n{row}\n"))  # type: ignore[arg-type]
    if len(row.split()) == 3:
        assert sender.look(["x"])[0].kind == "plain"
        return
    with pytest.raises(Unusable):
        sender.look(["x"])


def test_look_takes_digits_of_other_scripts_for_no_numbers() -> None:
    vm = BaseMachine(".")
    text = "qvm gnu gzip\nqvm file plain \u00b2 1 644 1\n"
    (seen,) = shell_get.ShellSender(vm, Way(text)).look(["x"])  # type: ignore[arg-type]
    assert seen.size_bytes is None
    receiver = shell_put.ShellReceiver(vm, Way("qvm none gnu holes \u00b2\n"), Limit(vm, None))  # type: ignore[arg-type]
    with pytest.raises(Unusable):
        receiver.look("/tmp/x", "part")


def test_lines_of_a_result_end_with_newlines_alone() -> None:
    assert Result("a\x0cb\x85c\u2028d\re\n\n").lines == ["a\x0cb\x85c\u2028d\re", ""]
    assert (Result("").lines, Result("x").lines) == ([], ["x"])
