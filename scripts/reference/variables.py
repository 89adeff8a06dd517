"""docs/variables.md: every variable of a `.vmrc`, from the table in `qvmsh/config/variables.py`."""

from __future__ import annotations

from markdown import WRITTEN, prose, table

from qvmsh.config.variables import VARIABLES, Variable

PAGE = "variables.md"

OPENING = """\
A `.vmrc` sets them, one `NAME=value` a line, in the syntax of shell assignments. An empty value means the
default. Later layers win: built-in, environment, `/etc/qvm/vmrc`, `~/.config/qvm/vmrc`, the files that
`VM_INCLUDE` names, `.vmrc`, `--set NAME=value`. `qvm config` shows all values, `qvm config --explain` where
each comes from, `qvm config --check` what is wrong. Other names are yours: they are kept, and exported to
scripts and hooks. See also [the configuration](configuration.md).

Looking at a machine runs no program that its own files name. Until you have started the machine as it is,
or accepted its files with `qvm allow`, commands that only look (`dryrun`, `doctor`, `disk list`, `snapshot
verify`, ...) use the program on `PATH` that has the name of `VM_QEMU_BIN` or `VM_QEMU_IMG`, or else the
default, and report that; `status` does not try ssh if the files set `VM_SSH_OPTIONS`; and names that change
your environment (`PATH`), the loader (`LD_...`) or Python (`PYTHON...`) are not exported. Programs that the
environment, the shared files or `--set` name are run as usual. If the directory, the `.vmrc` or a file that
it includes belongs to another account (except root), nothing starts or changes the machine before `qvm
allow`, and again after each change of the files.
"""

NETWORK = """\
A line of `VM_HOSTFWD` is `8080:80`, `udp:5353:53` (or `5353:53/udp`), `0.0.0.0:8080:80`, or in QEMU's own
form `tcp:127.0.0.1:8080-:80`. Without an address it is 127.0.0.1, in QEMU's form too; `*` and `0.0.0.0`
mean every address of the host. The same holds for `VM_QEMU_VNC`: `:2` is `127.0.0.1:2`, and a start that
opens VNC on another address prints a warning.

The telnet monitor exists only if `VM_NET_LISTEN`, `VM_NET_PORT` or `VM_NET_HOST` is set. It has no
password: anyone who can reach the port can control QEMU, and each start prints a warning. `qvm cmd` does
not need it."""

HOOKS = """\
Both run in the machine's directory, as the account that QEMU runs as, with all variables in their
environment and the machine's name as the last argument. Their last output is in `.qvm/log/pre-start.log`
and `post-stop.log`. A name is looked up on `PATH`; one with a `/` is a path relative to the machine's
directory.

If `VM_PRE_START` fails, nothing is started and its output is shown. `VM_POST_STOP` runs once after each
successful `VM_PRE_START`: after `stop`, `kill`, the end of `run`, or a start that failed. If QEMU ended
without qvm (the guest powered itself off, a crash, the host went down), it runs before the next start. It
may take two minutes; if it fails, qvm prints a warning and continues."""

MACHINE = """\
`VM_LIMIT_MEM` and `VM_LIMIT_CPUS` limit the whole QEMU process, not only its guest, in a systemd scope
called `qvm-NAME-...`: the system's if QEMU runs as root, else the user's own. Without systemd there is no
limit; each start prints a warning and the machine runs without it.

Root works on a machine with the rights of the account that owns its directory. A machine in a directory of
root becomes the property of `VM_MACHINE_OWNER` with the first command that works on it."""

GROUPS = {
    "machine": ("The machine", MACHINE),
    "disks": ("Disks and images", ""),
    "qemu": ("QEMU", ""),
    "network": ("Network", NETWORK),
    "ssh": ("ssh and power-off", ""),
    "hooks": ("Hooks", HOOKS),
    "shell": ("The shell", ""),
    "log": ("Logs for unattended use", ""),
    "context": ("Layers and context", ""),
    "later": ("Kept for later", ""),
}
"""Heading of each group, and a text above its table."""


def page() -> str:
    """The text of the page as it should be."""
    known = dict.fromkeys([*GROUPS, *(each.group for each in VARIABLES.values())])
    parts = ["# Variables\n", WRITTEN.format("`qvmsh/config/variables.py`"), OPENING]
    for group in known:
        rows = [_row(each) for each in VARIABLES.values() if each.group == group]
        if not rows:
            continue
        title, text = GROUPS.get(group, (group.capitalize(), ""))
        lines = table(("variable", "meaning", "default", "values"), rows)
        parts.append("\n".join([f"## {title}\n", *([text, ""] if text else []), *lines]) + "\n")
    return "\n".join(parts)


def _row(variable: Variable) -> tuple[str, str, str, str]:
    return f"`{variable.name}`", prose(_meaning(variable)), _default(variable), prose(_values(variable))


def _meaning(variable: Variable) -> str:
    text = variable.help
    if variable.later:
        text += f" (waits for {variable.later}, which qvm does not support yet)"
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
