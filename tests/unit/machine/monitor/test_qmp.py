"""What the words and the input of `qmp` mean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qvmsh.errors import UsageError
from qvmsh.machine.monitor.qmp import requests
from qvmsh.qemu.request_words import request


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["c"], {}),
        (["c", "a=1", "b=text", "c=true", 'd="1"', "e=[1, 2]", "f="],
         {"a": 1, "b": "text", "c": True, "d": "1", "e": [1, 2], "f": ""}),
        (["c", "file.driver=qcow2", "file.node.x=1", "k=a=b"],
         {"file": {"driver": "qcow2", "node": {"x": 1}}, "k": "a=b"}),
        (["c", '{"a": {"b": null}}'], {"a": {"b": None}}),
        (['{"execute": "c", "arguments": {"a": 1}, "id": 7}'], {"a": 1}),
        (['{"execute":', '"c"}'], {}),
    ],
)  # fmt: skip
def test_request_words_mean_a_command(words: list[str], arguments: dict[str, object]) -> None:
    assert request(words) == ("c", arguments)


@pytest.mark.parametrize(
    "words",
    [["c", "word"], ["c", "=1"], ["c", "a=1", "a=2"], ["c", "a=1", "a.b=2"], ["c", "{"], ["{"], ["{}"],
     ['{"execute": 1}'], ['{"execute": "c", "arguments": []}'], ['{"execute": "c", "exec": "d"}']],
)  # fmt: skip
def test_request_that_means_none_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^qmp: "):
        request(words)


def test_requests_of_a_stream_come_as_soon_as_they_are_whole() -> None:
    read: list[str] = []

    def stream() -> Iterator[str]:
        for line in ('{"execute": "a"} {"execute":\n', "\n", '"b"}{"execute": "c"}\n', "\n"):
            read.append(line)
            yield line

    found = []
    for command, arguments in requests(stream()):
        found.append((command, arguments, len(read)))
    assert found == [("a", {}, 1), ("b", {}, 3), ("c", {}, 3)]


@pytest.mark.parametrize("text", ["query-status\n", '{"execute": "a"} x\n', '{"execute": "a"\n', "[1]\n"])
def test_requests_of_something_else_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^qmp: "):
        list(requests([text]))
