"""docs/bash.md: what its two columns say prints the same."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from tests.support.world import ROOT, Vm

PAGE = ROOT / "docs/bash.md"
FILES = {"a.txt": "one\ntwo\n", "b.txt": "three\n", "settings.sh": "export COLOUR=green\n"}
END = "---- end of row"
SAME = (
    "ls *.txt | wc -l", "true && echo yes || echo no", "false || echo no", "echo a; echo b",
    "echo one > o; echo two >> o; cat < o", "ls nosuch 2> /dev/null | cat", "ls nosuch 2>&1 | grep -c nosuch",
    "ls o &> /dev/null", "echo *.txt", "echo ~", "cd / && pwd", 'echo "a  b" c',
)  # fmt: skip
"""What the page says is as in bash."""


def code(cell: str) -> str:
    """The lines of a cell of the table."""
    spans = re.findall(r"``(.+?)``|`(.+?)`", cell.replace(r"\|", "|"))
    return "\n".join((double or single).rstrip("\n") for double, single in spans)


def rows() -> list[tuple[str, str]]:
    table = re.findall(r"^\| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    return [(code(left), code(right)) for left, right in table if left != "bash"]


def test_both_columns_print_the_same(blank: Callable[..., Vm]) -> None:
    vm = blank(has_images=False)
    for name, text in FILES.items():
        (vm.directory / name).write_text(text)
    pairs = [*rows(), *((line, line) for line in SAME)]
    assert len(pairs) > len(SAME) + 15
    env = vm.world.environ | {"HOME": str(vm.world.home)}
    expected = []
    for left, _ in pairs:
        left = left.replace("; one", "\none")  # an alias counts from the next line on
        argv = ["bash", "--norc", "-O", "expand_aliases", "-c", left]
        done = subprocess.run(argv, cwd=vm.directory, env=env, capture_output=True, text=True)
        assert done.stderr == "", (left, done)
        expected.append(done.stdout)
    script = "".join(f"{right}\n\ncd {vm.directory}\necho {END!r}\n" for _, right in pairs)
    (vm.directory / "rows.xsh").write_text(script)
    result = vm.qvm("sh", "./rows.xsh")
    found = result.out.split(END + "\n")
    for (left, right), bash, here in zip(pairs, expected, found, strict=False):
        assert here == bash, (left, right, str(result))
    assert (result.status, result.err) == (0, ""), str(result)
