"""Signals at a fork: neither the parent nor the child loses one."""

from __future__ import annotations

import os
import signal
import time

import pytest

from qvmsh.shell import children


class _Ended(BaseException):
    pass


def test_signal_at_a_fork_ends_the_parent_after_it() -> None:
    def end(*_: object) -> None:
        raise _Ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        children._block()
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            children._go_on()
        except _Ended:
            pytest.fail("raised where Python ignores it")
        with pytest.raises(_Ended):
            time.sleep(60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
