"""The programs that qvm runs: where they are, which version, which package has them.

find("qemu-img")                        # /usr/bin/qemu-img
version("/usr/bin/qemu-img").text       # 7.2.22
"""

from __future__ import annotations

import os
import sys

from qvmsh.errors import MissingProgramError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where programs are looked for if PATH is not set."""

VERSION_DEADLINE_S = 20.0

_SYSTEMS = ("Debian", "Fedora", "Arch", "Alpine", "Homebrew")
_INSTALL = ("apt install", "dnf install", "pacman -S", "apk add", "brew install")
_X86 = ("qemu-system-x86", "qemu-system-x86", "qemu-system-x86")
_ARM = ("qemu-system-arm", "qemu-system-aarch64", "qemu-system-aarch64")
_SSH = ("openssh-client", "openssh-clients", "openssh", "openssh", "openssh")

PACKAGES: dict[str, tuple[str, ...]] = {
    "qemu-system-x86_64": (*_X86, "qemu-system-x86_64", "qemu"),
    "qemu-system-i386": (*_X86, "qemu-system-i386", "qemu"),
    "qemu-system-aarch64": (*_ARM, "qemu-system-aarch64", "qemu"),
    "qemu-system-arm": ("qemu-system-arm", "qemu-system-arm", "qemu-system-arm", "qemu-system-arm", "qemu"),
    "qemu-system-ppc64": (*("qemu-system-ppc",) * 3, "qemu-system-ppc64", "qemu"),
    "qemu-system-riscv64": ("qemu-system-misc", *("qemu-system-riscv",) * 2, "qemu-system-riscv64", "qemu"),
    "qemu-system-s390x": ("qemu-system-misc", *("qemu-system-s390x",) * 3, "qemu"),
    "qemu-img": ("qemu-utils", "qemu-img", "qemu-img", "qemu-img", "qemu"),
    "ssh": _SSH,
    "ssh-keygen": _SSH,
    "sftp": _SSH,
    "mke2fs": ("e2fsprogs",) * 5,
    "mcopy": ("mtools",) * 5,
    "mformat": ("mtools",) * 5,
    "syslinux": ("syslinux",) * 4,
    "fakeroot": ("fakeroot",) * 4,
    "screen": ("screen",) * 5,
    "swtpm": ("swtpm",) * 5,
    "virtiofsd": ("virtiofsd",) * 4,
    "gtk": ("qemu-system-gui", *("qemu-ui-gtk",) * 3, "qemu"),
}
"""The package that holds a program, in the order Debian, Fedora, Arch, Alpine, Homebrew.

`gtk` stands for QEMU's module that opens a window.
"""


def find(program: str, *, environ: Mapping[str, str] | None = None, directory: str | None = None) -> str:
    """The path of a program given by name or by path (VM_QEMU_BIN, VM_QEMU_IMG, ...).

    Args:
        program: a name is looked for on PATH; with a `/` in it, it is a path.
        environ: the environment whose PATH counts; the process' own by default.
        directory: what a relative path is relative to; the current folder by default.

    Raises:
        MissingProgramError: it is not there, or cannot be executed.
    """
    if "/" in program:
        path = os.path.join(directory or os.getcwd(), program)
        if is_executable(path):
            return path
        raise unusable(path) if os.path.exists(path) else missing(program)
    environ = os.environ if environ is None else environ
    for folder in environ.get("PATH", DEFAULT_PATH).split(os.pathsep):
        path = os.path.join(os.path.abspath(folder), program)
        if program and is_executable(path):
            return path
    raise missing(program)


def is_executable(path: str) -> bool:
    """True if `path` is a file that this user may execute."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


def missing(program: str) -> MissingProgramError:
    """The error for a program that is not there."""
    name = os.path.basename(program)
    if "/" in program:
        return MissingProgramError(f"there is no program {printable(program)}", hint=install(name))
    return MissingProgramError(
        f"{printable(program) or 'a program without a name'} is not installed", hint=install(name)
    )


def unusable(path: str, error: OSError | None = None) -> MissingProgramError:
    """The error for a program that is there and cannot be run."""
    reason = (
        error.strerror
        if error
        else "it is a folder"
        if os.path.isdir(path)
        else "no permission to execute it"
    )
    return MissingProgramError(f"{printable(path)} cannot be run: {reason}")


def install(name: str) -> str:
    """How to install the program's package, for this system if it is a known one."""
    packages = PACKAGES.get(name)
    if packages is None:
        return "install it, or give its path"
    at = _system()
    if at is None or at >= len(packages):
        named = ", ".join(
            f"{package} ({system})" for system, package in zip(_SYSTEMS, packages, strict=False)
        )
        return f"install the package {named}"
    if name == "qemu-system-x86_64" and _is_rhel():
        return "`dnf install qemu-kvm`, then VM_QEMU_BIN=/usr/libexec/qemu-kvm"
    return f"`{_INSTALL[at]} {packages[at]}`"


def _system(os_release: str = "/etc/os-release") -> int | None:
    """Which of the systems in the table this is."""
    if sys.platform == "darwin":
        return _SYSTEMS.index("Homebrew")
    words = _os_release(os_release)
    for at, name in enumerate(_SYSTEMS):
        if name.lower() in words or (name == "Debian" and "ubuntu" in words):
            return at
    return None


def _is_rhel(os_release: str = "/etc/os-release") -> bool:
    return bool({"rhel", "centos"} & set(_os_release(os_release)))


def _os_release(path: str) -> list[str]:
    """The words of ID and ID_LIKE. Source: os-release(5)."""
    words: list[str] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.strip().partition("=")
                if name in ("ID", "ID_LIKE"):
                    words += value.strip("\"'").lower().split()
    except OSError:
        pass
    return words


class Version:
    """A program's version: its text as printed by the program, and its numbers for comparison."""

    __slots__ = ("numbers", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        digits = "".join(c if c.isdigit() else " " for c in text).split()
        self.numbers = tuple(int(each) for each in digits)

    def __str__(self) -> str:
        return self.text


def version(path: str) -> Version | None:
    """Ask a program for its version (`--version`; ssh: `-V`); None if it prints none."""
    import subprocess

    flag = "-V" if os.path.basename(path) in ("ssh", "mke2fs") else "--version"
    try:
        done = subprocess.run(
            [path, flag],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=VERSION_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        return None
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise unusable(path, error) from None
    return parse_version(done.stdout.decode(errors="replace"))


def parse_version(text: str) -> Version | None:
    """The first version in a program's answer.

    `QEMU emulator version 7.2.22 (Debian ...)` -> 7.2.22; `OpenSSH_9.2p1 Debian-2` -> 9.2p1.
    """
    for word in text.replace("_", " ").replace("(", " ").split():
        word = word.strip(",;)").removeprefix("v")
        head, _, rest = word.partition(".")
        if head.isdecimal() and rest[:1].isdecimal():
            return Version(word)
    return None
