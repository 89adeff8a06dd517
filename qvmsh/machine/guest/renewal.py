"""The first start of a clone: what its guest must not have in common with the original.

    ask(vm)               # at the next start that waits for the guest
    renew(vm, record)     # ["machine-id is new", "ssh host keys are new", "host name is mail"]

It is done by ssh, as root (`sudo -n`). The new host keys come over the connection that knows the old
ones, and are pinned instead of them.
"""

from __future__ import annotations

import os
import subprocess

from qvmsh.config.words import quote
from qvmsh.errors import QvmError
from qvmsh.host import files as host_files
from qvmsh.machine import identity
from qvmsh.machine.guest import ssh as guest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

TIMEOUT_S = 120.0
SCRIPT = r"""
name=$1; umask 022
tell() { if [ "$1" = 0 ]; then echo "done $2"; else echo "failed $2"; fi; }
if [ -e /etc/machine-id ]; then
    id=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s\n' "$id" > /etc/machine-id
    status=$?
    other=/var/lib/dbus/machine-id
    [ -L "$other" ] || [ ! -e "$other" ] || printf '%s\n' "$id" > "$other"
    tell $status "machine-id is new"
fi
if command -v sshd >/dev/null || [ -x /usr/sbin/sshd ]; then
    rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
    ssh-keygen -A >/dev/null
    tell $? "ssh host keys are new"
    systemctl restart ssh >/dev/null 2>&1 || systemctl restart sshd >/dev/null 2>&1 \
        || kill -HUP "$(cat /run/sshd.pid)"
    for file in /etc/ssh/ssh_host_*_key.pub; do echo "key $(cut -d' ' -f1,2 "$file")"; done
fi
old=$(hostname)
printf '%s\n' "$name" > /etc/hostname && hostname "$name"
status=$?
sed -i "s/\([[:blank:]]\)$old\([[:blank:]]\|\$\)/\1$name\2/g" /etc/hosts 2>/dev/null
tell $status "host name is $name"
"""


def path_of(vm: BaseMachine) -> str:
    """The file that says that the guest is to be renewed."""
    return os.path.join(vm.files.state, "renew-guest")


def ask(vm: BaseMachine) -> None:
    """Let the next start that waits for the guest do it."""
    vm.state_folder()
    host_files.write_atomic(path_of(vm), "")


def is_asked(vm: BaseMachine) -> bool:
    return os.path.lexists(path_of(vm))


def renew(vm: BaseMachine, note: LaunchRecord, name: str) -> list[str]:
    """Renew the guest, and say what is new, and what could not be done.

    Args:
        name: its new host name.
    """
    script = f"sudo -n sh -c {quote(SCRIPT)} renew {quote(name)}"
    try:
        found = guest.connect(vm, "renew the guest", interactive=False)
        done = found.run(script, timeout_s=TIMEOUT_S)
    except (QvmError, subprocess.TimeoutExpired) as error:
        why = error.what if isinstance(error, QvmError) else "it did not answer in time"
        return [f"the guest was not renewed: {why}; the next start tries again"]
    rows = [line.partition(" ") for line in done.stdout.splitlines()]
    said = [text for kind, _, text in rows if kind == "done"]
    failed = [text for kind, _, text in rows if kind == "failed"]
    keys = [text for kind, _, text in rows if kind == "key"]
    if not rows:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [f"the guest was not renewed: {last}; the next start tries again"]
    if keys:
        alias = f"qvm-{identity.known_uuid(vm)}"
        host_files.write_atomic(vm.files.known_hosts, "".join(f"{alias} {key}\n" for key in keys))
    guest.close(vm, note)
    if not failed:
        host_files.remove(path_of(vm))
    return [*said, *(f"not done: {text}" for text in failed)]
