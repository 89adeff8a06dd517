"""Signs that a guest is ready: its ssh, its agent, or a text on its serial console (VM_READY).

    sign = signs.sign_of(vm, note)              # "ssh"
    with signs.Agent(vm, note) as watch:
        watch.step(pidfd, deadline)             # True once it is ready

What a console has shown is read in its log, from where the guest began to boot.
"""

from __future__ import annotations

import os
import re
import time

from qvmsh.errors import QmpError
from qvmsh.host import files as host_files
from qvmsh.host import logfiles, process, ssh_connection, sshd
from qvmsh.machine import launch_record, ready_sign
from qvmsh.machine.guest import ssh as guest
from qvmsh.qemu import qga, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

STEP_S = 0.1
"""How long one look at the guest, and at the caller's wish to stop, takes at most."""
EARLY_SHARE = 0.3
"""Looks at the port are this rare (as a part of the time so far) until the guest has a network."""
REFUSED_S = 10.0
"""How long refused keys are tried again: a guest may install them after its sshd is up."""
AGENT_S = 0.5
"""How long the agent is waited for at each look while the guest starts."""
LOOK_S = 3.0
"""How long `status` waits for it."""
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[ -/]*[0-~]")
_SEEN = "seen"


class Ssh:
    """The guest is ready once ssh lets us in; the connection stays cached."""

    waited_for = "ssh"
    late = "the guest did not answer ssh"

    def __init__(self, vm: BaseMachine, note: LaunchRecord) -> None:
        self._vm = vm
        self._note = note
        self.link = guest.link(vm, note)
        self._knocking = sshd.Knocking(self.link.host, self.link.port)
        self._has_network = False
        self._has_port = False
        self._has_banner = False
        self._refused: ssh_connection.Refused | None = None
        self._refused_since = 0.0

    def __enter__(self) -> Self:
        self._knocking.__enter__()
        return self

    def __exit__(self, *how: object) -> None:
        self._knocking.__exit__(*how)

    def step(self, pidfd: int, deadline: float) -> bool:
        """One try; True if the guest let us in.

        Raises:
            GuestUnreachableError: it answers, but will never let us in.
        """
        self._has_network = self._has_network or _has_network(self._note)
        share = self._knocking.SHARE if self._has_network else EARLY_SHARE
        answer = self._knocking.step(pidfd, STEP_S, share=share)
        self._has_port = self._has_port or answer != "closed"
        if answer != "ssh":
            return False
        self._has_banner = True
        left = max(1.0, deadline - time.monotonic())
        try:
            self.link.open(interactive=False, timeout_s=left)
        except ssh_connection.Refused as refused:
            self._note_refusal(refused)
            process.wait_readable([pidfd], STEP_S)
            return False
        return True

    def _note_refusal(self, refused: ssh_connection.Refused) -> None:
        now = time.monotonic()
        if self._refused is None or self._refused.kind != refused.kind:
            self._refused_since = now
        self._refused = refused
        final = refused.kind in ("host key", "client")
        if final or (refused.kind == "key" and now - self._refused_since > REFUSED_S):
            raise guest.refusal(self._vm, self.link, refused)

    def facts(self) -> list[str]:
        """What is known of a guest that is not ready."""
        words = self._refused.words.splitlines()[-1:] if self._refused else []
        return [
            f"ssh port: {self.link.host}:{self.link.port} " + ("open" if self._has_port else "closed"),
            "ssh banner: " + ("came" if self._has_banner else "none yet"),
            "login: " + (words[0] if words else "not tried" if not self._has_banner else "not done"),
        ]


class Agent:
    """The guest is ready once its agent answers."""

    waited_for = "the guest agent"
    late = "the guest agent did not answer"

    def __init__(self, vm: BaseMachine, note: LaunchRecord) -> None:
        self._note = note
        self._why = "not asked"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, pidfd: int, _deadline: float) -> bool:
        """One try; True if it answered."""
        self._why = agent_refusal(self._note, AGENT_S)
        if self._why:
            process.wait_readable([pidfd], STEP_S)
        return not self._why

    def facts(self) -> list[str]:
        return [f"guest agent: {self._why}"]


def agent_refusal(note: LaunchRecord, timeout_s: float) -> str:
    """Why the agent does not answer; "" if it does."""
    try:
        qga.ask(note.socket("qga"), "guest-ping", timeout_s=timeout_s)
    except QmpError as error:
        return error.what
    except OSError as error:
        return error.strerror or str(error)
    return ""


class Console:
    """The guest is ready once its serial console has shown a text since it began to boot."""

    late = "the serial console did not show it"

    def __init__(self, vm: BaseMachine, note: LaunchRecord) -> None:
        self._vm = vm
        self._note = note
        self._pattern = pattern_of(ready_sign.of(vm, note))
        self.waited_for = f"`{self._pattern.pattern}` on the console"
        self.late = f"the serial console did not show `{self._pattern.pattern}`"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, pidfd: int, _deadline: float) -> bool:
        """One look; True if the text is there."""
        if has_shown(self._vm, self._note, self._pattern):
            return True
        process.wait_readable([pidfd], STEP_S)
        return False

    def facts(self) -> list[str]:
        return []


KINDS: dict[str, type[Ssh | Agent | Console]] = {"ssh": Ssh, "agent": Agent, "console": Console}


def pattern_of(sign: str) -> re.Pattern[str]:
    """The regular expression of `console:REGEX`."""
    return re.compile(sign.partition(":")[2])


def has_shown(vm: BaseMachine, note: LaunchRecord, pattern: re.Pattern[str]) -> bool:
    """True if the console has shown the text since the guest began to boot; noted for the next look."""
    begin = _noted(note)
    if begin == _SEEN:
        return True
    try:
        with logfiles.opened(vm.files.serial_log) as log:
            start = int(begin or 0)
            size = os.fstat(log.fileno()).st_size
            data = os.pread(log.fileno(), size, start if start <= size else 0)  # it may have been shortened
    except OSError:
        return False
    text = _SEQUENCE.sub("", data.decode(errors="replace")).replace("\r", "")
    if not pattern.search(text):
        return False
    _write(note, _SEEN)
    return True


def refusal(vm: BaseMachine, note: LaunchRecord, sign: str) -> str:
    """Why a guest that runs is not ready, in a few words; "" if it is.

    Args:
        sign: `agent` or `console:REGEX`.
    """
    if sign == "agent":
        why = agent_refusal(note, LOOK_S)
        return f"its agent does not answer: {why}" if why else ""
    pattern = pattern_of(sign)
    return "" if has_shown(vm, note, pattern) else f"its console has not shown `{pattern.pattern}`"


def begin_anew(vm: BaseMachine, note: LaunchRecord) -> None:
    """The guest is about to boot again: what its console has shown so far does not count."""
    try:
        size = os.stat(vm.files.serial_log).st_size
    except OSError:
        size = 0
    _write(note, str(size))


def _noted(note: LaunchRecord) -> str:
    """Where in the log the guest began to boot, or that it is ready; "" at its first boot."""
    try:
        text = host_files.read(note.socket(launch_record.CONSOLE_READY)).text.strip()
    except OSError:
        return ""
    return text if text == _SEEN or text.isdigit() else ""


def _write(note: LaunchRecord, text: str) -> None:
    if os.path.isdir(note.runtime):
        host_files.write_atomic(note.socket(launch_record.CONSOLE_READY), text + "\n")


def _has_network(note: LaunchRecord) -> bool:
    """False while the guest's driver has not brought its network device up, so that nothing can answer.

    A virtio device receives everything until the driver sets the addresses to receive.
    Other models do not report this; then a look is as good now as later.
    """
    try:
        filters = qmp.ask(note.socket("qmp"), "query-rx-filter", timeout_s=0.5)
    except (OSError, QmpError):
        return True
    return not filters or not all(each["promiscuous"] for each in filters)
