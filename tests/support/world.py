"""The real `qvm`, environments to run it in, and machines in folders of their own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qvmsh import Machine
from qvmsh.errors import QvmError, StateError
from qvmsh.qemu import qga
from tests.support.firmware import QUICK
from tests.support.guests.debian import DebianImage

ROOT = Path(__file__).parents[2]
"""The checkout."""

QVM = str(Path(sys.executable).with_name("qvm"))
REAL_CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
"""Images are built once for all runs, in the user's own cache, keyed by their inputs."""

DEADLINE_S = 240
SAVED = "booted"


@dataclass
class Result:
    """A finished command."""

    argv: list[str]
    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"$ {' '.join(self.argv)}\n[{self.status}]\n{self.out}{self.err}"


@dataclass
class World:
    """An environment of its own: home, runtime folder, mark; and how to run qvm in it."""

    home: Path
    runtime: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def environ(self) -> dict[str, str]:
        foreign = ("VM_", "XDG_", "QVM_", "DISPLAY", "WAYLAND_", "PYTHONDONTWRITEBYTECODE")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        cpus = os.environ.get("QVM_TEST_CPUS")
        return kept | {
            **({"VM_MACHINE_CPUS": cpus} if cpus else {}),
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CACHE_HOME": REAL_CACHE,
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_DATA_HOME": str(self.home / ".local/share"),
            "VM_QEMU_ACCEL": "tcg",
            "VM_SSH_ATTEMPTS": "90",  # 180 s: guests under tcg on a busy machine
            "VM_GLOBAL_CONFIG": str(self.home / "global-vmrc"),
            "QVM_TEST_MARK": self.mark,
            "LC_QVM_TEST_MARK": self.mark,  # what root passes on to the owner of a machine
            "TERM": "xterm-256color",
        }

    def run(
        self,
        *words: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        stdin: str | None = None,
        program: str = QVM,
        timeout: float = DEADLINE_S,
    ) -> Result:
        """Run qvm with `words` and wait for it."""
        argv = [program, *map(str, words)]
        done = subprocess.run(
            argv,
            cwd=cwd or self.home,
            env=self.environ | (env or {}),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
        )
        return Result(argv, done.returncode, done.stdout, done.stderr)

    def popen(self, *words: str | Path, cwd: Path | None = None, **kw: Any) -> subprocess.Popen[str]:
        """Begin qvm with `words`; its output is piped."""
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(
            [QVM, *map(str, words)],
            cwd=cwd or self.home,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            text=True,
            **kw,
        )

    def processes(self) -> dict[int, str]:
        """Pid and command line of every living process that carries the mark."""
        wanted = {f"{name}={self.mark}".encode() for name in ("QVM_TEST_MARK", "LC_QVM_TEST_MARK")}
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if wanted & set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if line:  # a zombie has none
                        found[int(pid)] = line
        return found

    def pids(self, text: str) -> list[int]:
        """The processes whose command line contains the text."""
        return [pid for pid, line in self.processes().items() if text in line]

    def wait_for_ends(self) -> None:
        """Wait until no process is left, or for a while: a busy machine takes its time to end them."""
        deadline = time.monotonic() + DEADLINE_S
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)

    def leftovers(self) -> list[str]:
        """Processes and sockets that are still there; processes are ended, by pid."""
        self.wait_for_ends()
        left = [f"process {pid}: {line[:200]}{_waits(pid)}" for pid, line in self.processes().items()]
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        left += [f"socket {path}" for path in self.runtime.rglob("*") if path.is_socket()]
        return left


def _waits(pid: int) -> str:
    """Its state, signals and files, and what its threads wait for: of a failure that cannot be repeated."""
    folder = Path(f"/proc/{pid}")
    said = []
    with contextlib.suppress(OSError):
        lines = (folder / "status").read_text().splitlines()
        said += [line for line in lines if line.startswith(("State", "PPid", "Sig", "Shd"))]
        said += [f"waits in {path.read_text()}" for path in sorted(folder.glob("task/*/wchan"))]
    for path in sorted(folder.glob("fd/*")):
        with contextlib.suppress(OSError):
            said.append(f"fd {path.name} is {path.readlink()}")
    return "".join(f"\n    {' '.join(line.split())}" for line in said)


@dataclass
class Vm:
    """A machine's directory, and qvm run in it."""

    world: World
    directory: Path

    def qvm(self, *words: str | Path, **kw: Any) -> Result:
        return self.world.run(*words, cwd=self.directory, **kw)

    def ok(self, *words: str | Path, **kw: Any) -> Result:
        """Run qvm and require that it succeeds."""
        result = self.qvm(*words, **kw)
        assert result.status == 0, str(result)
        return result

    def patiently(self, *words: str, **kw: Any) -> Result:
        """As `ok`, with a qvm that gives the guest agent a minute to answer, not a second."""
        result = self.qvm("-c", PATIENT, *words, program=sys.executable, **kw)
        assert result.status == 0, str(result)
        return result

    def answering(self) -> Result:
        """`status` of a machine whose guest answers; `status` itself gives a starved one a few seconds."""
        deadline = time.monotonic() + DEADLINE_S
        while (result := self.qvm("status")).status != 0:
            assert time.monotonic() < deadline, str(result)
        return result

    def wait_for_agent(self) -> None:
        """Wait until the guest agent answers: its process is there before it has opened its port."""
        qga.ask(str(self.runtime / "qga"), "guest-ping", timeout_s=DEADLINE_S)

    def start(self, *words: str) -> Result:
        """Start a tiny guest and wait until all its services are up (ssh is the first of them)."""
        result = self.ok("start", *words)
        self.ok("ssh", "until pidof qemu-ga && pidof acpid; do usleep 100000; done")
        self.wait_for_agent()
        return result

    def save(self) -> None:
        """Boot the guest and save its state, from which `load` has it ready in 2 s instead of 10 s."""
        self.start()
        self.ok("stop", "--savevm", SAVED)

    @property
    def is_saved(self) -> bool:
        catalogue = self.directory / ".qvm/snapshots.json"
        return catalogue.exists() and f'"{SAVED}"' in catalogue.read_text()

    def load(self) -> Result:
        """Load the guest that `save` has booted; the saved state is removed."""
        result = self.ok("start", "--loadvm", SAVED)
        self.ok("snapshot", "delete", SAVED)
        return result

    def end_in_guest(self, *programs: str) -> None:
        """End programs of the guest for good; one that just forks escapes a single `killall`."""
        words = " ".join(programs)
        end = f"while pidof {words} >/dev/null; do sudo -n killall -q {words}; usleep 100000; done"
        self.ok("ssh", end)

    def set(self, **values: str) -> None:
        """Append assignments to the `.vmrc`."""
        with (self.directory / ".vmrc").open("a") as file:
            for name, value in values.items():
                file.write(f"{name}='{value}'\n")

    def value(self, name: str) -> str:
        """The value of a variable."""
        return self.ok("config", name).out.rstrip("\n")

    @property
    def pid(self) -> int:
        return int((self.directory / ".qvm/qemu.pid").read_text())

    @property
    def command_line(self) -> list[str]:
        """The words with which QEMU was started."""
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().decode().split("\0")

    @property
    def runtime(self) -> Path:
        """The folder of the machine's sockets."""
        note = (self.directory / ".qvm/running").read_text()
        return Path(next(line.partition(" ")[2] for line in note.splitlines() if line.startswith("runtime ")))

    def clock_error_s(self) -> float:
        """How far the guest's clock is from the host's, however long the question takes."""
        before = time.time()
        now = float(self.ok("ssh", "date +%s").out)
        return max(0.0, before - now - 1.0, now - time.time())

    def library(self) -> Machine:
        """The same machine by the library."""
        return Machine.open(self.directory, environ=self.world.environ)

    def kill(self) -> None:
        """End QEMU if there is one; by the library, which costs no process."""
        try:
            self.library().kill()
        except StateError:
            pass
        except (QvmError, OSError):
            self.qvm("kill")


def new_world(base: Path) -> World:
    home = base / "home"
    home.mkdir(parents=True)
    (home / "global-vmrc").touch(0o644)
    return World(home, Path(tempfile.mkdtemp(prefix="qvmt-")))  # sockets need a short path


def end_world(world: World) -> None:
    left = world.leftovers()
    shutil.rmtree(world.runtime, ignore_errors=True)
    assert not left, "left behind:\n" + "\n".join(left)


def write_vmrc(directory: Path, name: str = "demo", **more: str) -> None:
    """A `.vmrc` with all that is mandatory."""
    owner = pwd.getpwuid(os.geteuid()).pw_name
    values = {
        "VM_MACHINE_NAME": name,
        "VM_MACHINE_ID": "33",
        "VM_MACHINE_OWNER": owner,
        "VM_MACHINE_MEM": "64",
    } | more
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".vmrc").write_text("".join(f"{k}='{v}'\n" for k, v in values.items()))


def build_tiny() -> str:
    """Path of the built-in image, built if the cache has none (once for all workers)."""
    done = subprocess.run(
        [QVM, "--json", "img", "build", "tiny"],
        env=os.environ | {"XDG_CACHE_HOME": REAL_CACHE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    path: str = json.loads(done.stdout)["image"]
    return path


def create_tiny(world: World, name: str = "demo", where: Path | None = None) -> Vm:
    """A machine on the built-in image.

    It has one processor: under tcg a second one costs a quarter more at each boot, and may be starved.
    """
    result = world.run("create", name, "--image", "tiny", "--cpus", "1", cwd=where)
    assert result.status == 0, str(result)
    return Vm(world, (where or world.home) / name)


def copy_of(world: World, saved: Path) -> Vm:
    """A copy of a machine that is off."""
    vm = Vm(world, world.home / saved.name)
    subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", saved, vm.directory], check=True)
    return vm


def saved_once(factory: pytest.TempPathFactory, name: str, save: Callable[[Vm], None]) -> Path:
    """The directory of a machine that `save` has booted and left off: made once for all workers."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            world = new_world(factory.mktemp(name))
            vm = create_tiny(world)
            try:
                save(vm)
            finally:
                vm.kill()
                end_world(world)
            folder.mkdir()
            vm.directory.rename(folder / "demo")
    return folder / "demo"


def create_debian(
    world: World, image: DebianImage, name: str = "demo", where: Path | None = None, **more: str
) -> Vm:
    """A machine on the Debian image; `more` goes into its `.vmrc`. Start it with `--ssh-attempts 120`."""
    words: list[str | Path] = ["--image", image.image, "--mem", "512", "--cpus", "2", "--user", image.user]
    result = world.run("create", name, *words, cwd=where)
    assert result.status == 0, str(result)
    vm = Vm(world, (where or world.home) / name)
    vm.ok("config", f"VM_SSH_IDENTITY={image.key}", *(f"{key}={value}" for key, value in more.items()))
    return vm


PATIENT = """
import sys
from qvmsh.machine.guest import clock, filesystems
from qvmsh.machine.power import reboot, stop

stop.AGENT_S = reboot.AGENT_S = filesystems.AGENT_S = clock.CLOCK_S = clock.PATIENT_S = 60.0
from qvmsh.__main__ import main

sys.exit(main())
"""
"""Code of a qvm for a host that is so busy that its guests stand still for seconds."""

Blank = Callable[..., Vm]
"""The type of the fixture `blank`."""


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def create_blank(world: World, name: str = "demo", where: str | None = None, **more: str) -> Vm:
    """A machine with an empty disk; `more` goes into its `.vmrc`."""
    vm = Vm(world, world.home / (where or name))
    write_vmrc(vm.directory, name, **{"VM_QEMU_EXTRA": QUICK} | more)
    seed = ["qemu-img", "create", "-q", "-f", "qcow2", f"./{name}-seed.qcow2", "16M"]
    subprocess.run(seed, cwd=vm.directory, check=True)
    if "VM_MACHINE_OWNER" in more:
        vm.ok("init")
    else:
        vm.library().init()  # hundreds of tests begin with it: no process of its own
    return vm


def bare_environ(home: Path, **more: str) -> dict[str, str]:
    """An environment without any configuration, for code that runs in the test's process."""
    return {"HOME": str(home), "VM_GLOBAL_CONFIG": "/dev/null"} | more
