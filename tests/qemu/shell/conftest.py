"""The machines that the shell's tests are about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.shell_screen import Shell, Shells
from tests.support.world import Blank, Vm, World, create_blank


@pytest.fixture
def vm(blank: Blank) -> Vm:
    """A machine with an empty disk, off."""
    return blank()


@pytest.fixture(scope="module")
def shared(module_world: World) -> Iterator[Vm]:
    """A machine with an empty disk for the tests of a module; each leaves it off, with the same settings."""
    made = create_blank(module_world)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def shells(module_world: World) -> Iterator[Shells]:
    """Interactive shells that the tests of a module share."""
    made = Shells(module_world)
    yield made
    made.close()


@pytest.fixture
def screen(shells: Shells) -> Shell:
    """The shell with xonsh's own editor."""
    return shells()
