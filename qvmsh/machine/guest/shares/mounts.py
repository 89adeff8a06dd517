"""Shares mounted in the guest, over whatever way leads there, as its root (`sudo -n` where it is not).

mount(vm, lines)                 # {"src": ""}, or why it is not mounted
gone = unmount(vm, lines)        # where they were mounted, for `mount_again`
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qvmsh.config.shares import P9
from qvmsh.config.words import typed
from qvmsh.errors import QvmError, StateError
from qvmsh.io import QUIET
from qvmsh.machine.guest import execute
from qvmsh.machine.guest.wish import Wish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.config.shares import ShareLine
    from qvmsh.machine.machine import BaseMachine

TIMEOUT_S = 120.0
TRIES = 10
"""How often, once a second, a mount is tried: a device that was just plugged in takes a moment."""
OPTIONS = {P9: "trans=virtio,version=9p2000.L,msize=262144,"}

_ROOT = 'PATH=$PATH:/usr/sbin:/sbin\nroot() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }\n'
_MOUNT = (
    _ROOT
    + r"""
there() {
    while read -r from at type rest; do
        [ "$from" = "$tag" ] && [ "$at" = "$shown" ] && [ "$type" = "$kind" ] && return 0
    done </proc/self/mounts
    return 1
}
tries=$1; shift
while [ $# -gt 0 ]; do
    kind=$1 tag=$2 path=$3 shown=$4 how=$5; shift 5
    left=$tries
    until there; do
        if why=$({ root mkdir -p "$path" && root mount -t "$kind" -o "$how" "$tag" "$path"; } 2>&1); then
            break
        fi
        for each in "$kind" 9pnet_virtio; do root modprobe -q "$each" 2>/dev/null; done
        grep -qw "$kind" /proc/filesystems || { why="its kernel has no $kind"; left=1; }
        left=$((left - 1))
        [ $left -gt 0 ] || { printf 'no %s\n' "$(printf '%s' "$why" | tail -n 1)"; continue 2; }
        sleep 1
    done
    echo ok
done
"""
)
_FIND = r"""
while [ $# -gt 0 ]; do
    kind=$1 tag=$2; shift 2
    while read -r from at type how rest; do
        [ "$from" = "$tag" ] && [ "$type" = "$kind" ] && printf '%s %s %s\n' "$tag" "$at" "$how"
    done </proc/self/mounts
done
true
"""
_UNMOUNT = (
    _ROOT
    + r"""
for path; do
    why=$(root umount "$path" 2>&1) || { printf '%s\n' "$(printf '%s' "$why" | tail -n 1)"; exit; }
    echo ok
done
"""
)


@dataclass(frozen=True)
class Place:
    """Where a share is, or is to be, mounted in the guest."""

    line: ShareLine
    path: str
    is_read_only: bool


def wanted(lines: Sequence[ShareLine]) -> list[Place]:
    """The places that the lines ask for."""
    return [Place(each, each.mount, each.is_read_only) for each in lines if each.mount]


def mount(vm: BaseMachine, places: Sequence[Place]) -> dict[str, str]:
    """Mount shares, where they are not mounted yet.

    Returns:
        Why one is not mounted, by its path; nothing of those that are.
    """
    if not places:
        return {}
    words = [str(TRIES)]
    for each in places:
        how = OPTIONS.get(each.line.kind, "") + ("ro" if each.is_read_only else "rw")
        words += [each.line.kind, each.line.tag, each.path, _as_listed(each.path), how]
    try:
        done = _run(vm, _MOUNT, words)
    except QvmError as error:
        return {each.path: error.what for each in places}
    rows = [*done, *["no it ended early"] * len(places)]
    return {
        each.path: row.removeprefix("no ") for each, row in zip(places, rows, strict=False) if row != "ok"
    }


def _as_listed(path: str) -> str:
    """A path as /proc/mounts has it. Source: Linux fs/proc_namespace.c."""
    plain = re.sub("/+", "/", path).rstrip("/") or "/"
    return re.sub(r"[ \t\n\\#]", lambda odd: f"\\{ord(odd[0]):03o}", plain)


def found(vm: BaseMachine, lines: Sequence[ShareLine]) -> list[Place]:
    """Where the shares are mounted, in the order in which they were.

    Raises:
        QvmError: the guest cannot be asked.
    """
    by_tag = {each.tag: each for each in lines}
    rows = _run(vm, _FIND, [word for each in lines for word in (each.kind, each.tag)])
    places = []
    for row in rows:
        tag, at, how = [*row.split(" "), "", ""][:3]
        if tag in by_tag:
            places.append(Place(by_tag[tag], _unlisted(at), "ro" in how.split(",")))
    return places


def unmount(vm: BaseMachine, places: Sequence[Place]) -> None:
    """Unmount shares, the last one first.

    Raises:
        StateError: one is in use; those after it are unmounted already.
        QvmError: the guest cannot be asked.
    """
    last_first = [*reversed(places)]
    rows = _run(vm, _UNMOUNT, [each.path for each in last_first]) if places else []
    for each, row in zip(last_first, rows, strict=False):
        if row != "ok":
            raise StateError(
                f"the guest cannot unmount the share {each.line.tag} from {each.path}: {row}",
                machine=vm.name,
                hint="end what uses it in the guest first: "
                f"`qvm exec -- fuser -vm {typed(each.path)}` names that",
            )


def _unlisted(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _run(vm: BaseMachine, script: str, words: Sequence[str]) -> list[str]:
    """The lines that a script in the guest prints.

    QvmError: no way leads there, or it failed.
    """
    wish = Wish(("sh", "-c", script, "qvm", *words), timeout_s=TIMEOUT_S)
    done = execute.execute(vm.with_io(QUIET), wish).check()
    return done.split("\n")[:-1]
