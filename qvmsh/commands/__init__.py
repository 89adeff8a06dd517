"""How a command is declared: the decorator, and the marks on its parameters.

    @command(group="daily", words="machines")
    def start(vm: BaseMachine, *, loadvm: Annotated[str | None, Opt("-l", metavar="NAME")] = None) -> Started:
        '''Start the machine and wait until its guest answers.

        Args:
            loadvm: continue from this snapshot.
        '''

`describe.py` reads such functions (with `inspect`, at development time) and writes `index.py`,
from which the argument parser, `--help`, the shell words and completion work at run time.
A first parameter `vm` is the machine; keyword-only parameters are options (a bool that is true
by default becomes `--no-NAME`); positional ones are words.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    F = TypeVar("F", bound=Callable[..., object])


class Opt:
    """Marks a parameter: `Annotated[str | None, Opt("-l", "--loadvm", metavar="NAME")]`.

    Args:
        flags: short flag and other spellings; `--name-of-the-parameter` is always one.
        metavar: the placeholder for the value in the help.
        complete: what completes the value: `file`, `dir`, `snapshot`, `archive`, `image`, `builtin`,
            `machine`, `deleted`, `variable`, `hmp`, `qmp`, `agent`, `script`, `disk`.
        choices: the only values allowed.
        excludes: names of parameters that cannot be given together with this one.
        is_last: the words after its value are not options of qvm (`sh -c CODE --b`).
        is_python: only callers in Python have it, not the command line.
    """

    __slots__ = ("choices", "complete", "excludes", "flags", "is_last", "is_python", "metavar")

    def __init__(
        self,
        *flags: str,
        metavar: str | None = None,
        complete: str | None = None,
        choices: tuple[str, ...] = (),
        excludes: tuple[str, ...] = (),
        is_last: bool = False,
        is_python: bool = False,
    ) -> None:
        self.is_python = is_python
        self.flags = flags
        self.metavar = metavar
        self.complete = complete
        self.choices = choices
        self.excludes = excludes
        self.is_last = is_last


def command(
    *,
    group: str,
    words: str = "own",
    terminal: bool = False,
    name: str | None = None,
    aliases: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Mark a function as a command.

    Args:
        group: topic in the help: `daily`, `guest`, `images`, `configuration`, `shell`, `monitor`.
        words: what the words of the command line are: `own` (bound to the function's positional
            parameters), `machines` (any number of machines, the command runs once for each), or
            `rest` (as `own`, but the first word ends the options, so that everything after it
            goes unchanged to `*words`), or `qemu` (as `rest`, and an option with one dash that is
            not one of qvm's ends the options too: it is QEMU's), or `first` (as `own`, but one word more
            than the function has positional parameters names the machine, before the others).
        terminal: the command owns the terminal (stdin, Ctrl-C, job control).
        name: the verb, if it differs from the function's name (`img build`).
        aliases: other verbs with the same meaning.
    """

    def mark(function: F) -> F:
        function.__qvm_command__ = {  # type: ignore[attr-defined]  # functions take any attribute
            "group": group,
            "words": words,
            "terminal": terminal,
            "name": name or function.__name__,
            "aliases": aliases,
        }
        return function

    return mark
