"""The values of a document: what bash cannot show (its values are in test_bash_oracle)."""

from __future__ import annotations

import os
import pwd

from qvmsh.config.evaluation import MAX_VALUE_BYTES, Budget, evaluate
from qvmsh.config.grammar import parse


def values(text: str, **environ: str) -> dict[str, str]:
    document = parse(text, "f")
    assert not document.problems
    assert evaluate(document, environ) == []
    return environ


def test_evaluate_later_line_sees_earlier_ones() -> None:
    assert values("A=1\nB=$A$A\nA=2\nC=$A$B\n") == {"A": "2", "B": "11", "C": "211"}


def test_evaluate_export_expands_all_words_before_it_assigns() -> None:
    assert values("export A=1 B=$A\n", A="0")["B"] == "0"
    assert values("A=1 B=$A\n", A="0")["B"] == "1"


def test_evaluate_branch_not_taken_assigns_nothing() -> None:
    assert values("A=1\nB=${A:-${C:=x}}\n") == {"A": "1", "B": "1"}


def test_evaluate_missing_required_value_is_a_problem_with_words() -> None:
    document = parse("A=1\nB=x${C:?set it in $A}\n", "f")
    problems = evaluate(document, {})
    assert [str(p) for p in problems] == ["f:2:4: C: set it in 1; set C before this line"]


def test_evaluate_default_is_seen_by_a_plain_name_only() -> None:
    document = parse("A=$X\nB=${X}\nC=${X:-mine}\nD=${X+set}\n", "f")
    found: dict[str, str] = {}
    evaluate(document, found, default=lambda name: "built in" if name == "X" else "")
    assert found == {"A": "built in", "B": "built in", "C": "mine", "D": ""}


def test_evaluate_assigned_is_called_for_each_with_its_place() -> None:
    document = parse("A=1\nB=${C:=2}$C\n", "f")
    seen: list[tuple[str, str, int, int]] = []
    evaluate(document, {}, assigned=lambda *row: seen.append(row))
    assert seen == [("A", "1", 1, 1), ("C", "2", 2, 3), ("B", "22", 2, 1)]


def test_evaluate_doubling_values_come_to_an_end() -> None:
    text = "A=xxxxxxxx\n" + "A=$A$A\n" * 60
    problems = evaluate(parse(text, "f"), {})
    assert "longer than the limit of" in problems[0].message
    text = "A=" + "x" * 100_000 + "\n" + "B=$A\n" * 1000
    (problem,) = evaluate(parse(text, "f"), {})
    assert problem.message == "the values are too large in total"


def test_evaluate_budget_is_shared_among_files() -> None:
    budget = Budget(10)
    assert not evaluate(parse("A=12345678\n", "f"), {}, budget=budget)
    assert evaluate(parse("A=12345678\n", "f"), {}, budget=budget)


def test_evaluate_longest_value_is_one_that_a_process_can_get() -> None:
    longest = MAX_VALUE_BYTES - len("A=")
    assert len(values(f"A={'x' * longest}\n")["A"]) == longest
    os.posix_spawn("/bin/true", ["true"], {"A": "x" * longest})
    os.wait()
    (problem,) = evaluate(parse(f"A={'x' * (longest + 1)}\n", "f"), {})
    assert f"longer than the limit of {longest} bytes" in problem.message


def test_evaluate_home_missing_comes_from_the_accounts() -> None:
    account = pwd.getpwuid(os.getuid())
    assert values("A=~/x\n") == {"A": account.pw_dir + "/x"}
    assert values("A=~\n", HOME="")["A"] == ""
    assert values(f"A=~{account.pw_name}:~nobody-here\n")["A"] == f"{account.pw_dir}:~nobody-here"


def test_evaluate_names_of_the_shell_that_are_of_use() -> None:
    found = values("A=/run/user/$UID\nB=$HOSTNAME\nC=${EUID:-x}\n")
    assert found == {"A": f"/run/user/{os.getuid()}", "B": os.uname().nodename, "C": str(os.geteuid())}


def test_evaluate_bytes_that_are_not_utf8_stay() -> None:
    text = b"A=x\xff\xfe'\x80'\n".decode("utf-8", "surrogateescape")
    assert os.fsencode(values(text)["A"]) == b"x\xff\xfe\x80"
