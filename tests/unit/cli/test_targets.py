"""Which machines a command line means, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qvmsh.cli import parse, targets
from qvmsh.errors import UsageError
from qvmsh.machine import registry
from qvmsh.machine.machine import BaseMachine
from tests.support.world import bare_environ, write_vmrc


@pytest.fixture(autouse=True)
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bare_environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def make(tmp_path: Path, name: str, **more: str) -> None:
    write_vmrc(tmp_path / "vms" / name, name, **more)
    registry.remember(BaseMachine(tmp_path / "vms" / name, environ=os.environ))


def names(*words: str) -> list[str]:
    bound = parse.bind(words[0], words[1:])
    parse.require_one_machine(bound)
    return [os.path.basename(each) for each in targets.directories(bound, os.environ)]


def ordered(*words: str) -> list[tuple[str, list[str]]]:
    """Name of each job, and the names of those that it waits for."""
    bound, said = parse.bind(words[0], words[1:]), list[str]()
    found = targets.directories(bound, os.environ)
    jobs = targets.jobs(bound, found, os.environ, said.append)
    assert not said
    return [(job.name, sorted(map(os.path.basename, job.waits))) for job in jobs]


def test_words_are_names_patterns_and_directories(tmp_path: Path) -> None:
    for name in ("web1", "web2", "db"):
        make(tmp_path, name)
    assert names("start", "db", "web*") == ["db", "web1", "web2"]
    assert names("start", "web2", "web*", "vms/db") == ["web2", "web1", "db"]
    assert names("start", "web[13]") == ["web1"]
    assert sorted(names("status", "--all")) == ["db", "web1", "web2"]


def test_pattern_that_fits_none_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "db")
    with pytest.raises(UsageError, match=r"no known machine is called 'web\*'") as caught:
        names("stop", "web*")
    assert "known: db" in (caught.value.hint or "")


def test_all_means_those_with_something_to_do(tmp_path: Path) -> None:
    make(tmp_path, "db")
    assert names("start", "--all") == ["db"]
    assert names("stop", "--all") == []
    assert names("resume", "--all") == []


@pytest.mark.parametrize(
    "words",
    [["--all", "db"], ["--all", "--label", "x"], ["--label", "x", "db"], ["--parallel", "0", "db"]],
)
def test_two_selections_are_an_error(tmp_path: Path, words: list[str]) -> None:
    make(tmp_path, "db", VM_LABELS="x")
    with pytest.raises(UsageError):
        names("stop", *words)


def test_seconds_as_a_word_get_the_option(tmp_path: Path) -> None:
    make(tmp_path, "db")
    with pytest.raises(UsageError) as caught:
        names("stop", "db", "60")
    assert caught.value.hint == "seconds are an option: `qvm stop --timeout 60 db`"


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the machines that count as running."""
    found: set[str] = set()
    monkeypatch.setattr(targets, "_is_on", lambda place, _: os.path.basename(place) in found)
    return found


def test_requirements_order_starts_and_stops(tmp_path: Path, running: set[str]) -> None:
    make(tmp_path, "web", VM_REQUIRES="db cache")
    make(tmp_path, "db", VM_REQUIRES="disk")
    make(tmp_path, "cache")
    make(tmp_path, "disk")
    assert ordered("start", "web", "db", "cache", "disk") == [
        ("cache", []),
        ("disk", []),
        ("db", ["disk"]),
        ("web", ["cache", "db"]),
    ]
    running |= {"web", "db", "cache", "disk"}
    assert ordered("stop", "disk", "db", "cache", "web") == [
        ("web", []),
        ("db", ["web"]),
        ("cache", ["web"]),
        ("disk", ["db"]),
    ]
    assert ordered("start", "web", "cache") == [("web", []), ("cache", [])]  # cache is there already
    running -= {"web", "cache"}
    assert ordered("start", "web", "cache") == [("cache", []), ("web", ["cache"])]
    assert ordered("stop", "cache", "web") == [("cache", []), ("web", [])]  # nothing requires it now
    assert ordered("pause", "web", "db") == [("web", []), ("db", [])]


def test_requirements_in_a_circle_are_an_error(tmp_path: Path, running: set[str]) -> None:
    make(tmp_path, "web", VM_REQUIRES="db")
    make(tmp_path, "db", VM_REQUIRES="web")
    with pytest.raises(UsageError, match="db and web: VM_REQUIRES goes round in a circle"):
        ordered("start", "web", "db")
    running |= {"web", "db"}
    said: list[str] = []
    bound = parse.bind("stop", ["web", "db"])
    jobs = targets.jobs(bound, targets.directories(bound, os.environ), os.environ, said.append)
    assert [(job.name, job.waits) for job in jobs] == [("web", []), ("db", [])]
    assert said == ["db and web: VM_REQUIRES goes round in a circle: they are stopped in no order"]


def test_requirement_that_is_unknown_is_a_warning(tmp_path: Path) -> None:
    make(tmp_path, "web", VM_REQUIRES="dbb")
    make(tmp_path, "db")
    said: list[str] = []
    bound = parse.bind("start", ["web", "db"])
    targets.jobs(bound, targets.directories(bound, os.environ), os.environ, said.append)
    assert said == ["web: VM_REQUIRES: no machine is known as 'dbb'"]


def test_machine_named_twice_is_meant_once(tmp_path: Path) -> None:
    make(tmp_path, "db")
    (tmp_path / "way").symlink_to(tmp_path / "vms/db")
    assert names("start", "db", "way", "vms/db", "d*") == ["db"]
