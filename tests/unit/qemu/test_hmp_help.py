"""QEMU's help and schema, read."""

from __future__ import annotations

from typing import Any

import pytest

from qvmsh.errors import UsageError
from qvmsh.qemu import hmp_help
from qvmsh.qemu.qmp_schema import Schema

HELP = """\
block_job_cancel [-f] device -- stop an active background block operation (use -f
\t\t\t if you want to abort the operation immediately
cont|c  -- resume emulation
drive_add [-n] [[<domain>:]<bus>:]<slot>
[file=file][,if=type][,bus=n]
[,readonly=on|off][,copy-on-read=on|off] -- add drive to PCI storage controller
dump-guest-memory [-p] [-d] [-z|-l|-s|-w] filename [begin length] -- dump guest memory into file 'filename'.
\t\t\t-p: do paging to get guest's memory mapping.
getfd getfd name -- receive a file descriptor via SCM rights and assign it a name
set_link name on|off -- change the link status of a network adapter
"""
"""Lines of QEMU 7.2's answer to `help`."""


def test_commands_are_read_from_the_help_of_qemu() -> None:
    found = hmp_help.commands(HELP)
    assert set(found) == {
        "block_job_cancel", "cont", "c", "drive_add", "dump-guest-memory", "getfd", "set_link"
    }  # fmt: skip
    assert found["block_job_cancel"].flags == ("-f",)
    assert found["block_job_cancel"].parameters == ("device",)
    assert found["dump-guest-memory"].flags == ("-p", "-d", "-z", "-l", "-s", "-w")
    assert found["dump-guest-memory"].parameters == ("filename", "begin", "length")
    assert found["getfd"].parameters == ("name",)
    assert found["c"].help == "resume emulation"
    assert hmp_help.commands("info status  -- show it\n", "info ")["status"].help == "show it"


def test_completions_offer_flags_and_choices() -> None:
    complete = hmp_help.Completions(lambda _: HELP, lambda *_: [])
    assert [word.text for word in complete.of("dump-guest-memory -")] == ["-d", "-l", "-p", "-s", "-w", "-z"]
    assert [word.text for word in complete.of("dump-guest-memory -d -")] == ["-l", "-p", "-s", "-w", "-z"]
    assert [word.text for word in complete.of("set_link net0 ")] == ["off", "on"]
    assert complete.of("set_link net0 on ") == []
    assert complete.of("nonsense x") == []


ENTITIES: list[dict[str, Any]] = [
    {"name": "add", "meta-type": "command", "arg-type": "0"},
    {"name": "bare", "meta-type": "command", "arg-type": "1"},
    {"name": "0", "meta-type": "object", "tag": "driver", "variants": [{"case": "file", "type": "2"}],
     "members": [{"name": "driver", "type": "3"}, {"name": "size", "type": "int", "default": None},
                 {"name": "read-only", "type": "bool", "default": None}, {"name": "inner", "type": "2"},
                 {"name": "any", "type": "any"}]},
    {"name": "1", "meta-type": "object", "members": []},
    {"name": "2", "meta-type": "object", "members": [{"name": "filename", "type": "str"}]},
    {"name": "3", "meta-type": "enum", "values": ["file", "raw"]},
    {"name": "str", "meta-type": "builtin", "json-type": "string"},
    {"name": "int", "meta-type": "builtin", "json-type": "int"},
    {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
    {"name": "any", "meta-type": "builtin", "json-type": "value"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("bare", None),
        ("add size=0x10 read-only=on driver=file", {"size": 16, "read-only": True, "driver": "file"}),
        ("add inner.filename=5", {"inner": {"filename": "5"}}),
        ("add driver=file filename='a b'", {"driver": "file", "filename": "a b"}),
        ("add any=[1] ", {"any": [1]}),
        ("add any=word", {"any": "word"}),
        ("add unknown=5", {"unknown": 5}),
    ],
)
def test_request_gives_values_the_types_that_qemu_wants(line: str, arguments: dict[str, Any] | None) -> None:
    request = Schema(ENTITIES).request(line)
    assert request == {"execute": line.split(maxsplit=1)[0]} | ({"arguments": arguments} if arguments else {})


@pytest.mark.parametrize(
    "line", ["add size", "add size=big", "add =x", "add 'x", "{", '{"a": 1}', "add any=1 any.b=2"]
)
def test_request_that_cannot_be_read_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        Schema(ENTITIES).request(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["add", "bare"]),
        ("b", ["bare"]),
        ("add ", ["any=", "driver=", "filename=", "inner.", "read-only=", "size="]),
        ("add driver=", ["driver=file", "driver=raw"]),
        ("add driver=raw f", []),
        ("add driver=file f", ["filename="]),
        ("add inner.", ["inner.filename="]),
        ("add read-only=t", ["read-only=true"]),
        ("add size=1 s", []),
        ('{"execute', []),
    ],
)
def test_completions_of_qmp_follow_the_schema(line: str, words: list[str]) -> None:
    assert Schema(ENTITIES).completions(line) == words
