"""A Ctrl-C while a long conversation with QEMU begins leaves no connection, which would keep others out."""

from __future__ import annotations

import os
import signal

import pytest

from qvmsh.errors import QmpError
from qvmsh.qemu import session
from tests.support.world import Blank


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # that of the listing itself
            continue
    return {each for each in found if each.startswith(("socket:", "anon_inode:"))}


@pytest.mark.parametrize("is_answering", [True, False], ids=["QEMU answers", "QEMU does not"])
def test_ctrl_c_while_it_connects_closes_all(blank: Blank, is_answering: bool) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    [path] = [each for each in vm.world.runtime.rglob("session*") if each.is_socket()]
    os.kill(vm.pid, signal.SIGSTOP)

    def enough() -> None:
        if is_answering:
            os.kill(vm.pid, signal.SIGCONT)
        raise KeyboardInterrupt

    before = descriptors()
    with pytest.raises(KeyboardInterrupt) as kept, session.Session(str(path), enough):
        raise AssertionError("it has connected")
    assert descriptors() == before
    os.kill(vm.pid, signal.SIGCONT)
    with session.Session(str(path)) as qemu:  # QEMU serves one at a time
        assert "status" in qemu.execute("query-status")
    assert descriptors() == before
    assert kept.type is KeyboardInterrupt


def test_connect_without_an_answer_fails_and_leaves_nothing(blank: Blank) -> None:
    before = descriptors()
    with pytest.raises(QmpError, match="cannot connect to QEMU"):
        session.Session(str(blank().directory / "none")).__enter__()
    assert descriptors() == before
