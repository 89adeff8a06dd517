"""`qvm forward` with QEMU: at run time and in VM_HOSTFWD, all or none, on loopback by default."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import listeners, taken
from tests.support.programs import free_port
from tests.support.world import Blank, Vm, World, create_blank

READY = {"VM_READY": "none", "VM_GUEST_AGENT": "no"}


def on(blank: Blank, **more: str) -> Vm:
    vm = blank(**READY, **more)
    vm.ok("start", "--no-wait")
    return vm


@pytest.fixture(scope="module")
def running_blank(module_world: World) -> Iterator[Vm]:
    vm = create_blank(module_world, **READY)
    vm.ok("start", "--no-wait")
    yield vm
    vm.kill()


def text(vm: Vm) -> str:
    return (vm.directory / ".vmrc").read_text()


def test_forward_add_and_remove_while_it_runs(blank: Blank) -> None:
    vm = on(blank)
    before = listeners(vm.pid, "tcp")
    here, every, dns = free_port(), free_port(), free_port(socket.SOCK_DGRAM)
    result = vm.ok("forward", "add", f"{here}:80", f"0.0.0.0:{every}:81", f"udp:{dns}:53")
    assert result.out.splitlines()[0] == f"demo: added tcp 127.0.0.1:{here} -> port 80 by qemu"
    assert listeners(vm.pid, "tcp") - before == {f"127.0.0.1:{here}", f"0.0.0.0:{every}"}
    assert listeners(vm.pid, "udp") == {f"127.0.0.1:{dns}"}
    rows = json.loads(vm.ok("--json", "forward", "list").out)["forwards"]
    assert {(row["protocol"], row["address"], row["port"], row["guest_port"]) for row in rows} >= {
        ("tcp", "127.0.0.1", here, 80), ("tcp", "0.0.0.0", every, 81), ("udp", "127.0.0.1", dns, 53)
    }  # fmt: skip
    assert [row["guest_port"] for row in rows if row["ssh"]] == [22]
    assert "VM_HOSTFWD" not in text(vm)
    vm.ok("forward", "remove", str(here), f"0.0.0.0:{every}:81", f"udp:{dns}")
    assert listeners(vm.pid, "tcp") == before
    assert listeners(vm.pid, "udp") == set()


def test_forward_add_saved_is_there_at_the_next_start(blank: Blank) -> None:
    first, second = free_port(), free_port()
    vm = on(blank, VM_HOSTFWD=f"{first}:80")
    before = text(vm)
    added = vm.ok("forward", "add", "--save", f"udp:{second}:53")
    assert added.out == f"demo: added udp 127.0.0.1:{second} -> port 53 by qemu, and in VM_HOSTFWD\n"
    assert vm.value("VM_HOSTFWD") == f"{first}:80\nudp:{second}:53"
    vm.ok("kill")
    vm.ok("start", "--no-wait")
    rows = json.loads(vm.ok("--json", "forward", "list").out)["forwards"]
    assert sorted((row["port"], row["saved"]) for row in rows if not row["ssh"]) == sorted(
        [(first, True), (second, True)]
    )
    vm.ok("forward", "remove", "-s", f"udp:{second}")
    assert text(vm) == before


def test_forward_of_a_machine_that_is_off_is_only_saved(blank: Blank) -> None:
    vm = blank(**READY)
    refused = vm.qvm("forward", "add", "8080:80")
    assert refused.status == 3
    assert refused.err.endswith(
        "cannot forward a port: it is stopped\nhint: with --save it is forwarded at every start\n"
    )
    vm.ok("forward", "add", "-s", "8080:80", "0.0.0.0:8081:81")
    assert vm.value("VM_HOSTFWD") == "8080:80\n0.0.0.0:8081:81"
    assert vm.ok("forward", "list").out.splitlines() == [
        "tcp 127.0.0.1:8080         -> port 80              at the next start",
        "tcp 0.0.0.0:8081           -> port 81              at the next start",
    ]
    other = vm.qvm("forward", "add", "-s", "8080:90")
    assert other.status == 3
    assert "VM_HOSTFWD leads tcp 127.0.0.1:8080 to port 80 of the guest already" in other.err
    assert "hint: `qvm forward remove --save 8080` removes that" in other.err
    assert vm.value("VM_HOSTFWD") == "8080:80\n0.0.0.0:8081:81"
    by_ssh = vm.qvm("forward", "add", "-s", "8082:80", "--via", "ssh")
    assert (by_ssh.status, "what ssh forwards cannot be saved" in by_ssh.err) == (2, True)
    vm.ok("forward", "remove", "-s", "8080", "8081")
    assert vm.value("VM_HOSTFWD") == ""
    assert vm.ok("forward", "list").out == "demo: no port is forwarded\n"


@pytest.mark.parametrize("layer", ["--set", "environment"])
def test_forward_saved_is_made_of_the_file_only(blank: Blank, layer: str) -> None:
    written = 'VM_HOSTFWD="\n    $PORT:90\n    0.0.0.0:8081:81\n"  # why\n'
    vm = blank(**READY)
    path = vm.directory / ".vmrc"
    before = f"PORT=9090\n{path.read_text()}{written}"
    path.write_text(before)
    words = ("--set", "VM_HOSTFWD=7777:77") if layer == "--set" else ()
    env = {} if words else {"VM_HOSTFWD": "7777:77"}
    assert vm.qvm(*words, "forward", "add", "-s", "2231:80", env=env).status == 0
    assert text(vm) == before.replace(":81\n", ":81\n    2231:80\n")
    assert vm.qvm(*words, "forward", "remove", "-s", "7777", env=env).status == 3
    assert vm.qvm(*words, "forward", "remove", "-s", "8081", "2231", env=env).status == 0
    assert text(vm) == before.replace("    0.0.0.0:8081:81\n", "")


def test_forward_that_is_there_is_saved_as_it_is(blank: Blank) -> None:
    vm = on(blank)
    port = free_port()
    vm.ok("forward", "add", f"{port}:80")
    refused = vm.qvm("forward", "add", f"{port}:80")
    assert (refused.status, "`qvm forward add --save` saves it" in refused.err) == (3, True), str(refused)
    vm.ok("forward", "add", "--save", f"{port}:80")
    assert vm.value("VM_HOSTFWD") == f"{port}:80"
    assert f"127.0.0.1:{port}" in listeners(vm.pid, "tcp")
    vm.set(VM_HOSTFWD=f"{port}:81")
    rows = json.loads(vm.ok("--json", "forward", "list").out)["forwards"]
    assert [(row["guest_port"], row["saved"]) for row in rows if not row["ssh"]] == [(80, False)]


def test_forward_port_in_use_names_who_is_in_the_way(blank: Blank) -> None:
    vm = on(blank)
    with taken() as port:
        vm.ok("forward", "add", f"127.0.0.3:{port}:80")
        result = vm.qvm("forward", "add", f"{port}:80")
    assert f"pid {os.getpid()}" in result.err, str(result)


def test_forward_add_is_all_or_none(blank: Blank) -> None:
    vm = on(blank)
    before = listeners(vm.pid, "tcp")
    with taken() as port:
        result = vm.qvm("forward", "add", "-s", f"{free_port()}:80", f"{port}:81")
    assert result.status == 1
    assert f"demo: cannot forward tcp 127.0.0.1:{port}: taken by " in result.err
    result = vm.qvm("--set", "VM_HOSTFWD=", "forward", "add", "-s", f"{free_port()}:80", "127.0.0.2:1:x")
    assert result.status == 2
    assert listeners(vm.pid, "tcp") == before
    assert "VM_HOSTFWD" not in text(vm)


def test_forward_that_cannot_be_saved_is_taken_back(blank: Blank) -> None:
    vm = on(blank)
    before = listeners(vm.pid, "tcp")
    Path(vm.directory, "more").write_text("VM_HOSTFWD=9999:99\n")
    vm.set(VM_HOSTFWD="", VM_INCLUDE="more")
    result = vm.qvm("forward", "add", "-s", f"{free_port()}:80")
    assert result.status == 2
    assert "would override the new value of VM_HOSTFWD" in result.err
    assert listeners(vm.pid, "tcp") == before


def test_forward_of_what_is_there_or_not_is_refused(blank: Blank) -> None:
    vm = on(blank)
    port, both = free_port(), free_port()
    vm.ok("forward", "add", f"{port}:80", f"127.0.0.1:{both}:1", f"127.0.0.2:{both}:2")
    again = vm.qvm("forward", "add", f"0.0.0.0:{port}:80")
    assert again.status == 3
    assert f"tcp 127.0.0.1:{port} leads to 10.0.2.15:80 of the guest already" in again.err
    unclear = vm.qvm("forward", "remove", str(both))
    assert unclear.status == 2
    assert f"forward remove: {both} means 127.0.0." in unclear.err
    assert f"hint: `qvm forward remove 127.0.0.1:{both}`" in unclear.err
    none = vm.qvm("forward", "remove", f"udp:{port}")
    assert none.status == 3
    assert f"udp port {port} is not forwarded" in none.err
    door = next(
        row["port"] for row in json.loads(vm.ok("--json", "forward", "list").out)["forwards"] if row["ssh"]
    )
    own = vm.qvm("forward", "remove", str(door))
    assert own.status == 3
    assert f"port {door} is the one of `qvm ssh`, and stays" in own.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add",), "forward add: no port is given"),
        (("add", "80"), "forward add: '80': it needs two ports"),
        (("add", "70000:80"), "forward add: '70000:80': '70000' is not a port"),
        (("add", "1:80", "1:81"), "another word uses tcp port 1 already"),
        (("add", "1:80", "--via", "x"), "forward add: --via x: must be one of qemu, ssh"),
        (("add", "-s", "1:80", "--via", "ssh"), "what ssh forwards cannot be saved"),
        (("add", "udp:1:80", "--via", "ssh"), "ssh forwards TCP only"),
        (("remove",), "forward remove: no port is given"),
        (("remove", "x"), "forward remove: 'x' is not a port"),
    ],
)
def test_forward_wrong_words_are_refused(running_blank: Vm, words: tuple[str, ...], why: str) -> None:
    result = running_blank.qvm("forward", *words)
    assert result.status == 2
    assert why in result.err


def test_forward_without_a_user_network_says_so(blank: Blank) -> None:
    vm = on(blank, VM_NET_MODEL="none")
    result = vm.qvm("forward", "add", "8080:80", "--via", "qemu")
    assert result.status == 3
    assert "QEMU has no user mode network" in result.err
    by_ssh = vm.qvm("forward", "add", "8080:80")
    assert by_ssh.status == 125
    assert "the machine has no network for ssh" in by_ssh.err
    assert vm.ok("forward", "list").out == "demo: no port is forwarded\n"


def test_start_leads_the_ssh_port_to_the_guest_port(blank: Blank) -> None:
    vm = on(blank, VM_SSH_GUEST_PORT="2022")
    rows = json.loads(vm.ok("--json", "forward", "list").out)["forwards"]
    assert [(row["guest_port"], row["ssh"]) for row in rows] == [(2022, True)]
