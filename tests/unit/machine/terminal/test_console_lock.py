"""The right to write to the console."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qvmsh.host import sockets
from qvmsh.machine.guest.console_lock import Hold


def test_console_interrupted_as_it_is_taken_leaves_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sockets.listening

    def interrupted(*words: Any) -> Any:
        door = made(*words)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # not to a thread of the test runner
        return door

    monkeypatch.setattr(sockets, "listening", interrupted)
    record: Any = SimpleNamespace(runtime=str(tmp_path), socket=lambda name: str(tmp_path / name))
    vm: Any = SimpleNamespace(name="demo")
    with pytest.raises(KeyboardInterrupt), Hold(vm, record, is_taking=False):
        pytest.fail("not interrupted")
    assert not (tmp_path / "console").exists()
    monkeypatch.undo()
    with Hold(vm, record, is_taking=False):  # and it is free
        assert (tmp_path / "console").exists()
