"""Which machines a command line is about, and which of them must wait for others.

    jobs(bound, os.environ, warn)      # [Job("db", "/vm/db"), Job("web", "/vm/web", waits=["/vm/db"])]

A word is a directory, a known name, or a pattern of known names (`web*`). VM_REQUIRES orders starts; stops
are in the reverse order. What is backed by another machine's disks is deleted before that.
"""

from __future__ import annotations

import os

from qvmsh.errors import UsageError
from qvmsh.machine import registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qvmsh.cli.parse import Bound
    from qvmsh.machine.overview.list import Listed

UP = frozenset(("start", "restart"))
"""Verbs that take a machine after those that it requires."""
DOWN = frozenset(("stop",))
"""Verbs that take a machine before those that it requires."""
_STATES = {"pause": "running", "resume": "paused", "suspend": "running", "wakeup": "suspended"}
"""With `--all`, a label or a pattern, only the machines in this state are meant."""
_LIVE = frozenset(("kill", "reboot", "restart", "stop"))
"""With `--all`, a label or a pattern, only the machines with a QEMU are meant."""


class Job:
    """The command for one machine.

    Args:
        name: what messages call the machine.
        directory: where it is.
        waits: directories of those whose command must have succeeded before.
        snapshots: names of the snapshots to delete, instead of the machine.
    """

    __slots__ = ("directory", "name", "snapshots", "waits")

    def __init__(
        self, name: str, directory: str, waits: Sequence[str] = (), snapshots: Sequence[str] = ()
    ) -> None:
        self.snapshots = list(snapshots)
        self.name = name
        self.directory = directory
        self.waits = list(waits)


def take_snapshots(bound: Bound, environ: Mapping[str, str]) -> list[Job]:
    """Take the words `NAME:SNAPSHOT` out of those of `delete`; a machine may have a colon in its name.

    Raises:
        UsageError: NAME is not a machine.
    """
    found: dict[str, Job] = {}
    known = registry.machines(environ) if any(":" in word for word in bound.words) else {}
    for word in list(bound.words):
        name, mark, snapshot = word.partition(":")
        if not (name and mark and snapshot) or word in known or os.path.isdir(word):
            continue
        directory = registry.resolve(name, environ)
        job = found.setdefault(directory, Job(name, directory))
        job.snapshots.append(snapshot)
        bound.words.remove(word)
    return list(found.values())


def directories(bound: Bound, environ: Mapping[str, str]) -> list[str]:
    """Directories of the machines that the words, `--label` or `--all` mean, each once.

    Raises:
        UsageError: a word means no machine, or more than one.
    """
    labels = bound.common.get("label", ())
    if labels:
        return _meant(bound, registry.labelled(labels, environ), environ)
    if bound.common.get("all"):
        return _meant(bound, None, environ)
    found: list[str] = []
    for word in bound.words:
        if registry.is_pattern(word):
            found += _meant(bound, registry.matching(word, environ), environ)
        else:
            found.append(_of_word(word, bound, environ))
    by_place: dict[str, str] = {}
    for each in found:
        by_place.setdefault(os.path.realpath(each), each)
    return list(by_place.values())


def _meant(bound: Bound, directories: Sequence[str] | None, environ: Mapping[str, str]) -> list[str]:
    """Those of the machines (None = of all known ones) that the command has something to do for."""
    verb = bound.entry.verb
    if directories is not None and verb not in _LIVE | _STATES.keys() | {"start"}:
        return list(directories)
    from qvmsh.machine.overview import list as overview

    seen = overview.known_machines(environ, names=directories or ())
    return [each.directory for each in seen if _is_meant(verb, each)]


def _of_word(word: str, bound: Bound, environ: Mapping[str, str]) -> str:
    try:
        return registry.resolve(word, environ)
    except UsageError as error:
        others = " ".join(each for each in bound.words if each != word)
        if word.isdecimal() and any(row[0] == "timeout" for row in bound.entry.options):
            verb = bound.entry.verb
            line = f"qvm {verb} --timeout {word} {others}".rstrip()
            error.hint = f"seconds are an option: `{line}`"
        raise


def _is_meant(verb: str, seen: Listed) -> bool:
    if seen.state == "missing":
        return False
    if verb == "start":
        return seen.pid is None
    if verb in _STATES:
        return seen.state == _STATES[verb]
    return verb not in _LIVE or seen.pid is not None


def jobs(
    bound: Bound, found: Sequence[str], environ: Mapping[str, str], warn: Callable[[str], None]
) -> list[Job]:
    """The command for each of the directories `found`, in the order in which it may begin.

    Raises:
        UsageError: machines require each other.
    """
    verb = bound.entry.verb
    if verb == "delete":
        return _to_delete(found, environ)
    if verb not in UP | DOWN:
        return [Job(os.path.basename(os.path.abspath(each)), each) for each in found]
    named = registry.machines(environ)
    made = {os.path.realpath(each): Job("", each) for each in found}
    for place, job in made.items():
        job.name, required = registry.name_and_requirements(place, environ)
        for word in required:
            others = [os.path.join(place, word)] if "/" in word else named.get(word, ())
            if not others:
                warn(f"{job.name}: VM_REQUIRES: no machine is known as {word!r}")
            for other in map(os.path.realpath, others):
                if other not in made:
                    continue
                if verb in UP and not (verb == "start" and _is_on(other, environ)):
                    job.waits.append(other)
                elif verb in DOWN and _is_on(place, environ):
                    made[other].waits.append(place)
    return _in_order(made, verb, warn)


def _to_delete(found: Sequence[str], environ: Mapping[str, str]) -> list[Job]:
    """Those that need others' disks before those others, which wait for them: parallel, they would refuse."""
    from qvmsh.machine.storage import linked

    made = {os.path.realpath(each): Job(os.path.basename(os.path.abspath(each)), each) for each in found}
    for place in made:
        for other in linked.needed_by(place, environ):
            if other in made and place not in made[other].waits:
                made[other].waits.append(place)
    return _in_order(made, "delete", lambda _: None)


def _is_on(directory: str, environ: Mapping[str, str]) -> bool:
    """True if the machine has a QEMU; a broken one has none."""
    from qvmsh.errors import QvmError
    from qvmsh.machine import state
    from qvmsh.machine.machine import BaseMachine

    try:
        return state.observe(BaseMachine(directory, environ=environ)).is_live
    except (QvmError, OSError):
        return False


def _in_order(made: Mapping[str, Job], verb: str, warn: Callable[[str], None]) -> list[Job]:
    """Each job after those that it waits for; else in the given order."""
    order: list[Job] = []
    done: set[str] = set()
    rest = dict(made)
    while rest:
        ready = [place for place, job in rest.items() if done.issuperset(job.waits)]
        if not ready:
            names = " and ".join(sorted(job.name for job in rest.values()))
            what = f"{names}: VM_REQUIRES goes round in a circle"
            if verb in UP:
                hint = "`qvm -M NAME config VM_REQUIRES=` removes what a machine requires"
                raise UsageError(what, hint=hint)
            warn(f"{what}: they are stopped in no order")
            for job in rest.values():
                job.waits.clear()
            ready = list(rest)
        order += [rest.pop(place) for place in ready]
        done.update(ready)
    return order


def _is_package(word: str) -> bool:
    """True for a word of `export` that names the file."""
    return word == "-" or ".tar" in os.path.basename(word)


def take_exported(bound: Bound, environ: Mapping[str, str]) -> None:
    """Note the machine that `export` names by a word: one that is not a file's name.

    Raises:
        UsageError: it is not a machine, or another one is named too.
    """
    word = bound.words[0]
    if len(bound.words) == 1 and _is_package(word):
        return
    for other in bound.words[1:]:
        if not _is_package(other):
            name = os.path.join(other, f"{word}.tar.gz") if os.path.isdir(other) else f"{other}.tar.gz"
            raise UsageError(
                f"export: {other} is no name of a package: it has no `.tar` in it",
                hint=f"`qvm export {word} {name}`; one command exports one machine",
            )
    for name, flag in (("directory", "-C"), ("machine", "-M")):
        if bound.common.get(name) is not None:
            raise UsageError(
                f"export: which machine: {flag} {bound.common[name]}, or {word}?",
                hint=f"leave out {flag} or the word; a file's name has `.tar` in it",
            )
    bound.common["directory"] = registry.resolve(bound.words.pop(0), environ)


def places(bound: Bound, here: Callable[[], str]) -> list[str]:
    """Other paths that a command's words name, to read from or to create a machine in."""
    verb = bound.entry.verb
    if verb == "import":
        return [os.path.join(here(), *bound.words[1:], "")]
    if verb not in ("create", "restore") and not (verb == "config" and bound.options.get("check")):
        return []
    paths = [os.path.join(here(), word) for word in bound.words]
    # an archive may also be named as `archive --list` shows it
    return [path for at, path in enumerate(paths) if at or verb != "restore" or os.path.lexists(path)]
