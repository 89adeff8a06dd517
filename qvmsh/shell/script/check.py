"""What is certainly wrong in a script, found before anything of it runs: names, commands not called.

    require_names(source, code, "/vm/demo/deploy", {"vm", "start"})
    require_calls(source, "/vm/demo/deploy", {"vm", "start"})

Only certain errors count: no layer gives the name a value. Code that could define a name unseen
(`import *`, `globals()`, `exec`), or expects that it is missing (`except NameError`, a look at the
version), is accepted.

A command's name that is not called does nothing in Python, and is always true: a script of `stop`
and `start`, written as for a shell, would succeed without having done anything.
"""

from __future__ import annotations

import builtins

from qvmsh.commands.index import COMMANDS
from qvmsh.errors import QvmError
from qvmsh.shell.script.symbols import UNSEEN, global_names, suspects

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from collections.abc import Container, Iterable, Iterator
    from types import CodeType
    from typing import Any

LOOKS = frozenset((
    "version_info", "hexversion", "platform", "implementation", "TYPE_CHECKING", "PY2", "PY3", "dir",
    "hasattr",
))  # fmt: skip
"""If a condition mentions one of these, a branch may be for another Python."""

CATCHING = frozenset(("NameError", "Exception", "BaseException"))


PARSE_ONLY = 0x400
"""`ast.PyCF_ONLY_AST`; the module `ast` costs more than a script's check."""


class NotCalled(QvmError):
    """A script names commands without calling them: `deploy:3: 'stop' is not called; nothing was run`."""


class UnknownNames(QvmError):
    """A script uses names that do not exist: `deploy:3: unknown name 'strat'; nothing was run`."""


def require_names(source: bytes, code: CodeType, path: str, known: Container[str]) -> None:
    """Refuse a Python script that uses names that do not exist.

    Args:
        source: the script.
        code: the same, compiled.
        path: its file.
        known: what the context gives it.
    """
    found = _undefined(source, code, path, known, lambda _: False)
    if found:
        raise unknown_names(path, found, known)


def require_names_in_lines(
    parts: Iterable[tuple[int, str]], path: str, known: Container[str], unseen: Container[str] = ()
) -> None:
    """Refuse xonsh code that uses such names where it can only be Python.

    A statement that is an expression may be a command, and what is not Python at all may define any
    name; both are accepted.

    Args:
        parts: the statements, each with the number of lines before it.
        path: the file, `<string>` or `<stdin>`.
        known: what the session gives it.
        unseen: additional words that define names unseen.
    """
    import ast
    import re

    python: list[tuple[int, bytes, CodeType]] = []
    bound: set[str] = set()
    for start, text in parts:
        words = re.findall(r"[^\W\d]\w*", text)
        if any(word in UNSEEN or word in unseen for word in words) or re.search(r"import\s*\*", text):
            return
        source = text.encode("utf-8", "surrogateescape")
        try:
            code = compile(source, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            bound.update(words)
            continue
        python.append((start, source, code))
        bound |= global_names(source, path)[0]
    here = _Either(known, bound)
    found: list[tuple[int, str]] = []
    for start, source, code in python:
        if suspects(source, path, here):
            rows = _undefined(source, code, path, here, lambda node: isinstance(node, ast.Expr))
            if rows is None:
                return
            found += [(line + start, name) for line, name in rows]
    if found:
        raise unknown_names(path, found, here)
    idle: list[tuple[int, str, str]] = []
    for start, source, _ in python:
        calls = _not_called(source, path, known, bound, is_shell=True)
        idle += [(line + start, shown, call) for line, shown, call in calls]
    if idle:
        raise _uncalled(path, idle)


class _Either:
    """Membership in one or the other."""

    def __init__(self, one: Container[str], other: Container[str]) -> None:
        self.one, self.other = one, other

    def __contains__(self, name: object) -> bool:
        return name in self.one or name in self.other

    def __iter__(self) -> Iterator[str]:
        return iter({*self.one, *self.other})  # type: ignore[misc]  # both are sets or dicts


def unknown_names(path: str, found: list[tuple[int, str]], known: Container[str]) -> UnknownNames:
    """The error for names that do not exist."""
    rows = sorted(set(found))
    line, name = rows[0]
    if len(rows) == 1:
        near = _near(name, known)
        hint = f"did you mean {near}?" if near else None
        return UnknownNames(f"{path}:{line}: unknown name {name!r}; nothing was run", hint=hint)
    details = []
    for line, name in rows:
        near = _near(name, known)
        details.append(f"{path}:{line}: {name}" + (f" (did you mean {near}?)" if near else ""))
    return UnknownNames("the script uses names that do not exist; nothing was run", details=details)


def _near(name: str, known: Container[str]) -> str | None:
    import difflib

    names = [*known, *vars(builtins)]  # type: ignore[misc]  # sets and dicts, as above
    found = difflib.get_close_matches(name, names, 1, 0.7)
    return found[0] if found else None


def require_calls(source: bytes, path: str, known: Container[str]) -> None:
    """Refuse a Python script in which a command's name stands where only its call makes sense."""
    rows = _not_called(source, path, known, (), is_shell=False)
    if rows:
        raise _uncalled(path, rows)


def _uncalled(path: str, rows: list[tuple[int, str, str]]) -> NotCalled:
    rows = sorted(set(rows))
    line, shown, call = rows[0]
    if len(rows) == 1:
        hint = f"did you mean `{call}`?" if call else None
        return NotCalled(f"{path}:{line}: `{shown}` is not called; nothing was run", hint=hint)
    details = [
        f"{path}:{line}: {shown}" + (f" (did you mean {call}?)" if call else "") for line, shown, call in rows
    ]
    return NotCalled("the script names commands without calling them; nothing was run", details=details)


def _not_called(
    source: bytes, path: str, known: Container[str], bound: Iterable[str], *, is_shell: bool
) -> list[tuple[int, str, str]]:
    """Line, text and probable meaning of each command that is a statement or a condition of its own.

    Args:
        bound: names that mean something else, besides those that `source` binds.
        is_shell: a word that is a statement of its own runs there.
    """
    calls = _Calls(known, is_shell=is_shell)
    calls.look(compile(source, path, "exec", PARSE_ONLY, dont_inherit=True))
    return [row for row in calls.found if row[1].partition(".")[0] not in calls.bound | set(bound)]


class _Calls:
    """Walks a tree; `found` has the commands that are not called, `bound` the names that the tree binds."""

    def __init__(self, known: Container[str], *, is_shell: bool) -> None:
        self.found: list[tuple[int, str, str]] = []
        self.bound: set[str] = set()
        self._known = known
        self._is_shell = is_shell

    def look(self, node: Any) -> None:
        kind = type(node).__name__
        if kind == "Expr":
            if not self._is_shell or type(node.value).__name__ == "Attribute":
                self._require(node.value, is_statement=True)
            if self._is_shell:  # perhaps a command
                return
        elif kind in ("If", "While", "IfExp", "Assert"):
            self._require(node.test)
        elif kind == "comprehension":
            for test in node.ifs:
                self._require(test)
        elif kind == "UnaryOp" and type(node.op).__name__ == "Not":
            self._require(node.operand)
        elif kind == "BoolOp":  # the last operand may be the value
            for each in node.values[:-1]:
                self._require(each)
        elif kind == "Compare":
            self._compared(node)
        elif kind == "Match":
            self._require(node.subject)
        self._bind(kind, node)
        is_asking = kind in ("Try", "TryStar") and any(_names_missing(each.type) for each in node.handlers)
        for field in node._fields:
            if is_asking and field == "body":
                continue
            value = getattr(node, field, None)
            for each in value if isinstance(value, list) else (value,):
                if hasattr(each, "_fields"):
                    self.look(each)

    def _bind(self, kind: str, node: Any) -> None:
        if kind == "Name" and type(node.ctx).__name__ != "Load":
            self.bound.add(node.id)
        elif kind in ("FunctionDef", "AsyncFunctionDef", "ClassDef"):
            self.bound.add(node.name)
        elif kind == "arg":
            self.bound.add(node.arg)
        elif kind == "Import" or (kind == "ImportFrom" and node.module != "qvmsh.here"):
            self.bound |= {(each.asname or each.name).partition(".")[0] for each in node.names}
        elif kind in ("ExceptHandler", "MatchAs", "MatchStar") and node.name:
            self.bound.add(node.name)

    def _compared(self, node: Any) -> None:
        """`status == "running"`; a comparison with another name may be one of functions."""
        sides = [node.left, *node.comparators]
        is_identity = all(type(each).__name__ in ("Is", "IsNot") for each in node.ops)
        if not is_identity and any(type(each).__name__ in _LITERALS for each in sides):
            for each in sides:
                self._require(each)

    def _require(self, node: Any, *, is_statement: bool = False) -> None:
        """Note the commands in an expression whose value is dropped, or is asked for its truth."""
        kind = type(node).__name__
        shown, call = self._command(node, is_statement=is_statement)
        if shown:
            self.found.append((node.lineno, shown, call))
        elif kind == "BoolOp":
            self._require(node.values[-1])
        elif kind == "IfExp":
            self._require(node.body)
            self._require(node.orelse)
        elif is_statement and kind == "Tuple":
            for each in node.elts:
                self._require(each, is_statement=True)
        elif is_statement and kind == "BinOp":  # `stop - 1`, `status | x`
            self._require(node.left, is_statement=True)

    def _command(self, node: Any, *, is_statement: bool) -> tuple[str, str]:
        """The text of a command that is named here, and its call; empty for anything else."""
        kind = type(node).__name__
        if kind == "Name" and node.id in self._known and node.id != "sh":  # a library
            name = node.id
            inner = [verb.partition(" ")[2] for verb in COMMANDS if verb.startswith(name + " ")]
            if any(row[1] == name and " " not in verb for verb, row in COMMANDS.items()):
                return name, f"{name}()"
            if inner:
                return name, f"{name}.{'list' if 'list' in inner else inner[0]}()"
            return (name, "") if name == "vm" and is_statement else ("", "")
        if kind == "Attribute" and type(node.value).__name__ == "Name" and node.value.id in self._known:
            name, attribute = node.value.id, node.attr
            is_method = name == "vm" and any(row[1] == attribute for row in COMMANDS.values())
            if is_method or f"{name} {attribute}" in COMMANDS:
                return f"{name}.{attribute}", f"{name}.{attribute}()"
        return "", ""


_LITERALS = ("Constant", "JoinedStr", "Tuple", "List", "Set")


def _names_missing(kind: Any) -> bool:
    """True if an `except` expects that a name does not exist."""
    return any(getattr(each, "id", "") == "NameError" for each in (kind, *getattr(kind, "elts", ())))


def _undefined(
    source: bytes, code: CodeType, path: str, known: Container[str], is_believed: Any
) -> list[tuple[int, str]] | None:
    """Line and name of each use of a name that does not exist; None where names could come unseen."""
    import ast

    unknown = suspects(source, path, known)
    tree = ast.parse(source, path)
    believed = _Believed(is_believed)
    believed.visit(tree)
    if believed.is_open:
        return None
    return [
        (line, name)
        for line, name in _loads(code, believed.classes)
        if name in unknown and not any(first <= line <= last for first, last in believed.spans)
    ]


def _loads(code: CodeType, classes: set[int]) -> Iterator[tuple[int, str]]:
    """Line and name of each look-up of a global name."""
    import dis

    is_namespace = not code.co_flags & 0x1 and code.co_name != "<module>"  # a class body; CO_OPTIMIZED
    if not (is_namespace and code.co_firstlineno in classes):
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
                line = step.positions.lineno if step.positions else None
                yield line or code.co_firstlineno, str(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, type(code)):
            yield from _loads(inner, classes)


class _Believed:
    """The lines in which a missing name is not an error."""

    def __init__(self, is_believed: Any) -> None:
        self.spans: list[tuple[int, int]] = []
        self.classes: set[int] = set()
        """First lines of classes whose bodies another class may fill with names."""
        self.is_open = False
        self._is_believed = is_believed
        self._has_late_annotations = __import__("sys").version_info >= (3, 14)

    def visit(self, tree: ast.AST) -> None:
        import ast

        for node in ast.walk(tree):
            if self._is_believed(node):
                self._add(node)
            if isinstance(node, ast.ImportFrom):
                self.is_open |= any(each.name == "*" for each in node.names)
                is_future = node.module == "__future__"
                self._has_late_annotations |= is_future and any(e.name == "annotations" for e in node.names)
            elif isinstance(node, ast.Attribute):
                self.is_open |= node.attr in ("modules", "__dict__", "f_globals", "_getframe")
            elif isinstance(node, ast.Try | getattr(ast, "TryStar", ast.Try)):
                if any(self._catches(handler.type) for handler in node.handlers):
                    for each in node.body:
                        self._add(each)
            elif isinstance(node, ast.With | ast.AsyncWith):
                if any(CATCHING & _mentioned(item.context_expr) for item in node.items):
                    self._add(node)
            elif isinstance(node, ast.If | ast.IfExp | ast.While):
                if LOOKS & _mentioned(node.test) or isinstance(node.test, ast.Constant):
                    self._add(node)
            elif isinstance(node, ast.BoolOp):
                if LOOKS & _mentioned(node):
                    self._add(node)
            elif isinstance(node, ast.ClassDef) and (node.bases or node.keywords):
                self.classes |= {node.lineno, *(each.lineno for each in node.decorator_list)}
        if self._has_late_annotations:
            self._pass_annotations(tree)

    def _catches(self, kind: ast.expr | None) -> bool:
        return kind is None or bool(CATCHING & _mentioned(kind))

    def _pass_annotations(self, tree: ast.AST) -> None:
        import ast

        for node in ast.walk(tree):
            for name in ("annotation", "returns"):
                each = getattr(node, name, None)
                if isinstance(each, ast.AST):
                    self._add(each)

    def _add(self, node: Any) -> None:
        self.spans.append((node.lineno, node.end_lineno or node.lineno))


def _mentioned(node: ast.AST) -> set[str]:
    """The names and attributes in an expression."""
    import ast

    found = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            found.add(each.id)
        elif isinstance(each, ast.Attribute):
            found.add(each.attr)
    return found
