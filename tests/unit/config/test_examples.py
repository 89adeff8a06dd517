"""The files in `rc/` say what the code says."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from qvmsh.config import layers
from qvmsh.config.grammar import parse
from qvmsh.config.variables import VARIABLES
from tests.support.world import ROOT

RC = ROOT / "rc"
ENVIRON = {"HOME": "/nowhere", "VM_GLOBAL_CONFIG": "/dev/null"}


def shown_defaults() -> dict[str, str]:
    """Each commented assignment of the global file and its value."""
    text = "\n".join(line.removeprefix("#") for line in (RC / "vmrc").read_text().splitlines() if "=" in line)
    lines = "\n".join(line for line in text.splitlines() if line.startswith("VM_"))
    document = parse(lines, "vmrc")
    assert not document.problems
    return {row.name: "".join(map(str, row.parts)) for row in document.assignments}


def test_global_file_sets_nothing_as_it_is() -> None:
    document = parse((RC / "vmrc").read_text(), "vmrc")
    assert not document.problems
    assert not document.assignments


def test_global_file_shows_every_variable_with_its_default() -> None:
    of_one_machine = {f"VM_SNAPSHOT_{which}NAME" for which in ("SEED", "BASE", "BACKING")}
    settable = {
        name: variable.default
        for name, variable in VARIABLES.items()
        if not (variable.later or variable.needed or variable.computed or variable.context)
    }
    assert shown_defaults() == {n: v for n, v in settable.items() if n not in of_one_machine}


def test_example_is_a_machine_without_problems(tmp_path: Path) -> None:
    owner = pwd.getpwuid(os.geteuid()).pw_name
    text = (RC / "example.vmrc").read_text().replace("VM_MACHINE_OWNER=root", f"VM_MACHINE_OWNER={owner}")
    (tmp_path / ".vmrc").write_text(text)
    settings = layers.load(str(tmp_path), ENVIRON)
    settings.check()
    assert settings.warnings == []
    assert settings.integer("VM_MACHINE_MEM") == 2048
    assert settings.words("VM_QEMU_EXTRA") == [
        "-device",
        "virtio-rng-pci",
        "-virtfs",
        f"local,path={tmp_path}/data,mount_tag=data,security_model=none",
    ]
