"""Commands as shell words, as in `status -s | cat`, in xonsh.

A word runs in a thread of xonsh's, its streams are those of its place in the pipeline. Commands
that own the terminal (`ssh`, `run`) are child processes instead: so pipes carry their bytes
untouched, and Ctrl-C, Ctrl-Z and `&` are the kernel's. xonsh 0.25 gives a thread no Ctrl-C, hence
`calls.WordIo.checkpoint`.

Source: xonsh 0.25, `procs/specs.py`, `procs/proxies.py`.
"""

from __future__ import annotations

import shutil
import sys
import threading
from signal import SIGINT

from xonsh.built_ins import XSH
from xonsh.procs.proxies import STDERR_DISPATCHER
from xonsh.procs.specs import DecoratorAlias

from qvmsh import errors
from qvmsh.cli.parse import Entry
from qvmsh.commands.index import ALIASES, COMMANDS
from qvmsh.io import isatty
from qvmsh.shell.session.calls import WordCall, child, listing
from qvmsh.shell.session.spelling import REFUSED, is_hosts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from qvmsh.shell.session.context import Context

_HINTED: set[str] = set()
"""The host's programs for which qvm's word of the same name was hinted at after a failure."""


class Word:
    """A callable alias of xonsh: the command `words` (`img build`) with what follows."""

    def __init__(self, context: Context, *words: str) -> None:
        self._context = context
        self._words = words
        self.__name__ = " ".join(words) or "vm"

    def __call__(
        self,
        args: list[str],
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        spec: Any = None,
    ) -> int:
        call = WordCall(
            self._context,
            (stdin, stdout, _direct(spec) or stderr),
            is_reader_interrupted=_is_reader_interrupted,
            is_on_terminal=_is_passed_on(spec, "captured_stdout") and isatty(sys.__stdout__),
        )
        words = self.line(args)
        verb = words[0] if words else ""
        try:
            with self._context.works.running(verb):
                status = call.perform(words)
            if status == errors.EXIT_OK and getattr(threading.current_thread(), "_interrupted", False):
                call.io.warn(f"{call.verb or verb}: Ctrl-C came too late, it is done")
            return status
        finally:
            self._context.forget_settings()

    def line(self, args: list[str]) -> list[str]:
        """The words of the command line that this word with `args` behind it stands for."""
        return [*self._words, *map(_without_quotes, args)]

    def __repr__(self) -> str:
        return f"a command of qvm; `{self.__name__} --help` explains it"


class Vm(DecoratorAlias):  # type: ignore[misc]  # xonsh has no types
    """`vm VERB ...`: every command, also those whose bare word is the host's. `vm` alone lists them.

    xonsh calls a decorator before it reads the words behind it. So the verb can become a word of
    qvm or a child process here, and nothing of the line is expanded or quoted a second time.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def decorate_spec(self, spec: Any) -> None:
        if spec.alias_name is not None:  # inside an alias (`run`, or one of the user's)
            if callable(spec.alias):  # xonsh has found the bare word already
                return
            target = self._target(spec.alias[0])
            if callable(target[0]):
                spec.alias, spec.cmd = target[0], [spec.alias_name, *spec.alias[1:]]
            else:
                spec.alias = [*target, *spec.alias[1:]]
            return
        at = 1 + next(at for at, word in enumerate(spec.cmd) if word == "vm")
        following: list[Any] = spec.cmd[at]
        if isinstance(following, tuple):  # a redirection: `vm > file`
            spec.cmd.insert(at, Listing(self._context))
            return
        first, *rest = following if isinstance(following, list) else [following]
        spec.cmd[at : at + 1] = [*self._target(first), *rest]

    def _target(self, word: str) -> list[Any]:
        """What runs for `vm WORD`: a word of qvm, or the beginning of a child's argument list."""
        verb = ALIASES.get(word, word)
        if verb in COMMANDS and Entry(verb).terminal:
            return child(self._context, [verb])
        return [Word(self._context, word)]

    def __call__(self, args: list[str], stdout: TextIO | None = None, **_: Any) -> int:
        return Listing(self._context)(args, stdout)

    def __repr__(self) -> str:
        return "<word of qvm: vm>"


class Listing:
    """`vm` alone: the commands, one a line."""

    __name__ = "vm"

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, args: list[str], stdout: TextIO | None = None) -> int:
        print(listing(self._context), file=stdout or sys.stdout)
        return errors.EXIT_OK


class Refusal:
    """`reboot` and the like, typed bare: refused, so that nobody reboots the host by mistake."""

    def __init__(self, word: str) -> None:
        self._word = word
        self.__name__ = word

    def __call__(self, args: list[str], stderr: TextIO | None = None) -> int:
        program = shutil.which(self._word) or shutil.which(self._word, path="/usr/sbin:/sbin:/usr/bin:/bin")
        verb = REFUSED[self._word]
        guest = f"`vm {verb}`" if verb in COMMANDS else f"`vm ssh sudo {self._word}`"
        host = f"`{program}`" if program else f"this host's {self._word} (which is not installed)"
        lines = (
            f"qvm: {self._word}: refused: it could mean the guest or this host",
            f"hint: {guest} means the guest, {host} this host",
        )
        print("\n".join(lines), file=stderr or sys.stderr)
        return errors.EXIT_USAGE


def aliases(context: Context) -> dict[str, Any]:
    """The commands as xonsh's aliases."""
    found: dict[str, Any] = {"vm": Vm(context)}
    for verb in COMMANDS:
        word = verb.partition(" ")[0]
        if not is_hosts(word):
            found[word] = ["vm", word] if verb == word and Entry(verb).terminal else Word(context, word)
    return found | {word: Refusal(word) for word in REFUSED}


def shadowed(context: Context) -> list[tuple[str, str]]:
    """Words of qvm for which this host has a program too, with its path."""
    words = (word for word in aliases(context) if word not in REFUSED and word != "vm")
    return [(word, path) for word in words if (path := shutil.which(word))]


def hint_at_host_words(pipeline: Any) -> None:
    """Hint at `vm kill` after the host's `kill` has failed: each time if it was typed alone, else once."""
    for spec, process in zip(pipeline.specs, pipeline.procs, strict=False):
        word = spec.args[0] if spec.args else ""
        has_failed = process.returncode is not None and process.returncode > 0
        if spec.alias is not None or word not in COMMANDS or word == "sh" or not has_failed:
            continue
        if len(spec.args) == 1 or word not in _HINTED:
            _HINTED.add(word)
            print(f"qvm: `{word}` is the host's here; the machine's is `vm {word}`", file=sys.stderr)


def _is_passed_on(spec: Any, stream: str) -> bool:
    """True if xonsh reads what a word writes only to write it to its own standard stream."""
    return getattr(spec, "captured", None) == "hiddenobject" and getattr(spec, stream) is not None


def _direct(spec: Any) -> TextIO | None:
    """The process' own standard error, where xonsh would only pass a word's on to it.

    So stages are shown on the terminal as they happen, errors come at once, and what is printed after
    Ctrl-C is not lost (xonsh does not read the pipe any more then).
    """
    if not _is_passed_on(spec, "captured_stderr"):
        return None
    is_alone = set(STDERR_DISPATCHER.registry) <= {threading.get_ident()}  # not inside a user's alias
    return sys.__stderr__ if is_alone else None


def _is_reader_interrupted() -> bool:
    """True if Ctrl-C has ended a program of the running pipeline."""
    processes = getattr(XSH.lastcmd, "procs", ())
    if threading.current_thread() not in processes:  # still the previous one
        return False
    return any(getattr(process, "returncode", None) == -SIGINT for process in processes)


def _without_quotes(word: str) -> str:
    """`--opt="a b"` and `NAME="a b"` as a POSIX shell reads them; xonsh leaves the quotes in."""
    name, mark, value = word.partition("=")
    is_name = name.startswith("-") or name.isidentifier()
    if mark and is_name and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        inside = value[1:-1]
        return word if value[0] in inside else f"{name}={inside}"
    return word
