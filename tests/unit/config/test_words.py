"""Splitting and quoting words, held against `shlex`."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qvmsh.config.evaluation import evaluate
from qvmsh.config.grammar import parse
from qvmsh.config.words import CONTROLS, quote, split, typed

some = settings(max_examples=500, deadline=None, derandomize=True, database=None)
texts = st.text(st.sampled_from("ab \t\n\r'\"\\#$`~,=é\x0b"), max_size=12)


@some
@given(text=texts)
@example(text="'' \"\" a''b")
@example(text='"a\\$b" "a\\"b"')
def test_split_any_text_as_shlex_does(text: str) -> None:
    try:
        theirs = shlex.split(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"unclosed|at the end"):
            split(text)
    else:
        assert split(text) == theirs


@some
@given(value=texts.filter(CONTROLS.isdisjoint))
@example(value="")
@example(value='it\'s "so"')
def test_quote_any_value_reads_back(value: str) -> None:
    assert shlex.split(quote(value)) == [value]
    found: dict[str, str] = {}
    document = parse(f"A={quote(value)}\n", "f")
    assert not document.problems
    evaluate(document, found)
    assert found == {"A": value}


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("plain-1.2/x", "plain-1.2/x"),
        ("", "''"),
        ("a b", "'a b'"),
        ("~/x", "'~/x'"),
        ("it's", '"it\'s"'),
        ("it's $5", "'it'\\''s $5'"),
        ("$a'$b$c", "'$a'\\''$b$c'"),
        ("don't!", "'don'\\''t!'"),
        ('say "x"', "'say \"x\"'"),
    ],
)
def test_quote_takes_the_shortest_readable_form(value: str, quoted: str) -> None:
    assert quote(value) == quoted


def test_typed_of_what_cannot_be_printed_is_one_line_for_bash() -> None:
    for value in ("a\nb", "it's\\\x1b[0m", "\u200bx\udcff9", "plain b"):
        word = typed(value)
        assert word.isprintable()
        assert subprocess.check_output([b"bash", "-c", f"printf %s {word}"]) == os.fsencode(value)


def test_quote_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quote("a\0b")
