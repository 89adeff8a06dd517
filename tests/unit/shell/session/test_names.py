"""What names stand for in Python, and what makes a line plain enough to need no xonsh."""

from __future__ import annotations

import ast
import inspect
import os

import pytest

from qvmsh import api, errors
from qvmsh.commands import describe
from qvmsh.commands.index import ALIASES, COMMANDS
from qvmsh.io import QUIET
from qvmsh.machine import machine
from qvmsh.shell.run import plain_words
from qvmsh.shell.script import report
from qvmsh.shell.session import spelling
from qvmsh.shell.session.context import Context
from qvmsh.shell.session.names import Command, Lazy, Nowhere
from qvmsh.shell.xonsh.chunks import chunks


@pytest.fixture
def context() -> Context:
    return Context(None, QUIET, {"PATH": os.environ["PATH"]})


def test_machine_has_every_command_of_the_index_as_method() -> None:
    for verb, (_, function) in describe.functions().items():
        if COMMANDS[verb][5] != "none":
            method = inspect.getattr_static(api.Machine, function.__name__)
            assert inspect.unwrap(method) is function, verb


def test_machine_methods_hide_nothing_of_the_machine() -> None:
    own = {row[1] for row in COMMANDS.values()}
    assert not own & set(vars(machine.BaseMachine))
    assert not own & {"settings", "name", "files", "io", "directory", "environ", "overrides"}


def test_group_has_the_other_spellings_of_its_words(context: Context) -> None:
    group = context.commands()["snapshot"]
    for alias, verb in ALIASES.items():
        word, _, name = alias.partition(" ")
        if word == "snapshot":
            assert getattr(group, name.replace("-", "_")).verb == verb
    with pytest.raises(AttributeError, match="no command 'nosuch'"):
        group.nosuch  # noqa: B018


def test_names_are_all_commands_but_those_that_python_has(context: Context) -> None:
    names = context.names()
    for verb in COMMANDS:
        word, mark, _ = verb.partition(" ")
        assert (word if mark else COMMANDS[verb][1]) in names, verb  # `list_disk`, `import_package`
    assert "list" not in names  # Python's own; it is typed `vm list`
    assert isinstance(names["sh"], Lazy)  # the library, not the verb
    assert isinstance(names["env"], Command)


def test_command_describes_itself_as_the_function_it_calls(context: Context) -> None:
    start = context.commands()["start"]
    assert start.__doc__ == start.function.__doc__
    assert str(inspect.signature(start)).startswith("(*, nat: bool = False")
    assert "vm" not in inspect.signature(start).parameters
    assert inspect.isroutine(start)


def test_command_without_machine_fails_clearly(context: Context) -> None:
    for use in (
        context.commands()["status"],
        lambda: context.names()["vm"].start,
        lambda: context.names()["settings"].VM_MACHINE_NAME,
        lambda: context.names()["guest"]["uname"],
    ):
        with pytest.raises(errors.ConfigError, match=r"no \.vmrc"):
            use()
    assert not context.names()["vm"]
    assert isinstance(context.names()["vm"], Nowhere)


def test_command_called_wrongly_counts_the_callers_arguments(context: Context) -> None:
    with pytest.raises(TypeError, match=r"^img_build\(\): missing a required argument: 'name'$"):
        context.commands()["img"].build()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("status -s", ["status", "-s"]),
        ("  cmd info block ", ["cmd", "info", "block"]),
        ("vm kill", ["kill"]),
        ("vm ssh uname -a", ["ssh", "uname", "-a"]),
        ("img build tiny", ["img", "build", "tiny"]),
        ("stop --timeout 5", ["stop", "--timeout", "5"]),
    ],
)
def test_plain_words_one_command_needs_no_xonsh(code: str, words: list[str]) -> None:
    assert plain_words(code) == words


@pytest.mark.parametrize(
    "code",
    [
        "status -s | cat", "status; stop", "stop && start", "status -s > f", "status()", "x = 1", "a = 3",
        "kill 1", "ssh host", "env", "init", "sh", "reboot", "shutdown", "ls", "vm", "", "status\nstop",
        "ssh 'a b'", "cmd $X", "cmd a*", "status ~/vm", "status if a else b", "vm ./status", "vm.start",
        "cmd x@(y)", "start --name=a\\ b", "cmd `x`", "status {}", "status # no",
    ],
)  # fmt: skip
def test_plain_words_anything_else_is_left_to_xonsh(code: str) -> None:
    assert plain_words(code) == []


def test_host_words_and_refusals_name_verbs_that_exist() -> None:
    assert {"kill", "init", "ssh", "env", "top", "sh"} <= spelling.HOST_WORDS
    assert {"reboot", "poweroff", "shutdown", "halt"} == set(spelling.REFUSED)
    assert all(verb in COMMANDS or verb in ALIASES for verb in spelling.REFUSED.values())


SCRIPT = '''\
#!/usr/bin/env qvm
import os
x = """
not a statement
"""
echo one \\
  two
if x:
    echo a
# a comment at the margin
else:
    echo b

@decorated
def f():
    pass
try:
    1
finally:
    3
status -s | cat; stop  # both
y = (1,
2)
'''


def test_chunks_are_whole_statements_and_all_of_the_source() -> None:
    found = list(chunks(SCRIPT))
    assert "".join(text for _, text in found) == SCRIPT
    assert [text.split()[0] for _, text in found] == [
        "#!/usr/bin/env", "import", "x", "echo", "if", "@decorated", "try:", "status", "y",
    ]  # fmt: skip
    lines = SCRIPT.splitlines(keepends=True)
    assert all(text.startswith(lines[begin]) for begin, text in found)


def test_chunks_of_a_long_script_are_one_a_line() -> None:
    source = "".join(f"start --loadvm s{n} -x\n" for n in range(500))
    assert len(list(chunks(source))) == 500


def test_report_finds_the_bug_only_behind_the_doors() -> None:
    namespace: dict[str, object] = {"unquote": ast.literal_eval, "machine": machine.BaseMachine("/nowhere")}
    exec(compile("def f(): machine.with_io()", "script", "exec"), namespace)
    exec(compile("def g(): 1 / 0", "script", "exec"), namespace)
    with pytest.raises(TypeError) as wrong_call:
        namespace["f"]()  # type: ignore[operator]
    assert not report.is_bug(wrong_call.value, "script")
    with pytest.raises(ZeroDivisionError) as own:
        namespace["g"]()  # type: ignore[operator]
    assert not report.is_bug(own.value, "script")
    with pytest.raises(TypeError) as inside:
        machine.BaseMachine("/usr", overrides=7)  # type: ignore[arg-type]
    assert report.is_bug(inside.value, "script")
