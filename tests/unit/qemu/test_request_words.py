"""Words for the guest agent; those for QEMU are in tests/unit/machine/monitor/test_qmp.py."""

from __future__ import annotations

import pytest

from qvmsh.errors import UsageError
from qvmsh.qemu.request_words import request


def test_request_of_the_agent_types_its_values() -> None:
    words = ["guest-exec", "path=/bin/ls", 'arg=["-l", "a=b"]', "capture-output=true"]
    expected = {"path": "/bin/ls", "arg": ["-l", "a=b"], "capture-output": True}
    assert request(words, "agent") == ("guest-exec", expected)


@pytest.mark.parametrize(
    "words",
    [["guest-ping", "x"], ["{"], ["p", "a=1", "a=2"], ["p", "{"], ['{"execute": 5}']],
)
def test_request_of_the_agent_names_its_verb_in_errors(words: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^agent: ") as caught:
        request(words, "agent")
    assert "qvm qmp" not in str(caught.value.hint)
