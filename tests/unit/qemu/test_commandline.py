"""The argument list is pure: odd characters stay inside their own value."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvmsh.qemu import platforms
from qvmsh.qemu.commandline import Cdrom, Disk, Endpoint, arguments, escape
from qvmsh.qemu.flash import Flash
from tests.support.arguments import BASE, option_fields, option_value

ODD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(ODD)
def test_arguments_disk_path_survives_as_it_is(path: str) -> None:
    argv = arguments(replace(BASE, disks=(Disk(path, "qcow2"),)))
    assert json.loads(option_value(argv, "-blockdev"))["file"] == {
        "driver": "file", "filename": path, "discard": "unmap"
    }  # fmt: skip


@settings(derandomize=True, max_examples=200, deadline=None)
@given(ODD)
def test_arguments_name_and_socket_path_survive_as_they_are(text: str) -> None:
    ends = BASE.endpoints | {"qmp": Endpoint(path=text)}
    argv = arguments(replace(BASE, name=text, endpoints=ends))
    assert option_fields(option_value(argv, "-name"))["guest"] == text
    assert option_fields(option_value(argv, "-chardev", "id=qmp,"))["path"] == text


def test_arguments_without_display_never_opens_vnc() -> None:
    assert option_value(arguments(BASE), "-display") == "none"


def test_arguments_extra_words_stand_last() -> None:
    argv = arguments(replace(BASE, extra=("-S", "-m", "64")))
    assert argv[-3:] == ["-S", "-m", "64"]


def test_arguments_network_none_gives_no_card() -> None:
    argv = arguments(replace(BASE, network=None))
    assert option_value(argv, "-nic") == "none"
    assert "-netdev" not in argv


def test_arguments_ssh_port_is_forwarded_on_loopback_only() -> None:
    netdev = json.loads(option_value(arguments(BASE), "-netdev"))
    assert netdev["hostfwd"] == [{"str": "tcp:127.0.0.1:2222-:22"}]


@pytest.mark.parametrize(
    ("bus", "driver"),
    [
        ("virtio", "virtio-blk-pci"),
        ("ide", "ide-hd"),
        ("sata", "ide-hd"),
        ("scsi", "scsi-hd"),
        ("nvme", "nvme"),
    ],
)
def test_arguments_bus_chooses_the_device(bus: str, driver: str) -> None:
    argv = arguments(replace(BASE, disks=(Disk("d", "qcow2", bus),)))
    assert json.loads(option_value(argv, "-device", '"disk0-device"'))["driver"] == driver


def test_escape_doubles_commas() -> None:
    assert escape("a,b=c") == "a,,b=c"


@settings(derandomize=True, max_examples=200, deadline=None)
@given(ODD)
def test_arguments_every_path_and_text_survives_as_it_is(text: str) -> None:
    argv = arguments(
        replace(
            BASE,
            disks=(*BASE.disks, Disk(text, "raw", node="disk1", boot=None, serial="disk1", cache="none")),
            cdrom=Cdrom(text),
            flash=Flash(text, "raw", text),
            kernel=text,
            initrd=text,
            append=text,
            tpm=Endpoint(path=text),
        )
    )
    for node in ("disk1", "cdrom0", "uefi-code", "uefi-variables"):
        assert (
            json.loads(option_value(argv, "-blockdev", f'"node-name": "{node}"'))["file"]["filename"] == text
        )
    assert [option_value(argv, option) for option in ("-kernel", "-initrd", "-append")] == [text] * 3
    assert option_fields(option_value(argv, "-chardev", "id=tpm-control,"))["path"] == text


def test_arguments_additional_devices_come_last() -> None:
    """So another disk does not rename the guest's network card."""
    more = (*BASE.disks, Disk("d", "raw", node="disk1", boot=None))
    plain, with_more = arguments(BASE), arguments(replace(BASE, disks=more, cdrom=Cdrom("c")))
    assert with_more[: len(plain)] == plain


def test_arguments_without_serial_agent_rng_have_none_of_them() -> None:
    argv = arguments(replace(BASE, has_serial=False, agent=None, has_rng=False))
    assert not [word for word in argv if "serial" in word or "qga" in word or "rng" in word]


def test_arguments_agent_on_a_uart_takes_the_second_one() -> None:
    argv = arguments(replace(BASE, agent="isa-serial"))
    assert json.loads(option_value(argv, "-device", '"qga0"')) == {
        "driver": "isa-serial", "chardev": "qga", "index": 1, "id": "qga0"
    }  # fmt: skip
    assert not [word for word in argv if "virtio-serial" in word]


def test_arguments_other_architecture_has_nothing_of_a_pc() -> None:
    virt = platforms.of("aarch64", "virt,gic-version=3")
    argv = arguments(replace(BASE, platform=virt, machine="virt", cdrom=Cdrom("c")))
    assert "-vga" not in argv
    assert json.loads(option_value(argv, "-device", "cdrom0-device"))["driver"] == "scsi-cd"
    assert platforms.of("x86_64", "microvm").virtio("blk") == "virtio-blk-device"
    assert platforms.of("x86_64", "microvm,pcie=on").virtio("blk") == "virtio-blk-pci"
    assert platforms.of("x86_64", "pc-q35-7.2").ide_units == 1


def test_arguments_secure_firmware_is_kept_from_the_guest() -> None:
    argv = arguments(replace(BASE, machine="q35", flash=Flash("c", "raw", "v", needs_smm=True)))
    assert option_value(argv, "-machine") == "q35,pflash0=uefi-code,pflash1=uefi-variables,smm=on"
    assert option_value(argv, "-global") == "driver=cfi.pflash01,property=secure,value=on"


def test_arguments_by_hand_replace_all_hardware() -> None:
    hand = ("-m", "64", "-hda", "a,b")
    argv = arguments(replace(BASE, by_hand=hand, extra=("-S",)))
    assert argv[: len(hand) + 5] == [*argv[:5], *hand]
    others = {word for word in argv[5:] if word.startswith("-")} - set(hand)
    assert others == {"-pidfile", "-chardev", "-mon", "-display", "-S"}
    assert "-display" not in arguments(replace(BASE, by_hand=("-nographic",)))
    assert "-display" not in arguments(replace(BASE, by_hand=hand, extra=("-vnc", ":1")))
