"""Images of all kinds, drawn: a copy stands alone, with the content and the options of the original."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvmsh.errors import ImageError
from qvmsh.io import QUIET
from qvmsh.machine.create import seed
from tests.support.programs import qemu_img, qemu_io

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "cluster_size": st.sampled_from(["4k", "64k", "2M"]),
        "compat": st.sampled_from(["0.10", "1.1"]),
        "extended_l2": st.just("on"),
        "lazy_refcounts": st.just("on"),
        "compression_type": st.just("zstd"),
        "refcount_bits": st.sampled_from(["8", "64"]),
        "preallocation": st.sampled_from(["metadata", "full"]),
    },
)


def options_of(folder: Path, name: str) -> dict[str, Any]:
    found = json.loads(qemu_img(folder, "info", "-f", "qcow2", "--output=json", name))
    data = found["format-specific"]["data"]
    return {
        "size": found["virtual-size"],
        "cluster_size": found["cluster-size"],
        **{key: data.get(key) for key in ("compat", "extended-l2", "lazy-refcounts", "compression-type",
                                          "refcount-bits")},
    }  # fmt: skip


def works_together(options: dict[str, str], *, has_backing: bool) -> dict[str, str]:
    """What qemu-img takes of the options drawn."""
    found = dict(options)
    if found.get("compat") == "0.10":
        for each in ("extended_l2", "lazy_refcounts", "compression_type", "refcount_bits"):
            found.pop(each, None)
    if found.get("extended_l2"):
        found["cluster_size"] = "64k"
    if has_backing:
        found.pop("preallocation", None)
    return found


@settings(derandomize=True, max_examples=15, deadline=None, database=None)
@given(
    drawn=st.lists(OPTIONS, min_size=1, max_size=3),
    ground=st.sampled_from(["", "", "raw", "qed"]),
    split=st.integers(-6, 2),
    is_recorded=st.booleans(),
)
def test_copy_of_a_drawn_image_stands_alone_or_is_refused(
    drawn: list[dict[str, str]], ground: str, split: int, is_recorded: bool
) -> None:
    """A chain of qcow2 images on what `ground` says; the image number `split` has a data file."""
    with tempfile.TemporaryDirectory() as name:
        folder, below, kind = Path(name), "", ""
        (folder / "old").mkdir()
        (folder / "new").mkdir()
        old = folder / "old"
        if ground:
            below, kind = f"ground.{ground}", ground
            qemu_img(old, "create", "-q", "-f", ground, below, "3M")
            qemu_io(old, "-f", ground, "-c", "write -P 9 2M 192k", below)
        for at, options in enumerate(drawn):
            words = [
                f"{key}={value}" for key, value in works_together(options, has_backing=bool(below)).items()
            ]
            if at == split:
                words = [each for each in words if not each.startswith(("compat=0", "preallocation"))]
                words.append(f"data_file=layer{at}.data")
            base = ["-b", below, "-F", kind] if below else []
            path = f"layer{at}.qcow2"
            option = ["-o", ",".join(words)] if words else []
            qemu_img(old, "create", "-q", "-f", "qcow2", *option, *base, path, "3M")
            qemu_io(old, "-f", "qcow2", "-c", f"write -P {at + 1} {at * 128}k 192k", path)
            below, kind = path, "qcow2"
        top = old / below
        before = {each: each.read_bytes() for each in old.iterdir()}
        kind = "qcow2" if is_recorded else seed.format_of(str(top), "demo")
        if ground or 0 <= split < len(drawn):
            with pytest.raises(ImageError) as refused:
                seed.judged(str(top), kind, "demo")
            assert "convert" in (refused.value.hint or "")
        else:
            copy = folder / "new/copy.qcow2"
            seed.copy(seed.judged(str(top), kind, "demo"), str(copy), "qcow2", "demo", QUIET, "qemu-img")
            qemu_img(old, "compare", "-q", "-f", "qcow2", "-F", "qcow2", str(top), str(copy))
            assert options_of(folder, str(copy)) == options_of(old, str(top))
            old = old.rename(folder / "gone")
            assert qemu_img(folder, "check", "-q", "-f", "qcow2", str(copy)) == ""
        assert {each.name: each.read_bytes() for each in old.iterdir()} == {
            each.name: data for each, data in before.items()
        }
