"""The argument parser: one for all commands, driven by the index."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qvmsh.cli import main
from qvmsh.cli.parse import bind, common, suggestion, verb_of
from qvmsh.errors import UsageError


def test_bind_long_short_and_joined_values_are_the_same() -> None:
    for words in (["--ssh-attempts", "5"], ["--ssh-attempts=5"], ["-s", "5"], ["-s5"], ["-ns5"]):
        assert bind("start", words).options["ssh_attempts"] == 5


def test_suggestion_two_dashes_are_not_similar() -> None:
    assert suggestion("--bogus", ["--verbose", "--json"]) is None
    assert suggestion("--lodvm", ["--loadvm", "--json"]) == "--loadvm"


def test_bind_rest_command_stops_at_the_first_word() -> None:
    bound = bind("cmd", ["info", "block", "-v", "--json"])
    assert bound.words == ["info", "block", "-v", "--json"]
    assert not bound.common


def test_bind_machine_command_takes_options_after_words() -> None:
    bound = bind("stop", ["demo", "--force", "other"])
    assert (bound.words, bound.options) == (["demo", "other"], {"force": True})


def test_bind_no_option_makes_false() -> None:
    assert bind("start", ["--no-wait"]).options == {"wait": False}
    for words in (["-qs"], ["-q", "--no-ssh-check"], ["--quiet", "--no-ssh-fail"]):
        assert bind("status", words).options == {"quiet": True, "ssh_check": False}


def test_bind_common_option_after_verb_is_common() -> None:
    assert bind("start", ["-v", "--json"]).common == {"verbose": True, "json": True}


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("start", ["--lodvm"], "unknown option --lodvm"),
        ("start", ["--ssh-attempts"], "needs a value"),
        ("start", ["-s", "many"], "must be a whole number"),
        ("start", ["-s", "-1"], "must not be negative"),
        ("start", ["--no-wait=yes"], "takes no value"),
        ("stop", ["-p", "-r"], "exclude each other"),
        ("stop", ["-t", "nan"], "finite"),
        ("create", [], "NAME is missing"),
        ("create", ["a", "b", "c"], "unexpected argument 'c'"),
    ],
)
def test_bind_wrong_words_are_reported(verb: str, words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        bind(verb, words)


def test_bind_double_dash_ends_options() -> None:
    assert bind("ssh", ["--", "-l"]).words == ["-l"]


def test_common_options_before_the_verb() -> None:
    assert common(["-C", "/x", "--set", "A=1", "--set", "B=2", "status", "-s"]) == (
        {"directory": "/x", "set": ("A=1", "B=2")},
        ["status", "-s"],
    )


def test_verb_of_two_words_and_aliases() -> None:
    assert verb_of(["img", "build", "tiny"]) == ("img build", 2)
    assert verb_of(["shutdown"]) == ("stop", 1)
    assert verb_of(["img"]) is None


def test_suggestion_finds_the_near_word() -> None:
    assert suggestion("strat", ["start", "stop"]) == "start"
    assert suggestion("zzz", ["start", "stop"]) is None


def test_bind_range_of_lines_may_begin_with_a_dash() -> None:
    assert bind("session save", ["again.xsh", "-7", "-f", "9-"]).words == ["again.xsh", "-7", "9-"]
    assert bind("session list", ["-7"]).words == ["-7"]
    with pytest.raises(UsageError, match="-7"):
        bind("snapshot save", ["-7"])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-v"], 2, "qvm: a command is missing\nhint: `qvm --help` lists"),
        (["--set", "VM_MACHINE_MEM=1G"], 2, "a command is missing"),
        (["-C"], 2, "qvm: -C needs a value: -C DIR\n"),
        (["-C", ""], 2, "a command is missing"),
        (["--set", "VM_MACHINE_MEM=512", "undelete", "x"], 2, "undelete: unexpected --set"),
        (["-M", "x", "create", "y"], 2, "create: unexpected -M"),
        (["-C", ".", "img", "list"], 2, "img list: unexpected -C"),
        (["start", "--bridge"], 2, "unknown option --bridge"),
        (["create", "x", "--mem", "3Q"], 2, "create: --mem is '3Q', but must be a number of MiB"),
        (["create", "x", "--mem", "0"], 2, "create: --mem is '0'"),
        (["create", "x", "--cpus", "0"], 2, "create: --cpus is '0'"),
        (
            ["create", "x", "--id", "7"],
            2,
            "create: --id is '7', but must be two digits (00 to 99)\nhint: --id 07",
        ),
        (["create", "x", "--user", "a b"], 2, "create: --user is 'a b'"),
        (["create", "x", "--image", ""], 2, "create: --image is empty"),
        (["create", "x" * 201], 2, "create: the name of the machine is 'xxx"),
    ],
)
def test_call_what_would_be_ignored_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.Call().perform(words) == status
    out, err = capsys.readouterr()
    assert said in err
    assert (out, len(err.splitlines()) <= 2, os.listdir()) == ("", True, [])


def test_call_help_explains_the_common_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-v", "--help"]):
        assert main.Call().perform(words) == 0
        out = capsys.readouterr().out
        for flag in ("-C DIR", "-M NAME", "--set NAME=VALUE"):
            assert f"\n  {flag} " in out
