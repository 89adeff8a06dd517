"""The preloaded names of a script and of the prompt, as Python objects.

start = Command("start", context)
start(wait=False)          # the function of commands/start.py, on the context's machine
img = Group("img", context)
img.build("tiny")
"""

from __future__ import annotations

import sys

from qvmsh.cli.parse import Entry
from qvmsh.commands.index import ALIASES, COMMANDS
from qvmsh.errors import QvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from qvmsh.shell.session.io import Session


def pickled(name: str, context: Session) -> tuple[Any, ...]:
    """How a preloaded name is pickled: by name, and for which machine."""
    from importlib import import_module  # late: it costs a small script more than its run

    restored = import_module("qvmsh.shell.session.children").restored  # which begins a context
    return restored, (name, *context.place)


def _truth(why: str) -> bool:
    """Refuse a command as a truth value; xonsh's `start?` asks for it too."""
    if sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] != "xonsh":
        raise TypeError(why)
    return True


class Command:
    """A command as a Python function: call it, `help()` it. Its module is imported when first used."""

    def __init__(self, verb: str, context: Session) -> None:
        self.verb = verb
        self._context = context
        self._entry = Entry(verb)
        self.__name__ = self.__qualname__ = self._entry.function
        self.__module__ = f"qvmsh.commands.{self._entry.module}"

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]  # an attribute in the base
        doc: str | None = self.function.__doc__
        return doc

    @property
    def __signature__(self) -> Any:
        """The signature without the parameters that the shell fills in."""
        import inspect

        found = inspect.signature(self.function)
        kept = [
            each.replace(annotation=_Shown(each.annotation))
            for name, each in found.parameters.items()
            if name not in ("vm", "io")
        ]
        return found.replace(parameters=kept, return_annotation=_Shown(found.return_annotation))

    @property
    def function(self) -> Callable[..., Any]:
        """The typed function itself."""
        module = __import__(f"qvmsh.commands.{self._entry.module}", fromlist=["_"])
        function: Callable[..., Any] = getattr(module, self._entry.function)
        return function

    def __get__(self, instance: object, owner: type | None = None) -> Command:
        return self  # so that `inspect` and `help` take it for a routine

    def __call__(self, *words: Any, **options: Any) -> Any:
        """Run the command on the machine of the context; its result is returned, a failure raised."""
        from qvmsh.commands.arguments import fit

        fitted, options = fit(self.verb, words, options)
        arguments: list[Any] = []
        if self._entry.machine != "none":
            arguments.append(self._context.machine(is_optional=self._entry.machine == "optional"))
        if self._entry.takes_io:
            options.setdefault("io", self._context.python_io())
        try:
            with self._context.works.running(self.verb):
                return self.function(*arguments, *fitted, **options)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                self._require_fit(words, options)
            raise
        finally:
            self._context.forget_settings()

    def _require_fit(self, words: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Refuse a wrong call as Python does, but do not count the parameter for the machine."""
        try:
            self.__signature__.bind(*words, **options)
        except TypeError as error:
            raise TypeError(f"{self.__name__}(): {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self._shown, self._context)

    def __bool__(self) -> bool:
        return _truth(f"{self._shown} is a command, neither true nor false: call it, {self._shown}()")

    @property
    def _shown(self) -> str:
        return self.verb.replace(" ", ".") if " " in self.verb else self._entry.function

    def __repr__(self) -> str:
        return f"<command {self.verb}: {self._entry.summary}>"


class Qmp(Command):
    """`qmp("device_del", id="nic0")`, or `qmp.device_del(id="nic0")`: QMP's commands as functions.

    The call is the command `qmp`, whose options keep their meaning; other keywords are arguments for
    QEMU. An attribute's call returns what QEMU returns, as Python has it. `_` in a name is QMP's `-`,
    where QEMU has no command with the `_`.
    """

    WHO = "QEMU"

    def __call__(self, *words: Any, **options: Any) -> Any:
        own = {*(row[0] for row in self._entry.options), "io"}
        arguments = {name: options.pop(name) for name in [*options] if name not in own}
        return super().__call__(*_request(words, arguments), **options)

    def __getattr__(self, name: str) -> Any:
        known = [] if name.startswith("_") else self.__dir__()
        if name.startswith("_") or (known and name not in known):
            raise AttributeError(f"{self.WHO} has no command {name!r}", name=name, obj=self)

        def call(**arguments: Any) -> Any:
            from qvmsh.errors import QmpError

            try:
                return super(Qmp, self).__call__(*_request((name.replace("_", "-"),), arguments)).value
            except QmpError as error:
                is_unknown = error.error_class == "CommandNotFound" and "disabled" not in error.what
                if not is_unknown or "_" not in name:
                    raise
            return super(Qmp, self).__call__(*_request((name,), arguments)).value

        call.__name__ = call.__qualname__ = name
        call.__doc__ = f"The command {name.replace('_', '-')} of {self.WHO}; keywords are its arguments."
        return call

    def __dir__(self) -> list[str]:
        """The commands of the QEMU, or the agent, that runs now."""
        try:
            rows = self._rows()
        except QvmError:
            return []
        return sorted(row["name"].replace("-", "_") for row in rows)

    def _rows(self) -> Any:
        return super().__call__("query-commands").value


class Agent(Qmp):
    """`agent("guest-file-open", path="/etc/hostname")`, or `agent.guest_get_osinfo()`: as `Qmp`."""

    WHO = "the guest agent"

    def _rows(self) -> Any:
        return Command.__call__(self, "guest-info").value["supported_commands"]


def _request(words: tuple[Any, ...], arguments: dict[str, Any]) -> list[str]:
    """The words of the command `qmp` for a call from Python: objects become JSON."""
    import json

    found = [word if isinstance(word, str) else json.dumps(word) for word in words]
    return [*found, json.dumps(arguments)] if arguments else found


class _Shown(str):
    """An annotation for `help`: without the marks of the command line, without quotes."""

    __slots__ = ()

    def __new__(cls, annotation: str) -> _Shown:
        return super().__new__(cls, annotation.removeprefix("Annotated[").partition(", Opt(")[0])

    def __repr__(self) -> str:
        return str(self)


class Group:
    """The commands that begin with one word: `img.build`, `img.list`; other spellings as words have them."""

    def __init__(self, word: str, context: Session) -> None:
        self._word = word
        self._context = context
        self._commands = {
            verb.partition(" ")[2]: Command(verb, context) for verb in COMMANDS if verb.startswith(word + " ")
        }

    def __getattr__(self, name: str) -> Command:
        found = self._commands.get(name)
        if found is None and (verb := ALIASES.get(f"{self._word} {name.replace('_', '-')}")):
            found = Command(verb, self._context)
        if found is None:
            raise AttributeError(f"{self._word}: no command {name!r}, only {', '.join(self)}")
        return found

    def __iter__(self) -> Any:
        return iter(self._commands)

    def __dir__(self) -> list[str]:
        return list(self._commands)

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self._word, self._context)

    def __bool__(self) -> bool:
        return _truth(f"{self._word} is a group of commands, neither true nor false: {', '.join(self)}")

    def __repr__(self) -> str:
        return f"<commands {self._word}: {', '.join(self)}>"


class Method:
    """A method of the session's machine as a function: `succeed("uname -r")`."""

    def __init__(self, name: str, context: Session) -> None:
        self._name = self.__name__ = name
        self._context = context

    @property
    def __doc__(self) -> str:  # type: ignore[override]  # each has its own
        from qvmsh.api import Machine

        return str(getattr(Machine, self._name).__doc__)

    def __call__(self, *words: Any, **options: Any) -> Any:
        return getattr(self._context.machine(is_optional=False), self._name)(*words, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self._name, self._context)

    def __bool__(self) -> bool:
        return _truth(f"{self._name} is a function, neither true nor false: call it, {self._name}()")

    def __repr__(self) -> str:
        return f"<function {self._name} of the machine>"


class Lazy:
    """Stands for an object that is costly to import; the first use makes it.

    Args:
        name: what the name is called in messages.
        load: makes the object.
        context: whose name it is.
    """

    __slots__ = ("_context", "_load", "_made", "_name")

    def __init__(self, name: str, load: Callable[[], Any], context: Session) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_load", load)
        object.__setattr__(self, "_context", context)
        object.__setattr__(self, "_made", [])

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self._name, self._context)

    def _object(self) -> Any:
        if not self._made:
            self._made.append(self._load())
        return self._made[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._object(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._object(), name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._object()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._object()

    def __call__(self, *words: Any, **options: Any) -> Any:
        return self._object()(*words, **options)

    def __dir__(self) -> Any:
        return dir(self._object())

    def __repr__(self) -> str:
        return repr(self._object()) if self._made else f"<{self._name}, not used yet>"


class Nowhere:
    """Stands for `vm` and its parts where there is no machine: every use raises that error."""

    def __init__(self, error: QvmError) -> None:
        object.__setattr__(self, "_error", error)

    def _fail(self) -> NoReturn:
        error: QvmError = object.__getattribute__(self, "_error")
        raise error.with_traceback(None)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # asked by `inspect`, `copy` and the like, not by the user
            raise AttributeError(name)
        self._fail()

    def __getitem__(self, key: object) -> NoReturn:
        self._fail()

    def __reduce__(self) -> tuple[Any, ...]:
        return Nowhere, (object.__getattribute__(self, "_error"),)

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<no machine>"
