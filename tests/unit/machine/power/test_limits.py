"""The pure parts of what stands around QEMU: sandbox, limits, process name, telnet monitor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qvmsh.errors import ConfigError
from qvmsh.machine import identity
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.power import limits, ports
from qvmsh.qemu import sandbox
from qvmsh.qemu.commandline import Endpoint, Network, arguments
from tests.support.arguments import BASE, option_fields, option_value
from tests.support.world import write_vmrc


def machine(tmp_path: Path, **more: str) -> BaseMachine:
    write_vmrc(tmp_path, **more)
    return BaseMachine(tmp_path, environ={"HOME": str(tmp_path), "VM_GLOBAL_CONFIG": "/dev/null"})


@pytest.mark.parametrize(
    ("wanted", "extra", "option"),
    [
        ("auto", (), "on"),
        ("auto", ("-device", "virtio-rng-pci"), "on"),
        ("off", (), None),
        ("on", (), "on"),
        ("on,spawn=deny", (), "on,spawn=deny"),
        ("on", ("-sandbox", "off"), None),
        ("auto", ("--sandbox", "on,spawn=deny"), None),
        ("auto", ("-netdev", "bridge,id=b0,br=br0"), None),
        ("on", ("-netdev", "bridge,id=b0,br=br0"), "on"),
        ("auto", ("-smbios", "type=1,product=sandbox"), "on"),
    ],
)
def test_sandbox_option_users_own_words_win(wanted: str, extra: tuple[str, ...], option: str | None) -> None:
    assert sandbox.option(wanted, extra) == option


def test_sandbox_refusal_is_known_by_qemus_words() -> None:
    assert sandbox.is_refusal(["-sandbox support is not enabled in this QEMU binary"])
    assert sandbox.is_refusal(["failed to install seccomp syscall filter in the kernel"])
    assert not sandbox.is_refusal(["-device nothing: 'nothing' is not a valid device model name"])
    assert not sandbox.is_refusal(["could not open '/vm/sandbox/disk.qcow2'"])


def test_arguments_sandbox_and_process_come_before_the_others() -> None:
    argv = arguments(replace(BASE, sandbox="on", process="qvm-a,b"))
    assert argv[argv.index("-sandbox") + 1] == "on"
    assert option_fields(option_value(argv, "-name")) == {
        "guest": "demo",
        "process": "qvm-a,b",
        "debug-threads": "on",
    }
    assert "-sandbox" not in arguments(BASE)
    assert option_value(arguments(BASE), "-name") == "guest=demo"


def test_arguments_forwards_stand_beside_the_ssh_port() -> None:
    network = Network("virtio-net-pci", "DE:AD:BE:EF:33:11", 2222, ("udp:127.0.0.1:53-:53",))
    netdev = option_value(arguments(replace(BASE, network=network)), "-netdev")
    assert '[{"str": "tcp:127.0.0.1:2222-:22"}, {"str": "udp:127.0.0.1:53-:53"}]' in netdev


def test_arguments_telnet_monitor_only_with_its_endpoint() -> None:
    endpoints = BASE.endpoints | {"telnet": Endpoint(address=("127.0.0.1", 7733))}
    argv = arguments(replace(BASE, endpoints=endpoints))
    chardev = option_fields(option_value(argv, "-chardev", "telnet"))
    assert (chardev["host"], chardev["port"], chardev["telnet"]) == ("127.0.0.1", "7733", "on")
    assert "chardev=telnet,mode=readline" in argv
    assert "telnet" not in " ".join(arguments(BASE))


@pytest.mark.parametrize(
    ("more", "address"),
    [
        ({}, None),
        ({"VM_NET_HOST": "myhost"}, ("127.0.0.1", 7733)),
        ({"VM_NET_PORT": "4444"}, ("127.0.0.1", 4444)),
        ({"VM_NET_PORT": "auto"}, ("127.0.0.1", 0)),
        ({"VM_NET_LISTEN": "0.0.0.0"}, ("0.0.0.0", 7733)),
        ({"VM_NET_LISTEN": "[::1]", "VM_MACHINE_ID": "07"}, ("::1", 7707)),
    ],
)
def test_door_is_there_only_where_asked_for(
    tmp_path: Path, more: dict[str, str], address: tuple[str, int] | None
) -> None:
    assert ports.door(machine(tmp_path, **more)) == address


def test_forwards_without_a_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="VM_NET_MODEL=none leaves the guest without a network"):
        ports.forwards(machine(tmp_path, VM_HOSTFWD="8080:80", VM_NET_MODEL="none"))


def test_process_name_shows_the_machine(tmp_path: Path) -> None:
    assert identity.process_name(machine(tmp_path)) == "qvm-demo"


def test_limits_as_systemd_has_them(tmp_path: Path) -> None:
    vm = machine(tmp_path, VM_LIMIT_MEM="2G", VM_LIMIT_CPUS="1.5")
    assert limits.properties(vm) == ["MemoryMax=2048M", "CPUQuota=150%"]
    assert limits.properties(machine(tmp_path)) == []
    argv = limits.words("/usr/bin/systemd-run", "a b:ü", ["MemoryMax=1M"], is_root=False)
    assert argv[:4] == ["/usr/bin/systemd-run", "--scope", "--quiet", "--collect"]
    assert argv[4].startswith("--unit=qvm-a_b__-")
    assert argv[5:] == ["--user", "-p", "MemoryMax=1M", "--"]
    assert "--user" not in limits.words("/usr/bin/systemd-run", "x", [], is_root=True)


def test_limits_obstacles_are_named(tmp_path: Path) -> None:
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert "not run by systemd" in limits.obstacle(runtime, is_root=True, booted=str(tmp_path / "none"))
    assert limits.obstacle({}, is_root=True, booted=str(tmp_path)) == ""
    assert "no systemd user manager" in limits.obstacle(runtime, is_root=False, booted=str(tmp_path))
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd/private").touch()
    assert limits.obstacle(runtime, is_root=False, booted=str(tmp_path)) == ""


def test_limit_below_the_guests_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is too small for a guest of 64 MiB") as caught:
        limits.require_sound(machine(tmp_path, VM_LIMIT_MEM="64"))
    limits.require_sound(machine(tmp_path, VM_LIMIT_MEM=str(caught.value.hint).split()[0].partition("=")[2]))
