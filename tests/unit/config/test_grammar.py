"""What the grammar of `.vmrc` refuses: where, in which words, all at once, in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvmsh.config.evaluation import evaluate
from qvmsh.config.grammar import Scanner, parse
from qvmsh.config.syntax import MAX_DEPTH, MAX_PROBLEMS, is_name


def problems(text: str) -> list[str]:
    return [str(problem) for problem in parse(text, ".vmrc").problems]


REFUSED = {
    "A=$(date)": "1:3: $(...) would run a command, which .vmrc does not support; write the value itself",
    "A=$((1+1))": "1:3: $((...)) is arithmetic, which .vmrc does not support; write the number itself",
    "A=$[1+1]": "1:3: $[...] is arithmetic, which .vmrc does not support; write the number itself",
    "A=`date`": "1:3: `...` would run a command; write the value itself, or '`' for the character",
    'A="x`date`"': "1:5: `...` would run a command; write the value itself, or '`' for the character",
    "A=$'x'": "1:3: $'...' is not part of .vmrc; write '...' with the characters themselves; a value may "
    "have several lines",
    'A=$"x"': '1:3: $"..." is not part of .vmrc; write "..." with the characters themselves; a value may '
    "have several lines",
    "A+=x": '1:2: A+= is not part of .vmrc; write A="$A..." instead',
    "A=(x y)": "1:1: A=(...) is an array, which .vmrc does not support; write A='...' instead, with one line "
    "per element",
    "A[0]=x": "1:1: A[...] is an array, which .vmrc does not support; write one variable for each value, or "
    "one quoted value with several lines",
    "A=b c": "1:5: a blank ends the value, and c would be run as a command; write A='b c' instead",
    "A=-m 5 # five": "1:6: a blank ends the value, and 5 would be run as a command; write A='-m 5' instead",
    "A= b": "1:4: a blank ends the value, and b would be run as a command; write A=b instead, without a "
    "blank after the =",
    "A = b": "1:1: a blank before the =; write A=b instead, without blanks around the =",
    "A=1 export B=2": "1:5: a blank ends the value, and export would be run as a command; write export on a "
    "line of its own",
    "A=a&b": "1:4: an unquoted &, which is an operator in a shell; quote the value if the & belongs to "
    "it: NAME='...&...'",
    "A=1 && B=2": "1:5: an unquoted &, which is an operator in a shell; quote the value if the & "
    "belongs to it: NAME='...&...'",
    "echo hi": "1:1: echo is a command; .vmrc is read, never run; write NAME=value, or put the command "
    "into a script for qvm",
    "source x": "1:1: source is a command; .vmrc is read, never run; write VM_INCLUDE=FILE instead",
    ". ./x": "1:1: . is a command; .vmrc is read, never run; write VM_INCLUDE=FILE instead",
    "unset A": "1:1: unset is a command; .vmrc is read, never run; write NAME= instead: an empty value means "
    "the default",
    "f() { :; }": "1:1: a function, which .vmrc does not support; put it into a script for qvm",
    "1A=x": "1:1: 1A is not a valid variable name; write A=... instead",
    "VM-A=x": "1:1: VM-A is not a valid variable name; write VM_A=... instead",
    '"A"=x': '1:1: "A"=x is a command; .vmrc is read, never run; write NAME=value, or put the command into a '
    "script for qvm",
    "export": "1:1: export needs an assignment; write export NAME=value instead",
    "export -n A": "1:8: export takes only assignments; write export NAME=value instead",
    'export "A=b"': '1:8: a quote before the name; write export NAME="..." instead',
    "export A = b": "1:10: a blank before the =; write export NAME=value instead",
    "A=1;;": "1:5: a second ;; write one assignment per line",
    "A=$1": "1:3: $1 has no value here: no script is running; write the value itself, or '$' for "
    "the character",
    'A="$$"': "1:4: $$ has no value here: no script is running; write the value itself, or '$' for "
    "the character",
    "A=${#B}": "1:3: ${#B} is not part of .vmrc; supported are $NAME, ${NAME}, ${NAME:-word} and the same "
    "with - := = :+ + :? ?",
    "A=${B%.img}": "1:3: ${B%.img} is not part of .vmrc; supported are $NAME, ${NAME}, ${NAME:-word} and the "
    "same with - := = :+ + :? ?",
    "A=${B:-<(date)}": "1:8: <(...) would run a command; write the value itself",
    "A=~+": "1:3: ~+ is a folder of a running shell; write the folder itself",
    "A=$RANDOM": "1:3: $RANDOM is reserved by the shell; write the value itself",
    "UID=5": "1:1: UID is reserved by the shell; choose another name",
    "A=x\\": "1:4: a \\ at the end; remove it, or write '\\' for the character",
    "A='x": "1:3: an unclosed '; write the second ' at the value's end",
    'A="x': '1:3: an unclosed "; write the second " at the value\'s end',
    "A=${B": "1:3: an unclosed ${; write the closing }",
    "A=x\r\nB=y\r\n": "1:4: the line ends with CR LF, as on Windows; remove the CR of every line: sed -i "
    "'s/\\r$//' FILE",
    "\ufeffA=x": "1:1: a byte order mark, which no shell reads; save the file as UTF-8 without it",
    "A=x\nB\0=y": "2:2: a NUL byte: this is not a text file; save it as plain text in UTF-8",
    'A="${B:-don\'t}"': "1:12: a ' in a quoted ${...}, where shells differ; set another variable first "
    "and use it here",
    'A="${B:-"x}"': '1:9: a " in a quoted ${...}, where shells differ; leave out the inner quotes, or '
    "set another variable first and use it here",
    "export A={80:80,90:90}": "1:10: an unquoted {...} after export, which bash may expand to several "
    "words; write export A='...' with quotes around the whole value",
    "A=b\nexport B=$A C=a'x'{1..3}": "2:19: an unquoted {...} after export, which bash may expand to "
    "several words; write export C='...' with quotes around the whole value",
    "A='x\x1b[2J'": "1:5: the value of A contains the control character '\\x1b'; remove it",
    "A=1 B=x\x7f C=3": "1:8: the value of B contains the control character '\\x7f'; remove it",
    'A="${B:-\x9b}"': "1:9: the value of A contains the control character '\\x9b'; remove it",
}


@pytest.mark.parametrize(
    "text",
    [
        "A={a,b}",
        "export A='{a,b}'",
        'export A="{1..3}"',
        "export A=\\{a,b}",
        "export A=}{",
        "# \x1b[2J\nA=1",
        "A='a\tb\nc'",
        "export A=${B}${C}",
    ],
)
def test_parse_what_means_the_same_to_every_shell_is_accepted(text: str) -> None:
    assert problems(text) == []


@pytest.mark.parametrize("text", REFUSED)
def test_parse_text_outside_the_subset_reports_place_and_hint(text: str) -> None:
    assert problems(text) == [f".vmrc:{REFUSED[text]}"]
    assert problems("# a comment\n" + text) == [
        f".vmrc:{int(REFUSED[text].partition(':')[0]) + 1}:{REFUSED[text].partition(':')[2]}"
    ] or text.startswith("\ufeff")


def test_parse_file_with_many_faults_gathers_all_of_them() -> None:
    text = "A=$(x)\nB=fine\nC=`y` # z\nD=a b\n\nif true; then\n  E=1\nelse\n  F=$$\nfi\nG=${H^^} I=(1)\n"
    places = [(p.line, p.column) for p in parse(text, "f").problems]
    assert places == [(1, 3), (3, 3), (4, 5), (6, 1), (9, 5), (11, 3), (11, 10)]


def test_parse_here_document_is_one_problem() -> None:
    assert len(problems("cat <<EOF\nfirst line\nsecond\nEOF\nA=1\n")) == 1


def test_parse_unclosed_quote_continues_after_its_line() -> None:
    found = problems('A="x\nB=$(y)\n')
    assert found[0].startswith('.vmrc:1:3: an unclosed "')
    assert found[1].startswith(".vmrc:2:3: $(...)")


def test_parse_quote_closed_by_a_later_one_names_its_beginning() -> None:
    found = problems('A=1\nB="x\nC="y"\n')
    assert found == [
        '.vmrc:3:5: an unclosed "; see also line 2, where this statement begins; '
        "write the second \" at the value's end"
    ]


def test_parse_assignment_knows_where_its_value_stands() -> None:
    text = "A=1 # x\n  export B='b c' C=${A:-d}x; D=\n"
    rows = parse(text, "f").assignments
    assert [(r.name, text[r.start : r.end], r.line, r.column, r.is_export) for r in rows] == [
        ("A", "1", 1, 1, False),
        ("B", "'b c'", 2, 10, True),
        ("C", "${A:-d}x", 2, 18, True),
        ("D", "", 2, 30, False),
    ]


def test_parse_endless_faults_are_limited() -> None:
    problems = parse("$(x)\n" * 5000, "f").problems
    assert len(problems) == MAX_PROBLEMS + 1
    assert "more problems are not listed" in problems[-1].message


@pytest.mark.parametrize("nested", ['"${A:-', "${A:-", "${A%", "${A:-${A:=", '${A:-"', "$(", "$((", "("])
def test_parse_deep_nesting_is_a_problem_not_a_crash(nested: str) -> None:
    assert parse("A=" + nested * 100_000, "f").problems


def test_parse_nesting_up_to_the_limit_is_read() -> None:
    text = "A=" + "${B:-" * MAX_DEPTH + "x" + "}" * MAX_DEPTH + "\n"
    document = parse(text, "f")
    values: dict[str, str] = {}
    assert not document.problems + evaluate(document, values)
    assert values == {"A": "x"}


LONG = {
    "plain lines": "VM_A=value\n",
    "one long line": "A=1 ",
    "unclosed quotes": "A='\nB=\"\n",
    "unclosed substitutions": "A=$(\n",
    "unclosed braces": "A=${B:-\n",
    "here-documents": "fi <<X\n",
    "follow-ups": "if x\nfi <<X '\n",
    "backticks": "A=`\n",
    "quotes in words": "A=\"${B:-'\n",
    "muted braces": "${A%${B%}",
    "muted quotes": "A=\"${B%'" + "x" * 300,
    "tildes": "A=~:~:~a'",
    "continuations": "\\\n",
    "carriage returns": "A=x\r\n",
    "dollars": "$A${B}",
    "semicolons": "A=1;",
    "blank ends": "A=b c\n",
}


LONG_TAILS = {
    "one tilde": ("A=~", "a"),
    "one tilde after a colon": ("export A=x:~", "a\\\n"),
    "one name": ("", "A"),
    "one name over many lines": ("export A", "A\\\n"),
    "one reference": ("A=$", "A"),
    "one value": ("A=", "a"),
    "one quote": ("A='", "a"),
    "many escapes": ("A=", "\\a"),
    "many braces behind export": ("export A=", "{"),
    "many words behind export": ("export", " A=~x{"),
    "many users": ("A=", ":~root"),
    "control characters": ("A=", "\x01"),
    "one comment": ("#", "'"),
}


@pytest.mark.parametrize("kind", [*LONG, *LONG_TAILS])
def test_parse_long_text_takes_linear_time(kind: str) -> None:
    def seconds(size: int) -> float:
        head, piece = LONG_TAILS.get(kind) or ("", LONG[kind])
        text = head + piece * (size // len(piece))
        begin = time.process_time()
        document = parse(text, "f")
        evaluate(document, {})
        return time.process_time() - begin

    # 8 times the text; quadratic would be 64 times, whenever it is measured; a host may change its speed
    pairs = ((max(seconds(1 << 15), 0.001), seconds(1 << 18)) for _ in range(20))
    assert any(large < 20 * small + 0.2 for small, large in pairs)


LINES = st.lists(st.text("AB_1=:;#é{} ~$'\"\\\r\n", max_size=12)).map("\n".join)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(text=LINES)
def test_parse_simple_lines_is_as_of_all_others(text: str) -> None:
    def found() -> tuple[list[object], list[str]]:
        document = parse(text, "f")
        values: dict[str, str] = {}
        problems = [*document.problems, *evaluate(document, values)]
        rows = [(row.name, row.line, row.column, row.start, row.end) for row in document.assignments]
        return [rows, values], [str(each) for each in problems]

    quick = found()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scanner, "_simple", lambda _: False)
        assert found() == quick


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(text=st.text(max_size=80))
def test_parse_any_text_never_raises(text: str) -> None:
    document = parse(text, "f")
    evaluate(document, {})
    for problem in document.problems:
        assert str(problem).isprintable()  # nothing in a file can drive the terminal
        assert problem.line >= 1
        assert problem.column >= 1
    for row in document.assignments:
        assert is_name(row.name)
        assert 0 <= row.start <= row.end <= len(text)


@pytest.mark.parametrize(
    ("name", "fits"), [("A", True), ("_a1", True), ("1a", False), ("", False), ("é", False)]
)
def test_is_name_as_posix_has_it(name: str, fits: bool) -> None:
    assert is_name(name) is fits
