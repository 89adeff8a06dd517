"""Which names of a script do not exist, for certain; and what is believed."""

from __future__ import annotations

import pytest

from qvmsh.errors import QvmError
from qvmsh.shell.script import check
from qvmsh.shell.xonsh.chunks import chunks

KNOWN = {"vm", "start", "status", "settings", "stop", "disk", "config", "sh"}


def python(source: str) -> str:
    """The error for a Python script; "" if there is none."""
    code = compile(source, "s.py", "exec", dont_inherit=True)
    try:
        check.require_calls(source.encode(), "s.py", KNOWN)
        check.require_names(source.encode(), code, "s.py", KNOWN)
    except QvmError as error:
        return "\n".join(error.lines())
    return ""


def lines(source: str) -> str:
    """The error for xonsh code."""
    try:
        check.require_names_in_lines(chunks(source), "s.xsh", KNOWN, ("source", "xontrib"))
    except QvmError as error:
        return "\n".join(error.lines())
    return ""


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("nosuch", "s.py:1: unknown name 'nosuch'"),
        ("x = 1\n\nprint(x, strat())", "s.py:3: unknown name 'strat'"),
        ("def f():\n    return nosuch\n", "s.py:2: unknown name 'nosuch'"),
        ("class C:\n    x = nosuch\n", "s.py:2: unknown name 'nosuch'"),
        ("class C(int):\n    def f(self): return nosuch\n", "s.py:2: unknown name 'nosuch'"),
        ("f = lambda: [nosuch for i in range(3)]", "s.py:1: unknown name 'nosuch'"),
        ("async def f():\n    await nosuch()", "s.py:2: unknown name 'nosuch'"),
        ("def f(x: Nosuch): pass", "s.py:1: unknown name 'Nosuch'"),
        ("if settings.X:\n    nosuch()", "s.py:2: unknown name 'nosuch'"),
        ("try:\n    nosuch()\nexcept OSError:\n    pass", "s.py:2: unknown name 'nosuch'"),
        ("try:\n    pass\nexcept NameError:\n    nosuch()", "s.py:4: unknown name 'nosuch'"),
        ("def f():\n    x = 1\ndef g():\n    return x", "s.py:4: unknown name 'x'"),
        ("nosuch += 1\nmore", "s.py:2: unknown name 'more'"),
        ("@nosuch\ndef f(): pass", "s.py:1: unknown name 'nosuch'"),
        ("print(f'{nosuch}')", "s.py:1: unknown name 'nosuch'"),
        ("for i in nosuch: pass", "s.py:1: unknown name 'nosuch'"),
        ("with nosuch: pass", "s.py:1: unknown name 'nosuch'"),
    ],
)
def test_names_that_do_not_exist_are_found_with_their_line(source: str, place: str) -> None:
    assert place in python(source)


@pytest.mark.parametrize(
    "source",
    [
        "print(vm, start(), settings.VM_X, __name__, __file__, __builtins__, __doc__)",
        "from os.path import *\nprint(join('a'))",
        "globals()['x'] = 1\nprint(x)",
        "exec('x = 1')\nprint(x)",
        "vars()['x'] = 1\nprint(x)",
        "import builtins\nbuiltins.x = 1\nprint(x)",
        "import sys\nsetattr(sys.modules[__name__], 'x', 1)\nprint(x)",
        "import __main__\n__main__.x = 1\nprint(x)",
        "try:\n    unicode\nexcept NameError:\n    unicode = str\nprint(unicode)",
        "try:\n    x = nosuch\nexcept NameError:\n    x = 1",
        "try:\n    x = nosuch\nexcept:\n    x = 1",
        "try:\n    x = nosuch\nexcept (OSError, NameError):\n    x = 1",
        "try:\n    x = nosuch\nexcept Exception:\n    x = 1",
        "import contextlib\nwith contextlib.suppress(NameError):\n    nosuch",
        "import sys\nif sys.version_info < (3,):\n    text = unicode\nelse:\n    text = str",
        "import sys\ntext = unicode if sys.version_info[0] == 2 else str",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    X",
        "if False:\n    nosuch",
        "if 'x' in dir():\n    print(x)",
        "if settings.X:\n    def f(): pass\nelse:\n    f = 1\nf",
        "for x in []: pass\nprint(x)",
        "del vm\nx = 1\ndel x\nprint(x)",
        "def f():\n    global made\n    made = 1\nf()\nprint(made)",
        "def f():\n    import os as made\n    return made\nf()",
        "import os.path\nprint(os)",
        "with open('/dev/null') as f: pass\nf",
        "if (n := 3): print(n)",
        "print([y for y in range(3)])",
        "class C:\n    a = 1\n    b = a\n    def f(self): return __class__\n",
        "class M(type):\n    @classmethod\n    def __prepare__(m, *a): return {'seen': 1}\n"
        "class C(metaclass=M):\n    x = seen\n",
        "from __future__ import annotations\ndef f(x: Nosuch) -> Nosuch: pass\ny: Nosuch = 1",
        "match vm:\n    case {'a': a}: print(a)\n    case [b, *c]: print(b, c)",
        "try: pass\nexcept* OSError as group: print(group)",
        "import gettext\ngettext.install('x')\nprint(_('a'))",
        "def later():\n    return defined_below\ndefined_below = 1",
        "try:\n    pass\nexcept OSError as error:\n    print(error)",
    ],
)
def test_what_may_exist_is_believed(source: str) -> None:
    assert python(source) == ""


def test_several_names_are_all_reported_with_suggestions() -> None:
    text = python("strat()\n\nsettigns.X\nprint(nothing_like_it)")
    assert text == (
        "qvm: the script uses names that do not exist; nothing was run\n"
        "  s.py:1: strat (did you mean start?)\n"
        "  s.py:3: settigns (did you mean settings?)\n"
        "  s.py:4: nothing_like_it"
    )


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("echo hi\nfor m in nosuch:\n    echo @(m)", "s.xsh:2: unknown name 'nosuch'"),
        ("for m in nosuch:\n    echo $X @(m)", ""),  # no Python as a whole
        ("echo hi\nfor m in nosuch:\n    print(m)", "s.xsh:2: unknown name 'nosuch'"),
        ("x = nosuch", "s.xsh:1: unknown name 'nosuch'"),
        ("ls -l | cat\n\nx = len(nosuch)", "s.xsh:3: unknown name 'nosuch'"),
        ("if nosuch:\n    print(1)", "s.xsh:1: unknown name 'nosuch'"),
        ("def f():\n    return nosuch", "s.xsh:2: unknown name 'nosuch'"),
        ("ls", ""), ("ls -l", ""), ("git status", ""), ("nosuch and other", ""), ("nosuch()", ""),
        ("def f():\n    ls\n    make -j", ""),
        ("x = $(ls)\ny = x", ""), ("![x]\nsource other.xsh\ny = made", ""), ("xontrib load a\nz = b", ""),
        ("from os.path import *\nx = join('a')", ""), ("for f in g`*`: print(f)\nx = f", ""),
        ("$X = 1\nx = ${...}", ""), ("def f(: pass\nx = f", ""),
    ],
)  # fmt: skip
def test_lines_are_checked_only_where_they_must_be_python(source: str, place: str) -> None:
    assert place in lines(source)
    assert bool(place) == bool(lines(source))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("stop", ["1: `stop`", "`stop()`"]),
        ("x = 1\nstop; start", ["2: stop (did you mean stop()?)", "2: start"]),
        ("def f():\n    stop", ["2: `stop`"]),
        ("if True:\n    for i in []:\n        with i:\n            start", ["4: `start`"]),
        ("if status: pass", ["1: `status`", "`status()`"]),
        ("if 1:\n    pass\nelif status: pass", ["3: `status`"]),
        ("while status: pass", ["1: `status`"]),
        ("assert status", ["1: `status`"]),
        ("x = not status", ["1: `status`"]),
        ("x = 1\nx and status", ["2: `status`"]),
        ("x = 1\ny = status and x", ["2: `status`"]),
        ("x = 1\nif x or not (x and status): pass", ["2: `status`"]),
        ("x = 1 if status else 2", ["1: `status`"]),
        ("x = [i for i in () if status]", ["1: `status`"]),
        ("f = lambda: 1 if status else 2", ["1: `status`"]),
        ("if status == 'running': pass", ["1: `status`"]),
        ("if status in ('running', 'paused'): pass", ["1: `status`"]),
        ("match status:\n    case 'running': pass", ["1: `status`"]),
        ("vm.stop", ["1: `vm.stop`", "`vm.stop()`"]),
        ("if vm.status: pass", ["1: `vm.status`"]),
        ("disk", ["1: `disk`", "`disk.list()`"]),
        ("disk.list", ["1: `disk.list`"]),
        ("config.edit", ["1: `config.edit`"]),
        ("vm", ["1: `vm`"]),
        ("start, stop", ["1: start", "1: stop"]),
        ("stop | start", ["1: `stop`"]),
        ("from qvmsh.here import stop\nstop", ["2: `stop`"]),
        ("try:\n    stop\nexcept Exception:\n    pass", ["2: `stop`"]),
    ],
)
def test_command_that_is_not_called_is_refused(source: str, found: list[str]) -> None:
    output = python(source)
    assert "nothing was run" in output
    for each in found:
        assert each in output
    assert f"s.py:{found[0][:2]}" in output


@pytest.mark.parametrize(
    "source",
    [
        "stop()\nif status(): pass\nx = not vm.status().ready",
        "stop = 1\nstop\nif stop: pass",
        "def f(stop):\n    if stop: pass",
        "for stop in []:\n    if stop: pass",
        "from other import status\nif status: pass",
        "def status(): pass\nif status: pass",
        "handlers = {'a': stop, 'b': vm.stop}\nf = stop\ng = f or stop\nmap(stop, [])",
        "if vm: pass\nx = vm and vm.name",
        "if stop is None or vm.stop is stop: pass",
        "f = 1\nif f == stop: pass",
        "try:\n    stop\nexcept NameError:\n    pass",
        "settings\nsettings.VM_X\nvm.name",
        "'stop'\nstop.__doc__",
        "callable(stop) and stop()",
        "if sh: sh.ls()",
    ],
)
def test_command_that_is_a_value_is_believed(source: str) -> None:
    assert python(source) == ""


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("stop", ""), ("stop; start", ""), ("status and start", ""), ("x = 1\nx and status", ""),
        ("def f():\n    stop\nf()", ""), ("stop | cat", ""), ("vm", ""), ("disk list", ""),
        ("if status: pass", "s.xsh:1: `status`"), ("echo hi\nx = not status", "s.xsh:2: `status`"),
        ("echo hi\n\nvm.stop", "s.xsh:3: `vm.stop`"), ("while status == 'x': pass", "s.xsh:1: `status`"),
        ("status = $(vm status)\nif status: pass", ""),
    ],
)  # fmt: skip
def test_words_of_shell_lines_run_and_their_truth_is_refused(source: str, place: str) -> None:
    assert place in lines(source)
    assert bool(place) == bool(lines(source))
