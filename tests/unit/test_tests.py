"""What holds for the tests themselves: where helpers come from, and what programs in strings import."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from pathlib import Path

from tests.support.world import ROOT

IMPORT = re.compile(r"\bfrom (qvmsh[\w.]*) import (\w+(?: as \w+)?(?:, ?\w+(?: as \w+)?)*)")
NEEDS_A_MACHINE = "qvmsh.here"


def exists(module: str, name: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


@functools.cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Each node of each test module and helper, with its file."""
    paths = sorted((ROOT / "tests").rglob("*.py"))
    return [
        (path.relative_to(ROOT), node) for path in paths for node in ast.walk(ast.parse(path.read_text()))
    ]


def test_helpers_come_from_support_only() -> None:
    found = [
        f"{path}:{node.lineno}: {node.module}"
        for path, node in nodes()
        if isinstance(node, ast.ImportFrom) and re.search(r"\bconftest\b|\btest_", node.module or "")
    ]
    assert not found


def test_programs_in_strings_import_what_exists() -> None:
    missing = []
    for path, node in nodes():
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        for module, names in IMPORT.findall(node.value):
            each = [name.strip() for name in re.sub(r" as \w+", "", names).split(",")]
            if module != NEEDS_A_MACHINE:
                missing += [f"{path}: {module}.{name}" for name in each if not exists(module, name)]
    assert not missing


def test_names_of_tests_have_at_most_60_characters() -> None:
    found = [
        f"{path}:{node.lineno}: {node.name}"
        for path, node in nodes()
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) > 60
    ]
    assert not found
