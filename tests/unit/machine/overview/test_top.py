"""`qvm top`: its words, its table, and rates from two looks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qvmsh.errors import UsageError
from qvmsh.io import Io
from qvmsh.machine.overview import top
from qvmsh.machine.overview.list import Listed
from qvmsh.machine.overview.top_frame import HEAD, Frame, Measured, table
from qvmsh.machine.overview.top_measuring import Rates, _Counter
from tests.support.world import bare_environ, write_vmrc


def measured(name: str, **more: Any) -> Measured:
    rates = Rates()
    for key in [key for key in more if key in Rates.__slots__]:
        setattr(rates, key, more.pop(key))
    return Measured(Listed(name, more.pop("state", "running"), f"/vm/{name}", **more), rates)


BUSY = measured(
    "busy", pid=4711, vcpus=2, memory_mib=1024, accelerator="kvm", uptime_s=93.0, cpu_percent=151.25,
    rss_bytes=512 << 20, read=1536.0, written=0.0,
)  # fmt: skip
TAPPED = measured("tapped", pid=7, cpu_percent=2.0, rss_bytes=1 << 30, read=9e6, received=2e6, sent=10.0)
OFF = measured("off", state="stopped", memory_mib=64)


@pytest.mark.parametrize(
    ("words", "interval_s", "names"),
    [
        ([], 3.0, []),
        (["1"], 1.0, []),
        (["0.5", "web*"], 0.5, ["web*"]),
        ([".5"], 0.5, []),
        (["web", "2"], 3.0, ["web", "2"]),
        (["3", "3"], 3.0, ["3"]),
        (["inf"], 3.0, ["inf"]),
    ],
)
def test_top_first_word_that_is_a_number_is_the_interval(
    words: list[str], interval_s: float, names: list[str]
) -> None:
    assert top.interval_and_machines(words) == (interval_s, names)


@pytest.mark.parametrize("word", ["0", "0.4", "999999"])
def test_top_interval_out_of_bounds_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=f"an interval of {word} s: must be from 0.5 seconds to a day"):
        top.interval_and_machines([word])


def shown(environ: dict[str, str], *words: str, **how: Any) -> Frame:
    return top.show(Io(capture=True), words, environ=environ, **{"sort": "cpu", "frames": None} | how)


def test_top_unknown_first_word_may_have_been_a_number(tmp_path: Path) -> None:
    environ = bare_environ(tmp_path)
    with pytest.raises(UsageError, match="no machine is known as 'x'") as raised:
        shown(environ, "x")
    assert (raised.value.hint or "").endswith("may also be a number of seconds, as in `qvm top 3`")
    with pytest.raises(UsageError, match="no machine is known as 'x'") as raised:
        shown(environ, "1", "x")
    assert "seconds" not in (raised.value.hint or "")
    with pytest.raises(UsageError, match="--frames 0: must be at least 1"):
        shown(environ, frames=0)


def test_top_of_machines_that_are_off_returns_a_frame(tmp_path: Path) -> None:
    for name in ("web1", "web2", "db"):
        write_vmrc(tmp_path / name, name)
    known = tmp_path / ".local/share/qvm/machines"
    known.parent.mkdir(parents=True)
    known.write_text("".join(f"{name}\t{tmp_path / name}\n" for name in ("web1", "web2", "db", "gone")))
    environ = bare_environ(tmp_path)
    assert [each.machine for each in shown(environ, "0.5")] == ["db", "web1", "web2"]
    assert [each.machine for each in shown(environ, "0.5", "web*")] == ["web1", "web2"]
    found = shown(environ, "0.5", "db", str(tmp_path / "web2"))
    assert [(each.machine, each.state, each.memory_mib) for each in found] == [
        ("db", "stopped", 64), ("web2", "stopped", 64),
    ]  # fmt: skip
    assert found.interval_seconds >= 0.5
    assert (tmp_path / "db").is_dir()
    assert not (tmp_path / "db/.qvm").exists()  # it only looks


def test_top_imports_rich_and_psutil_only_when_it_runs() -> None:
    import subprocess

    code = "import sys, qvmsh.commands.top; print(sorted({'rich', 'psutil'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("cpu", ["busy", "tapped", "off"]),
        ("mem", ["tapped", "busy", "off"]),
        ("io", ["tapped", "busy", "off"]),
        ("net", ["tapped", "busy", "off"]),
        ("name", ["busy", "off", "tapped"]),
    ],
)
def test_frame_sorts_the_largest_first_and_unknown_last(sort: str, order: list[str]) -> None:
    assert [each.machine for each in Frame([OFF, BUSY, TAPPED], 3, sort)] == order


def test_frame_as_text_and_json() -> None:
    frame = Frame([OFF, BUSY], 3.0004, "cpu")
    title, head, one, two = str(frame).splitlines()
    assert title == f"qvm top - {frame.time[11:19]}  1 running, 2 machines  every 3 s"
    assert head.split() == list(HEAD)
    assert " ".join(one.split()) == "busy running 4711 151.2 512.0 MiB 2 1024 MiB kvm 1.5 KiB 0 B - - 1 min"
    assert " ".join(two.split()) == "off stopped - - - - 64 MiB - - - - - -"
    document = json.loads(json.dumps(frame.as_json()))
    assert list(document) == ["time", "interval_seconds", "running", "machines"]
    assert (document["interval_seconds"], document["running"]) == (3.0, 1)
    row = document["machines"][0]
    assert (row["cpu_percent"], row["read_bytes_per_second"]) == (151.25, 1536.0)
    assert row["received_bytes_per_second"] is None


def test_table_cuts_columns_from_the_right_and_never_wraps() -> None:
    whole = table([BUSY, OFF])
    assert len({len(line) for line in whole[:2]}) == 1
    for width in range(1, 120):
        lines = table([BUSY, OFF], width)
        assert all(len(line) <= width for line in lines)
        titles = lines[0].split()
        assert titles == list(HEAD)[: len(titles)] or width < len("busy")
    assert table([BUSY], 18)[0].split() == ["name", "state"]
    assert table([BUSY], 2) == ["na", "bu"]


def test_table_of_odd_names_is_aligned_and_harmless() -> None:
    lines = table([measured("a\x1b[2J", pid=1), measured("機械", pid=2)])
    assert "\x1b" not in "".join(lines)
    assert [line.index("running") + line.count("機械") * 2 for line in lines[1:]] == [
        lines[0].index("state")
    ] * 2


def test_counter_has_a_rate_from_the_second_look_on() -> None:
    counter = _Counter()
    looks = [(None, 1.0), (100.0, 2.0), (300.0, 4.0), (300.0, 4.0), (50.0, 5.0), (60.0, 6.0), (None, 7.0)]
    assert [counter.rate(*look) for look in looks] == [None, None, 100.0, None, None, 10.0, None]
