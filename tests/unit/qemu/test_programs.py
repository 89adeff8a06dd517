"""Finding programs and reading their versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qvmsh.errors import MissingProgramError
from qvmsh.qemu import programs


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_find_name_takes_the_first_executable_file_on_path(tmp_path: Path) -> None:
    (tmp_path / "a" / "tool").mkdir(parents=True)
    program(tmp_path / "b" / "tool", 0o644)
    wanted = program(tmp_path / "c" / "tool")
    program(tmp_path / "d" / "tool")
    path = os.pathsep.join(str(tmp_path / name) for name in ("nowhere", "a", "b", "c", "d"))
    assert programs.find("tool", environ={"PATH": path}) == str(wanted)


def test_find_path_is_unchanged_or_relative_to_the_directory(tmp_path: Path) -> None:
    wanted = program(tmp_path / "vm 1, x=y" / "bin" / "qemu")
    assert programs.find(str(wanted), environ={"PATH": ""}) == str(wanted)
    assert programs.find("bin/qemu", directory=str(tmp_path / "vm 1, x=y")) == str(wanted)


def test_find_without_path_finds_the_systems_programs() -> None:
    assert programs.find("sh", environ={}).endswith("/sh")


@pytest.mark.parametrize("name", list(programs.PACKAGES))
def test_find_missing_program_names_its_package(name: str) -> None:
    with pytest.raises(MissingProgramError, match=f"{name} is not installed") as caught:
        programs.find(name, environ={"PATH": "/nonexistent"})
    assert caught.value.hint
    assert any(package in caught.value.hint for package in programs.PACKAGES[name])


@pytest.mark.parametrize("name", ["", "frobnicate"])
def test_find_unknown_program_hints_at_its_path(name: str) -> None:
    with pytest.raises(MissingProgramError, match="not installed") as caught:
        programs.find(name, environ={"PATH": "/nonexistent"})
    assert caught.value.hint == "install it, or give its path"


def test_find_path_that_does_not_exist_fails(tmp_path: Path) -> None:
    with pytest.raises(MissingProgramError, match=r"there is no .*/qemu-img") as caught:
        programs.find(str(tmp_path / "qemu-img"))
    assert caught.value.hint


def test_find_path_without_permission_to_execute_fails(tmp_path: Path) -> None:
    path = program(tmp_path / "qemu-img", 0o644)
    with pytest.raises(MissingProgramError, match="no permission to execute it"):
        programs.find(str(path))
    with pytest.raises(MissingProgramError, match="it is a folder"):
        programs.find(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "version", "numbers"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright", "7.2.22", (7, 2, 22)),
        ("QEMU emulator version 10.1.0\n", "10.1.0", (10, 1, 0)),
        ("qemu-img version 8.2.2 (qemu-8.2.2-1.fc40)", "8.2.2", (8, 2, 2)),
        ("OpenSSH_9.2p1 Debian-2+deb12u7, OpenSSL 3.0.17 1 Jul 2025", "9.2p1", (9, 2, 1)),
        ("OpenSSH_for_Windows_9.5p1, LibreSSL 3.8.2", "9.5p1", (9, 5, 1)),
        ("mke2fs 1.47.0 (5-Feb-2023)", "1.47.0", (1, 47, 0)),
        ("tool v2.3", "2.3", (2, 3)),
    ],
)
def test_parse_version_reads_what_programs_print(text: str, version: str, numbers: tuple[int, ...]) -> None:
    found = programs.parse_version(text)
    assert found
    assert str(found) == version
    assert found.numbers == numbers


@pytest.mark.parametrize("text", ["", "no numbers", "error: 12", "usage: x [-y]", "1. 2"])
def test_parse_version_without_a_version_is_none(text: str) -> None:
    assert programs.parse_version(text) is None


@pytest.mark.parametrize(
    ("text", "system"),
    [
        ("ID=debian\n", "Debian"),
        ("NAME=x\nID=ubuntu\nID_LIKE=debian\n", "Debian"),
        ('ID="linuxmint"\nID_LIKE="ubuntu debian"\n', "Debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "Fedora"),
        ("ID=arch\n", "Arch"),
        ("ID=alpine\n", "Alpine"),
        ("ID=void\n", None),
        ("", None),
    ],
)
def test_system_is_read_off_os_release(tmp_path: Path, text: str, system: str | None) -> None:
    file = tmp_path / "os-release"
    file.write_text(text)
    at = programs._system(str(file))
    assert (None if at is None else programs._SYSTEMS[at]) == system
    assert programs._is_rhel(str(file)) is ("rhel" in text)
