"""Programs that tests run in another Python import modules and names that exist."""

from __future__ import annotations

import ast
import importlib
import re

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


def test_programs_in_strings_import_what_exists() -> None:
    missing = []
    count = 0
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            for module, names in IMPORT.findall(node.value):
                for name in re.sub(r" as \w+", "", names).split(","):
                    count += 1
                    if module != NEEDS_A_MACHINE and not exists(module, name.strip()):
                        missing.append(f"{path.relative_to(ROOT)}: {module}.{name.strip()}")
    assert count > 20
    assert not missing
