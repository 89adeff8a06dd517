"""Words that are not a verb: other tools' words, misspellings, turned orders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qvmsh.cli import help as texts
from qvmsh.cli import hints, parse
from qvmsh.cli.main import main
from qvmsh.commands.index import ALIASES, COMMANDS
from qvmsh.config import words
from qvmsh.errors import UsageError
from qvmsh.machine import registry
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.settings import config
from tests.support.world import bare_environ, write_vmrc


def hint(*typed: str) -> str:
    return texts.unknown_command(list(typed)).hint or ""


@pytest.mark.parametrize("word", hints.OTHER_TOOLS)
def test_hint_of_another_tool_is_a_line_that_parses(word: str) -> None:
    assert word not in COMMANDS
    assert word not in ALIASES
    for line in hints.OTHER_TOOLS[word].split("|"):
        if line.startswith("-"):
            continue
        found = parse.verb_of(line.split())
        assert found is not None, line
        verb, count = found
        parse.bind(verb, line.split()[count:])
        assert f"`qvm {line}`" in hint(word)


def test_hint_of_two_meanings_names_both() -> None:
    assert hint("shell") == "qvm calls that `qvm ssh` or `qvm sh`"


@pytest.mark.parametrize(
    ("typed", "meant"), [("strat", "start"), ("statsu", "status"), ("lst", "list"), ("cosnole", "console")]
)
def test_hint_of_a_misspelling_is_the_verb(typed: str, meant: str) -> None:
    assert hint(typed) == f"did you mean `qvm {meant}`?"


def misspelt(verb: str) -> set[str]:
    """Every word with one letter of `verb` left out, doubled, or two of them swapped."""
    found = {verb[:at] + verb[at + 1 :] for at in range(len(verb))}
    found |= {verb[:at] + verb[at] + verb[at:] for at in range(len(verb))}
    found |= {verb[:at] + verb[at + 1] + verb[at] + verb[at + 2 :] for at in range(len(verb) - 1)}
    return found - {*COMMANDS, *ALIASES, *hints.OTHER_TOOLS}


def test_hint_never_proposes_a_verb_that_ends_something() -> None:
    ending = {*hints.ENDING, *(alias for alias, verb in ALIASES.items() if verb in hints.ENDING)}
    for verb in ending:
        for word in misspelt(verb):
            found = hint(*word.split())
            assert not any(f"did you mean `qvm {each}`" in found for each in ending), (word, found)
    assert "did you mean" not in hint("delete", "demo")
    assert hint("tpo") == "did you mean `qvm top`?"


def test_ending_verbs_are_verbs() -> None:
    assert set(COMMANDS) >= hints.ENDING


def test_hint_of_a_family_is_its_verb() -> None:
    assert hint("snapshot", "lst") == "did you mean `qvm snapshot list`?"
    assert "did you mean" not in hint("snapshot", "delte")
    assert hint("snapshot", "foo").startswith("`qvm snapshot delete`, ")
    assert "`qvm disk list`" in hint("disk")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a known machine; the current one is that of no machine."""
    for name, value in bare_environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    write_vmrc(tmp_path / "vms/web", "web")
    registry.remember(BaseMachine(tmp_path / "vms/web", environ=os.environ))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "vms/web"


@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        ("rm web", ["delete web"]),
        ("rm nosuch other", ["delete nosuch other"]),
        ("rm -f web", ["delete web"]),
        ("destroy web", ["delete web", "kill web"]),
        ("halt web", ["stop web"]),
        ("up web", ["start web"]),
        ("up nosuch", ["start"]),
        ("domifaddr web", ["ip web"]),
        ("guestinfo web", ["info web"]),
        ("domfsfreeze web", ["freeze web"]),
        ("domtime web", ["set-time web", "info web"]),
        ("shell web", ["-M web ssh", "-M web sh"]),
        ("shell vms/web", ["-C vms/web ssh", "-C vms/web sh"]),
        ("run-command web ls -l 'a b'", ["-M web exec ls -l 'a b'"]),
        ("qemu-agent-command web guest-ping", ["-M web agent guest-ping"]),
        ("mv web mail", ["rename web mail", "move web mail"]),
        ("backup web", ["-M web archive"]),
        ("save web s", ["stop --savevm s web"]),
        ("save s", ["stop --savevm NAME"]),
        ("resize web 3G", ["-M web disk resize NAME SIZE"]),
        ("port web 80", ["-M web forward add 8080:80", "-M web forward list"]),
        ("snapshot-revert web s", ["-M web snapshot restore s"]),
        ("ls web", ["list"]),
        ("define web", ["create NAME", "init web"]),
    ],
)
def test_hint_of_another_tool_names_the_machine(web: Path, typed: str, lines: list[str]) -> None:
    assert hint(*words.split(typed)) == "qvm calls that " + " or ".join(f"`qvm {line}`" for line in lines)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("fork", "clone NEW"),
        ("push", "put SOURCE TARGET"),
        ("scp", "put SOURCE TARGET` or `qvm get SOURCE TARGET"),
        ("man", "--help"),
        ("load", "import FILE"),
        ("dump", "export"),
    ],
)
def test_hint_of_the_naming_is_its_line(word: str, line: str) -> None:
    assert hint(word) == f"qvm calls that `qvm {line}`"


@pytest.mark.parametrize("word", ["convert", "enable", "cat", "exit"])
def test_word_without_a_verb_of_its_own_gets_no_guess(word: str) -> None:
    assert hint(word) == "`qvm --help` lists the verbs"


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("config web", "`qvm -M web config` shows its settings, `qvm -M web config edit` opens its file"),
        ("config web VM_LABELS=x", "`qvm -M web config VM_LABELS=x`"),
        ("ssh web ls", "`qvm -M web ssh ls`"),
        ("snapshot save web", "`qvm -M web snapshot save`"),
        ("clone web", "`qvm clone web NEW`"),
    ],
)
def test_machine_as_a_word_where_there_is_none_is_named(
    web: Path,
    uid: int,
    typed: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert main(typed.split()) == 2
    assert capsys.readouterr().err == f"qvm: no .vmrc in {os.getcwd()}\nhint: {line}\n"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("disk list web", "`qvm -M web disk list`"),
        ("snapshot list vms/web", "`qvm -C vms/web snapshot list`"),
        ("disk resize web disk0 2G", "`qvm -M web disk resize disk0 2G`"),
        ("disk list mail", "`qvm disk list --help` shows the usage"),
        ("disk list -C . web", "`qvm disk list --help` shows the usage"),
    ],
)
def test_machine_as_a_word_too_many_is_named(
    web: Path, typed: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed.split()) == 2
    assert capsys.readouterr().err.endswith(f"\nhint: {line}\n")


def test_hint_of_turned_words_is_the_line(web: Path) -> None:
    assert hint("web", "status") == "the verb comes first: `qvm status web`"
    assert hint("web", "stop", "-t", "5") == "the verb comes first: `qvm stop -t 5 web`"
    assert hint("web", "ssh", "ls", "a b") == "the verb comes first: `qvm -M web ssh ls 'a b'`"
    assert (
        hint("vms/web", "snapshot", "save", "x") == "the verb comes first: `qvm -C vms/web snapshot save x`"
    )
    assert hint("mail", "status") == "`qvm --help` lists the verbs"


def test_config_of_a_machine_gets_the_option(web: Path) -> None:
    with pytest.raises(UsageError) as caught:
        config.show(BaseMachine(web, environ=os.environ), ["web"])
    assert caught.value.hint == "that is a machine: `qvm -M web config edit` opens its file"


@pytest.mark.parametrize(
    ("typed", "begin"),
    [
        (["help", "start"], "usage: qvm start "),
        (["help", "snapshot", "save"], "usage: qvm snapshot save "),
        (["help", "shutdown"], "usage: qvm stop "),
        (["help", "snapshot"], "  snapshot delete "),
        (["help"], "qvm: the shell for QEMU virtual machines."),
        (["-V"], "qvm "),
    ],
)
def test_help_and_version_print(typed: list[str], begin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed) == 0
    assert capsys.readouterr().out.startswith(begin)


def test_help_of_an_unknown_verb_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "strat"]) == 2
    assert "did you mean `qvm start`?" in capsys.readouterr().err
