"""Standard output that cannot be written to (full, closed): no verb succeeds, and each says why."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.world import DEADLINE_S, QVM, Blank

SOME = """
--json list
status -s
logs qvm
cmd info qtree
config
doctor
--help
"""
VERBS = """
list
--json list
status
status -s
--json status
status ../demo .
logs qvm
cmd info status
cmd info qtree
qmp query-status
qmp < requests
monitor < lines
dryrun
env
config
config VM_MACHINE_MEM
config --explain
config --check
doctor
disk list
disk check
snapshot list
img list
completion bash
allow
archive --list
sh --shell -c 'echo 1'
--help
--version
start --help
disk --help
pause
resume
snapshot save one
kill
start --no-wait
"""

TO = {"/dev/full": "No space left on device", "&-": "Bad file descriptor"}


@pytest.mark.parametrize(
    ("target", "verbs"),
    [("/dev/full", VERBS), ("&-", SOME), pytest.param("&-", VERBS, marks=pytest.mark.long)],
    ids=["/dev/full", "closed", "closed, all verbs"],
)
def test_every_verb_output_lost_fails_and_says_why(blank: Blank, target: str, verbs: str) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    (vm.directory / "requests").write_text('{"execute": "query-status"}\n')
    (vm.directory / "lines").write_text("info status\n")
    wrong = []
    for line in verbs.strip().splitlines():
        done = subprocess.run(
            ["bash", "-c", f"{QVM} {line} >{target}"],
            cwd=vm.directory,
            env=vm.world.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        if done.returncode != 1 or len(done.stderr.splitlines()) != 1 or TO[target] not in done.stderr:
            wrong.append(f"{line} >{target}: {done.returncode}, {done.stderr!r}")
    assert not wrong, "\n".join(wrong)


def test_verb_that_follows_output_lost_ends(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    for words in (["logs", "-f", "qvm"], ["qmp", "--events"]):
        with open("/dev/full", "w") as full:
            child = vm.world.popen(*words, cwd=vm.directory, stdout=full)
            while child.poll() is None:  # an event and a line of the log at each turn
                vm.ok("pause")
                vm.ok("resume")
        _, said = child.communicate()
        assert child.returncode == 1, words
        assert said == "qvm: cannot write to standard output: No space left on device\n", words
