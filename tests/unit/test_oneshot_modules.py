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

OWN = {
    "qvmsh", "qvmsh._version", "qvmsh.errors", "qvmsh.io",
    "qvmsh.cli", "qvmsh.cli.main", "qvmsh.cli.parse", "qvmsh.cli.help",
    "qvmsh.commands", "qvmsh.commands._define", "qvmsh.commands.index",
    "qvmsh.commands.status", "qvmsh.commands.cmd",
    "qvmsh.config", "qvmsh.config.edit", "qvmsh.config.evaluation", "qvmsh.config.files",
    "qvmsh.config.grammar", "qvmsh.config.layers", "qvmsh.config.locate",
    "qvmsh.config.syntax",
    "qvmsh.config.trust", "qvmsh.config.variables", "qvmsh.config.words", "qvmsh.config.settings",
    "qvmsh.host", "qvmsh.host.files", "qvmsh.host.locks", "qvmsh.host.process",
    "qvmsh.machine", "qvmsh.machine.monitor", "qvmsh.machine.monitor.conversation", "qvmsh.machine.overview",
    "qvmsh.machine.paths", "qvmsh.machine.machine", "qvmsh.machine.monitor.hmp",
    "qvmsh.machine.launch_record", "qvmsh.machine.reports", "qvmsh.machine.state",
    "qvmsh.qemu", "qvmsh.qemu.qmp",
    "qvmsh.commands.list", "qvmsh.machine.registry", "qvmsh.machine.overview.list",
    "qvmsh.machine.overview.status",
    *(["qvmsh.machine.owner"] if os.geteuid() == 0 else []),
}  # fmt: skip


@pytest.mark.parametrize(
    "words", [["status", "-s"], ["cmd", "info", "status"], ["--help"], ["--version"], ["list"]]
)
def test_oneshot_imports_only_what_it_needs(words: list[str], tmp_path: Path) -> None:
    write_vmrc(tmp_path, VM_LABELS="web")
    (tmp_path / ".local/share/qvm").mkdir(parents=True)
    (tmp_path / ".local/share/qvm/machines").write_text(f"demo\t{tmp_path}\n")
    program = (
        "import sys; before = set(sys.modules); from qvmsh.cli.main import main; main(sys.argv[1:]);"
        "print('MODULES', *sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.append({str(ROOT)!r}); {program}",
            *words,
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("MODULES"))
    loaded = set(line.split()[1:])
    assert "demo" in done.stdout or words[0] != "list"
    assert not loaded & HEAVY
    assert {name for name in loaded if name.startswith("qvmsh")} <= OWN
