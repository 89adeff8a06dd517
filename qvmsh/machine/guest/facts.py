"""What a guest says about itself: its system, users, file systems and clock.

    found = of(vm)          # Facts: os="Debian GNU/Linux 12 (bookworm)", via="agent", ...

By the guest agent; where there is none, by one script over ssh or the serial console. All of it is the
guest's word, which may be a lie: it is checked for its shape, and shown as plain text.
"""

from __future__ import annotations

import re
import shlex
import time

from qvmsh.errors import GuestUnreachableError, QmpError, QvmError
from qvmsh.machine import state
from qvmsh.machine.guest import agent, clock, execute, frozen
from qvmsh.machine.guest.reports import Facts
from qvmsh.machine.guest.wish import Wish
from qvmsh.machine.reports import stamp
from qvmsh.qemu import qga
from qvmsh.qemu.qmp import Nonsense

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

ASK_S = 10.0
"""How long the agent may take for one part."""
SCRIPT_S = 40.0
"""How long a guest without an agent may take, with the login."""
LAST_S = 1 << 36
"""Times after the year 4100 are not times."""
PARTS = ("system", "host_name", "users", "file_systems", "clock")
_OCTAL = re.compile(r"\\([0-7]{3})")

SCRIPT = """\
LC_ALL=C; export LC_ALL
echo @clock; date +%s
echo @system; uname -s; uname -r; uname -m; cat /etc/os-release 2>/dev/null || cat /usr/lib/os-release
echo @host_name; uname -n
if command -v who >/dev/null; then echo @users; who; fi
echo @mounts; cat /proc/mounts
echo @file_systems; df -kP
"""


def of(vm: BaseMachine) -> Facts:
    """Ask the guest about itself.

    Raises:
        StateError: it is not running, held or frozen.
        GuestUnreachableError: nothing in it could be asked; with the reason of each way.
    """
    _, note = state.require(vm, state.observe(vm), "ask the guest", state.RUNNING, state.STARTING)
    frozen.require_thawed(vm, "cannot ask the guest")
    refused: dict[str, str] = {}
    with vm.io.stage("asking the guest"):
        for ask in (_by_agent, _by_script):
            found = ask(vm, note, refused)
            if found is not None:
                return found
    raise GuestUnreachableError(
        "nothing in the guest could be asked", machine=vm.name,
        details=[f"{way}: {why}" for way, why in refused.items()],
        hint="`qvm status -v` shows what is known of the machine from outside",
    )  # fmt: skip


def _by_agent(vm: BaseMachine, note: LaunchRecord, refused: dict[str, str]) -> Facts | None:
    """What the agent says; None if it says nothing at all, with the reason in `refused`."""
    found = Facts(vm.name, "agent")
    try:
        talk = qga.Conversation(note.socket("qga"), agent.PRESENT_S)
    except OSError as error:
        refused["agent"] = agent.reason(error, agent.PRESENT_S)
        return None
    readers: dict[str, Callable[[], None]] = {
        "system": lambda: _system(found, talk.ask("guest-get-osinfo", tick=vm.io.checkpoint)),
        "host_name": lambda: _host_name(found, talk.ask("guest-get-host-name", tick=vm.io.checkpoint)),
        "users": lambda: _users(found, talk.ask("guest-get-users", tick=vm.io.checkpoint)),
        "file_systems": lambda: _file_systems(found, talk.ask("guest-get-fsinfo", tick=vm.io.checkpoint)),
        "clock": lambda: _clock(found, lambda: talk.ask("guest-get-time", tick=vm.io.checkpoint) / 1e9),
    }
    late = ""
    with talk:
        talk.timeout_s = ASK_S
        for part in PARTS:
            try:
                if not late:
                    readers[part]()
            except (QmpError, Nonsense) as error:
                found.missing[part] = agent.reason(error, ASK_S)
            except OSError as error:
                late = agent.reason(error, ASK_S)
            if late:
                found.missing[part] = late
    if len(found.missing) < len(PARTS):
        return found
    refused["agent"] = next(iter(found.missing.values()))
    return None


def _system(found: Facts, answer: dict[str, Any]) -> None:
    named = " ".join(filter(None, (answer.get("name"), answer.get("version-id"))))
    found.os = answer.get("pretty-name") or named or None
    found.os_id, found.os_version = answer.get("id"), answer.get("version-id")
    found.kernel, found.architecture = answer.get("kernel-release"), answer.get("machine")


def _host_name(found: Facts, answer: dict[str, Any]) -> None:
    found.host_name = answer["host-name"]


def _users(found: Facts, answer: list[dict[str, Any]]) -> None:
    for row in answer:
        domain, since = row.get("domain"), row.get("login-time")
        found.users.append({
            "user": f"{domain}\\{row['user']}" if domain else row["user"],
            "since": stamp(since) if isinstance(since, int | float) and 0 <= since < LAST_S else None,
        })  # fmt: skip


def _file_systems(found: Facts, answer: list[dict[str, Any]]) -> None:
    rows = [
        {
            "mount_point": row["mountpoint"],
            "type": row["type"],
            "device": row["name"],
            "used_bytes": _size(row.get("used-bytes")),
            "size_bytes": _size(row.get("total-bytes")),
        }
        for row in answer
    ]
    found.file_systems = sorted(rows, key=lambda row: row["mount_point"])


def _size(count: int | None) -> int | None:
    return count if count is not None and count >= 0 else None


def _clock(found: Facts, ask: Callable[[], float]) -> None:
    found.clock_behind_s, found.clock_within_s = clock.difference(ask)


def _by_script(vm: BaseMachine, _note: LaunchRecord, refused: dict[str, str]) -> Facts | None:
    """What a script in the guest finds; None if it cannot be run, with the reasons in `refused`."""
    wish = Wish(line=SCRIPT, ways=("ssh", "serial"), timeout_s=SCRIPT_S)
    before = time.time()
    try:
        done = execute.captured(vm, wish)
    except QvmError as error:
        ways = error.details if isinstance(error, GuestUnreachableError) else ()
        refused.update((way, why) for way, _, why in (each.partition(": ") for each in ways))
        if not ways:
            refused["ssh"] = error.what
        return None
    after = time.time()
    found = Facts(vm.name, done.via, refused=refused)
    read_script(found, str(done), before, after)
    if len(found.missing) < len(PARTS):
        return found
    refused[done.via] = "the guest's shell printed nothing of use"
    return None


def read_script(found: Facts, text: str, before: float, after: float) -> None:
    """Read what `SCRIPT` has printed between two moments."""
    parts = _sections(text)
    readers: dict[str, Callable[[list[str]], None]] = {
        "system": lambda lines: _system(found, _of_uname(lines)),
        "host_name": lambda lines: _host_name(found, {"host-name": lines[0]}),
        "users": lambda lines: found.users.extend(map(_of_who, filter(str.strip, lines))),
        "file_systems": lambda lines: _file_systems(found, _of_df(lines, parts.get("mounts", []))),
        "clock": lambda lines: _clock_between(found, before, int(lines[0][:15]), after),
    }
    for part, read in readers.items():
        try:
            read(parts[part])
        except (KeyError, ValueError, IndexError):
            found.missing[part] = "the guest has no program that shows it"


def _sections(text: str) -> dict[str, list[str]]:
    """The lines after each `@name`."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line[:1] == "@" and line[1:] in (*PARTS, "mounts") and line[1:] not in found:
            name = line[1:]
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def _of_uname(lines: list[str]) -> dict[str, Any]:
    """`uname`'s three lines, and os-release, as the agent has them. Source: os-release(5)."""
    system, kernel, machine, *rest = lines
    values = {}
    for line in rest:
        name, mark, text = line.partition("=")
        if mark:
            values[name] = " ".join(shlex.split(text))
    return {
        "id": values.get("ID"), "name": values.get("NAME", system), "pretty-name": values.get("PRETTY_NAME"),
        "version-id": values.get("VERSION_ID"), "kernel-release": kernel, "machine": machine,
    }  # fmt: skip


def _of_who(line: str) -> dict[str, Any]:
    """A line of `who`: the name; the time after it has the guest's own form."""
    return {"user": line.split(maxsplit=1)[0], "since": None}


def _of_df(lines: list[str], mounts: list[str]) -> list[dict[str, Any]]:
    """The rows of `df -kP` that are on a device, as the agent has them, with the types of /proc/mounts."""
    kinds = {}
    for line in mounts:
        words = line.split(" ")
        if len(words) > 2:
            kinds[_OCTAL.sub(lambda found: chr(int(found[1], 8)), words[1])] = words[2]
    found = []
    for line in lines[1:]:
        words = line.split(None, 5)
        if len(words) == 6 and words[0].startswith("/") and words[1].isdecimal() and words[2].isdecimal():
            size, used = int(words[1][:15]) << 10, int(words[2][:15]) << 10
            found.append({
                "name": words[0].rpartition("/")[2], "mountpoint": words[5], "type": kinds.get(words[5], ""),
                "used-bytes": used, "total-bytes": size,
            })  # fmt: skip
    return found


def _clock_between(found: Facts, before: float, guests: int, after: float) -> None:
    """The guest's clock, which was read some time between two moments and shows whole seconds."""
    found.clock_behind_s = (before + after) / 2 - (guests + 0.5)
    found.clock_within_s = (after - before) / 2 + 0.5
