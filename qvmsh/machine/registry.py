"""The machines that this user has used, so that a name is enough from anywhere.

    resolve("demo", os.environ)               # "./demo" if that is a machine, else as `find`
    find("demo", os.environ)                  # "/home/guido/vm/demo"
    labelled(["web"], os.environ)             # the directories of those with `web` in VM_LABELS

`${XDG_DATA_HOME:-~/.local/share}/qvm/machines` holds a line `NAME<TAB>DEVICE:INODE<TAB>DIRECTORY` for
each, the latest used last. By device and inode a directory that was renamed is found again. The name in
it is the last known one: the current name is in its `.vmrc`. Of several machines with one name
none is chosen.
"""

from __future__ import annotations

import os

from qvmsh.config.words import quote
from qvmsh.errors import QvmError, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import mounts
from qvmsh.machine import copies, launch_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence

    from qvmsh.machine.machine import BaseMachine


NEWS = "QVM_NEWS"
"""Names the descriptor on which a process that root began as the owner reports what was used."""

news = -1
"""That descriptor; -1 where root did not begin this process."""


def take_news(environ: MutableMapping[str, str]) -> None:
    """Report to root what is used, if root started this process to work as the owner."""
    global news
    fd = environ.pop(NEWS)
    try:
        os.set_inheritable(int(fd), False)
        news = int(fd)
    except (ValueError, OSError, OverflowError):  # somebody else's variable
        news = -1


REMOVING = ".removing-"
"""Prefix of a deleted machine that is being removed for good: some of its files may be gone."""


class Known:
    """One line of the list.

    Args:
        name: under which the machine was used last.
        place: device and inode of its directory; "" where an old list does not say.
        directory: where it is, or was (`is_there`).
        silent: the mount point of a file system that does not answer, so that nothing else is known; or "".
    """

    __slots__ = ("directory", "is_there", "name", "place", "silent")

    def __init__(self, name: str, place: str, directory: str, silent: str = "") -> None:
        self.name = name
        self.place = place
        self.directory = directory
        self.silent = silent
        if silent:
            self.is_there = False
            return
        self.is_there = os.path.lexists(os.path.join(directory, ".vmrc"))
        if place and not (self.is_there and launch_record.place(directory) == place):
            self._search()

    def _search(self) -> None:
        """Find a directory that was renamed, beside where it was."""
        above = os.path.dirname(self.directory)
        try:
            with os.scandir(above) as entries:
                beside = [each.path for each in entries if self.place.endswith(f":{each.inode()}")]
        except OSError:
            return
        for path in beside:
            if os.path.lexists(os.path.join(path, ".vmrc")) and launch_record.place(path) == self.place:
                self.directory, self.is_there = path, True

    def name_now(self, environ: Mapping[str, str]) -> str:
        """What the machine is called now; the noted name where its configuration cannot be read."""
        from qvmsh.machine.machine import BaseMachine

        try:
            return BaseMachine(self.directory, environ=environ).loaded["VM_MACHINE_NAME"] or self.name
        except (QvmError, OSError, KeyError):
            return self.name

    def __str__(self) -> str:
        return f"{self.name}\t{self.place}\t{self.directory}"


def list_file(environ: Mapping[str, str]) -> str | None:
    """Where the list is kept; None for an account without a home."""
    base = environ.get("XDG_DATA_HOME") or os.path.join(
        environ.get("HOME") or os.path.expanduser("~"), ".local", "share"
    )
    return os.path.join(base, "qvm", "machines") if os.path.isabs(base) else None


def data_folder(environ: Mapping[str, str]) -> str | None:
    """Where the list and the trash are kept."""
    path = list_file(environ)
    return None if path is None else os.path.dirname(path)


def trash_folder(environ: Mapping[str, str]) -> str | None:
    """Where the deleted machines are, or links that lead to them."""
    path = list_file(environ)
    return None if path is None else os.path.join(os.path.dirname(path), "trash")


def making_folder(environ: Mapping[str, str]) -> str | None:
    """Where `creation_folder` records its work; it exists only during such work, or after a kill."""
    path = list_file(environ)
    return None if path is None else os.path.join(os.path.dirname(path), "making")


def rows(environ: Mapping[str, str]) -> list[Known]:
    """Every known machine, also those that are gone, the latest used last."""
    found: dict[str, Known] = {}
    mounted = mounts.Mounts()
    for name, place, directory in _noted(environ):
        known = Known(name, place, directory, mounted.silent_file(directory, ".vmrc") or "")
        found.pop(known.directory, None)
        found[known.directory] = known
    return list(found.values())


def _noted(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Name, place and directory of each line of the list; nothing else is looked at."""
    path = list_file(environ)
    if path is None:
        return []
    try:
        lines = host_files.read(path, host_files.DOCUMENT_BYTES).text.split("\n")
    except OSError:
        return []
    found = []
    for line in lines:
        name, mark, rest = line.partition("\t")
        place, has_place, directory = rest.partition("\t")
        if not has_place or (place and not place.replace(":", "").isdigit()):
            place, directory = "", rest  # a list in the old format
        if mark and directory:
            found.append((name, place, directory))
    return found


def machines(environ: Mapping[str, str]) -> dict[str, list[str]]:
    """Name and directories of the known machines that are still there; each machine once."""
    found: dict[str, list[str]] = {}
    places = set()
    for each in rows(environ):
        place = launch_record.place(each.directory) if each.is_there else None
        if place is not None and place not in places:  # one directory may be mounted twice
            places.add(place)
            found.setdefault(each.name_now(environ), []).append(each.directory)
    return found


def directories(environ: Mapping[str, str]) -> list[str]:
    """The directory of each known machine that is still there, also of those that share a name."""
    return [each.directory for each in rows(environ) if each.is_there]


def in_the_trash(environ: Mapping[str, str]) -> list[str]:
    """The directory of each deleted machine (`shelf.trash`)."""
    folder = trash_folder(environ) or ""
    mounted = mounts.Mounts()
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(REMOVING)]
        names = [name for name in names if not mounted.silent_file(folder, name)]
        return [os.path.realpath(os.path.join(folder, name)) for name in names]
    except OSError:
        return []


def deleted(environ: Mapping[str, str]) -> dict[str, str]:
    """Where each machine in the trash is, and where it was, if its note says so."""
    found = {}
    for place in in_the_trash(environ):
        try:
            found[place] = str(host_files.document(os.path.join(place, ".qvm", "deleted"))["directory"])
        except (OSError, ValueError, KeyError, TypeError):
            found[place] = place
    return found


def original(vm: BaseMachine) -> str | None:
    """The machine that this directory was copied from by hand, even if that was renamed since; or None."""
    place = copies.foreign_place(vm)
    if not place:
        return None
    if found := copies.original(vm):
        return found
    for each in rows(vm.environ):
        if each.is_there and each.place == place and _has_uuid_of(each.directory, vm):
            return each.directory
    return None


def warn_of_copy(vm: BaseMachine) -> None:
    """Say that a machine has the identity of another one."""
    source = original(vm)
    if source:
        vm.io.warn(f"{vm.name}: it is a copy of {source}; `qvm renew` gives it an identity of its own")


def _has_uuid_of(directory: str, vm: BaseMachine) -> bool:
    """True if both have one; an inode alone may be another machine's by now."""
    paths = [os.path.join(each, ".qvm", "uuid") for each in (directory, vm.directory)]
    try:
        return len({host_files.read(path).text.strip() for path in paths}) == 1
    except OSError:
        return False


def remember(vm: BaseMachine) -> None:
    """Record that `vm` was used under its name; failing to write the list is not an error."""
    directory = os.path.realpath(vm.directory)
    if "\n" in directory:
        return
    if news >= 0 and list_file(vm.environ) == list_file(os.environ):
        os.write(news, os.fsencode(f"{vm.name}\t{directory}\n"))
    try:
        if not original(vm):
            copies.note_place(vm)
        note_use(vm.name, directory, vm.environ)
    except OSError as error:
        vm.io.trace(f"the list of machines cannot be written: {error}")


def note_use(name: str, directory: str, environ: Mapping[str, str]) -> None:
    """Note that the machine in `directory`, a real path, was used under this name.

    Raises:
        OSError: the list cannot be written.
    """
    if list_file(environ) is None:
        return
    mine = Known(name, launch_record.place(directory), directory)
    if (name, mine.place, directory) in _noted(environ):
        return

    def changed(before: list[Known]) -> list[Known]:
        kept = [each for each in before if each.is_there or each.silent or each.name != mine.name]
        places = [launch_record.place(each.directory) if each.is_there else each.place for each in kept]
        return [*(each for each, place in zip(kept, places, strict=True) if place != mine.place), mine]

    _rewrite(environ, changed)


def forget_missing(environ: Mapping[str, str]) -> None:
    """Remove missing machines from the list."""
    if list_file(environ) is not None:
        _rewrite(environ, lambda before: [each for each in before if each.is_there or each.silent])


def forget(directory: str, environ: Mapping[str, str]) -> None:
    """Remove the machine that was in `directory` from the list; failing to write it is not an error."""
    real = os.path.realpath(directory)
    if any(place in (real, directory) for _, _, place in _noted(environ)):
        try:  # on a full disk the row is `missing`
            _rewrite(environ, lambda old: [each for each in old if each.directory not in (real, directory)])
        except OSError:
            pass


def _rewrite(environ: Mapping[str, str], change: Callable[[list[Known]], list[Known]]) -> None:
    """Change the list, one process at a time."""
    import fcntl

    path = list_file(environ) or ""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in os.listdir(folder):
            if name.startswith(f"{os.path.basename(path)}.part"):  # of one that was killed
                host_files.remove(os.path.join(folder, name))
        host_files.write_atomic(path, "".join(f"{each}\n" for each in change(rows(environ))))
    finally:
        os.close(lock)


def labels(directory: str, environ: Mapping[str, str]) -> list[str]:
    """The words of VM_LABELS, also where another part of the configuration is wrong."""
    from qvmsh.machine.machine import BaseMachine

    try:
        if os.geteuid() == 0:
            from qvmsh.machine import owner

            if account := owner.of(directory, environ):
                from qvmsh.machine import owner_state

                found: list[str] = owner_state.look(directory, account, environ)["labels"]
                return found
        return labels_of(BaseMachine(directory, environ=environ))
    except QvmError:
        return []


def name_and_requirements(directory: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The machine's name, and the words of VM_REQUIRES, also where its configuration is wrong."""
    from qvmsh.machine.machine import BaseMachine

    name = os.path.basename(directory)
    try:
        if os.geteuid() == 0:
            from qvmsh.machine import owner

            if account := owner.of(directory, environ):
                from qvmsh.machine import owner_state

                found = owner_state.look(directory, account, environ)
                return found["machine"], found["requires"]
        vm = BaseMachine(directory, environ=environ)
        return vm.name, requirements_of(vm)
    except QvmError:
        return name, []


def requirements_of(vm: BaseMachine) -> list[str]:
    """The words of VM_REQUIRES."""
    try:
        return vm.loaded.words("VM_REQUIRES")
    except QvmError:
        return []


def labels_of(vm: BaseMachine) -> list[str]:
    """The same of a machine that has perhaps been read already."""
    try:
        return vm.loaded.words("VM_LABELS")
    except QvmError:
        return []


def labelled(wanted: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Directories of the known machines that have all labels of `wanted`.

    Raises:
        UsageError: there is none.
    """
    found, seen = [], set()
    for row in sorted(rows(environ), key=lambda row: (row.name, row.directory)):
        own = labels(row.directory, environ) if row.is_there else []
        seen.update(own)
        if row.is_there and set(wanted) <= set(own):
            found.append(row.directory)
    if found:
        return found
    raise UsageError(
        f"no known machine has the label{'s' if len(wanted) > 1 else ''} {', '.join(wanted)}",
        hint=f"labels in use: {', '.join(sorted(seen)) or 'none'}; VM_LABELS sets the labels of a machine",
    )


def is_pattern(word: str) -> bool:
    """True for a pattern of names (`web*`), as a shell would expand it."""
    return "/" not in word and any(each in word for each in "*?[") and not os.path.lexists(word)


def matching(pattern: str, environ: Mapping[str, str]) -> list[str]:
    """Directories of the known machines whose name fits a shell pattern.

    Raises:
        UsageError: there is none.
    """
    from fnmatch import fnmatchcase

    known = machines(environ)
    found = [each for name in sorted(known) if fnmatchcase(name, pattern) for each in sorted(known[name])]
    if found:
        return found
    raise UsageError(f"no known machine is called {pattern!r}", hint=_known(known))


MOST_NAMES = 8
"""So many known machines are named by an error."""


def _known(found: Mapping[str, Sequence[str]], wanted: str = "") -> str:
    from difflib import get_close_matches

    near = get_close_matches(wanted, found, n=3) if wanted else []
    if near:
        return f"did you mean {' or '.join(near)}? `qvm list` shows all; `qvm -C DIR` names a directory"
    names = sorted(found)
    if len(names) > MOST_NAMES:
        names = [*names[:MOST_NAMES], f"and {len(names) - MOST_NAMES} more"]
    return f"known: {', '.join(names) or 'none yet'}; `qvm -C DIR` names a directory"


def find(name: str, environ: Mapping[str, str]) -> str:
    """Directory of the known machine `name`.

    Raises:
        UsageError: it is not known, or several are called so.
    """
    found = machines(environ)
    directories = sorted(found.get(name, ()))
    if len(directories) > 1:
        raise UsageError(
            f"{len(directories)} known machines are called {name!r}",
            hint=f"name the directory: `qvm -C {quote(directories[0])} ...`",
            details=directories,
        )
    if directories:
        return directories[0]
    for row in rows(environ):
        if row.name == name:
            raise UsageError(
                f"the directory of {name} is missing: {row.directory}",
                hint="if it was moved, `qvm -C DIR start` makes it known; `qvm list --prune` forgets it",
            )
    raise UsageError(f"no machine is known as {name!r}", hint=_known(found, name))


def resolve(word: str, environ: Mapping[str, str]) -> str:
    """The directory that a word means: with `/` or `.` a directory, else `./WORD`, else a known machine."""
    here = os.path.join(".", word)
    if "/" in word or "." in word:
        return word
    if os.path.lexists(os.path.join(here, ".vmrc")):
        return here
    if os.path.isdir(here) and word not in machines(environ):
        return here  # what it lacks is reported there
    return find(word, environ)
