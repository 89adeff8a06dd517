"""Names of members: which a package may hold."""

from __future__ import annotations

import pytest

from qvmsh.machine.shelf.names import Names, Refused, clean


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a", "a"), ("./a", "a"), ("a//b/./c", "a/b/c"), ("./", ""), (".", ""), ("disk.s2e.asdföklj",) * 2,
        ("a:b",) * 2, ("..a",) * 2, ("a b",) * 2,
    ],
)  # fmt: skip
def test_name_inside_is_cleaned(name: str, wanted: str) -> None:
    assert clean(name) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "//x", "..", "../x", "a/../../b", "a/..", "x" * 256, "ä" * 128, "a/" * 17 + "b",
        "a\nb", "a\x1b[2Jb", "a\u202eb", "a\udcffb", "a\0b",
    ],
)  # fmt: skip
def test_name_that_leads_outside_or_is_odd_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        clean(name)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "a"), ("a", "A"), ("straße", "STRASSE"), ("é", "e\u0301"), ("ﬁ", "fi"), ("a/b", "A/c"),
        ("a", "a/b"), ("a/b", "a"), ("A/b", "a"),
    ],
)  # fmt: skip
def test_names_that_may_mean_one_file_are_refused(first: str, second: str) -> None:
    known = Names()
    known.add(first)
    with pytest.raises(Refused):
        known.add(second)


def test_folder_may_be_named_twice() -> None:
    known = Names()
    known.add("a", is_folder=True)
    known.add("a/b")
    known.add("a", is_folder=True)
    known.add("a/c")
