"""What runs before the prompt or instead of one; scripts in plain Python, without xonsh.

run_python(context, from_file("/vm/demo/deploy"), ["deploy", "-u"])
"""

from __future__ import annotations

import atexit
import gc
import os
import sys

from qvmsh.errors import UsageError
from qvmsh.io import flush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType
    from typing import Any

    from qvmsh.shell.session.context import Context


class Program:
    """A Python script that has been read, and what its module says of itself.

    Args:
        path: its file, absolute.
        source: its text; None for a module that has none.
        folder: where it looks for modules first.
        code: the same, compiled; None = at the last moment.
        own: additional attributes of its `__main__`.
    """

    def __init__(
        self,
        path: str,
        source: bytes | None,
        folder: str,
        code: CodeType | None = None,
        own: dict[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.source = source
        self.folder = folder
        self.code = code
        self.own = own or {}

    def prepare(
        self,
        names: Callable[[CodeType], dict[str, Any]],
        argv: Sequence[str],
        namespace: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make it `__main__`, and return its namespace; nothing of it has run.

        Args:
            names: what the context gives it.
            argv: what it sees as `sys.argv`.
            namespace: that of `__main__`, where the caller has made it.

        Raises:
            SyntaxError: it is not Python.
            QvmError: it uses names that do not exist, or commands without calling them.
        """
        if namespace is None:
            namespace = main_namespace()
        namespace.update(__file__=self.path, __builtins__=__builtins__, **self.own)
        sys.argv = list(argv)
        sys.path.insert(0, self.folder)
        if self.code is None:
            assert self.source is not None
            self.code = compile(self.source, self.path, "exec", dont_inherit=True)
        own = dict(namespace)
        namespace.update(names(self.code))
        namespace.update(own)
        if self.source is not None:
            self._check(self.source, self.code, namespace)
        return namespace

    def _check(self, source: bytes, code: CodeType, known: dict[str, Any]) -> None:
        """Refuse what is certainly wrong; a quick look spares most scripts the thorough one."""
        from qvmsh.shell.script import symbols

        bound, used = symbols.global_names(source, self.path)
        if symbols.unknown(bound, used, known):
            from qvmsh.shell.script import check

            check.require_names(source, code, self.path, known)
        if symbols.are_commands(used):
            from qvmsh.shell.script import check

            check.require_calls(source, self.path, known)

    def run(self, namespace: dict[str, Any]) -> None:
        """Run it; what it raises is the caller's."""
        assert self.code is not None
        exec(self.code, namespace)  # noqa: S102  # the user's own
        flush()

    def report(self, error: BaseException, *, debug: bool) -> int:
        """Report why it ended, and return the exit status."""
        from qvmsh.shell.script import check, report

        status = report.ended(error, script=self.path, debug=debug)
        is_names = isinstance(error, check.UnknownNames)
        is_words = isinstance(error, check.NotCalled)
        if is_names or is_words or (isinstance(error, SyntaxError) and error.filename == self.path):
            hint = _hint(self.path, self.source or b"", is_names=is_names)
            if hint:
                print(f"hint: {hint}", file=sys.stderr)
        return status


class First:
    """What runs before the prompt, or instead of one: a Python program, or xonsh lines.

    Args:
        argv: what it sees as `sys.argv`.
        program: the Python program; None for lines.
        name: where the lines come from: an absolute path, `<string>` or `<stdin>`.
        lines: xonsh code.
    """

    __slots__ = ("argv", "lines", "name", "program")

    def __init__(
        self, argv: Sequence[str], *, program: Program | None = None, name: str = "", lines: str = ""
    ) -> None:
        self.argv = list(argv)
        self.program = program
        self.name = name or (program.path if program else "")
        self.lines = lines


def main_namespace() -> dict[str, Any]:
    """The namespace of a new module `__main__`."""
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    return vars(main)


def read(path: str) -> bytes:
    """The content of a script.

    Raises:
        UsageError: it is not there, a folder, or closed to this user.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"sh: {path}: {error.strerror}") from None


def from_file(path: str) -> Program:
    """The script in the file `path`."""
    return Program(path, read(path), os.path.dirname(path))


def from_module(name: str, folder: str) -> Program:
    """The script that `python -m name` would run, looked for in `folder` first.

    Raises:
        UsageError: there is no such module, or it cannot be run.
    """
    import importlib.util

    sys.path.insert(0, folder)
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
            if spec is None:
                raise UsageError(f"sh: -m {name}: the package has no __main__.py, so it cannot be run")
    except (ImportError, ValueError, AttributeError) as error:
        raise UsageError(f"sh: -m {name}: {error}") from None
    except UsageError:
        raise
    except Exception as error:  # the package's own, while it was imported
        raise UsageError(f"sh: -m {name}: importing it failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    loader: Any = spec.loader if spec else None
    if spec is None or not hasattr(loader, "get_code"):
        raise UsageError(f"sh: -m {name}: no such module", hint="give the module's name without .py")
    source = code = None
    if spec.origin and spec.origin.endswith(".py"):
        source = loader.get_data(spec.origin)  # compiled later, where a SyntaxError is reported
    else:
        code = loader.get_code(spec.name)
        if code is None:
            raise UsageError(f"sh: -m {name}: it has no Python code")
    own = {"__spec__": spec, "__loader__": loader, "__package__": spec.parent, "__cached__": spec.cached}
    return Program(spec.origin or name, source, folder, code, own)


def run_python(context: Context, program: Program, argv: Sequence[str]) -> int:
    """Run `program` as `__main__`, with the context's names, and return its exit status.

    Args:
        argv: what it sees as `sys.argv`.
    """
    context.export()
    if not os.environ.get("PYTHONBREAKPOINT"):  # as in `stops.install`
        sys.breakpointhook = lambda *words, **more: _breakpoint(context, *words, **more)

    def names(code: CodeType) -> dict[str, Any]:
        return context.names(has_vm=mentions(code, "vm"))

    atexit.register(context.forget_names)
    gc.freeze()  # ours is no garbage: to look for some at the end costs a fifth of a small script
    try:
        namespace = program.prepare(names, argv)
        context.namespaces.append(namespace)
        program.run(namespace)
    except BaseException as error:
        return program.report(error, debug=context.io.debug)
    finally:
        context.leave()
    return 0


def _breakpoint(context: Context, *words: Any, **more: Any) -> object:
    from qvmsh.shell.session import breakpoint as breakpoints

    return breakpoints.stop(context, sys._getframe(2), *words, **more)


def mentions(code: CodeType, name: str) -> bool:
    """True if the code, or that of a function or class in it, uses `name`."""
    return name in code.co_names or any(
        mentions(inner, name) for inner in code.co_consts if isinstance(inner, type(code))
    )


def _hint(path: str, source: bytes, *, is_names: bool) -> str | None:
    """What a file that is not Python, or only by accident, probably is."""
    from qvmsh.shell.script import old_words

    if is_names and not old_words.has_words(source):
        return None
    if old_words.looks_like_bash(source):
        return f"this looks like bash: `qvm sh --shell {path}` runs it as the old vm did"
    if path.endswith(".py"):
        return None
    return (
        "the file was read as Python; shell lines belong in a file named .xsh, or call it with "
        "`qvm sh --xonsh`"
    )
