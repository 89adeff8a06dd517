"""Building the built-in guest: as any user, at once, interrupted, and where something is missing."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import qvmsh
from qvmsh.images import builtin
from qvmsh.images import tiny as recipe
from tests.support.root_file_system import files, root_file_system
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, REAL_CACHE, Result, World

pytestmark = pytest.mark.guest

NOBODY = 65534
IS_ROOT = os.geteuid() == 0


class Cache:
    """A cache of the test's own; the packages of the user's may be laid in, to be downloaded once."""

    def __init__(self, world: World, top: Path) -> None:
        self.world, self.top = world, top
        self.images = top / "qvm/images"

    def seed(self) -> Cache:
        shutil.copytree(Path(REAL_CACHE) / "qvm/images/debs", self.images / "debs")
        return self

    def seed_image(self) -> Cache:
        """The packages, and the image that is made of them, as if it had been built here."""
        image = builtin.path("tiny", self.world.environ)
        assert image
        built = Path(image).parent
        self.seed()
        shutil.copytree(built, self.images / built.name)
        return self

    @property
    def env(self) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(self.top)}

    def build(self, *words: str, **env: str) -> Result:
        return self.world.run("img", "build", "tiny", *words, env=self.env | env)

    def begin(self) -> subprocess.Popen[str]:
        """A build at work, printing its stages on stderr."""
        argv = [sys.executable, "-m", "qvmsh", "-v", "img", "build", "tiny"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(argv, env=self.world.environ | self.env, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def finished(self) -> list[Path]:
        return sorted(self.images.glob("tiny-*/tiny.qcow2"))

    def left(self) -> list[str]:
        """What is in the cache besides complete images, packages and lists."""
        known = {"apt", "debs", ".tiny.lock"}
        return [
            path.name
            for path in self.images.glob("*")
            if path.name not in known and path.parent == self.images
        ]


@pytest.fixture
def cache(world: World, tiny: str) -> Cache:
    """An empty cache below a path with everything in it that a program might take for its own."""
    assert tiny
    return Cache(world, world.home / "a,b='c\"d e:é@@5?x=;#")


def test_build_in_parallel_makes_one_image_for_all(cache: Cache) -> None:
    """Also after one that was interrupted, and one that was killed."""
    check_interrupted(cache.seed())
    check_killed(cache)
    builds = [cache.begin() for _ in range(3)]
    said = [build.communicate(timeout=240) for build in builds]
    assert [build.returncode for build in builds] == [0, 0, 0], said
    (image,) = cache.finished()
    results = sorted(out.split(" (")[1].split(", ")[1].split(";")[0] for out, _ in said)
    assert results[:2] == ["already built", "already built"]
    assert results[2].startswith("built in ")
    assert {out.split(" (")[0] for out, _ in said} == {str(image)}
    assert sum("waiting for" in err for _, err in said) == 2
    assert cache.left() == [image.parent.name]


def check_interrupted(cache: Cache) -> None:
    """An interrupted build cleans up and exits with 130."""
    build = unpacking(cache)
    build.send_signal(signal.SIGINT)
    out, err = build.communicate(timeout=DEADLINE_S)
    assert build.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert cache.left() == []


def check_killed(cache: Cache) -> None:
    """What a killed build leaves is no guest."""
    build = unpacking(cache)
    build.send_signal(signal.SIGKILL)
    build.communicate(timeout=DEADLINE_S)
    assert cache.left() == [".tiny.part"]
    assert "not built" in cache.world.run("img", "list", env=cache.env).out


def unpacking(cache: Cache) -> subprocess.Popen[str]:
    """A build that is unpacking its packages."""
    build = cache.begin()
    deadline = time.monotonic() + DEADLINE_S
    while not (cache.images / ".tiny.part/packages").is_dir():
        assert time.monotonic() < deadline
        assert build.poll() is None
        time.sleep(0.01)
    return build


def test_build_changed_image_is_built_anew_read_only(cache: Cache) -> None:
    (image,) = cache.seed_image().finished()
    assert "already built" in cache.build().out
    assert image.stat().st_mode & 0o777 == 0o444
    image.chmod(0o644)
    with image.open("r+b") as file:  # as if it had been booted
        file.seek(0, os.SEEK_END)
        file.write(b"\0")
    assert "not built" in cache.world.run("img", "list", env=cache.env).out
    again = cache.build()
    assert "built in" in again.out, again
    assert cache.finished() == [image]
    assert image.stat().st_mode & 0o777 == 0o444
    subprocess.run(["qemu-img", "check", "-q", f"./{image.name}"], cwd=image.parent, check=True)


def test_build_output_is_a_copy_that_is_never_written_over(world: World, tiny: str) -> None:
    before = Path(tiny).stat().st_ino
    done = world.run("--json", "img", "build", "tiny", "-o", "x.qcow2")
    assert done.status == 0, done
    assert Path(tiny).stat().st_ino == before  # it is not built again
    answer = json.loads(done.out)
    assert (answer["image"], answer["output"]) == (tiny, str(world.home / "x.qcow2"))
    assert (world.home / "x.qcow2").read_bytes() == Path(tiny).read_bytes()
    again = world.run("img", "build", "tiny", "-o", "x.qcow2")
    assert again.status == 2
    assert "x.qcow2 already exists" in again.err


def test_build_refresh_asks_apt_and_keeps_a_current_image(cache: Cache) -> None:
    first = cache.seed_image().build("--refresh")
    assert first.status == 0, first
    done = cache.build("--refresh")
    assert done.status == 0, done
    assert "already built" in done.out
    assert len(cache.finished()) == 1
    assert list((cache.images / "apt/state/lists").glob("*Packages*"))
    assert not list((cache.images / "apt/cache").glob("*.bin"))


def test_build_without_apt_names_what_is_missing_and_the_way_out(cache: Cache, tmp_path: Path) -> None:
    for name in ("qemu-img", "mke2fs", "debugfs"):
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert found
        (tmp_path / name).symlink_to(found)
    done = cache.build(PATH=str(tmp_path))
    assert done.status == 1
    assert "cannot build a guest: not installed: apt-cache, apt-get, dpkg-deb" in done.err
    assert "--image FILE" in done.err


def test_build_without_network_says_apt_s_own_words(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("deb [trusted=yes] http://127.0.0.1:9/debian bookworm main\n")
    (tmp_path / "conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/list"; Dir::Etc::sourceparts "/nonexistent";\n'
    )
    done = cache.build(APT_CONFIG=str(tmp_path / "conf"))
    assert done.status == 1
    assert "cannot build tiny: apt-get update failed" in done.err
    assert "127.0.0.1:9" in done.err
    assert "hint: check the network" in done.err
    assert cache.left() == []


def test_build_in_a_folder_that_cannot_be_made_fails_clearly(cache: Cache) -> None:
    cache.top.parent.mkdir(exist_ok=True)
    cache.top.write_text("a file where the cache is to be")
    done = cache.build()
    assert done.status == 1
    assert "cannot build tiny: Not a directory" in done.err


@pytest.fixture
def small(world: World) -> Iterator[Path]:
    """A file system with less space than a build needs."""
    if not IS_ROOT:
        pytest.skip("only root may mount a small file system")
    with small_disk(world.home / "small", 160):
        yield world.home / "small"


def test_build_on_a_full_disk_fails_and_leaves_no_part(world: World, tiny: str, small: Path) -> None:
    assert tiny
    cache = Cache(world, small).seed()
    done = cache.build()
    assert done.status == 1
    assert f"cannot build tiny: no space left on the file system of {cache.images}" in done.err
    assert "XDG_CACHE_HOME" in done.err
    assert cache.left() == []


@pytest.fixture
def public(world: World) -> Iterator[Path]:
    """A folder that another account can enter (pytest's cannot), with the package in it."""
    top = Path(tempfile.mkdtemp(prefix="qvm-public-"))
    top.chmod(0o755)
    shutil.copytree(
        os.path.dirname(qvmsh.__file__), top / "lib/qvmsh", ignore=shutil.ignore_patterns("__pycache__")
    )
    subprocess.run(["chmod", "-R", "a+rX", top], check=True)
    yield top
    shutil.rmtree(top)


def _python_for_all() -> str:
    """A Python that another account can run."""
    for program in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        check = [program, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            done = subprocess.run(check, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True)
        except OSError:
            continue
        if done.returncode == 0:
            return program
    pytest.skip("no Python 3.11 that another account can run")


@pytest.mark.skipif(not IS_ROOT, reason="this run is a plain user's: every build in it is this test")
def test_build_as_a_plain_user_gives_the_guest_files_to_root(tiny: str, public: Path) -> None:
    """From an empty cache, with nobody's rights, a strict umask, and no sbin on PATH."""
    home = public / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    script = (
        "from qvmsh.images import builtin; import json; print(json.dumps(builtin.build('tiny').as_json()))"
    )
    done = subprocess.run(
        [_python_for_all(), "-c", script],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(public / "lib")},
        cwd=home,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        umask=0o077,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["fresh"]
    assert answer["image"].startswith(f"{home}/.cache/qvm/images/tiny-")
    assert all(path.lstat().st_uid == NOBODY for path in home.rglob("*"))
    with root_file_system(answer["image"], home) as image:
        found = files(image)
    foreign = sorted(path for path, (_, user, group) in found.items() if user or group)
    assert foreign == ["/home/qvm", "/home/qvm/.ssh", "/home/qvm/.ssh/authorized_keys"]
    with root_file_system(tiny, home) as image:  # that of root, which boots
        of_root = files(image)
    common = found.keys() & of_root.keys()  # not all, where one has a newer package
    assert {"/bin/busybox", "/bin/sudo", "/etc/shadow", "/root", "/tmp"} <= common
    assert {path: found[path] for path in common} == {path: of_root[path] for path in common}


@pytest.mark.skipif(not IS_ROOT, reason="only root builds into another account's home")
def test_build_as_root_with_a_users_home_writes_nothing_there(cache: Cache) -> None:
    """As `sudo -E` leaves it: root's own home counts."""
    cache.world.home.chmod(0o755)
    os.chown(cache.world.home, NOBODY, NOBODY)
    before = sorted(cache.world.home.rglob("*"))
    done = cache.world.run("--json", "img", "list", env={"XDG_CACHE_HOME": str(cache.top)})
    assert done.status == 0, done
    image = json.loads(done.out)["images"][0]["image"]  # None where root has not built it
    assert image is None or image.startswith(pwd.getpwuid(0).pw_dir)
    assert sorted(cache.world.home.rglob("*")) == before


def test_shell_files_of_the_guest_pass_shellcheck() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    files = [path for path in Path(recipe.FILES).rglob("*") if path.is_file()]
    scripts = [path for path in files if path.read_bytes().startswith(b"#!")]
    assert len(scripts) >= 7
    subprocess.run(["shellcheck", "-s", "sh", *scripts], check=True)
