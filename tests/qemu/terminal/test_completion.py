"""Completion where people have it: bash (with and without bash-completion), zsh and fish, on a terminal."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.tmux_terminal import Terminal
from tests.support.world import DEADLINE_S, QVM, Vm

BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
SHELLS = ("bash", "bash with bash-completion", "zsh", "fish")

BASHRC = """
PS1='ready> '
bind 'set show-all-if-ambiguous on'
bind 'set completion-query-items 0'
bind 'set page-completions off'
bind 'set enable-bracketed-paste off'
source <(qvm completion bash)
"""

ZSHRC = """
PS1='ready> '
unsetopt beep
autoload -Uz compinit && compinit -u
source <(qvm completion zsh)
"""

FISHRC = """
function fish_prompt; echo -n 'ready> '; end
function fish_greeting; end
set -g fish_autosuggestion_enabled 0
"""


@pytest.fixture
def vm(blank: Callable[..., Vm]) -> Vm:
    return blank()


def missing(shell: str) -> str:
    """What this host lacks for a shell; "" if nothing."""
    if "with" in shell and not BASH_COMPLETION.exists():
        return "bash-completion is not installed"
    program = shell.partition(" ")[0]
    return "" if shutil.which(program) else f"{program} is not installed"


@contextlib.contextmanager
def opened(shell: str, vm: Vm) -> Iterator[Terminal]:
    """A shell with qvm's completion, in the machine's directory."""
    why = missing(shell)
    if why and os.environ.get("CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)
    home = vm.world.home
    env = vm.world.environ | {"PATH": f"{Path(QVM).parent}:{os.environ['PATH']}", "SHELL": "/bin/sh"}
    if shell.startswith("bash"):
        rc = home / "bashrc"
        rc.write_text((f". {BASH_COMPLETION}\n" if "with" in shell else "") + BASHRC)
        argv = ["bash", "--noprofile", "--rcfile", str(rc), "-i"]
    elif shell == "zsh":
        (home / ".zshrc").write_text(ZSHRC)
        argv = ["zsh", "-d", "-i"]
    else:
        (home / ".config/fish/completions").mkdir(parents=True)
        script = subprocess.check_output([QVM, "completion", "fish"], env=env)
        (home / ".config/fish/completions/qvm.fish").write_bytes(script)
        (home / ".config/fish/config.fish").write_text(FISHRC)
        argv = ["fish", "-i"]
    screen = Terminal(argv, vm.directory, env)
    try:
        screen.wait(r"^ready>")
        yield screen
    finally:
        screen.close()


def line(screen: Terminal, wanted: str) -> None:
    """Wait until the line that stands at the last prompt is `wanted` (a regular expression)."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        lines = [each for each in screen.lines() if each.startswith("ready>")]
        if lines and re.fullmatch(wanted, lines[-1][6:].strip()):
            return
        assert time.monotonic() < deadline, f"no {wanted!r} at the prompt:\n{screen.text}"
        time.sleep(0.05)


def tab(screen: Terminal, text: str, *, becomes: str) -> None:
    """Type `text` into an empty line and press Tab; the line must become `becomes`."""
    screen.key("C-u")
    line(screen, "")
    screen.type(text)
    line(screen, re.escape(text))
    screen.key("Tab")
    line(screen, becomes)


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_what_qvm_and_a_running_qemu_know(shell: str, vm: Vm) -> None:
    (vm.directory / "nested").mkdir()
    image = vm.directory / "demo-backing.qcow2"
    subprocess.run(["qemu-img", "snapshot", "-c", "fresh-install", image], check=True)
    with opened(shell, vm) as screen:
        tab(screen, "qvm sta", becomes="qvm sta(rt|tus)?")
        screen.wait("start.* +status|start( .*)?\n.*status")
        tab(screen, "qvm start --lo", becomes="qvm start --loadvm")
        tab(screen, "qvm img b", becomes="qvm img build")
        tab(screen, "qvm -C nes", becomes="qvm -C nested/?")
        tab(screen, "qvm config VM_DISK_BUS=vi", becomes="qvm config VM_DISK_BUS=virtio")
        tab(screen, "qvm config VM_MACHINE_NA", becomes="qvm config VM_MACHINE_NAME")
        tab(screen, "qvm completion fi", becomes="qvm completion fish")
        tab(screen, "qvm img build --output=nes", becomes="qvm img build --output=nested/?")
        tab(screen, "qvm start --loadvm fr", becomes="qvm start --loadvm fresh-install")
        vm.ok("start", "--no-wait")
        tab(screen, "qvm start --loadvm fr", becomes="qvm start --loadvm fresh-install")
        tab(screen, "qvm cmd info chard", becomes="qvm cmd info chardev")
        tab(screen, "qvm qmp query-ver", becomes="qvm qmp query-version")
        tab(screen, "qvm cmd device_del ni", becomes="qvm cmd device_del nic0")
        tab(screen, "qvm qmp device_del id=ni", becomes="qvm qmp device_del id=nic0")
        assert "fresh-install" in vm.ok("cmd", "info snapshots").out


def test_completion_script_of_an_unknown_shell_is_refused(vm: Vm) -> None:
    result = vm.qvm("completion", "tcsh")
    assert result.status == 2
    assert "completion: tcsh: must be one of bash, zsh, fish" in result.err
