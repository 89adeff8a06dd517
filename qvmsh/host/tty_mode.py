"""The terminal: raw while it is a guest's console, always restored, and protected from harmful bytes.

    with Raw(0):                        # Ctrl-C, Ctrl-Z go to the guest
        ...
    Cleaner().text(b"\\x1b[2J\\x1b[32mok")     # '^[[2J\\x1b[32mok': only colours reach the terminal

A guest's output, live or logged, may hold sequences that rename the window, type answers into the
shell's input, or clear the screen; `Cleaner` shows them instead, as `cat -v` does.
"""

from __future__ import annotations

import codecs
import os
import re
import signal
import termios

from qvmsh.errors import Terminated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

TIDY = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1l\x1b>\x1b[?1000l\x1b[?1002l\x1b[?1006l\x1b[?2004l"
"""Resets the modes that a guest may have left: colours, no wrapping (SeaBIOS), no cursor, keys, mouse."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_INCOMPLETE = re.compile(r"(?:\r+|\x1b(?:\[[0-9;]{0,32})?)\Z")


class HungUp(Terminated):
    """SIGHUP arrived, or the terminal has gone without it."""


class Raw:
    """The terminal `fd` passes every key on as it is, until the block ends, however it ends.

    SIGHUP and SIGTERM become exceptions meanwhile, so that the block does end; only SIGKILL leaves
    the terminal in that mode (`stty sane` then). A `fd` that is not a terminal is left alone.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._before: list[Any] | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Raw:
        try:
            for number, handler in ((signal.SIGHUP, _end), (signal.SIGTSTP, signal.SIG_IGN)):
                self._handlers[number] = signal.signal(number, handler)
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, _end)
        except ValueError:  # not the main thread, which handles the signals
            pass
        if os.isatty(self.fd):
            self._before = termios.tcgetattr(self.fd)
            mode = termios.tcgetattr(self.fd)
            mode[0] &= ~(
                termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON
                | termios.INLCR | termios.IGNCR
            )  # fmt: skip
            mode[1] &= ~termios.OPOST
            mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self.fd, termios.TCSADRAIN, mode)
        return self

    def __exit__(self, *_: object) -> None:
        restore(self.fd, self._before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def is_in_background(fd: int) -> bool:
    """True if `fd` is a terminal that another job owns: reading it, or changing its mode, would stop us."""
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:  # it is not a terminal, or another session's
        return False


class Kept:
    """Restores the terminal's mode when the block ends: for a program that may be killed in it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> None:
        self._before = termios.tcgetattr(self.fd) if os.isatty(self.fd) else None

    def __exit__(self, *_: object) -> None:
        restore(self.fd, self._before)


def restore(fd: int, mode: list[Any] | None) -> None:
    """Restore the terminal's mode (None: it was not a terminal); one that has gone is ignored."""
    if mode is None:
        return
    try:
        # a process that has lost the foreground would be stopped by this
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        try:
            termios.tcsetattr(fd, termios.TCSANOW, mode)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except termios.error:
        pass


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise HungUp


class Cleaner:
    """Makes a guest's bytes harmless for a terminal; called for each piece."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._is_line_begun = False

    def text(self, data: bytes, *, is_last: bool = False) -> str:
        """`data` without anything that moves, clears, renames or asks; colours stay."""
        text = self._rest + self._decoder.decode(data, is_last)
        incomplete = None if is_last else _INCOMPLETE.search(text)
        self._rest = incomplete[0] if incomplete else ""
        text = text.removesuffix(self._rest) if self._rest else text
        text = re.sub(r"\r*\n\r*", "\n", text if self._is_line_begun else text.lstrip("\r"))
        self._is_line_begun = not text.endswith("\n") if text else self._is_line_begun
        parts, at = [], 0
        for colour in _COLOURS.finditer(text):
            parts += [_visible(text[at : colour.start()]), colour[0]]
            at = colour.end()
        return "".join([*parts, _visible(text[at:])])


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _caret(c) for c in text)


def _caret(character: str) -> str:
    """A control character as `cat -v` shows it."""
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return "^" + chr(code ^ 0x40)
    if code < 0xA0:
        return "M-^" + chr((code & 0x7F) ^ 0x40)
    return f"<U+{code:04X}>"
