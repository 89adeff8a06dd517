"""The reference page of all variables, made from the one table.

May import: anything; it runs at development time and in the test that holds the page true.

    python -m qvmsh.config.reference            # rewrites docs/variables.md
    python -m qvmsh.config.reference --check    # exit status 1 if it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from qvmsh.config.variables import VARIABLES, Variable

PAGE = Path(__file__).parents[2] / "docs" / "variables.md"

OPENING = """\
# The variables of a machine

Written by `python -m qvmsh.config.reference` from the table in `qvmsh/config/variables.py`, do not edit.

A `.vmrc` sets them, `NAME=value` a line, in the syntax of shell assignments; an empty value means the
default. Later wins: built-in, environment, `/etc/qvm/vmrc`, `~/.config/qvm/vmrc`, what `VM_INCLUDE` names,
`.vmrc`, `--set NAME=value`. `qvm config` shows all values, `qvm config --explain` where each comes from,
`qvm config --check` what is wrong. Any other name is your own: kept, exported to scripts and hooks.

Looking at a machine runs nothing that its own files name. Until you have started it as it is, or accepted
its files with `qvm allow`, commands that only look (`dryrun`, `doctor`, `disk list`, `snapshot verify`,
...) run the program that has the name of `VM_QEMU_BIN` or `VM_QEMU_IMG` on `PATH`, or else the default,
and say so; `status` does not ask ssh if the files set `VM_SSH_OPTIONS`; and names that change your
environment (`PATH`) or that the loader or Python heed (`LD_...`, `PYTHON...`) are not exported. What the
environment, the shared files or `--set` name is run as ever. If the directory, the `.vmrc` or a file that
it includes belongs to another account (not root's), nothing starts or changes the machine before `qvm
allow`, and after each change of the files again.
"""

NETWORK = """\
A line of `VM_HOSTFWD` is `8080:80`, `udp:5353:53` (or `5353:53/udp`), `0.0.0.0:8080:80`, or in QEMU's own
form `tcp:127.0.0.1:8080-:80`. Where no address is said it is 127.0.0.1, also in QEMU's form; `*` and
`0.0.0.0` mean every address of the host. The same holds for `VM_QEMU_VNC`: `:2` is `127.0.0.1:2`, and a start
that opens VNC on another address warns.

The telnet monitor is there only if `VM_NET_LISTEN`, `VM_NET_PORT` or `VM_NET_HOST` is set. It is an open
door: whoever reaches the port can drive QEMU, which each start says. `qvm cmd` needs none of it."""

HOOKS = """\
Both run in the machine's directory, as the account that QEMU runs as, with all variables in their
environment and the machine's name as last argument; what they wrote last is in `.qvm/log/pre-start.log`
and `post-stop.log`. A name is looked for on `PATH`; one with a `/` is a path from the machine's directory.

If `VM_PRE_START` fails, nothing is started and its words are shown. `VM_POST_STOP` runs once after each
`VM_PRE_START` that succeeded: after `stop`, `kill`, the end of `run`, or a start that failed. Where QEMU
ended without qvm (the guest powered itself off, a crash, the host went down), it runs before the next
start. It has two minutes; that it fails is a warning and stops nothing."""

MACHINE = """\
`VM_LIMIT_MEM` and `VM_LIMIT_CPUS` hold the whole of QEMU, not only its guest, in a scope of systemd that is
called `qvm-NAME-...`: the system's where root's QEMU is meant, else the user's own. A host without systemd
cannot hold them: each start says so, and the machine runs without.

Root works on a machine with the rights of the account that owns its directory. A machine in a directory of
root's becomes that of `VM_MACHINE_OWNER` with the first command that works on it."""

GROUPS = {
    "machine": ("The machine", MACHINE),
    "disks": ("Disks and images", ""),
    "qemu": ("QEMU", ""),
    "network": ("Network", NETWORK),
    "ssh": ("ssh, and powering off", ""),
    "hooks": ("Programs around a run", HOOKS),
    "shell": ("The shell", ""),
    "log": ("Logs for unattended use", ""),
    "context": ("Where the values come from, and the context of a call", ""),
    "later": ("Kept for later", ""),
}
"""Heading of each group, and what is to be said of it beyond its rows."""


def page() -> str:
    """The text of the page as it should be."""
    known = dict.fromkeys([*GROUPS, *(each.group for each in VARIABLES.values())])
    parts = [OPENING]
    for group in known:
        rows = [_row(each) for each in VARIABLES.values() if each.group == group]
        if not rows:
            continue
        title, text = GROUPS.get(group, (group.capitalize(), ""))
        table = ["| variable | meaning | default | values |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## {title}\n", *([text, ""] if text else []), *table]) + "\n")
    return "\n".join(parts)


def _row(variable: Variable) -> str:
    cells = (f"`{variable.name}`", _meaning(variable), _default(variable), _values(variable))
    return "| " + " | ".join(each.replace("|", "\\|").replace("\n", " ") for each in cells) + " |"


def _meaning(variable: Variable) -> str:
    text = variable.help
    if variable.later:
        text += f" (known, without effect yet: waits for {variable.later})"
    if variable.computed:
        text += f" (computed from `{variable.computed}`, cannot be set)"
    if variable.context:
        text += " (set by the caller, not in a file)"
    return text


def _default(variable: Variable) -> str:
    if variable.needed:
        return "**must be set**"
    if variable.follows:
        return f"as `{variable.follows}`"
    if not variable.default:
        return ""
    return f"`{variable.default}`" + (f" {variable.unit}" if variable.unit else "")


def _values(variable: Variable) -> str:
    text = variable.range
    offered = variable.allowed if variable.kind not in ("choice", "options") else ()
    more = [each for each in offered if each not in text]
    return f"{text}; such as {', '.join(more)}" if more else text


def main() -> int:
    wanted = page()
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.exists() and PAGE.read_text() == wanted else 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
