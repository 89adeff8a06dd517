"""Guests without ssh, without a disk, of other architectures; hosts without a window or a terminal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from qvmsh.config.variables import ARCHITECTURES
from qvmsh.qemu import displays
from tests.support.pty_terminal import PtyTerminal
from tests.support.world import DEADLINE_S, QVM, Blank

# VM_READY


def test_start_without_ssh_returns_when_qemu_runs(blank: Blank) -> None:
    vm = blank()
    for ready, model in (("none", "none"), ("", "none"), ("none", "virtio")):
        vm.set(VM_READY=ready, VM_NET_MODEL=model)
        started = json.loads(vm.ok("--json", "start", timeout=DEADLINE_S).out)
        assert started["ready"] is True, (ready, model)
        assert vm.ok("status").out == f"demo: running (pid {vm.pid})\n", (ready, model)
        again = vm.ok("restart", "--force", "--timeout", "0").out
        assert f"; started (pid {vm.pid})" in again, (ready, model)
        if model == "none":
            vm.ok("kill")
    vm.ok("pause")
    assert vm.qvm("status").status == 1


def test_start_ready_none_given_once_counts_for_that_run(blank: Blank) -> None:
    vm = blank()
    assert vm.ok("--set", "VM_READY=none", "start").out == f"demo: started (pid {vm.pid})\n"
    assert vm.ok("status").out == f"demo: running (pid {vm.pid})\n"


def test_stop_without_ssh_and_agent_tries_only_the_button(blank: Blank) -> None:
    vm = blank(VM_READY="none", VM_GUEST_AGENT="no")
    vm.ok("start")
    refused = vm.qvm("stop", "--timeout", "0.2")
    assert refused.status == 124
    assert "ACPI power button: asked" in refused.err
    assert "ssh:" not in refused.err
    assert "agent:" not in refused.err
    refused = vm.qvm("reboot")
    assert refused.status == 3
    assert "ssh:" not in refused.err


def test_start_ready_ssh_without_a_way_to_it_is_refused(blank: Blank) -> None:
    vm = blank(VM_NET_MODEL="none")
    for words in (["VM_READY=ssh"], ["VM_READY=later"]):
        refused = vm.qvm("--set", *words, "start")
        assert refused.status == 2
        assert "VM_READY is " in refused.err


# No disk


@pytest.mark.parametrize("what", ["VM_CDROM", "VM_KERNEL", "VM_BOOT"])
def test_start_without_a_disk_boots_something_else(blank: Blank, what: str) -> None:
    vm = blank(has_images=False, VM_READY="none", **{what: "network" if what == "VM_BOOT" else "live.bin"})
    (vm.directory / "live.bin").write_bytes(bytes(1 << 20))
    if what == "VM_KERNEL":  # one that QEMU takes: a multiboot header, then nothing
        head = b"".join(n.to_bytes(4, "little") for n in (0x1BADB002, 0x10000, 0xE4514FFE, 1 << 20, 1 << 20))
        tail = b"".join(n.to_bytes(4, "little") for n in (0, 0, 1 << 20))
        (vm.directory / "live.bin").write_bytes(head + tail + bytes(4096))
    started = vm.ok("start")
    assert "demo: has no disk of its own: demo-backing.qcow2 does not exist" in started.err
    assert "disk0" not in vm.ok("cmd", "info block").out
    if what != "VM_CDROM":
        return
    vm.ok("status")
    for words in (["snapshot", "save", "x"], ["archive"]):
        refused = vm.qvm(*words)
        assert refused.status in (2, 3), str(refused)
        assert "disk" in refused.err
        assert "hint: `qvm disk add " in refused.err
    vm.ok("kill")
    vm.ok("start", "--disposable")
    vm.ok("kill")
    assert vm.qvm("start", "--base-only").status == 2
    assert "no disk of its own" in vm.qvm("doctor").out
    vm.ok("disk", "add", "data.qcow2", "16M")
    vm.ok("start")
    vm.ok("snapshot", "save", "x")


def test_start_whose_disk_has_a_base_wants_it_all_the_same(blank: Blank) -> None:
    vm = blank(VM_CDROM="live.iso", VM_READY="none")
    (vm.directory / "live.iso").write_bytes(bytes(1 << 20))
    (vm.directory / "demo-backing.qcow2").rename(vm.directory / "away")
    refused = vm.qvm("start")
    assert refused.status == 1
    assert "`qvm init` creates it" in refused.err


# Architectures


def test_start_each_architecture_that_is_offered_starts(blank: Blank) -> None:
    vm = blank(VM_MACHINE_MEM="", VM_READY="none")
    installed = [each for each in ARCHITECTURES if shutil.which(f"qemu-system-{each}")]
    assert "x86_64" in installed
    for architecture in installed:
        vm.set(VM_MACHINE_ARCH=architecture)
        # s390x ends by itself where it finds nothing to boot
        assert "demo: started" in vm.ok("--set", "VM_QEMU_EXTRA=-S", "start").out, architecture
        assert "paused" in vm.ok("cmd", "info status").out, architecture
        vm.ok("kill")


def test_start_an_architecture_without_a_machine_type_is_refused(blank: Blank) -> None:
    vm = blank()
    refused = vm.qvm("--set", "VM_QEMU_BIN=qemu-system-mips", "start")
    assert refused.status == 2
    assert "VM_QEMU_BIN is QEMU for mips, for which qvm has no machine type" in refused.err
    refused = vm.qvm("--set", "VM_MACHINE_ARCH=mips", "start")
    assert refused.status == 2
    assert "must be one of x86_64, i386, aarch64" in refused.err


# Terminal and window


def test_run_in_the_background_leaves_the_terminal_alone(blank: Blank) -> None:
    vm = blank(VM_READY="none")
    shell = PtyTerminal(vm, "--norc", "--noprofile", "-i", program="bash")
    os.write(shell.master, f"PS1='$ '; {QVM} run --nat --verbose & \n".encode())
    shell.until(r"demo: runs in the background \(pid \d+\); `qvm console` opens its console")
    deadline = time.monotonic() + DEADLINE_S
    while not vm.qvm("status").out.startswith("demo: running"):
        assert time.monotonic() < deadline, shell.text
    assert "qemu-system-x86_64 -name guest=demo" in shell.text  # --verbose
    os.write(shell.master, b"jobs; echo typed-$((40+2))\n")
    shell.until("typed-42")
    assert "Running" in shell.text
    assert "Stopped" not in shell.text
    vm.ok("kill")
    os.write(shell.master, b"wait; exit\n")
    assert shell.end() == 0


def test_run_in_the_foreground_says_how_to_leave_a_silent_guest(blank: Blank) -> None:
    terminal = PtyTerminal(blank(), "run")
    terminal.until("Ctrl-A X ends QEMU, Ctrl-A C opens its monitor")
    os.write(terminal.master, b"\x01x")
    assert terminal.end() == 0


def test_status_of_a_job_that_was_stopped_names_fg(blank: Blank) -> None:
    vm = blank()
    shell = PtyTerminal(vm, "--norc", "--noprofile", "-i", program="bash")
    os.write(shell.master, f"{QVM} run\n".encode())
    shell.until("Ctrl-A X ends QEMU")
    os.killpg(os.getpgid(vm.pid), signal.SIGSTOP)
    shell.until("Stopped")
    assert "hint: `fg` in the shell that started it continues it" in vm.qvm("status", "-s").out
    os.write(shell.master, b"fg\n")
    deadline = time.monotonic() + DEADLINE_S
    while not vm.qvm("status", "-s").out.startswith("demo: running"):
        assert time.monotonic() < deadline, shell.text
    os.write(shell.master, b"\x01x")
    shell.until("QEMU: Terminated")
    os.write(shell.master, b"exit\n")
    assert shell.end() == 0


def test_run_on_a_desktop_without_a_window_takes_the_terminal(blank: Blank) -> None:
    qemu = shutil.which("qemu-system-x86_64")
    assert qemu
    if displays.window(displays.of(qemu)):
        pytest.skip("this QEMU opens windows")
    vm = blank()
    desktop = {"DISPLAY": ":0"}
    child = subprocess.Popen(
        [QVM, "run"], cwd=vm.directory, env=vm.world.environ | desktop, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + DEADLINE_S
    while "running" not in vm.qvm("status", "-s").out:
        assert child.poll() is None
        assert time.monotonic() < deadline
    vm.ok("kill")
    _, said = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 0
    assert "this QEMU cannot open a window, so its console is here; " in said
    assert "qemu-system-gui" in said or "qemu-ui-gtk" in said or "install" in said
    wanted = vm.qvm("--set", "VM_QEMU_DISPLAY=gtk", "run", env=desktop)
    assert wanted.status == 1
    assert "adds QEMU's windows" in wanted.err
    assert "warning  display " in vm.qvm("doctor", env=desktop).out
    assert "error    display " in vm.qvm("--set", "VM_QEMU_DISPLAY=gtk", "doctor").out
    assert "ok       display " in vm.qvm("doctor").out


# Doors


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("-s", "control the guest with gdb on :1234"),
        ("-gdb tcp::PORT", "control the guest with gdb on :PORT"),
        ("-gdb tcp:127.0.0.1:PORT", ""),
        ("-monitor telnet::PORT,server,nowait", "use what is on -monitor on :PORT"),
        ("-monitor tcp:127.0.0.1:PORT,server,nowait", ""),
        (
            "-chardev socket,id=x,host=0.0.0.0,port=PORT,server=on,wait=off",
            "character device x on 0.0.0.0:PORT",
        ),
        ("-vnc 127.0.0.1:91", ""),
    ],
)
def test_dryrun_and_start_warn_of_what_others_can_reach(blank: Blank, words: str, what: str) -> None:
    from qvmsh.host import sockets
    from qvmsh.machine.power import ports

    port = str(sockets.free_port())
    argv = ["qemu", "-display", "none", *words.replace("PORT", port).split()]
    output: list[str] = []

    class Vm:
        name = "demo"

        class io:  # noqa: N801
            warn = output.append

    ports.warn_of_doors(Vm, argv)  # type: ignore[arg-type]
    assert len(output) == bool(what)
    if what:
        assert what.replace("PORT", port) in output[0]
        assert output[0].endswith(", without a password")


def test_start_vnc_without_a_host_listens_on_this_host_only(blank: Blank) -> None:
    vm = blank(VM_QEMU_VNC=":2,to=99")
    assert vm.ok("start", "--no-wait").err == ""
    found = vm.ok("cmd", "info vnc").out
    assert "127.0.0.1:59" in found


# Remedies


def test_cmd_option_behind_the_monitors_words_is_explained(blank: Blank) -> None:
    vm = blank(VM_READY="none")
    vm.ok("start")
    refused = vm.qvm("cmd", "info", "status", "-v")
    assert refused.status == 1
    assert "hint: qvm's own options go before the first word: `qvm cmd -v ...`\n" in refused.err
    assert vm.ok("cmd", "-v", "info", "status").out == "VM status: running\n"


def test_start_with_images_of_another_format_names_the_variable(blank: Blank) -> None:
    vm = blank(VM_READY="none", VM_FMT="qcow2")
    for has_overlay in (True, False):
        if not has_overlay:
            (vm.directory / "demo-backing.qcow2").unlink()
            vm.set(VM_USE_SNAPSHOTS="no")
            (vm.directory / "demo-base.qcow2").rename(vm.directory / "demo.qcow2")
        vm.set(VM_FMT="raw")
        refused = vm.qvm("start")
        assert refused.status == 1, str(refused)
        hint = refused.err.splitlines()[-1]
        assert hint.endswith(" exists, but VM_FMT is raw: `qvm config VM_FMT=qcow2`"), hint
        vm.ok("config", "VM_FMT=qcow2")
        vm.ok("start")
        vm.ok("kill")


def test_create_in_the_directory_of_the_option(blank: Blank) -> None:
    vm = blank()
    image, other = vm.directory / "demo-base.qcow2", vm.world.home / "other"
    other.mkdir()
    made = vm.ok("-C", other, "create", "new", "--image", image)
    assert "`cd ../other/new && qvm start` starts it" in made.out, made.out
    assert (other / "new/.vmrc").is_file()
    assert not (vm.directory / "new").exists()
    for words, what in (
        (["create", "-C"], "-C needs a value"),
        (["-C", "nowhere", "create", "x"], "nowhere"),
    ):
        refused = vm.qvm(*words)
        assert refused.status == 2, str(refused)
        assert what in refused.err
        assert not (vm.directory / "x").exists()
