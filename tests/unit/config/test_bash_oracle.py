"""The grammar of `.vmrc` held against a real bash: same values for all that qvm accepts.

One bash stays open and sources each generated file in a subshell of its own; qvm reads the same
file. Nothing is executed by qvm: a canary that many files would touch is never there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qvmsh.config.evaluation import evaluate
from qvmsh.config.grammar import parse
from qvmsh.config.syntax import Problem
from tests.support.world import DEADLINE_S

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="bash is not installed")

NAMES = ("A", "B", "C", "VM_X", "_y1", "HOME", "SET", "EMPTY")
ENVIRON = {"HOME": "/home/some one", "SET": "s e*t", "EMPTY": "", "PATH": "/nowhere", "LC_ALL": "C.UTF-8"}
MANY = int(os.environ.get("QVM_TEST_EXAMPLES", "300"))
oracle_settings = settings(max_examples=MANY, deadline=None, derandomize=True, database=None)

LOOP = """
while IFS= read -r file; do
  (
    . "$file" 2>>"$1" </dev/null
    for name in NAMES; do
      printf '%s\\0%s\\0' "${!name+set}" "${!name}"
    done
  ) || printf 'failed\\0'
  printf 'end\\0'
done
"""


class Bash:
    """A bash that reads files and prints the values of the names afterwards."""

    def __init__(self, folder: Path) -> None:
        assert BASH
        self.file = folder / "vmrc"
        self.errors = folder / "errors"
        self.canary = folder / "canary"
        script = folder / "loop"
        script.write_text(LOOP.replace("NAMES", " ".join(NAMES)))
        self.child = subprocess.Popen(
            [BASH, "--norc", "--noprofile", str(script), str(self.errors)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRON,
            cwd=folder,
        )

    def values(self, text: str) -> dict[str, str] | None:
        """The values of all names after sourcing `text`; None if bash found something wrong."""
        assert self.child.stdin
        assert self.child.stdout
        self.file.write_bytes(text.encode("utf-8", "surrogateescape"))
        self.errors.write_bytes(b"")
        self.child.stdin.write(f"{self.file}\n".encode())
        self.child.stdin.flush()
        fields = []
        while (field := self._field()) != "end":
            fields.append(field)
        if self.errors.read_bytes() or "failed" in fields[-1:]:
            return None
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return {name: value for name, (mark, value) in zip(NAMES, pairs, strict=True) if mark == "set"}

    def _field(self) -> str:
        assert self.child.stdout
        data = bytearray()
        while (char := self.child.stdout.read(1)) != b"\0":
            assert char, "bash has ended"
            data += char
        return data.decode("utf-8", "surrogateescape")

    def close(self) -> None:
        self.child.communicate(timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bash]:
    found = Bash(tmp_path_factory.mktemp("oracle"))
    yield found
    found.close()


def ours(text: str) -> tuple[dict[str, str], list[Problem]]:
    """What qvm makes of `text`: the values of the names, and the problems."""
    document = parse(text, "vmrc")
    values = dict(ENVIRON)
    problems = [*document.problems, *evaluate(document, values)]
    return {name: values[name] for name in NAMES if name in values}, problems


# what the grammar accepts, piece by piece

names = st.sampled_from(NAMES)
plain = st.text(st.sampled_from("abzAZ09_-+=,./%@^!?*[]{}#é~::\udc80\udcff"), min_size=1, max_size=5)
double_plain = st.text(st.sampled_from("ab ~:'\t\n;|&<>()#=/{}*é\udc80\udcc3"), max_size=5)
escaped = st.sampled_from([*"ab $`\"'\\~:;#&|<>(){}=!\té", "\n"]).map(lambda c: "\\" + c)
double_escaped = st.sampled_from(["\\$", "\\`", '\\"', "\\\\", "\\\n", "\\a", "\\'", "\\ ", "\\~", "\\}"])
single = st.text(st.sampled_from('ab $`"\\~:;#\n\t(){}é'), max_size=5).map(lambda s: f"'{s}'")
operators = st.sampled_from([":-", "-", ":=", "=", ":+", "+", ":?", "?"])
tildes = st.sampled_from(["~", "~root", "~nosuchuser", "~/x", "~root/x", ":~", ":~root:", "a~", "~~", "~}"])
lone_dollar = st.sampled_from(["$", "$/", "$%", "$=", "$.", "$,"])
references = st.one_of(
    names.map(lambda n: f"${n}/"),
    names.map(lambda n: f"${{{n}}}"),
    names.map(lambda n: f"${n[0]}\\\n{n[1:]}."),
    names.map(lambda n: f"$\\\n{{{n}\\\n}}"),
)


def braces(word: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(names, operators, word).map(lambda t: f"${{{t[0]}{t[1]}{t[2]}}}")


def joined(*kinds: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(*kinds), max_size=4).map("".join)


word_plain = st.text(st.sampled_from("ab ~:;|&()#=/{*?\t\né"), max_size=5)
double_word_plain = st.text(st.sampled_from("ab ~:;|&()#=/{*?\t\né"), max_size=5)
double_word: st.SearchStrategy[str] = st.deferred(
    lambda: joined(
        double_word_plain,
        references,
        double_escaped,
        braces(double_word),
    )
)
double = st.deferred(
    lambda: joined(double_plain, references, double_escaped, lone_dollar, braces(double_word)).map(
        lambda s: f'"{s}"'
    )
)
word: st.SearchStrategy[str] = st.deferred(
    lambda: joined(word_plain, references, escaped, single, double, tildes, braces(word), lone_dollar)
)
value = joined(plain, references, escaped, single, double, tildes, braces(word))
assignment = st.tuples(names, value).map("=".join)
comment = st.sampled_from(["", "", " # comment 'x", "\t#\\", "  ", ";", " ; ", " \\\n "])
statement = st.one_of(
    st.tuples(st.just("export "), st.lists(st.one_of(assignment, names), min_size=1, max_size=3)),
    st.tuples(st.just(""), st.lists(assignment, min_size=1, max_size=2)),
).map(lambda t: t[0] + " ".join(t[1]))
line = st.one_of(
    st.tuples(st.sampled_from(["", " ", "\t"]), statement, comment).map("".join),
    st.sampled_from(["", "# '", "   # \\", " "]),
)
document = st.lists(line, max_size=5).map(lambda lines: "".join(each + "\n" for each in lines))


def test_evaluate_document_in_the_subset_gives_bash_values(bash: Bash) -> None:
    accepted = 0

    @oracle_settings
    @given(text=document)
    def compare(text: str) -> None:
        nonlocal accepted
        found, problems = ours(text)
        theirs = bash.values(text)
        if theirs is None:
            assert problems, text
        elif not problems:
            accepted += 1
            assert found == theirs, text

    compare()
    assert accepted > 0.75 * MANY


# anything at all

tokens = st.sampled_from(
    [
        *(
            "A=",
            "B=",
            "export ",
            "C+=",
            "$A",
            "${B",
            "${A:-",
            "${C:=",
            "${B+",
            "}",
            "}",
            '"',
            "'",
            "\\",
            "\n",
        ),
        *(" ", ";", "#", "~", ":", "~root", "a", "b", "x y", "$(touch canary)", "`touch canary`", "$((1+1))"),
        *("(", ")", "touch canary", "&", "|", "<", ">", "<(touch canary)", "$'a'", '$"a"', "${#A}", "${A%b}"),
        *(
            "${A/a/b}",
            "${!A}",
            "$1",
            "$@",
            "$$",
            "=",
            "[0]=",
            "if true; then",
            "fi",
            "\r",
            "\t",
            "*",
            "{a,b}",
        ),
        *("\x80", "é", "\ufeff", "${", "$", "``", "''", '""', "\\\n", "<<EOF\n", "EOF\n", "f() {", "$[1]"),
    ]
)
benign = st.sampled_from(
    [
        *("$A", "${B}", "${A:-", "${C:=", '"${B+', "}", "}", '}"', '"', "'", "\\", " ", "~", ":", "a", "b "),
        *("\nB=", "\nexport C=", " A=", ";", "#", "\\\n", "/", "'x'", "\\$", "$", "=", "\n"),
    ]
)
expanding = st.sampled_from(
    ["{", "}", "{", "}", ",", "..", "1", "a", "$A", "${B}", "'", '"', "\\", "~", ":", " "]
)
quoted = st.sampled_from(['"', "'", '"', "'", "$A", "${B}", "\\", "}", "a", " ", ",", "]", "\\'", "''", '""'])
controls = st.sampled_from(["\x01", "\x7f", "\x1b", "\x80", "\r", "'", '"', "\\", "$A", "a", " "])
soup = st.one_of(
    st.lists(expanding, max_size=10).map(lambda some: "export A=" + "".join(some)),
    st.tuples(operators, st.lists(quoted, max_size=8)).map(lambda t: f'A="${{C{t[0]}{"".join(t[1])}}}"'),
    st.tuples(operators, st.lists(quoted, max_size=8)).map(lambda t: f"A=${{C{t[0]}{''.join(t[1])}}}"),
    st.lists(controls, max_size=6).map(lambda some: "A=" + "".join(some)),
    st.lists(tokens, max_size=14).map("".join),
    st.lists(benign, max_size=10).map(lambda some: "A=" + "".join(some)),
)


def test_evaluate_hostile_document_runs_nothing_and_equals_bash(bash: Bash) -> None:
    accepted = 0

    @oracle_settings
    @given(text=soup)
    @example(text="A=$(touch canary)\n")
    @example(text="A=${B:-`touch canary`}\n")
    @example(text='A="${B:-<(touch canary)}"\n')
    @example(text="export A={8080:80,9090:90}\n")
    @example(text="export A=a{1..3}b\n")
    @example(text="A=b export C=~{a,b}\n")
    @example(text="""A="${VM_X:=\\'"''",]9}'"'"'}"\n""")
    @example(text='A="${C:-"$SET"Z}"\n')
    @example(text="A=\x01\x7f\n")
    def compare(text: str) -> None:
        nonlocal accepted
        found, problems = ours(text)
        assert not bash.canary.exists()
        if not problems:  # so bash runs nothing either
            accepted += 1
            assert bash.values(text) == found, text
            assert not bash.canary.exists()

    compare()
    assert accepted > 0.1 * MANY


numbers = st.integers(-3, 9).map(str)
sequences = st.lists(numbers, min_size=2, max_size=3).map(lambda some: "{" + "..".join(some) + "}")
braced = st.recursive(
    st.one_of(st.sampled_from(["", "a", "b2", "-", "{a}", "{a..x}", "{3..a}"]), sequences),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda some: "{" + ",".join(some) + "}"),
        st.lists(inner, max_size=3).map("".join),
    ),
    max_leaves=8,
)


def test_value_of_refused_braces_is_shown_as_bash_has_it(bash: Bash) -> None:
    """`qvm config NAME` prints it beside the problem, so that the two do not differ there either."""
    refused = 0

    @oracle_settings
    @given(braced)
    @example("{1..7..3}")
    @example("{7..1}")
    @example("{8080:80,9090:90}")
    def compare(word: str) -> None:
        nonlocal refused
        text = f"export A=x{word}\n"
        found, problems = ours(text)
        refused += bool(problems)
        assert bash.values(text) == found, text

    compare()
    assert refused > 0.1 * MANY
