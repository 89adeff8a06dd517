"""The table of variables: what each kind takes and refuses, and which name was meant."""

from __future__ import annotations

import os
import pwd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvmsh.config import variables
from qvmsh.config.spelling import distance, near
from qvmsh.config.variables import MISTAKEN, VARIABLES, meant, memory_mib

ME = pwd.getpwuid(os.getuid()).pw_name

FINE = {
    "VM_MACHINE_NAME": ["demo", "a b", "é", "x,y=z", "10%", "a.b-c"],
    "VM_MACHINE_ID": ["00", "07", "99"],
    "VM_MACHINE_OWNER": [ME, "root"],
    "VM_MACHINE_USER": ["guido", "a.b-c", "user@domain", "é"],
    "VM_MACHINE_MEM": ["1", "1024", "2G", "512M", "2g", "1T", "2048K"],
    "VM_MACHINE_CPUS": ["1", "08", "4096"],
    "VM_FMT": ["qcow2", "raw"],
    "VM_USE_SNAPSHOTS": ["yes", "no", "NO", "true", "off", "1", "0"],
    "VM_DISK_BUS": ["virtio", "ide", "sata", "scsi", "nvme"],
    "VM_NET_MODEL": ["virtio", "virtio-net-pci", "e1000", "ne2k_pci", "none"],
    "VM_QEMU_ACCEL": ["auto", "kvm", "tcg", "tcg,thread=single", "nvmm"],
    "VM_QEMU_BIN": ["qemu-system-x86_64", "/opt/q e/bin/qemu", "./qemu"],
    "VM_QEMU_EXTRA": ["", "-device 'a b'", '-name "x y" a\\ b'],
    "VM_QEMU_VNC": [":1", "localhost:2", "[::1]:3", "unix:/x", "none", ":1,password=on"],
    "VM_QEMU_DISPLAY": ["gtk,gl=on", "curses"],
    "VM_SSH_PORT": ["auto", "2222", "65535"],
    "VM_SSH_ATTEMPTS": ["1", "30"],
    "VM_SSH_GUEST_PORT": ["22", "65535"],
    "VM_SSH_OPTIONS": [
        "-A -o Ciphers=x",
        "ServerAliveInterval 60",
        "Compression=yes\n# why\n\n-C\nTag = a b",
        "-o\nTag=x",
        "-i 'a b'",
    ],
    "VM_DATEFMT": ["%F %T", "x"],
    "VM_LOG": ["/var/log/vm, =\n.log"],
}

WRONG: dict[str, dict[str, str | None]] = {
    "VM_MACHINE_NAME": {"a/b": "a-b", "-x": "x", ".x": "x", "a\nb": "a-b", "": "", "x" * 201: ""},
    "VM_MACHINE_ID": {"7": "07", "100": "", "x1": "", "": "", "\u0660\u0661": "", " 1": ""},
    "VM_MACHINE_OWNER": {"nobody-here-at-all": ME, "": ""},
    "VM_MACHINE_USER": {"-oProxyCommand=x": "", "a b": "", "a\nb": "", "$(x)": ""},
    "VM_MACHINE_MEM": {
        "0": "",
        "-5": "",
        "2 GiB": "2G",
        "1GB": "1G",
        "lots": "",
        "1K": "",
        "1.5G": "",
        "²": "",
    },
    "VM_MACHINE_CPUS": {"0": "1", "5000": "4096", "two": "", "+2": "", "1e3": ""},
    "VM_FMT": {"qcow": None, "QCOW2": "qcow2", "qcow3": "qcow2", "iso": ""},
    "VM_USE_SNAPSHOTS": {"maybe": "", "2": ""},
    "VM_DISK_BUS": {"virtoi": "virtio", "usb": ""},
    "VM_NET_MODEL": {"e1000,mac=x": "", "-x": "", "a b": ""},
    "VM_QEMU_ACCEL": {
        "KVM": "kvm",
        "tgc,thread=single": "tcg,thread=single",
        "auto,x=y": "auto",
        "magic": "",
    },
    "VM_QEMU_EXTRA": {"-name 'x": "", "x\\": ""},
    "VM_QEMU_VNC": {"5": ":5", "host": ""},
    "VM_QEMU_BIN": {"-x": ""},
    "VM_SSH_PORT": {"0": "auto", "65536": "auto", "ssh": "auto"},
    "VM_SSH_ATTEMPTS": {"0": "1"},
    "VM_SSH_GUEST_PORT": {"0": "1", "65536": "65535", "ssh": ""},
    "VM_SSH_OPTIONS": {
        "Compression": "",
        "Tag=": "",
        "a.b c": "",
        "-i 'a": "",
        "ControlPath=/x": "",
        "-C -oControlMaster auto": "",
        "Match exec evil": "",
        "Include /x": "",
        "-S /x": "",
        "-CM": "",
        "StrictHostKeyChecking no": "",
        "-l root": "",
    },
    "VM_LOG": {"a\0b": ""},
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in FINE.items() for v in values])
def test_check_fine_value_is_taken(name: str, value: str) -> None:
    assert VARIABLES[name].check(value) is None


@pytest.mark.parametrize(
    ("name", "value", "better"),
    [(n, v, b) for n, rows in WRONG.items() for v, b in rows.items() if b is not None],
)
def test_check_wrong_value_is_refused_with_a_better_one(name: str, value: str, better: str) -> None:
    wrong = VARIABLES[name].check(value)
    assert wrong is not None
    assert wrong[1] == better
    assert "\n" not in wrong[0]
    if better:
        assert VARIABLES[name].check(better) is None


def test_table_defaults_are_values_that_it_takes() -> None:
    for variable in VARIABLES.values():
        assert variable.needed or variable.check(variable.default) is None, variable
        assert variable.help
        assert variable.range
        assert not (variable.follows and variable.follows not in VARIABLES)
        assert not (variable.computed and variable.computed not in VARIABLES)
        assert all(variable.check(value) is None for value in variable.allowed), variable


def test_table_has_every_variable_of_issue_and_predecessors() -> None:
    now = (  # noqa: SIM905
        "VM_MACHINE_NAME VM_MACHINE_ID VM_MACHINE_OWNER VM_MACHINE_USER VM_MACHINE_MEM VM_MACHINE_CPUS "
        "VM_FMT VM_SNAPSHOT_SEEDNAME VM_SNAPSHOT_BASENAME VM_SNAPSHOT_BACKINGNAME "
        "VM_SNAPSHOT_SEEDNAME_DEFAULT VM_SNAPSHOT_BASENAME_DEFAULT VM_SNAPSHOT_BACKINGNAME_DEFAULT "
        "VM_USE_SNAPSHOTS VM_HOME VM_HOME_OVERRIDES_CWD VM_LOG VM_ERRLOG VM_DATEFMT VM_QEMU_BIN "
        "VM_QEMU_IMG VM_QEMU_MACHINE VM_QEMU_CPU VM_QEMU_ACCEL VM_QEMU_EXTRA VM_QEMU_DISPLAY VM_QEMU_VNC "
        "VM_DISK_BUS VM_NET_MODEL VM_SSH_PORT VM_SSH_IDENTITY VM_SSH_OPTIONS VM_SSH_ATTEMPTS "
        "VM_DISKS VM_CDROM VM_BOOT VM_KERNEL VM_INITRD VM_APPEND VM_FIRMWARE VM_TPM VM_SERIAL "
        "VM_GUEST_AGENT VM_GUEST_AGENT_METHOD VM_VIRTIO_RNG VM_RTC_BASE VM_QEMU_ARGS VM_MACHINE_ARCH "
        "VM_SAVE_DELAY VM_SHUTDOWN_TIMEOUT VM_INCLUDE VM_GLOBAL_CONFIG VM_SNAPSHOT_SEEDFILENAME "
        "VM_SNAPSHOT_BASEFILENAME VM_SNAPSHOT_BACKINGFILENAME VM_SHELL "
        "VM_HOSTFWD VM_NET_LISTEN VM_NET_PORT VM_NET_HOST VM_PRE_START VM_POST_STOP VM_LABELS "
        "VM_REQUIRES VM_PROTECT VM_NET_MAC VM_SSH_GUEST_PORT "
        "VM_QEMU_SANDBOX VM_LIMIT_MEM VM_LIMIT_CPUS VM_ARCHIVE VM_READY "
        "VM_SNAPSHOT_ON_STOP VM_CONSOLE_USER VM_CONSOLE_PASSWORD_FILE "
        "VM_SHARE "
    ).split()
    known = (  # noqa: SIM905
        "VM_NET_GUEST VM_CALLING_DIR VM_PARAMS VM_CONFIG VM_LIB VM_NETWORK "
    ).split()
    assert set(now) | set(known) == set(VARIABLES)
    assert all(not VARIABLES[name].later for name in now)
    assert all(VARIABLES[name].later or VARIABLES[name].context for name in known)


@pytest.mark.parametrize(
    ("value", "mib"), [("1", 1), ("1024", 1024), ("2G", 2048), ("3m", 3), ("2048K", 2), ("1T", 1 << 20)]
)
def test_memory_mib_of_each_unit(value: str, mib: int) -> None:
    assert memory_mib(value) == mib


def test_canonical_is_what_scripts_can_rely_on() -> None:
    assert VARIABLES["VM_MACHINE_MEM"].canonical("2G") == "2048"
    assert VARIABLES["VM_USE_SNAPSHOTS"].canonical("TRUE") == "yes"
    assert VARIABLES["VM_USE_SNAPSHOTS"].canonical("0") == "no"
    assert VARIABLES["VM_MACHINE_ID"].canonical("07") == "07"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("VM_MACHINE_NMAE", "VM_MACHINE_NAME"),
        ("VM_QEMU_ACEL", "VM_QEMU_ACCEL"),
        ("VM_MACHINE_MEMORY", None),
        ("VM_MEMORY", "VM_MACHINE_MEM"),
        ("VM_MEM", "VM_MACHINE_MEM"),
        ("VM_MEMROY", "VM_MACHINE_MEM"),
        ("VM_CPUS", "VM_MACHINE_CPUS"),
        ("VM_SSH_KEY", "VM_SSH_IDENTITY"),
        ("vm_log", "VM_LOG"),
        ("VN_MACHINE_NAME", "VM_MACHINE_NAME"),
        ("VM_MY_DATA", None),
        ("DATA_DIR", None),
        ("VM_X", None),
    ],
)
def test_meant_finds_the_near_name_only(name: str, known: str | None) -> None:
    assert meant(name) == known


def test_meant_every_mistake_leads_to_a_variable() -> None:
    assert set(MISTAKEN.values()) <= set(VARIABLES)
    assert not set(MISTAKEN) & set(VARIABLES)


words = st.text(st.sampled_from("abc"), max_size=6)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(left=words, right=words, enough=st.integers(1, 4))
def test_distance_is_exact_below_the_bound(left: str, right: str, enough: int) -> None:
    exact = _plain_distance(left, right)
    quick = distance(left, right, enough)
    assert quick == exact or (quick >= enough and exact >= enough)


def _plain_distance(left: str, right: str) -> int:
    table = [[i + j if not i or not j else 0 for j in range(len(right) + 1)] for i in range(len(left) + 1)]
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            cost = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, table[i - 2][j - 2] + 1)
            table[i][j] = cost
    return table[-1][-1]


def test_near_prefers_the_nearest() -> None:
    assert near("viritio", ("ide", "virtio", "virtual")) == "virtio"
    assert near("x", ("ide", "ab")) is None


def test_kinds_all_have_a_check_and_words() -> None:
    kinds = {variable.kind for variable in VARIABLES.values()}
    assert kinds <= set(variables._CHECKS)
    assert kinds - {"choice", "options", "integer"} <= set(variables._RANGES)
