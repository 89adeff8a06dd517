"""`qvm ssh-config`: the blocks as ssh itself reads them."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from qvmsh.machine.guest import ssh_config
from qvmsh.machine.machine import BaseMachine


def made(folder: Path, name: str) -> BaseMachine:
    directory = folder / name
    directory.mkdir()
    owner = pwd.getpwuid(os.geteuid()).pw_name
    (directory / ".vmrc").write_text(f"VM_MACHINE_NAME={name}\nVM_MACHINE_ID=01\nVM_MACHINE_OWNER={owner}\n")
    return BaseMachine(str(directory), environ={"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)})


def as_ssh_reads(config: Path, host: str) -> dict[str, str]:
    done = subprocess.run(
        ["ssh", "-G", "-F", config, host],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


@pytest.mark.parametrize("pattern", ["%C", "%r@%h:%p", "%h", "%k"])
def test_machines_never_share_a_cached_connection(tmp_path: Path, pattern: str) -> None:
    text = str(ssh_config.blocks([made(tmp_path, "one"), made(tmp_path, "two")]))
    config = tmp_path / "config"
    config.write_text(f"{text}\nHost *\n    ControlMaster auto\n    ControlPath {tmp_path}/cm-{pattern}\n")
    one, two = as_ssh_reads(config, "one"), as_ssh_reads(config, "two")
    assert one["controlmaster"] == "auto"
    assert one["controlpath"] != two["controlpath"]
    assert one["hostname"] == one["hostkeyalias"] != two["hostname"]
