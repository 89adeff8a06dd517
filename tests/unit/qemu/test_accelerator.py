"""What the choice of an accelerator says and keeps, without running QEMU."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from qvmsh.io import QUIET
from qvmsh.qemu import accelerator, probe
from qvmsh.qemu.accelerator import _Key
from qvmsh.qemu.probe import Answer

NOWHERE = "/nonexistent/qemu-system-"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/usr/bin/qemu-system-x86_64", "x86_64"),
        ("qemu-system-aarch64", "aarch64"),
        ("/opt/a b/qemu-system-x86_64-microvm", "x86_64"),
        ("qemu-system-riscv64.exe", "riscv64"),
        ("/usr/libexec/qemu-kvm", accelerator.host_architecture()),
        ("/home/me/my-qemu", accelerator.host_architecture()),
    ],
)
def test_target_of_a_path_is_read_off_its_name(path: str, target: str) -> None:
    assert accelerator.target_of(path) == target


@pytest.mark.parametrize(
    ("target", "host", "native"),
    [
        ("x86_64", "x86_64", True),
        ("i386", "x86_64", True),
        ("x86_64", "i386", False),
        ("aarch64", "x86_64", False),
        ("aarch64", "aarch64", True),
    ],
)
def test_runs_natively_holds_for_the_hosts_own_instructions(target: str, host: str, native: bool) -> None:
    assert accelerator.runs_natively(target, host) is native


@pytest.mark.parametrize("wanted", ["kvm", "tcg", "tcg,thread=single", "kvm,kernel-irqchip=split", "Xauto"])
def test_choose_explicit_value_passes_unchecked(wanted: str) -> None:
    choice = accelerator.choose(NOWHERE + "x86_64", wanted, QUIET, environ={})
    assert choice.accelerator == wanted
    assert (choice.probed, choice.cached) == (False, False)
    assert f"VM_QEMU_ACCEL={wanted}" in choice.why


def test_choose_foreign_target_is_tcg_without_a_measurement() -> None:
    foreign = "s390x" if accelerator.host_architecture() != "s390x" else "x86_64"
    choice = accelerator.choose(NOWHERE + foreign, "auto", QUIET, environ={})
    assert choice.accelerator == "tcg"
    assert foreign in choice.why
    assert (choice.probed, choice.cached, choice.tcg_s) == (False, False, None)


def test_limit_is_ten_times_tcg_but_not_below_the_floor() -> None:
    assert probe.limit(0.3) == pytest.approx(3.0)
    assert probe.limit(0.01) == probe.LIMIT_FLOOR_S


@pytest.mark.parametrize("verdict", ["usable", "accepted", "absent"])
def test_is_current_lasting_answer_holds_for_the_boot(verdict: str) -> None:
    answer = Answer("kvm", verdict, measured_at=1000.0)
    assert answer.is_current(1e9, has_boot=True)
    assert not answer.is_current(1e9, has_boot=False)
    assert answer.is_current(2000.0, has_boot=False)


@pytest.mark.parametrize("verdict", ["timeout", "refused", "unmeasured"])
def test_is_current_doubtful_answer_holds_for_an_hour(verdict: str) -> None:
    answer = Answer("kvm", verdict, measured_at=1000.0)
    assert answer.is_current(4599.0, has_boot=True)
    assert not answer.is_current(4600.0, has_boot=True)
    assert not answer.is_current(999.0, has_boot=True), "the clock was set back"


def test_choice_of_a_timeout_reports_when_and_until_when() -> None:
    now = time.time()
    choice = Answer("kvm", "timeout", tcg_s=0.1, hardware_s=1.0, measured_at=now).choice(is_cached=True)
    assert choice.accelerator == "tcg"
    assert "timed out after 1.0 s" in choice.why
    assert time.strftime("measured %F %T", time.localtime(now)) in choice.why
    assert time.strftime("again after %T", time.localtime(now + 3600)) in choice.why
    assert choice.hint
    assert "qvm doctor --probe" in choice.hint
    assert choice.hardware_s is None


def test_choice_of_a_usable_accelerator_carries_both_times() -> None:
    choice = Answer("kvm", "usable", tcg_s=0.12, hardware_s=0.07).choice(is_cached=False)
    assert (choice.accelerator, choice.tcg_s, choice.hardware_s) == ("kvm", 0.12, 0.07)
    assert choice.hint is None
    assert choice.as_json()["verdict"] == "usable"
    assert str(choice) == f"kvm: {choice.why}"


def key(path: str = "/usr/bin/qemu-system-x86_64", boot: str = "boot-1", size: int = 5) -> _Key:
    return _Key(boot, "kvm", path, 1234567890, size)


def test_recall_finds_what_was_remembered_for_exactly_this_key(tmp_path: Path) -> None:
    cache = str(tmp_path / "a" / "b" / "accel")
    answer = Answer("kvm", "usable", tcg_s=0.25, hardware_s=0.125, detail="with\ttab\nand line")
    accelerator._remember(cache, key(), answer)
    found = accelerator._recall(cache, key())
    assert found is not None
    assert (found.verdict, found.tcg_s, found.hardware_s) == ("usable", 0.25, 0.125)
    assert found.measured_at <= answer.measured_at, "an answer may not come from the future"
    assert found.detail == "with\\ttab\\nand line"
    assert accelerator._recall(cache, key(boot="boot-2")) is None
    assert accelerator._recall(cache, key(size=6)) is None
    assert accelerator._recall(cache, key("/usr/bin/qemu-system-i386")) is None
    assert Path(cache).stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(Path(cache).parent)) == ["accel"], "no part of an atomic write is left"


@pytest.mark.parametrize("path", ["/a b/q,e=m'u", "/tab\there", "/line\nbreak", "/\udcff-not-utf8", "/ü"])
def test_remember_keeps_any_file_name_on_one_line(tmp_path: Path, path: str) -> None:
    cache = str(tmp_path / "accel")
    accelerator._remember(cache, key(path), Answer("kvm", "usable", tcg_s=0.1, hardware_s=0.1))
    assert len(Path(cache).read_text().splitlines()) == 2
    assert accelerator._recall(cache, key(path)) is not None


def test_remember_replaces_this_qemu_and_drops_other_boots(tmp_path: Path) -> None:
    cache = str(tmp_path / "accel")
    accelerator._remember(cache, key(boot="boot-0"), Answer("kvm", "usable", tcg_s=0.1))
    accelerator._remember(cache, key(), Answer("kvm", "timeout", tcg_s=0.1))
    accelerator._remember(cache, key("/opt/q"), Answer("kvm", "usable", tcg_s=0.1))
    accelerator._remember(cache, key(size=6), Answer("kvm", "refused", tcg_s=0.1))
    rows = Path(cache).read_text().splitlines()[1:]
    assert [(row.split("\t")[0], row.split("\t")[5]) for row in rows] == [
        ("boot-1", "usable"),
        ("boot-1", "refused"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "qvm accelerators 2\n{row}\n",
        "qvm accelerators 1\n{head}\tusable\tnan\t0.1\t1.0\t\n",
        "qvm accelerators 1\n{head}\tusable\t0.1\tinf\t1.0\t\n",
        "qvm accelerators 1\n{head}\tusable\t0.1\t0.1\t1e300\t\n",
        "qvm accelerators 1\n{head}\tusable\t0.1\t-1\t1.0\t\n",
        "qvm accelerators 1\n{head}\tusable\tx\t0.1\t1.0\t\n",
        "qvm accelerators 1\n{head}\thvf\t0.1\t0.1\t1.0\t\n",
        "qvm accelerators 1\n{head}\tusable\t0.1\n",
        "qvm accelerators 1\n" + "\udcff\t" * 9,
    ],
)
def test_recall_from_a_damaged_cache_is_none(tmp_path: Path, text: str) -> None:
    cache = tmp_path / "accel"
    head = "\t".join(key().fields())
    row = f"{head}\tusable\t0.1\t0.1\t1.0\t"
    cache.write_text(text.replace("{head}", head).replace("{row}", row), errors="surrogateescape")
    assert accelerator._recall(str(cache), key()) is None
    cache.write_text(f"qvm accelerators 1\n{row}\n")
    assert accelerator._recall(str(cache), key()) is not None, "the same row is read where all is well"


def test_remember_where_nothing_can_be_written_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / "file" / "qvm" / "accel")
    accelerator._remember(cache, key(), Answer("kvm", "usable"))
    accelerator._remember(None, key(), Answer("kvm", "usable"))
    assert accelerator._recall(cache, key()) is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/qvm/accel"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/qvm/accel"),
        ({"HOME": "/h"}, "/h/.cache/qvm/accel"),
        ({"HOME": ""}, None),
        ({}, None),
    ],
)
def test_cache_path_follows_xdg(environ: dict[str, str], expected: str | None) -> None:
    assert accelerator._cache_path(environ) == expected


def test_why_closed_names_a_device_that_is_not_there(tmp_path: Path) -> None:
    found = accelerator.why_closed(str(tmp_path / "kvm"))
    assert found
    assert found[0] == f"there is no {tmp_path}/kvm"
    assert found[1]
    assert accelerator.why_closed("/dev/null") is None
    assert accelerator.why_closed("") is None


def test_why_closed_names_an_error_other_than_permissions(tmp_path: Path) -> None:
    found = accelerator.why_closed(str(tmp_path))
    assert found == (f"cannot open {tmp_path}: Is a directory", None)
