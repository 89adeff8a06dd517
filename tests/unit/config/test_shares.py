"""Lines of VM_SHARE."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qvmsh.config.shares import KINDS, MOUNT, READ_ONLY, ShareLine, parse, parse_all
from qvmsh.config.variables import VARIABLES


def row(line: str) -> tuple[str, str, str, str, bool]:
    found = parse(line)
    return found.path, found.tag, found.kind, found.mount, found.is_read_only


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("src:code", ("src", "code", "", "", False)),
        (" /a b,c=d:x ", ("/a b,c=d", "x", "", "", False)),
        ("/a:b:x:ro", ("/a:b", "x", "", "", True)),
        ("/s:x:9p:ro", ("/s", "x", "9p", "", True)),
        ("/s:x:ro:virtiofs:mount=/mnt/a b", ("/s", "x", "virtiofs", "/mnt/a b", True)),
        ("/s:x:mount=/m:ro", ("/s", "x", "", "/m", True)),
        ("~/s:/import/x", ("~/s", "/import/x", "", "", False)),
        ("/s:ro:ro", ("/s:ro", "ro", "", "", True)),
    ],
)
def test_line_is_read_from_its_end(line: str, expected: tuple[str, str, str, str, bool]) -> None:
    if line == "/s:ro:ro":
        with pytest.raises(ValueError, match="ro twice"):
            parse(line)
        return
    assert row(line) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/src", "it needs a directory and a tag"),
        (":x", "it needs a directory and a tag"),
        ("/src:", "the tag is missing"),
        ("/src:ro", "it needs a directory and a tag"),
        ("/src:a b", "the tag 'a b' must not"),
        ("/src:-o", "the tag '-o' must not"),
        ("/src:a,b", "the tag 'a,b' must not"),
        ("/src:x:9p:virtiofs", "both 9p and virtiofs"),
        ("/src:x:mount=mnt", "mount=mnt is not an absolute path"),
        ("/src:x:mount=/", "mount=/ is not an absolute path"),
        ("/src:x:mount=/a:b", "mount=PATH cannot hold a colon"),
        (f"/src:{'x' * 32}", "longer than the 31 bytes of 9p"),
        (f"/src:{'é' * 16}:9p", "longer than the 31 bytes of 9p"),
        (f"/src:{'x' * 37}:virtiofs", "longer than the 36 bytes of virtiofs"),
        ("/a:x\n/b:x:ro", "another line has the tag x already"),
        ("/a:x:mount=/m\n/b:y:mount=/m/", "another line is mounted at /m/ already"),
    ],
)
def test_invalid_line_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("(", r"\(")):
        parse_all(text)
    wrong = VARIABLES["VM_SHARE"].check(text)
    assert wrong is not None
    assert why in wrong[0]


def test_longest_tags_are_taken() -> None:
    assert parse(f"/s:{'x' * 31}").tag == "x" * 31
    assert parse(f"/s:{'x' * 36}:virtiofs").tag == "x" * 36


TAGS = st.text(st.characters(codec="utf-8", exclude_characters=":, \\", categories=["L", "N", "P", "S"]),
               min_size=1, max_size=7).filter(lambda tag: tag[0] != "-" and tag not in (*KINDS, READ_ONLY)
                                              and not tag.startswith("mount"))  # fmt: skip


@given(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(
        lambda path: f":{MOUNT}" not in path
    ),
    TAGS,
    st.sampled_from(["", *KINDS]),
    st.sampled_from(["", "/mnt", "/mnt/a b"]),
    st.booleans(),
)
@example("a:b", "/x", "9p", "/m", True)
def test_line_round_trip(path: str, tag: str, kind: str, mount: str, is_read_only: bool) -> None:
    line = ShareLine(path, tag, kind=kind, mount=mount, is_read_only=is_read_only)
    assert row(str(line)) == (path, tag, kind, mount, is_read_only)


@given(TAGS, TAGS)
def test_id_is_one_of_qemu_and_of_its_tag_alone(one: str, other: str) -> None:
    ids = [ShareLine("/s", tag).id for tag in (one, other)]
    assert all(
        each.isascii() and each.replace("-", "").replace(".", "").replace("_", "").isalnum() for each in ids
    )
    assert (ids[0] == ids[1]) == (one == other)
