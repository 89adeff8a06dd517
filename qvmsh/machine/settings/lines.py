"""Lines of a setting that holds several, added to and removed from the `.vmrc`, where all else stays.

    own(vm, "VM_HOSTFWD")                                  # ["8080:80"], whatever --set says
    add(vm, "VM_HOSTFWD", ["2231:80"])
    remove(vm, "VM_HOSTFWD", lambda line: line == "8080:80")

What `--set` and the environment say is for one command: it is neither written nor lost here.
"""

from __future__ import annotations

from qvmsh.config import edit, layers
from qvmsh.config.settings import BUILT_IN, ENVIRONMENT
from qvmsh.errors import ConfigError
from qvmsh.machine.settings import config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qvmsh.machine.machine import BaseMachine


def own(vm: BaseMachine, name: str) -> list[str]:
    """The lines that the files say.

    Raises:
        ConfigError: the files have problems.
    """
    found = vm.as_written().peek()
    found.check()
    return [] if found.origin(name).layer == ENVIRONMENT else found.lines(name)


def add(vm: BaseMachine, name: str, new: Sequence[str]) -> None:
    """Add lines at the end; all of them, or none.

    Raises:
        ConfigError: one is invalid, or the value is set elsewhere. Nothing changed.
    """

    def changed(text: str) -> str:
        for line in new:
            was, layer = _lines(vm, name, text)
            has_more = layer not in (BUILT_IN, ENVIRONMENT)
            was = was if has_more else []
            texts = edit.with_line(text, name, line, has_more=has_more)
            text = _first(vm, name, texts, [[*was, line.strip()]]) or _refuse(vm, name, text)
        return text

    config.rewrite(vm, changed, {})


def remove(vm: BaseMachine, name: str, is_gone: Callable[[str], bool]) -> None:
    """Remove the lines for which `is_gone` is true.

    Raises:
        ConfigError: they are not written in the `.vmrc`. Nothing changed.
    """

    def changed(text: str) -> str:
        while True:
            now, layer = _lines(vm, name, text)
            at = [n for n, line in enumerate(now) if layer != ENVIRONMENT and is_gone(line)]
            if not at:
                return text
            less = [[*now[:n], *now[n + 1 :]] for n in at]
            text = _first(vm, name, edit.without_line(text, name), less) or _refuse(vm, name, text)
            if not _lines(vm, name, text)[0]:
                text = edit.assign(text, name, "")

    config.rewrite(vm, changed, {})


def _lines(vm: BaseMachine, name: str, text: str) -> tuple[list[str], str]:
    """The lines that a `.vmrc` with this text gives, and their layer."""
    found = layers.load(vm.directory, vm.environ, text=text)
    return found.lines(name), found.origin(name).layer


def _first(vm: BaseMachine, name: str, texts: Iterator[str], wanted: Sequence[Sequence[str]]) -> str:
    """The first text that gives one of the lists of lines; "" if none does."""
    return next((each for each in texts if _lines(vm, name, each)[0] in wanted), "")


def _refuse(vm: BaseMachine, name: str, text: str) -> str:
    found = layers.load(vm.directory, vm.environ, text=text)
    origin = found.origin(name)
    if name in found.held:
        raise ConfigError(
            f"nothing was changed: {name} came in a package and has no effect until `qvm allow`",
            machine=vm.name, hint="look at it first: `qvm config edit`",
        )  # fmt: skip
    if origin.file != vm.files.vmrc:
        raise ConfigError(
            f"nothing was changed: {origin} would override the new value of {name}",
            machine=vm.name, hint="change it there",
        )  # fmt: skip
    raise ConfigError(
        f"nothing was changed: the value of {name} is not written line by line in {origin}",
        machine=vm.name, hint="`qvm config edit` changes it",
    )  # fmt: skip
