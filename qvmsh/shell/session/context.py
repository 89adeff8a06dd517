"""The context of a shell or a script of qvm: the machine, the names, the environment.

context = Context(vm, Io())
context.enter(os.getcwd(), ["-u"])      # changes directory, reads the VM_ variables
context.export()
exec(code, context.names())
"""

from __future__ import annotations

import os
import sys

from qvmsh.commands.index import COMMANDS
from qvmsh.config import layers, locate
from qvmsh.config.settings import CONTEXT_MARK, EXPORTED_MARK, read_only
from qvmsh.config.words import joined
from qvmsh.errors import QvmError, UsageError
from qvmsh.io import Io
from qvmsh.shell.session.names import Agent, Command, Group, Lazy, Method, Nowhere, Qmp, pickled
from qvmsh.shell.session.work import Works

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
    from typing import Any

    from qvmsh.api import Machine
    from qvmsh.config.layers import Settings
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.shell.session.guest import Guest
    from qvmsh.shell.session.lines import Lines

METHODS_ONLY = frozenset({*vars(__import__("builtins")), "sh"})
"""Names that Python or a library already uses: these commands are only methods of `vm`."""


_sessions: list[Context] = []
"""The session of this process, if there is one."""


def begin(context: Context) -> None:
    """Make `context` the session of this process."""
    _sessions[:] = [context]


def current() -> Context:
    """The session of this process; in a program of its own it begins now, in the current directory."""
    if not _sessions:
        program = getattr(sys.modules.get("__main__"), "__file__", None)
        _sessions.append(at(locate.find(None, os.environ, os.getcwd(), program)))
    return _sessions[0]


def at(
    directory: str | None, overrides: Sequence[tuple[str, str]] = (), *, level: int = 0, debug: bool = False
) -> Context:
    """A context on the machine in `directory`."""
    from qvmsh.machine.machine import BaseMachine

    vm = None if directory is None else BaseMachine(directory, overrides=overrides)
    return Context(vm, Io(level=level, debug=debug))


class Context:
    """The machine and the caller of one shell or script; without a machine where there is none.

    Args:
        vm: the machine, None where the directory holds none.
        io: the caller's; its level and `debug` hold for every command of the session.
        environ: what children get; changed by `enter`.
    """

    def __init__(
        self, vm: BaseMachine | None, io: Io, environ: MutableMapping[str, str] = os.environ
    ) -> None:
        self.io = io
        self.environ = environ
        self._given = vm
        self._vm: Machine | None = None
        self._guest: Guest | None = None
        self.exported: dict[str, str] = {}
        self.works = Works()
        self.warned: set[str] = set()
        """Warnings about the configuration that the session has printed; once is enough."""
        self.ui: str | None = None
        """The value of `--ui`; None without it."""
        self.namespaces: list[dict[str, Any]] = []
        """Those in which `vm` follows the machine of the session."""
        self._importers: list[dict[str, Any]] = []
        """Those of modules that have imported `vm`, under whatever name."""
        self.followers: list[Callable[[list[str]], None]] = []
        """Called after `use`, with the names that have left the environment."""
        self.leavers: list[Callable[[], None]] = []
        """Called by `use` before the machine changes."""
        self.lines: Lines | None = None
        """What was typed in this session; None without a prompt."""
        self._commands: dict[str, Any] = {}
        self._libraries: dict[str, Any] = {}
        self._stale: list[str] = []
        self._before: dict[str, str] = {
            name: value for name, value in environ.items() if _is_of_a_machine(name)
        }

    def spoken(self, text: str) -> str:
        """A text with commands, spelt as they are typed at the prompt."""
        if self.lines is None or self.lines.is_python:
            return text
        from qvmsh.shell.session.spelling import as_typed_here

        return as_typed_here(text)

    def follow(self, namespace: dict[str, Any]) -> None:
        """Let the machine that a module has imported follow `use`."""
        if not any(namespace is each for each in (*self.namespaces, *self._importers)):
            self._importers.append(namespace)

    @property
    def place(self) -> tuple[str | None, tuple[tuple[str, str], ...]]:
        """What identifies a session in other processes: the directory, and `--set`."""
        return self.directory, tuple(self.overrides)

    @property
    def has_machine(self) -> bool:
        return self._given is not None

    @property
    def directory(self) -> str | None:
        return None if self._given is None else self._given.directory

    @property
    def vm(self) -> Machine:
        """The machine of the session."""
        if self._vm is None:
            if self._given is None:
                raise self._nowhere()
            from qvmsh.api import Machine

            given = self._given
            io = self.python_io()
            self._vm = Machine(given.directory, io=io, environ=given.environ, overrides=given.overrides)
        return self._vm

    @property
    def overrides(self) -> Sequence[tuple[str, str]]:
        """The `--set` of the session."""
        return () if self._given is None else self._given.overrides

    def machine(
        self, io: Io | None = None, *, overrides: Sequence[tuple[str, str]] = (), is_optional: bool = False
    ) -> Machine | None:
        """The machine for one command: its files are read again, so a changed `.vmrc` counts at once."""
        if is_optional and not self.has_machine:
            return None
        vm = self.vm
        return type(vm)(
            vm.directory, io=io or self.python_io(), environ=vm.environ, overrides=(*vm.overrides, *overrides)
        )

    def python_io(self) -> Io:
        """For commands called from Python: results are returned, nothing but warnings is printed."""
        from qvmsh.shell.session.io import SessionIo

        return SessionIo(self, capture=True, level=self.io.level, debug=self.io.debug)

    def forget_settings(self) -> None:
        """Make `vm` and `settings` read the files again at their next use."""
        if self._vm is not None:
            self._vm.reload()

    def enter(self, calling_directory: str, words: Sequence[str]) -> None:
        """Go to the machine's directory and read its variables; `export` gives them to children.

        Args:
            calling_directory: the caller's directory (VM_CALLING_DIR).
            words: the words of the script (VM_PARAMS; quoted where they need it).

        Raises:
            ConfigError: the configuration is wrong; context and directory are set nevertheless.
        """
        more = {"VM_CALLING_DIR": calling_directory, "VM_PARAMS": joined(words)}
        self.exported = more
        if self._given is None:
            return
        os.chdir(self._given.directory)
        self.environ["PWD"] = self._given.directory
        loaded = self._given.peek()
        self._warn(loaded)
        loaded.check()
        self._stale = loaded.stale()
        self.exported = {**loaded.exported(), **more}

    def _warn(self, loaded: Settings) -> None:
        for warning in loaded.warnings:
            self.io.warn(self.spoken(str(warning)))
            self.warned.add(str(warning))
        for each in loaded.withheld_warning():
            self.io.warn(each)

    def export(self) -> None:
        """Put the machine's variables into the environment, and those of another one out of it."""
        for name in self._stale:
            self.environ.pop(name, None)
        self._before = {
            name: value
            for name, value in self.environ.items()
            if (_is_of_a_machine(name) or name in self.exported) and name not in self._stale
        }
        self.environ.update(self.exported)

    def use(self, where: str) -> BaseMachine:
        """Make `where` the machine of the session, and go to its directory.

        Nothing of the machine before it stays in the environment, not even what was changed by hand
        since; the values that the environment had before the session are back.

        Args:
            where: a directory, or the name of a known machine.

        Raises:
            UsageError, ConfigError: there is no such machine, or its configuration is wrong; the
                session's machine is as it was.
        """
        from qvmsh.api import Machine
        from qvmsh.machine import owner, registry

        if not where:
            raise UsageError("use: the machine's name is empty")
        here = os.getcwd()
        directory = os.path.normpath(os.path.join(here, registry.resolve(where, self.environ)))
        owner.require_own(directory, self.environ)
        loaded = layers.load(directory, self._without_machine())
        loaded.check()
        os.chdir(directory)
        self.warned.clear()
        self._warn(loaded)
        self.leave()
        for leave in self.leavers:
            leave()
        kept = {
            name: self.exported[name] for name in ("VM_CALLING_DIR", "VM_PARAMS") if name in self.exported
        }
        self.exported, exported = loaded.exported() | kept, self.exported
        stale = set(loaded.stale())
        after = {k: v for k, v in self._without_machine(exported).items() if k not in stale} | self.exported
        gone = [name for name in self.environ if name not in after]
        for name in gone:
            del self.environ[name]
        for name, value in after.items():
            if self.environ.get(name) != value:
                self.environ[name] = value
        self.environ["OLDPWD"], self.environ["PWD"] = here, directory
        plumbum = sys.modules.get("plumbum")
        if plumbum is not None:  # its `local.env` is a copy made at import
            plumbum.local.env.clear()
            plumbum.local.env.update(self.environ)
        old = self._vm
        self._given = self._vm = Machine(directory, io=self.python_io(), environ=self.environ)
        for namespace in self.namespaces:
            if namespace.get("vm") is old or isinstance(namespace.get("vm"), Lazy | Nowhere):
                namespace["vm"] = self._vm
        for namespace in self._importers:
            namespace.update({name: self._vm for name, value in namespace.items() if value is old})
        for follow in self.followers:
            follow(gone)
        return self._vm

    def _without_machine(self, exported: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment as it would be had the session begun without a machine."""
        exported = self.exported if exported is None else exported
        own = {
            name: value
            for name, value in self.environ.items()
            if name not in exported and not _is_of_a_machine(name)
        }
        return own | self._before

    def names(self, *, has_vm: bool = True) -> dict[str, Any]:
        """What is preloaded in scripts and at the prompt.

        Args:
            has_vm: False leaves the class of `vm`, with all commands, to be imported at its first use.
        """
        found: dict[str, Any] = {**self.commands(), **self.libraries()}
        if not self.has_machine:
            found["vm"] = Nowhere(self._nowhere())
        else:
            found["vm"] = self.vm if has_vm else Lazy("vm", lambda: self.vm, self)
        return found

    def commands(self) -> dict[str, Any]:
        """Every command that can be a Python name, and the groups of two-word commands; always the same."""
        found = self._commands
        if found:
            return found
        for verb in COMMANDS:
            word, mark, _ = verb.partition(" ")
            word = word if mark else COMMANDS[verb][1]  # `list_disk`; where it is Python's, `import_package`
            if word not in METHODS_ONLY and word.isidentifier() and word not in found:
                made = {"agent": Agent, "qmp": Qmp}.get(verb, Command)
                found[word] = Group(word, self) if mark else made(verb, self)
            elif mark and isinstance(found.get(word), Command):  # `config` and `config edit`
                setattr(found[word], verb.partition(" ")[2], Command(verb, self))
        return found

    def libraries(self) -> dict[str, Any]:
        """The names that are not commands; each is imported at its first use."""
        if not self._libraries:
            self._libraries = {
                "settings": _Current(self),
                "succeed": Method("succeed", self),
                "fail": Method("fail", self),
                "guest": Lazy("guest", self._make_guest, self),
                "local": Lazy("local", lambda: self._plumbum().local, self),
                "sh": Lazy("sh", _sh, self),
            }
        return self._libraries

    def settings(self) -> Settings:
        """The settings as the files say now."""
        return self.vm.settings

    def forget_names(self) -> None:
        """Hold nothing that could hold the user's objects: after `gc.freeze` Python would not end those."""
        self.namespaces.clear()
        self._importers.clear()
        self._commands = {}
        self._libraries = {}
        self._vm = None

    def leave(self) -> None:
        """End what the session holds open."""
        if self._guest is not None:
            self._guest.close()

    def forget_guest(self) -> None:
        """In a forked child: the shell in the guest is the parent's."""
        if self._guest is not None:
            self._guest.forget()

    def _make_guest(self) -> Guest:
        self._plumbum()
        from qvmsh.shell.session.guest import Guest

        self._guest = self._guest or Guest(self)
        return self._guest

    def _plumbum(self) -> Any:
        import plumbum

        from qvmsh.shell.session import encoding

        setattr(type(plumbum.local), "custom_encoding", encoding.NAME)  # noqa: B010  # its instance has slots
        return plumbum

    def _nowhere(self) -> QvmError:
        """The error for a command that needs a machine where there is none."""
        try:
            locate.find(None, self.environ, os.getcwd())
        except QvmError as error:
            return error
        return QvmError(
            "this session was started without a machine",
            hint="leave it, then `qvm sh` in the machine's directory",
        )


def _is_of_a_machine(name: str) -> bool:
    """True for a variable that could hold a machine's value."""
    return name.startswith("VM_") or name in (CONTEXT_MARK, EXPORTED_MARK)


class _Current:
    """`settings`: the typed values, read from the files when asked for."""

    def __init__(self, context: Context) -> None:
        object.__setattr__(self, "_context", context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context.settings(), name)

    def __setattr__(self, name: str, value: object) -> None:
        raise read_only(name, value)

    def __getitem__(self, name: str) -> Any:
        return self._context.settings()[name]

    def __setitem__(self, name: str, value: object) -> None:
        raise read_only(name, value)

    def __contains__(self, name: object) -> bool:
        return name in self._context.settings()

    def __iter__(self) -> Iterator[str]:
        return iter(self._context.settings())

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled("settings", self._context)

    def __dir__(self) -> list[str]:
        return dir(self._context.settings())

    def __repr__(self) -> str:
        return repr(self._context.settings()) if self._context.has_machine else "<no settings: no machine>"


def _sh() -> Any:
    """The library `sh`, whose programs see no terminal (no colours, no pager in a value)."""
    import sh

    return sh.bake(_tty_out=False)
