"""The choice of an accelerator with real QEMU processes.

Where a host that behaves in some way is needed, the accelerator `kvm` is given to a script that
behaves so and else runs the real QEMU: an answer must not depend on the host that tests run on.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import qvmsh.qemu
from qvmsh.errors import MissingProgramError
from qvmsh.io import QUIET, Io
from qvmsh.qemu import accelerator, probe, programs
from qvmsh.qemu.probe import Choice
from tests.support.world import DEADLINE_S, World, wait_until

QEMU = "qemu-system-x86_64"
PACKAGE = Path(qvmsh.qemu.__file__).parent

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kvm is Linux' own"),
    pytest.mark.skipif(accelerator.host_architecture() != "x86_64", reason="the probe is x86 code"),
]


class Host:
    """An environment with a cache of its own, and QEMUs that behave in a given way under kvm."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ | {"XDG_CACHE_HOME": str(folder / "cache")}
        self.qemu = programs.find(QEMU)

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "qvm" / "accel"

    def behaving(self, kvm: str, tcg: str = "", built_with: str = "tcg kvm") -> str:
        """A QEMU that runs these lines of shell for `-accel kvm` and `-accel tcg`."""
        script = self.folder / "bin" / QEMU
        script.parent.mkdir(exist_ok=True)
        names = "\\n".join(built_with.split())
        script.write_text(
            "#!/bin/sh\n"
            f'real() {{ shift 2; exec {self.qemu} -accel tcg "$@"; }}\n'
            f'echo "$2" >>{self.folder}/runs\n'
            'case "$2" in\n'
            f"help) echo 'Accelerators supported in QEMU binary:'; printf '{names}\\n'; exit;;\n"
            f"kvm) {kvm or ':'};;\n"
            f"tcg) {tcg or ':'};;\n"
            'esac\nreal "$@"\n'
        )
        script.chmod(0o755)
        return str(script)

    @property
    def runs(self) -> list[str]:
        """What the script was asked to run, so far."""
        file = self.folder / "runs"
        return file.read_text().split() if file.exists() else []

    def choose(self, qemu: str, *, is_fresh: bool = False, io: Io = QUIET) -> Choice:
        return accelerator.choose(qemu, "auto", io, environ=self.environ, is_fresh=is_fresh)


@pytest.fixture
def host(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose /dev/kvm opens; its processes must be gone after the test (`world`)."""
    monkeypatch.setitem(accelerator._DEVICES, "kvm", "/dev/null")
    return Host(tmp_path, world.environ)


def test_probe_source_assembles_to_the_shipped_bytes(tmp_path: Path) -> None:
    shipped = (PACKAGE / "probe.bin").read_bytes()
    assert len(shipped) == 512
    assert shipped[510:] == b"\x55\xaa"
    if not (shutil.which("gcc") and shutil.which("ld")):
        if os.environ.get("CI"):
            pytest.fail("gcc and ld must be there in CI")
        pytest.skip("gcc or ld is not installed")
    subprocess.run(
        ["gcc", "-c", "-m64", "-nostdlib", PACKAGE / "probe.S", "-o", "probe.o"], cwd=tmp_path, check=True
    )
    linking = ["ld", "-Ttext", "0x7c00", "--oformat", "binary", "-e", "_start", "probe.o", "-o", "probe.bin"]
    subprocess.run(linking, cwd=tmp_path, check=True)
    assert (tmp_path / "probe.bin").read_bytes() == shipped


@pytest.mark.parametrize("extra", ["", "-machine q35", "-cpu max -smp 2"])
def test_probe_under_tcg_ends_with_its_status(host: Host, extra: str) -> None:
    qemu = host.behaving("", tcg=f'shift 2; exec {host.qemu} -accel tcg {extra} "$@"')
    prober = probe.Prober(qemu, "x86_64", QUIET, host.environ)
    ended = prober.probe("tcg", probe.TCG_DEADLINE_S)
    assert ended.status == probe.PROBE_STATUS["x86_64"], str(ended)


def test_probe_of_a_32_bit_target_ends_with_its_status(host: Host) -> None:
    path = shutil.which("qemu-system-i386")
    if not path:
        pytest.skip("qemu-system-i386 is not installed")
    ended = probe.Prober(path, "i386", QUIET, host.environ).probe("tcg", probe.TCG_DEADLINE_S)
    assert ended.status == probe.PROBE_STATUS["i386"], str(ended)


def test_choose_auto_on_this_host_is_true_of_this_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accelerator._DEVICES, "kvm", "/dev/kvm")
    if accelerator.why_closed("/dev/kvm"):
        choice = host.choose(QEMU)
        assert (choice.accelerator, choice.probed) == ("tcg", False)
        assert "/dev/kvm" in choice.why
        return
    choice = host.choose(QEMU)
    assert choice.probed
    assert choice.tcg_s
    assert choice.limit_s
    limit_s = choice.limit_s * (10 if choice.accelerator == "kvm" else 1)
    ended = probe.Prober(host.qemu, "x86_64", QUIET, host.environ).probe("kvm", limit_s)
    if choice.accelerator == "kvm":
        assert ended.status == 85
        assert choice.hardware_s
        assert choice.hardware_s <= choice.limit_s
    else:
        assert choice.accelerator == "tcg"
        assert ended.status != 85 or ended.seconds > choice.limit_s / 2, f"{choice}; then {ended.seconds} s"


def test_choose_usable_accelerator_takes_it_and_asks_once(host: Host) -> None:
    qemu = host.behaving('real "$@"', tcg="sleep 1")
    first = host.choose(qemu)
    assert (first.accelerator, first.verdict, first.probed, first.cached) == ("kvm", "usable", True, False)
    assert first.tcg_s
    assert first.hardware_s
    assert host.runs == ["help", "tcg", "kvm"]
    second = host.choose(qemu)
    assert (second.accelerator, second.probed, second.cached) == ("kvm", False, True)
    assert second.why == first.why
    assert second.tcg_s == pytest.approx(first.tcg_s, abs=1e-3)
    assert host.runs == ["help", "tcg", "kvm"], "the cache runs nothing"


def test_choose_cached_answer_loads_and_runs_nothing(host: Host) -> None:
    qemu = host.behaving('real "$@"', tcg="sleep 1")
    host.choose(qemu)
    code = (
        "import sys; sys.addaudithook(lambda e, a: e in ('subprocess.Popen', 'os.fork', 'os.posix_spawn', "
        "'os.exec', 'os.system') and print('RAN', e, a))\n"
        "before = set(sys.modules)\n"
        "import os\n"
        "from qvmsh.qemu import accelerator\n"
        "from qvmsh.io import QUIET\n"
        "accelerator._DEVICES['kvm'] = '/dev/null'\n"
        f"choice = accelerator.choose({qemu!r}, 'auto', QUIET, environ=os.environ)\n"
        "print(choice.accelerator, choice.cached, *sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=host.environ, capture_output=True, text=True, check=True
    )
    answer, cached, *modules = done.stdout.split()
    assert (answer, cached) == ("kvm", "True"), done.stdout
    heavy = {"re", "json", "dataclasses", "pathlib", "typing", "enum", "argparse", "subprocess", "inspect"}
    heavy |= {
        "logging",
        "asyncio",
        "collections",
        "signal",
        "tempfile",
        "shutil",
        "socket",
        "grp",
        "resource",
    }
    assert not heavy & set(modules)


def test_choose_hanging_accelerator_is_tcg_after_a_timeout(host: Host) -> None:
    qemu = host.behaving("sleep 1000; exit")  # a child of the script: it must end too (`world` looks)
    began = time.monotonic()
    choice = host.choose(qemu)
    took = time.monotonic() - began
    assert (choice.accelerator, choice.verdict, choice.hardware_s) == ("tcg", "timeout", None)
    assert "timed out" in choice.why
    assert choice.limit_s
    assert choice.limit_s == pytest.approx(probe.limit(choice.tcg_s or 0))
    assert took < 2 * choice.limit_s + 240
    again = host.choose(qemu)
    assert again.cached
    assert "timed out" in again.why
    assert host.runs.count("kvm") == 1
    rows = host.cache.read_text().split("\t")
    rows[8] = str(int(rows[8]) - 3601)  # an hour later it is measured again
    host.cache.write_text("\t".join(rows))
    late = host.choose(qemu)
    assert (late.probed, late.verdict) == (True, "timeout")
    assert host.runs.count("kvm") == 2


def test_choose_refused_accelerator_repeats_qemus_words(host: Host) -> None:
    qemu = host.behaving('echo "$0: failed to initialize kvm: Device or resource busy" >&2; exit 1')
    choice = host.choose(qemu)
    assert (choice.accelerator, choice.verdict) == ("tcg", "refused")
    assert "QEMU cannot use it: failed to initialize kvm: Device or resource busy (status 1)" in choice.why


def test_choose_accelerator_that_ends_the_probe_wrongly_is_tcg(host: Host) -> None:
    qemu = host.behaving("exit 0")
    assert host.choose(qemu).verdict == "refused"
    qemu = host.behaving("kill -SEGV $$")
    choice = host.choose(qemu, is_fresh=True)
    assert (choice.accelerator, choice.verdict) == ("tcg", "refused")
    assert "signal 11" in choice.why


def test_choose_where_tcg_cannot_run_the_probe_is_still_tcg(host: Host) -> None:
    qemu = host.behaving('real "$@"', tcg='echo "could not load PC BIOS" >&2; exit 1')
    choice = host.choose(qemu)
    assert (choice.accelerator, choice.verdict) == ("tcg", "unmeasured")
    assert "could not load PC BIOS" in choice.why
    assert "kvm" not in host.runs


def test_choose_with_slow_tcg_never_fails_by_time(host: Host) -> None:
    qemu = host.behaving('real "$@"', tcg="sleep 1")
    choice = host.choose(qemu)
    assert (choice.tcg_s or 0) > 1
    assert (choice.limit_s or 0) > 10
    assert choice.accelerator == "kvm"


def test_choose_qemu_built_without_the_accelerator_is_tcg(host: Host) -> None:
    choice = host.choose(host.behaving("", built_with="tcg"))
    assert (choice.accelerator, choice.verdict) == ("tcg", "absent")
    assert "built without kvm" in choice.why
    assert host.runs == ["help"]


def test_choose_qemu_built_without_tcg_takes_what_starts(host: Host) -> None:
    quits = "read word; exit"  # as QEMU does when its monitor says quit
    choice = host.choose(host.behaving(quits, built_with="kvm"))
    assert (choice.accelerator, choice.verdict) == ("kvm", "accepted")
    assert "no tcg to compare with" in choice.why


def test_accepts_with_the_real_qemu_is_true_for_what_starts(host: Host) -> None:
    prober = probe.Prober(host.qemu, "x86_64", QUIET, host.environ)
    assert prober._accepts("tcg", "a test").verdict == "accepted"
    refused = prober._accepts("hvf", "a test")
    assert refused.verdict == "refused"
    assert "invalid accelerator hvf" in refused.detail


def test_choose_replaced_qemu_is_measured_again(host: Host) -> None:
    qemu = host.behaving('real "$@"')
    host.choose(qemu)
    os.utime(qemu, ns=(1, 1))
    assert host.choose(qemu).probed
    assert host.choose(qemu).cached
    assert len(host.cache.read_text().splitlines()) == 2


def test_choose_fresh_measures_whatever_the_cache_says(host: Host) -> None:
    qemu = host.behaving('real "$@"')
    host.choose(qemu)
    assert host.choose(qemu, is_fresh=True).probed


def test_choose_with_a_read_only_cache_answers(host: Host) -> None:
    host.environ["XDG_CACHE_HOME"] = "/proc/nowhere"
    qemu = host.behaving('real "$@"')
    assert [host.choose(qemu).probed for _ in range(2)] == [True, True]


def test_choose_qemu_with_an_awkward_name_is_remembered(host: Host) -> None:
    awkward = host.folder / "a b,c=d'\n" / QEMU
    awkward.parent.mkdir()
    awkward.symlink_to(host.behaving('real "$@"'))
    assert host.choose(str(awkward)).probed
    assert host.choose(str(awkward)).cached


def test_choose_missing_or_unusable_qemu_is_an_error(host: Host) -> None:
    with pytest.raises(MissingProgramError, match="there is no"):
        host.choose("/nonexistent/qemu-system-x86_64")
    script = host.folder / QEMU
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(MissingProgramError):
        host.choose(str(script))


def test_choose_in_four_threads_at_once_agrees(host: Host) -> None:
    qemu = host.behaving('real "$@"', tcg="sleep 1")
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(host.choose(qemu).accelerator)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["kvm"] * 4
    assert host.choose(qemu).cached


def test_choose_interrupted_by_its_door_ends_the_probe(host: Host) -> None:
    class Impatient(Io):
        def checkpoint(self) -> None:
            raise KeyboardInterrupt

    qemu = host.behaving('touch "$0.kvm"; sleep 1000')
    with pytest.raises(KeyboardInterrupt):
        host.choose(qemu, io=Impatient(capture=True, level=0))
    assert not host.cache.exists(), "half a measurement is no answer"


def begin(host: Host, qemu: str) -> tuple[subprocess.Popen[str], int]:
    """A process that chooses, and the pid of the `sleep` under its probe of kvm."""
    code = (
        "import os, sys\n"
        "from qvmsh.qemu import accelerator\n"
        "from qvmsh.io import QUIET\n"
        "accelerator._DEVICES['kvm'] = '/dev/null'\n"
        "accelerator.choose(sys.argv[1], 'auto', QUIET, environ=os.environ)\n"
    )
    chooser = subprocess.Popen(
        [sys.executable, "-c", code, qemu], env=host.environ, stderr=subprocess.PIPE, text=True
    )
    note = host.folder / "pid"
    deadline = time.monotonic() + DEADLINE_S
    while not (note.exists() and note.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return chooser, int(note.read_text())


def test_choose_on_ctrl_c_ends_the_probe(host: Host) -> None:
    # the slow tcg makes the limit long: the probe is under way when the signal comes
    qemu = host.behaving(f"echo $$ >{host.folder}/pid; sleep 1000; exit", tcg="sleep 1")
    chooser, pid = begin(host, qemu)
    chooser.send_signal(signal.SIGINT)
    _, words = chooser.communicate(timeout=DEADLINE_S)
    assert "KeyboardInterrupt" in words
    assert not Path(f"/proc/{pid}").exists()


def test_choose_killed_leaves_a_probe_that_the_kernel_will_end(host: Host) -> None:
    qemu = host.behaving(f"echo $$ >{host.folder}/pid; sleep 1000; exit", tcg="sleep 1")
    chooser, pid = begin(host, qemu)
    limit = rf"Max cpu time +{probe.CPU_LIMIT_S} +{probe.CPU_LIMIT_S} "
    wait_until(lambda: re.search(limit, Path(f"/proc/{pid}/limits").read_text()))  # set after its start
    chooser.kill()
    chooser.communicate(timeout=DEADLINE_S)
    os.killpg(pid, signal.SIGKILL)  # this one sleeps, and uses no processor time


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize(
    ("group", "mode", "says"),
    [
        ("tty", 0o660, "join group tty"),
        ("tty", 0o640, "only root can open it"),
        ("root", 0o660, "only root can open it"),
    ],
)
def test_why_closed_to_another_user_says_how_to_get_in(
    tmp_path: Path, group: str, mode: int, says: str
) -> None:
    import grp
    import pwd

    device = Path("/dev/shm") / f"qvm-test-{os.getpid()}"
    device.touch()
    try:
        os.chown(device, 0, grp.getgrnam(group).gr_gid)
        device.chmod(mode)
        groups = os.getgroups()
        os.setgroups([])
        os.setegid(pwd.getpwnam("nobody").pw_gid)
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            found = accelerator.why_closed(str(device))
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
    finally:
        device.unlink()
    assert found
    assert found[0].startswith(f"no permission to open {device}: ")
    assert says in found[0]
    assert found[1]


def test_version_of_the_real_programs_is_read() -> None:
    for name in (QEMU, "qemu-img", "ssh"):
        found = programs.version(programs.find(name))
        assert found, name
        assert found.numbers > (2,), name


def test_version_of_what_cannot_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingProgramError, match="there is no"):
        programs.version(str(tmp_path / "qemu-img"))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(MissingProgramError, match="cannot be run"):
        programs.version(str(tmp_path / "text"))
