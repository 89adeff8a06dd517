"""ssh to a guest: argument lists, cached connections, banners. Independent of machines.

    link = Link(port=2222, user="qvm", folder="/run/user/1000/qvm/3f2a", ...)
    link.open(interactive=False, timeout_s=15.0)             # connects, logs in, stays (ControlMaster)
    with link.taken(interactive=False, timeout_s=15.0) as own:
        subprocess.run(own.command(["uname", "-a"], tty=False))

A command has its connection to itself: commands that run at the same time have one each. Dropbear up to
2024.85 closes a session that it has just opened when the command of another session on the same connection
ends at that moment, and now and then the whole connection with it (mkj/dropbear#326; seen: 12 of 24 commands
in six threads). OpenSSH refuses the eleventh session on a connection (MaxSessions). Logins take turns, so
neither counts too many of them (MaxStartups).

Source: ssh_config(5). All paths are short and plain: the machine's directory is reached through
a link in the runtime folder, so that no character of its name can mean anything to ssh.
"""

from __future__ import annotations

import os
import time

from qvmsh.host import files, locks, ssh_forwards
from qvmsh.host.heard import heard
from qvmsh.host.ssh_refused import Refused, reason
from qvmsh.host.ssh_turns import LOOK_S, Asking, Ended, Turn, asked

__all__ = ("Link", "Refused", "quoted", "reason")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from subprocess import CompletedProcess

SERVER_ALIVE_S = 15
CONNECT_S = 15
"""How long a command whose cached connection has gone may take to make one of its own."""
FAILED = 255
"""ssh's own exit status; the guest's command may return it too, its log distinguishes them."""
IDLE_S = 60
"""How long a connection that only commands at the same time needed is kept after the last one."""
TURN_S = 120.0
"""How long a command waits for the logins of others before its own."""
_OWN_WORDS = (
    "debug1: ", "debug2: ", "OpenSSH_", "mux_client_request_session: read from master failed",
    "Authenticated to ", "Transferred: sent ", "Bytes per second: sent ",
)  # fmt: skip
"""How the lines begin that are no message for the user; the last are logged where the master has gone."""
_STATUS = (": Received exit status from master ", ": Exit status ")
"""What ssh logs with the exit status that it got from the guest; without one it logs -1 or neither. How the
line begins depends on its version."""


class Link:
    """How to reach one guest.

    Args:
        port, user: where its sshd answers, and the account.
        folder: runtime folder, with the control socket and the log of the connection.
        known_hosts: files that pin the guest's host key; a new key goes into the first.
        identities: private key files; empty leaves ssh its own defaults and the agent.
        options: the user's own words for ssh (VM_SSH_OPTIONS); they come first, and the first value wins.
        is_pinned: a host key is known, so no other is accepted.
        alias: name that the host key is pinned under, so that a new port changes nothing.

    `number` is that of the cached connection; 0 is the permanent one. `private` names one of a single
    command, with options of its own (`ssh_private`). `is_own` is true for one that `taken` gave, unless it is
    shared. `lost` reports a port that a new connection cannot forward again: its line, and why.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        *,
        port: int,
        user: str,
        folder: str,
        known_hosts: Sequence[str],
        alias: str,
        is_pinned: bool = False,
        identities: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.lost: Callable[[str, str], None] | None = None
        self.number = 0
        self.private = ""
        self.is_own = False
        self.port = port
        self.user = user
        self.folder = folder
        self.known_hosts = tuple(known_hosts)
        self.alias = alias
        self.is_pinned = is_pinned
        self.identities = tuple(identities)
        self.options = tuple(options)

    @property
    def control(self) -> str:
        """The control socket of the cached connection."""
        name = self.private or (str(self.number) if self.number else "")
        return os.path.join(self.folder, f"ssh.{name}" if name else "ssh")

    def _at(self, number: int) -> Link:
        """The same guest over another cached connection."""
        made = self.twin()
        made.number = number
        return made

    def twin(self) -> Link:
        """A copy, to be changed."""
        made = Link.__new__(Link)
        made.__dict__.update(self.__dict__)
        return made

    def of_user(self, user: str) -> Link:
        """The same guest for another account, with connections of its own."""
        from hashlib import sha1

        if user == self.user:
            return self
        twin = self.twin()
        twin.user = user
        twin.folder = os.path.join(self.folder, f"u{sha1(os.fsencode(user)).hexdigest()[:8]}")  # noqa: S324
        os.makedirs(twin.folder, mode=0o700, exist_ok=True)
        return twin

    @property
    def log(self) -> str:
        """The messages of the cached connection's own ssh."""
        return f"{self.control}.log"

    def settings(self) -> list[tuple[str, str]]:
        """The ssh_config(5) keywords of this guest."""
        rows = [
            ("HostKeyAlias", self.alias),
            ("UserKnownHostsFile", " ".join(map(quoted, self.known_hosts))),
            ("GlobalKnownHostsFile", "/dev/null"),
            ("StrictHostKeyChecking", "yes" if self.is_pinned else "accept-new"),
            ("CheckHostIP", "no"),
            ("HashKnownHosts", "no"),
            ("UpdateHostKeys", "no"),
            ("ServerAliveInterval", str(SERVER_ALIVE_S)),
            ("ControlPath", quoted(self.control)),
        ]
        rows += [("IdentityFile", quoted(path)) for path in self.identities]
        if self.identities:
            rows.append(("IdentitiesOnly", "yes"))
        return rows

    @property
    def is_verbose(self) -> bool:
        """The user has asked for ssh's messages, so its log is not qvm's to read."""
        return any(word.startswith("-v") or "loglevel" in word.lower() for word in self.options)

    def arguments(self, log_level: str = "ERROR", *, may_ask: bool = False) -> list[str]:
        """`ssh` with all options for this guest, but without its name.

        Args:
            may_ask: it may ask for a password on the terminal; not even the user's options can allow that
                where there is none.
        """
        argv = ["ssh", "-F", "none", "-o", f"BatchMode={'no' if may_ask else 'yes'}"]
        argv += ["-p", str(self.port), "-l", self.user, *self.options]
        for key, value in [*self.settings(), ("LogLevel", log_level)]:
            argv += ["-o", f"{key}={value}"]
        return argv

    def command(self, words: Sequence[str], *, tty: bool, log: str = "") -> list[str]:
        """The argument list that runs `words` in the guest over the cached connection.

        As ssh does, the words are joined by spaces and read by the guest's shell. There is no prompt for a
        password: if the cached connection has gone, ssh makes another, on which a hostile guest would
        ask the user.

        Args:
            log: file for ssh's own messages, for `outcome`; else they are on its standard error.
        """
        mode = ["-tt"] if tty else ["-T"] if words else []
        own = ["-o", "ControlMaster=no", "-o", f"ConnectTimeout={CONNECT_S}"]
        if self.private:  # the master has opened the ports
            own += ["-o", "ClearAllForwardings=yes"]
        words = [*own, *mode, "--", self.host, *words]
        return [*self.arguments("DEBUG2" if log else "ERROR"), *(["-E", log] if log else []), *words]

    def run(self, script: str, *, timeout_s: float) -> CompletedProcess[str]:
        """Run a script in the guest over a cached connection; errors as `heard`.

        Its status is `FAILED` too where no connection could be had.
        """
        from subprocess import CompletedProcess

        try:
            with self.taken(interactive=False, timeout_s=timeout_s) as own, own.ended_by_failure():
                return heard(own.command([script], tty=False), timeout_s=timeout_s)
        except Refused as refused:
            return CompletedProcess([script], FAILED, "", refused.words)

    def is_open(self) -> bool:
        """True if a cached connection listens on the control socket."""
        from _socket import AF_UNIX, socket

        probe = socket(AF_UNIX)
        try:
            probe.settimeout(1.0)
            probe.connect(self.control)
        except OSError:
            return False
        finally:
            probe.close()
        return True

    def open(self, *, interactive: bool, timeout_s: float) -> None:
        """Log in and leave the connection in the background for later commands.

        Args:
            interactive: may ask for a password or a passphrase on the terminal.
            timeout_s: for the whole login, and for another command's before it.

        Raises:
            Refused: with the reason; nothing is left behind.
        """
        if self.is_open():
            return
        with self._turn(time.monotonic() + timeout_s) as is_ours:
            if not is_ours:
                self._require_nobody_asked()
                raise Refused("connection", "another login is still in progress")
            if not self.is_open():
                self._log_in_or_ask(interactive=interactive, timeout_s=timeout_s)

    def _require_nobody_asked(self) -> None:
        """Refuse to wait for a login that itself waits for somebody at its terminal."""
        pid = asked(os.path.join(self.folder, "lock"))
        if pid:
            raise Refused("busy", f"another login waits for a password on its terminal (pid {pid})")

    def _log_in_or_ask(self, *, interactive: bool, timeout_s: float) -> None:
        """Log in; ask for a password only where nothing else lets in, and let others know of that."""
        try:
            self.log_in(interactive=False, timeout_s=timeout_s)
        except Refused as refused:
            if not interactive or refused.kind != "key":
                raise
            with Asking(os.path.join(self.folder, "lock")):
                self.log_in(interactive=True, timeout_s=timeout_s)

    def _turn(self, deadline: float) -> Turn:
        """One login at a time: each would remove the control socket of the previous one. False: not yet."""
        return Turn(os.path.join(self.folder, "lock"), deadline)

    def taken(self, *, interactive: bool, timeout_s: float) -> Taken:
        """A cached connection that no other command uses until the block ends; made if need be.

        Only the first may ask for a password (`interactive`). If a guest refuses another login, the
        first is shared.
        """
        return Taken(self, interactive=interactive, timeout_s=timeout_s)

    def take(self, fd: int, *, interactive: bool, timeout_s: float) -> Link:
        """Lock the byte of a connection, and log in if it is not open."""
        deadline = time.monotonic() + max(timeout_s, TURN_S)
        while True:
            found = self._free(fd)
            found.is_own = True
            if found.is_open():
                return found
            with self._turn(0.0) as is_ours:
                if is_ours and not found.is_open():
                    try:
                        may_ask = interactive and not found.number
                        found._log_in_or_ask(interactive=may_ask, timeout_s=timeout_s)
                    except Refused:
                        if not found.number or not self.is_open():
                            raise
                        return self
                if is_ours:
                    return found
            self._require_nobody_asked()
            locks.release_byte(fd, found.number)  # a command may end before it is our turn
            if time.monotonic() > deadline:
                raise Refused("connection", f"other logins have been in progress for {TURN_S:.0f} s")
            time.sleep(LOOK_S)  # the end of a lock, or of a command, as in `_turn`

    def _free(self, fd: int) -> Link:
        """A connection that no command uses, locked: one that is open, else the first that is not."""
        spare: Link | None = None
        number, last = 0, max(self._numbers(), default=0)
        while spare is None or number <= last:
            if locks.take_byte(fd, number):
                found = self._at(number)
                if found.is_open():
                    if spare is not None:
                        locks.release_byte(fd, spare.number)
                    return found
                if spare is None:
                    spare = found
                else:
                    locks.release_byte(fd, number)
            number += 1
        return spare

    def _numbers(self) -> list[int]:
        """The numbers of the connections whose control sockets are there."""
        names = [name.partition("ssh.")[2] for name in os.listdir(self.folder) if name.startswith("ssh.")]
        first = [0] if os.path.lexists(self._at(0).control) else []
        return first + [int(name) for name in names if name.isdigit()]

    def log_in(self, *, interactive: bool, timeout_s: float) -> None:
        import subprocess

        for path in (self.control, self.log):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        argv = self.arguments(may_ask=interactive)
        argv += ["-o", f"ConnectTimeout={max(1, int(timeout_s))}", "-o", "ControlMaster=yes"]
        # -f detaches after the login; its messages go to a file, since it would hold a pipe open
        keep = str(IDLE_S) if self.number or self.private else "yes"
        argv += ["-o", f"ControlPersist={keep}", "-E", self.log, "-N", "-f", "--", self.host]
        try:
            done = subprocess.run(
                argv,
                stdin=None if interactive else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if interactive else subprocess.DEVNULL,
                timeout=None if interactive else timeout_s,
                start_new_session=not interactive,
            )
        except FileNotFoundError:
            raise Refused("client", "ssh is not installed") from None
        except subprocess.TimeoutExpired:
            raise Refused("connection", f"no login within {timeout_s:.0f} s") from None
        if done.returncode or not self.is_open():
            raise reason(self.words_in(self.log))
        if not self.number and not self.private:
            ssh_forwards.open_again(self)

    def close(self) -> None:
        """End the cached connections; their processes are gone when this returns."""
        twin, names = self.twin(), [each for each in os.listdir(self.folder) if _is_of_user(each)]
        for folder in (self.folder, *(os.path.join(self.folder, each) for each in names)):
            twin.folder = folder
            for number in twin._numbers():
                twin._at(number).end()
            for name in os.listdir(folder):
                if name.startswith("ssh.p") and name[5:].isdigit():
                    twin.private = name.removeprefix("ssh.")
                    twin.end()
            twin.private = ""

    def ended_by_failure(self) -> Ended:
        """End the connection with a command that is given up in the block, unless it is shared.

        Only so does the guest end it: Dropbear keeps a session, and what writes there, although its
        reader has gone.
        """
        return Ended(self.end if self.is_own else lambda: None)

    def end(self) -> None:
        import contextlib
        import subprocess

        if self.is_open():
            with contextlib.suppress(subprocess.TimeoutExpired):  # what listens there is no ssh
                subprocess.run(
                    [*self.arguments(), "-O", "exit", "--", self.host],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=10,
                    check=False,
                )

    def outcome(self, log: str, status: int) -> tuple[int | None, str]:
        """The exit status of the guest's command, None if unknown; and ssh's own messages.

        Args:
            log: as for `command`.
            status: ssh's.
        """
        lines = self.words_in(log).splitlines()
        if self.is_verbose:  # the best that is known without qvm's log
            is_known = status != FAILED or self.is_open()
        else:
            debug = [line for line in lines if line.startswith("debug") and not line.endswith(" -1")]
            is_known = status != FAILED or any(mark in line for line in debug for mark in _STATUS)
            lines = [line for line in lines if not line.startswith(_OWN_WORDS)]
        return status if is_known else None, "\n".join(lines).strip()

    def words_in(self, log: str) -> str:
        """ssh's own messages, if they went to a file (`-E`); it ends its lines as a terminal needs it."""
        try:
            return files.read(log).data.decode(errors="replace").replace("\r\n", "\n").strip()
        except OSError:
            return ""


class Taken:
    """The block of `Link.taken`."""

    def __init__(self, link: Link, *, interactive: bool, timeout_s: float) -> None:
        self._link = link
        self._interactive = interactive
        self._timeout_s = timeout_s

    def __enter__(self) -> Link:
        self._fd = files.opened(os.path.join(self._link.folder, "taken"), os.O_RDWR | os.O_CREAT)
        try:
            return self._link.take(self._fd, interactive=self._interactive, timeout_s=self._timeout_s)
        except BaseException:
            os.close(self._fd)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _is_of_user(name: str) -> bool:
    """True for a folder with the connections of another account than the machine's."""
    return len(name) == 9 and name[0] == "u" and not name[1:].strip("0123456789abcdef")


def quoted(path: str) -> str:
    """`path` as one value of an ssh option: `%` doubled, in double quotes where it needs them."""
    text = path.replace("%", "%%")
    if text and all(c.isalnum() or c in "/._-%+@:" for c in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
