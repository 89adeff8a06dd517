"""One-shot commands import almost nothing: the set of modules is held, not a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.world import ROOT, write_vmrc

HEAVY = {
    "argparse", "asyncio", "collections", "contextlib", "dataclasses", "enum", "functools", "inspect", "json",
    "logging", "pathlib", "re", "shutil", "socket", "subprocess", "tempfile", "threading", "typing",
    "xonsh", "plumbum", "sh", "qemu", "rich", "ptpython", "prompt_toolkit",
}  # fmt: skip

PYTHONS = {
    "__future__", "_collections_abc", "_json", "_socket", "_stat", "_symtable", "atexit", "errno",
    "fcntl", "gc", "genericpath", "os", "os.path", "posixpath", "pwd", "stat",
}  # fmt: skip
"""What any of the commands may import of Python's own."""

DOOR = {
    "qvmsh", "qvmsh.cli", "qvmsh.cli.main", "qvmsh.cli.parse", "qvmsh.commands", "qvmsh.commands.index",
    "qvmsh.errors", "qvmsh.io",
}  # fmt: skip
SETTINGS = {
    "qvmsh.config", "qvmsh.config.evaluation", "qvmsh.config.files", "qvmsh.config.grammar",
    "qvmsh.config.layers", "qvmsh.config.settings", "qvmsh.config.syntax", "qvmsh.config.variables",
    "qvmsh.config.words",
    "qvmsh.host", "qvmsh.host.files",
    "qvmsh.machine", "qvmsh.machine.machine", "qvmsh.machine.paths",
    *(["qvmsh.machine.owner"] if os.geteuid() == 0 else []),
}  # fmt: skip
STATE = {
    "qvmsh.host.locks", "qvmsh.host.process", "qvmsh.machine.launch_record", "qvmsh.machine.state",
    "qvmsh.qemu", "qvmsh.qemu.qmp", "qvmsh.qemu.shapes",
}  # fmt: skip
OWN = {
    "--version": {*DOOR, "qvmsh._version"},
    "--help": {*DOOR, "qvmsh.cli.help"},
    "status -s": {
        *DOOR, *SETTINGS, *STATE, "qvmsh.commands.status", "qvmsh.config.locate", "qvmsh.machine.copies",
        "qvmsh.machine.overview",
        "qvmsh.machine.overview.status", "qvmsh.machine.reports",
    },
    "cmd info status": {
        *DOOR, *SETTINGS, *STATE, "qvmsh.commands.cmd", "qvmsh.config.locate", "qvmsh.machine.monitor",
        "qvmsh.machine.monitor.conversation", "qvmsh.machine.monitor.hmp",
    },
    "list": {
        *DOOR, *SETTINGS, *STATE, "qvmsh.commands.list", "qvmsh.machine.overview",
        "qvmsh.host.mounts", "qvmsh.machine.copies", "qvmsh.machine.overview.facts",
        "qvmsh.machine.overview.list",
        "qvmsh.machine.overview.status", "qvmsh.machine.registry", "qvmsh.machine.reports",
    },
    "sh script": {
        *DOOR, *SETTINGS, "qvmsh.commands.sh", "qvmsh.config.locate",
        "qvmsh.shell", "qvmsh.shell.run",
        "qvmsh.shell.script", "qvmsh.shell.script.python", "qvmsh.shell.script.symbols",
        "qvmsh.shell.session", "qvmsh.shell.session.children", "qvmsh.shell.session.context",
        "qvmsh.shell.session.names", "qvmsh.shell.session.work",
    },
}  # fmt: skip
"""What each command may import of ours."""


@pytest.mark.parametrize("line", OWN)
def test_oneshot_imports_only_what_it_needs(line: str, tmp_path: Path) -> None:
    write_vmrc(tmp_path, VM_LABELS="web")
    (tmp_path / ".local/share/qvm").mkdir(parents=True)
    (tmp_path / ".local/share/qvm/machines").write_text(f"demo\t{tmp_path}\n")
    (tmp_path / "script").write_text("print('demo')\n")
    program = (
        "import sys; before = set(sys.modules); from qvmsh.cli.main import main; main(sys.argv[1:]);"
        "print('MODULES', *sorted(set(sys.modules) - before));"
        "import atexit; print('ATEXIT', atexit._ncallbacks())"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.append({str(ROOT)!r}); {program}",
            *line.split(),
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    said = {row.partition(" ")[0]: row.split()[1:] for row in done.stdout.splitlines()}
    loaded = set(said["MODULES"])
    assert "demo" in said or line not in ("list", "sh script")
    assert not loaded & HEAVY
    assert loaded <= OWN[line] | PYTHONS
    # `__main__` ends at once only what has left nothing to do at the end
    assert said["ATEXIT"] == ["0"] or line == "sh script"
