"""QEMU 10 in place of the host's QEMU: unpacked into the cache, and first in PATH.

The tests of AREAS exist twice: as they are, and as `NAME[qemu10]` with the mark `qemu10`. Those with the mark
`both_qemus` run twice by default, the others with `scripts/test --qemu10` or `--all`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.world import ROOT

AREAS = {"archive", "disk", "monitor", "power", "snapshot", "terminal"}
"""Folders of tests/qemu and tests/guest."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kind, area, *_ = metafunc.definition.path.relative_to(ROOT / "tests").parts
    params = [pytest.param(None, id=pytest.HIDDEN_PARAM)]
    # the debian guest has two virtual processors, with which QEMU 10.0 aborts under tcg (iotlb_to_section)
    if kind != "unit" and area in AREAS and "debian" not in metafunc.fixturenames:
        params.append(pytest.param("10", id="qemu10", marks=pytest.mark.qemu10))
    metafunc.parametrize("qemu", params, indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def qemu(request: pytest.FixtureRequest) -> Iterator[str]:
    """The QEMU of the tests: that of the host (""), or QEMU 10 ("10")."""
    if not getattr(request, "param", None):
        yield ""
        return
    found = subprocess.run([ROOT / "scripts/qemu10"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(found.stderr.strip().replace("\n", "; "))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{found.stdout.strip()}:{os.environ['PATH']}")
        patch.setenv("QVM_TEST_CPUS", "1")
        yield "10"
