"""Files, functions and lists of parameters stay short; each exception is named, with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support.world import ROOT

FILE_LINES, FUNCTION_LINES, PARAMETERS = 450, 60, 8

LONG_FILES = {
    "qvmsh/commands/index.py": "generated: the table of all commands",
    "qvmsh/config/variables.py": "the table and the checks of its kinds: one module on the one-shot path",
}

LONG_FUNCTIONS = {
    "qvmsh/commands/create.py:create": "its many options, and their help in the docstring",
    "qvmsh/commands/archive.py:archive": "its many options, and their help in the docstring",
    "qvmsh/config/variables.py:_table": "the table of all variables, a row each",
}

MANY_PARAMETERS = {
    "qvmsh/config/variables.py:Variable.__init__": "the columns of that table",
    "qvmsh/machine/launch_record.py:LaunchRecord.__init__": "the keys of its file; no dataclasses here",
    "qvmsh/machine/power/reports.py:Started.__init__": "the keys of its JSON",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> Iterator[tuple[str, str]]:
    """Each module's path in the checkout, and its text."""
    for path in sorted((ROOT / "qvmsh").rglob("*.py")):
        yield str(path.relative_to(ROOT)), path.read_text()


def functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Each function by its place: `qvmsh/io.py:Io.message`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = f"{prefix}{':' if prefix.endswith('.py') else '.'}{node.name}"
            if isinstance(node, Function):
                yield name, node
            yield from functions(node, name)
        else:
            yield from functions(node, prefix)


def is_verb(node: Function) -> bool:
    """True of a command, whose parameters are the options that users type."""
    return any(
        isinstance(each, ast.Call) and ast.unparse(each.func) == "command" for each in node.decorator_list
    )


def parameters(node: Function) -> int:
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return sum(each is not None and each.arg not in ("self", "cls") for each in every)


def require_only(found: dict[str, int], allowed: dict[str, str], limit: int) -> None:
    new = {name: size for name, size in found.items() if size > limit and name not in allowed}
    assert not new, f"over {limit}: split it, or name it with the reason"
    needless = [name for name in allowed if found.get(name, 0) <= limit]
    assert not needless, f"no longer over {limit}: remove the exception"


def test_files_are_short() -> None:
    found = {path: text.count("\n") for path, text in sources()}
    require_only(found, LONG_FILES, FILE_LINES)


def test_functions_are_short() -> None:
    found = {
        name: (node.end_lineno or 0) - node.lineno + 1
        for path, text in sources()
        for name, node in functions(ast.parse(text), path)
    }
    require_only(found, LONG_FUNCTIONS, FUNCTION_LINES)


def test_functions_have_few_parameters() -> None:
    found = {
        name: parameters(node)
        for path, text in sources()
        for name, node in functions(ast.parse(text), path)
        if not (path.startswith("qvmsh/commands/") and is_verb(node))
    }
    require_only(found, MANY_PARAMETERS, PARAMETERS)
