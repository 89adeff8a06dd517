"""What a caller of `start` or `run` asks for, and the launch that is made of it.

Launch(Request(disposable=True), verb="run", is_foreground=True)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """The options that `start`, `run` and `dryrun` share; see their help.

    Args:
        base_only: run the base image, without the overlay.
        disposable: changes go to an overlay that is discarded.
        is_forced: although other images are backed by those that the guest writes to.
        is_encapsulated: QEMU gets a terminal in a session of tmux or screen.
        loadvm: continue from this snapshot.
        extra: additional arguments for QEMU, after VM_QEMU_EXTRA.
    """

    base_only: bool = False
    disposable: bool = False
    is_forced: bool = False
    is_encapsulated: bool = False
    loadvm: str | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Launch:
    """A request that has been checked against the configuration.

    Args:
        verb: `start` or `run`; it names the holder of the work lock.
        is_foreground: this command waits for QEMU's end; the terminal is QEMU's.
        is_background: but another job has the terminal (`qvm run &`), so QEMU must not touch it.
        window: the display that opens a window, "" where none can be opened.
        machine: VM_QEMU_MACHINE of this run, where that is another; see `snapshot.hardware`.
        attached: tags of the shares that are there at the start; None = all. A state that is loaded needs
            those that it was saved with; the others come afterwards.
    """

    request: Request
    verb: str = "start"
    is_foreground: bool = False
    is_background: bool = False
    window: str = ""
    machine: str = ""
    attached: tuple[str, ...] | None = None
