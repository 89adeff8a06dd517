"""`qvm doctor` with real programs, real images and a real QEMU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.world import Blank, Result, Vm, World


def checks(result: Result) -> dict[str, list[dict[str, Any]]]:
    """The findings of `doctor --json` by name."""
    value = json.loads(result.out)
    assert value["version"] == 1
    assert value["command"] == "doctor"
    assert result.status == (0 if value["ok"] else 1), str(result)
    found: dict[str, list[dict[str, Any]]] = {}
    for each in value["checks"]:
        assert set(each) == {"name", "level", "finding", "hint"}
        assert "\n" not in each["finding"]
        found.setdefault(each["name"], []).append(each)
    return found


def doctor(vm: Vm, **kw: Any) -> dict[str, list[dict[str, Any]]]:
    return checks(vm.qvm("doctor", "--json", **kw))


def levels(found: dict[str, list[dict[str, Any]]], *names: str) -> list[str]:
    return [each["level"] for name in names for each in found.get(name, [])]


def the(found: dict[str, list[dict[str, Any]]], name: str, level: str) -> str:
    """Finding and hint of the one finding of this name and level."""
    matching = [each for each in found.get(name, []) if each["level"] == level]
    assert len(matching) == 1, found
    return f"{matching[0]['finding']} | {matching[0]['hint']}"


def test_doctor_without_a_machine_looks_at_the_host(world: World) -> None:
    result = world.run("doctor")
    assert result.status == 0, str(result)
    lines = result.out.splitlines()
    assert any(
        line.startswith("ok       qemu-system-x86_64") and "/qemu-system-x86_64)" in line for line in lines
    )
    for name in (
        "python",
        "packages",
        "qemu-img",
        "ssh",
        "accelerator",
        "runtime folder",
        "logout",
        "memory",
    ):
        assert any(line[9:].startswith(name) for line in lines), f"{name}: {result}"
    assert not any(".vmrc" in line for line in lines)
    assert list(world.runtime.rglob("*")) in ([], [world.runtime / "qvm"]), "no folder of its own is left"


def test_doctor_of_a_sound_machine_finds_nothing_wrong(blank: Blank) -> None:
    vm = blank()
    (vm.world.home / ".ssh").mkdir()
    found = doctor(vm)
    assert "error" not in levels(found, *found)
    assert the(found, "state", "ok").startswith("stopped")
    assert [each["level"] for each in found["demo-backing.qcow2"]] == ["ok", "ok"]
    assert "on demo-base.qcow2" in found["demo-backing.qcow2"][0]["finding"]
    assert "no errors" in found["demo-base.qcow2"][1]["finding"]
    assert "leftovers" not in found
    outside = vm.world.run("-C", vm.directory, "doctor", "--json")
    assert list(checks(outside)) == list(found)


def test_doctor_missing_programs_are_errors_with_packages(blank: Blank) -> None:
    vm = blank()
    python = Path(sys.executable).parent
    found = checks(vm.qvm("doctor", "--json", env={"PATH": str(python)}))
    assert levels(found, "qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen") == ["error"] * 3 + ["warning"]
    assert found["qemu-img"][0]["hint"]
    assert "accelerator" not in found


def test_doctor_strange_qemu_is_named(blank: Blank, tmp_path: Path) -> None:
    script = tmp_path / "qemu-system-x86_64"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    vm = blank(VM_QEMU_BIN=str(script))
    assert "is not run by read-only commands" in the(doctor(vm), "VM_QEMU_BIN", "warning")
    vm.ok("allow")
    assert "does not report its version" in the(doctor(vm), "qemu-system-x86_64", "error")
    script.write_text("#!/bin/sh\necho QEMU emulator version 5.2.0\n")
    assert "older than 7.2" in the(doctor(vm), "qemu-system-x86_64", "warning")


def test_doctor_probe_measures_although_tcg_is_wanted(blank: Blank) -> None:
    found = doctor(blank(), env={"VM_QEMU_ACCEL": "tcg"})
    assert "VM_QEMU_ACCEL=tcg" in the(found, "accelerator", "ok")
    assert "auto would be" not in found
    result = blank("other").qvm("doctor", "--json", "--probe")
    assert "auto would be" in checks(result)


def test_doctor_reports_every_problem_of_the_vmrc_and_more(blank: Blank) -> None:
    vm = blank(has_images=False, VM_MACHINE_ID="7", VM_MACHINE_MEM="lots")
    found = doctor(vm)
    places = " ".join(each["finding"] for each in found[".vmrc"])
    assert levels(found, ".vmrc") == ["error", "error"]
    assert ":2:" in places
    assert ":4:" in places
    assert "state" in found
    assert "python" in found


def test_doctor_unknown_variable_and_missing_image_are_named(blank: Blank) -> None:
    vm = blank(has_images=False)
    vm.set(VM_QEMU_MACHIN="q35")
    found = doctor(vm)
    assert "did you mean VM_QEMU_MACHINE?" in the(found, ".vmrc", "warning")
    assert "is missing" in the(found, "images", "error")


def test_doctor_image_leaking_corrupt_or_orphaned_is_named(blank: Blank) -> None:
    vm = blank()
    overlay = vm.directory / "demo-backing.qcow2"
    whole = overlay.read_bytes()
    with overlay.open("r+b") as file:  # a cluster at the end with a reference count and no user
        offset = int.from_bytes(overlay.read_bytes()[48:56], "big")  # refcount table
        block = int.from_bytes(overlay.read_bytes()[offset : offset + 8], "big")
        count = -(-overlay.stat().st_size // 65536)
        file.truncate((count + 1) * 65536)
        file.seek(block + 2 * count)
        file.write((1).to_bytes(2, "big"))
    text = the(doctor(vm), "demo-backing.qcow2", "warning")
    assert "clusters are unused" in text
    assert "check -r leaks" in text
    overlay.write_bytes(whole)
    subprocess.run(["qemu-io", "-c", "write 0 64k", overlay], check=True, capture_output=True)
    data = bytearray(overlay.read_bytes())
    offset = int.from_bytes(data[48:56], "big")
    block = int.from_bytes(data[offset : offset + 8], "big")
    data[block : block + 32] = bytes(32)  # all reference counts gone
    overlay.write_bytes(data)
    found = doctor(vm)
    assert "corruptions" in the(found, "demo-backing.qcow2", "error")
    overlay.write_bytes(whole)
    (vm.directory / "demo-base.qcow2").unlink()
    assert "orphaned" in the(doctor(vm), "images", "error")


def test_doctor_image_in_use_by_another_program_names_it(blank: Blank) -> None:
    vm = blank()
    with (vm.directory / "demo-backing.qcow2").open("rb"):
        text = the(doctor(vm), "demo-backing.qcow2", "error")
    assert f"pid {os.getpid()}" in text


def test_doctor_of_a_machine_running_stopped_or_crashed_says_so(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    found = doctor(vm)
    assert the(found, "state", "ok").startswith("running")
    assert "skipped" in the(found, "image check", "ok")
    assert "error" not in levels(found, *found)
    os.kill(vm.pid, signal.SIGSTOP)
    try:
        found = doctor(vm)
    finally:
        os.kill(vm.pid, signal.SIGCONT)
    assert "stopped by a signal" in the(found, "state", "error")
    os.kill(vm.pid, signal.SIGKILL)
    found = doctor(vm)
    text = the(found, "state", "warning")
    assert "ended unexpectedly" in text
    assert "`qvm start` starts it again" in text
    vm.ok("start", "--no-wait")  # which also removes what the dead one left


def test_doctor_leftovers_of_killed_commands_are_named(blank: Blank) -> None:
    vm = blank()
    (vm.directory / "demo-base.qcow2.part").touch()
    (vm.directory / ".qvm").mkdir(exist_ok=True)
    (vm.directory / ".qvm/disposable-12.qcow2").touch()
    text = the(doctor(vm), "leftovers", "warning")
    assert "demo-base.qcow2.part" in text
    assert ".qvm/disposable-12.qcow2" in text
    (vm.directory / ".qvm/archive.unfinished").touch()
    assert "work on the archive was interrupted: .qvm/archive.unfinished" in the(
        doctor(vm), "archive", "warning"
    )


def test_doctor_ssh_key_missing_or_open_to_others_is_an_error(blank: Blank) -> None:
    vm = blank(VM_SSH_IDENTITY="key")
    assert "VM_SSH_IDENTITY=key does not exist" in the(doctor(vm), "ssh key", "error")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", vm.directory / "key"], check=True)
    assert the(doctor(vm), "ssh key", "ok").startswith("key")
    (vm.directory / "key").chmod(0o644)
    assert "mode 644" in the(doctor(vm), "ssh key", "error")


def test_doctor_owner_without_an_account_is_an_error(blank: Blank) -> None:
    vm = blank(has_images=False, VM_MACHINE_OWNER="no-such-account")
    assert "no-such-account" in the(doctor(vm), ".vmrc", "error")


def test_doctor_taken_ssh_port_names_the_program(blank: Blank) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        vm = blank(VM_SSH_PORT=str(listener.getsockname()[1]))
        assert f"pid {os.getpid()}" in the(doctor(vm), "ssh port", "error")
    assert "is free" in the(doctor(vm), "ssh port", "ok")


def test_doctor_runtime_folder_too_long_or_none_is_named(blank: Blank, tmp_path: Path) -> None:
    vm = blank(has_images=False)
    long = tmp_path / ("x" * 120)
    long.mkdir()
    found = doctor(vm, env={"XDG_RUNTIME_DIR": str(long)})
    assert "too long for sockets" in the(found, "runtime folder", "error")
    found = doctor(vm, env={"XDG_RUNTIME_DIR": str(tmp_path / "nowhere")})
    assert "is not a folder that you can write to" in the(found, "XDG_RUNTIME_DIR", "warning")


def test_doctor_too_much_memory_and_open_files_are_named(blank: Blank) -> None:
    vm = blank(has_images=False, VM_MACHINE_MEM="9000000")
    assert "more memory than the host has" in the(doctor(vm), "memory", "error")
    (vm.directory / ".vmrc").chmod(0o646)
    assert ".vmrc can be changed by everybody" in the(doctor(vm), "rights", "warning")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_doctor_files_of_another_account_are_named(blank: Blank) -> None:
    vm = blank()
    os.chown(vm.directory / "demo-base.qcow2", 65534, 65534)
    text = the(doctor(vm), "rights", "warning")
    assert "demo-base.qcow2 belongs to nobody" in text


def test_doctor_in_a_directory_with_an_awkward_name_is_right(blank: Blank) -> None:
    vm = blank(where="a b,c=d'é")
    found = doctor(vm)
    assert "error" not in levels(found, *found)
    assert "no errors" in found["demo-backing.qcow2"][1]["finding"]
