"""`qvm ssh --copy-id`: a public key into the guest's `~/.ssh/authorized_keys`, over the first way that works.

    copy(vm, ())            # Copied: "demo: key id_ed25519.pub was added for account qvm, over ssh"

Nothing is added a second time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess

from qvmsh.config.words import quote
from qvmsh.errors import DeadlineError, GuestUnreachableError, QmpError, QvmError, UsageError, printable
from qvmsh.host import files as host_files
from qvmsh.host import ssh_connection
from qvmsh.io import QUIET
from qvmsh.machine import programs, state
from qvmsh.machine.guest import agent as guest_agent
from qvmsh.machine.guest import frozen
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.result import Result
from qvmsh.machine.guest.transports import agent, serial
from qvmsh.machine.guest.transports import ssh as remote_shell
from qvmsh.machine.guest.wish import Unusable, Wish
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

LOOK_S = 3.0
STEP_S = 30.0
LOOK = "guest-ssh-get-authorized-keys"
KINDS = ("ssh-", "ecdsa-", "sk-")
_WAYS = {"ssh": "over ssh", "agent": "by the guest agent", "serial": "on the serial console"}
_SCRIPT = """\
umask 077; d=${HOME:-~}/.ssh; f=$d/authorized_keys; mkdir -p "$d" || exit 1
if [ -e "$f" ] && grep -q -- "^[[:space:]]*$body" "$f"; then echo present; exit 0; fi
if [ -s "$f" ] && [ -n "$(tail -c 1 "$f")" ]; then echo >>"$f" || exit 1; fi
printf '%s\\n' "$key" >>"$f" || exit 1
if command -v restorecon >/dev/null 2>&1; then restorecon -F "$d" "$f"; fi
echo added"""


class Copied(Result):
    """Result of `ssh --copy-id`: `via` is the way into the guest; `added` is False if the key was there."""

    added: bool
    key: str
    user: str

    @classmethod
    def of(cls, machine: str, key: str, user: str, via: str, *, added: bool) -> Self:
        did = "was added" if added else "is there already"
        text = printable(f"{machine}: key {key} {did} for account {user}, {_WAYS[via]}")
        made = cls(text, via=via, machine=machine)
        made.added, made.key, made.user = added, key, user
        return made

    def as_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("machine", "key", "user", "via", "added")}


def copy(vm: BaseMachine, words: Sequence[str]) -> Copied:
    """Let a key log in to the guest.

    Args:
        words: the file with the key, or none.

    Raises:
        UsageError: there is no such key.
        StateError: the machine is not running, or its guest is held or frozen.
        GuestUnreachableError: no way leads into the guest, another machine answers at its port, or the
            guest was lost while it added the key.
        DeadlineError: the guest did not add it in time.
    """
    if len(words) > 1:
        raise UsageError("ssh: --copy-id takes one file with a key", hint="`qvm ssh --copy-id [KEY]`")
    programs.require_accepted(vm)
    awake = (state.RUNNING, state.STARTING, state.SHUT_DOWN, state.CRASHED, state.BROKEN)
    pid, note = state.require(vm, state.observe(vm), "copy a key into the guest", *awake)
    frozen.require_thawed(vm, "cannot copy a key into the guest")
    shown, line = _public_key(vm, note, words[0] if words else "")
    found = _Copying(vm, pid, note, line)
    refused = []
    for via, way in (("ssh", found.by_ssh), ("agent", found.by_agent), ("serial", found.by_console)):
        try:
            return Copied.of(vm.name, shown, found.user, via, added=way())
        except Unusable as error:
            refused.append(f"{via}: {error}")
        except DeadlineError as error:  # it may still add it, so no other way may
            error.what = f"the guest did not add the key within {STEP_S:.0f} s, {_WAYS[via]}"
            error.hint = "`qvm status` shows its state; the same command later adds no key twice"
            raise
    raise GuestUnreachableError(
        "no way leads into the guest, so the key was not copied", machine=vm.name, details=refused,
        hint="on a terminal ssh asks for a password; VM_CONSOLE_USER, VM_CONSOLE_PASSWORD_FILE: the console",
    )  # fmt: skip


class _Copying:
    """The ways; each is true if it added the key, and raises `Unusable` if it does not lead in."""

    def __init__(self, vm: BaseMachine, pid: int, note: LaunchRecord, line: str) -> None:
        self.vm, self.pid, self.note, self.line = vm, pid, note, line
        self.user = note.user or vm.settings.text("VM_MACHINE_USER")
        self._script = script(line)

    def by_ssh(self) -> bool:
        """Over ssh, with a key that is there already, or with a password from the terminal."""
        if not self.note.ssh_port:
            raise Unusable("the machine has no network for ssh")
        found = guest.link(self.vm, self.note)
        if not (found.is_open() or guest.speaks(found, timeout_s=LOOK_S)):
            raise Unusable(f"ssh does not answer at {found.host}:{found.port}")
        may_ask = guest.may_ask(self.vm)
        try:
            found.open(interactive=may_ask, timeout_s=guest.LOG_IN_S)
        except ssh_connection.Refused as refused:
            if refused.kind == "host key":  # a key that lets in is of no use to it
                raise guest.refusal(self.vm, found, refused) from None
            more = "" if may_ask or refused.kind != "key" else "; a password is asked for on a terminal only"
            raise Unusable(f"{_first(refused.words)}{more}") from None
        done = remote_shell.run(self.vm.with_io(QUIET), self.pid, self.note, self._wish("ssh"))
        return self._judged(done)

    def by_agent(self) -> bool:
        """By the agent's own command, or by a script that it runs."""
        path, given = self.note.socket("qga"), dict[str, object](username=self.user)
        command = LOOK
        body = self.line.split()[:2]
        try:
            known: list[str] = []
            with contextlib.suppress(QmpError):  # no file yet
                known = qga.ask(path, command, given, timeout_s=agent.ANSWER_S)["keys"]
            if any(each.split()[:2] == body for each in known):
                return False
            given |= {"keys": [self.line]}
            command = "guest-ssh-add-authorized-keys"
            qga.ask(path, command, given, timeout_s=agent.ANSWER_S)
        except QmpError:
            return self._judged(agent.run(self.vm, self.pid, self.note, self._wish("agent")))
        except OSError as error:
            if isinstance(error, qga.NoAgent) or command == LOOK:
                raise Unusable(str(error)) from None
            raise guest_agent.failure(self.vm, command, error, agent.ANSWER_S) from None
        return True

    def by_console(self) -> bool:
        """By a shell on the serial console."""
        return self._judged(serial.run(self.vm, self.pid, self.note, self._wish("serial")))

    def _wish(self, way: str) -> Wish:
        return Wish(
            line=self._script, user=self.user, ways=(way,), timeout_s=STEP_S, tag=secrets.token_hex(8)
        )

    def _judged(self, done: Result) -> bool:
        if done.status or done.strip() not in ("added", "present"):
            raise Unusable(_first(done.stderr) or f"the guest's shell ended with status {done.status}")
        return done.strip() == "added"


def script(line: str) -> str:
    """The script that adds a key where no line begins with it; it prints `added` or `present`."""
    body = " ".join(line.split()[:2])
    return f"key={quote(line)}; body={quote(body)}\n{_SCRIPT}"


def _first(text: str) -> str:
    """The last line of what a program said: its reason."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _public_key(vm: BaseMachine, note: LaunchRecord, given: str) -> tuple[str, str]:
    """Where the key comes from, as a message shows it, and its line for `authorized_keys`."""
    if given:
        return given, _line(vm, os.path.join(os.getcwd(), os.path.expanduser(given)), given)
    for path in guest.identities(vm, note):
        shown = guest.vm_relative(vm, path)
        return shown, _line(vm, path, shown)
    for name in guest.KEY_NAMES:
        path = os.path.expanduser(f"~/.ssh/{name}.pub")
        if os.path.exists(path):
            return f"~/.ssh/{name}.pub", _line(vm, path, path)
    done = subprocess.run(["ssh-add", "-L"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout.startswith(KINDS):
        return "of your ssh agent", done.stdout.splitlines()[0].strip()
    raise UsageError(
        "ssh: --copy-id: you have no ssh key", machine=vm.name, hint="`ssh-keygen -t ed25519` makes one"
    )


def _line(vm: BaseMachine, path: str, shown: str) -> str:
    """The line of a public key, from its file or that of the private one."""
    name = path if path.endswith(".pub") or not os.path.exists(f"{path}.pub") else f"{path}.pub"
    try:
        text = host_files.read(name).text
    except (OSError, QvmError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"ssh: --copy-id {shown}: {why}", machine=vm.name) from None
    if "PRIVATE KEY" in text:
        argv = ["ssh-keygen", "-y", "-P", "", "-f", name]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise UsageError(
                f"ssh: --copy-id {shown}: it is a private key that cannot be read without its passphrase",
                machine=vm.name, hint="give the file with its public key, mostly the same name with `.pub`",
            )  # fmt: skip
        text = done.stdout
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith(KINDS)]
    if not lines or not lines[0].isprintable() or len(lines[0].split()) < 2:
        hint = "a file with a public key, such as ~/.ssh/id_ed25519.pub"
        raise UsageError(f"ssh: --copy-id {shown}: it holds no public key", machine=vm.name, hint=hint)
    return lines[0]
