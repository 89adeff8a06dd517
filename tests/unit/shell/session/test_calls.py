"""Commands in hints and reports, as one types them in the shell."""

from __future__ import annotations

import pytest

from qvmsh.shell.session.spelling import as_typed_here


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("`qvm start` starts it", "`start` starts it"),
        ("`cd zz && qvm start` starts it", "`use zz && start` starts it"),
        ("`cd 'a b' && qvm start` starts it", "`use 'a b' && start` starts it"),
        ("`qvm kill`, `qvm reboot`", "`vm kill`, `vm reboot`"),
        ("`qvm start --loadvm 'a b'` goes on", "`start --loadvm 'a b'` goes on"),
        ("`qvm disk list` and `qvm disk` show them", "`disk list` and `disk` show them"),
        ("`qvm -C /a/b sh` opens one there", "`use /a/b` opens one there"),
        ("there is one above: `qvm -C /a/b ...`", "there is one above: `use /a/b`"),
        ("`qvm -M web kill` ends it", "`use web && vm kill` ends it"),
        ("`qvm VERB --help` explains", "`vm VERB --help` explains"),
    ],
)
def test_hint_names_what_is_typed_in_the_shell(text: str, typed: str) -> None:
    assert as_typed_here(text) == typed


@pytest.mark.parametrize(
    "text",
    [
        "`qvm -C /a start` starts it as joe",  # another account's: only a process can
        "`qvm sh -c 'status --json'`",
        "`qvm --set A=b`",
        "`qvm nosuch`",
        "qvm start",
        "`echo qvm start`",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert as_typed_here(text) == text
