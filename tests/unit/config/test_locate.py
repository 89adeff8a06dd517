"""Which directory is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvmsh.config import locate
from qvmsh.errors import ConfigError
from tests.support.world import bare_environ


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".vmrc").touch()
    return tmp_path / "a", tmp_path / "b"


def test_find_takes_option_then_vm_home_then_current(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    env = bare_environ(tmp_path)
    assert locate.find(None, env, str(a)) == str(a)
    assert locate.find(None, env | {"VM_HOME": str(b)}, str(tmp_path)) == str(b)
    assert locate.find(None, env | {"VM_HOME": "b"}, str(tmp_path)) == str(b)
    assert locate.find("a", env | {"VM_HOME": str(b)}, str(tmp_path)) == str(a)
    assert locate.find("../b", env, str(a)) == str(b)
    assert locate.find(".", env | {"VM_HOME": str(b)}, str(a)) == str(a)


def test_find_vm_home_elsewhere_beside_a_machine_is_an_error(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    env = bare_environ(tmp_path, VM_HOME=str(b))
    with pytest.raises(ConfigError, match=f"there is a .vmrc in {a}, but VM_HOME names another") as caught:
        locate.find(None, env, str(a))
    assert "unset VM_HOME" in str(caught.value.hint)
    assert locate.find(None, env | {"VM_HOME_OVERRIDES_CWD": "yes"}, str(a)) == str(b)
    shared = tmp_path / "shared"
    shared.write_text("VM_HOME_OVERRIDES_CWD=yes\n")
    assert locate.find(None, env | {"VM_GLOBAL_CONFIG": str(shared)}, str(a)) == str(b)


def test_find_vm_home_by_another_name_of_here_is_fine(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, _ = two
    (tmp_path / "link").symlink_to(a)
    found = locate.find(None, bare_environ(tmp_path, VM_HOME=str(tmp_path / "link")), str(a))
    assert found == str(tmp_path / "link")


def test_find_vm_home_that_is_not_a_machine_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a machine: there is no such directory"):
        locate.find(None, bare_environ(tmp_path, VM_HOME="/no/where"), str(tmp_path))
    with pytest.raises(ConfigError, match=r"is not a machine: it has no \.vmrc"):
        locate.find(None, bare_environ(tmp_path, VM_HOME=str(tmp_path)), str(tmp_path))


def test_find_without_vmrc_never_takes_a_parent_but_names_it(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, _ = two
    below = a / "archive"
    below.mkdir()
    with pytest.raises(ConfigError, match=f"no .vmrc in {below}") as caught:
        locate.find(None, bare_environ(tmp_path), str(below))
    assert caught.value.hint == f"there is one above: `qvm -C {a} ...`"
    with pytest.raises(ConfigError, match="there is no directory /no/where"):
        locate.find("/no/where", bare_environ(tmp_path), str(a))
