"""Debian packages: found, downloaded and unpacked by the host's apt, in a folder of our own.

Nothing is installed and nothing of the host's apt is changed: apt runs with its state and its
cache below qvm's, which any user may do. The host's package lists are read where they know the
packages; where they do not (nobody ran `apt-get update`, or they are so old that the mirror no
longer has what they name), lists of our own are fetched::

    apt = Apt(bench, "/home/ann/.cache/qvm/images")
    found = apt.resolve(["dropbear-bin"], alone=["mtools"])
    apt.unpack(found, into="packages")

Source: apt.conf(5), apt-get(8), deb-control(5).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass

from qvmsh.errors import CommandError, QvmError
from qvmsh.host import files
from qvmsh.images.workbench import Workbench

ARCHITECTURE = "amd64"
NETWORK_HINT = "check the network, and whether `apt-get update` works as root"
_HOST_LISTS = "/var/lib/apt/lists"
# What the host's configuration may hang on an update (docker-clean, appstream, packagekit) is
# meant for the host's own apt. `#clear` works in a file only, not with -o.
_CONFIG = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::Languages "none";
APT::Get::List-Cleanup "true";
APT::Update::Error-Mode "any";
"""


@dataclass(frozen=True)
class Package:
    """One version of a package, as the index describes it."""

    name: str
    version: str
    depends: tuple[str, ...]
    sha256: str
    size_bytes: int


class Apt:
    """The host's apt, with a state and a cache of our own.

    Args:
        bench: where packages are unpacked.
        cache: qvm's cache folder; `apt/` and `debs/` in it are used.
    """

    def __init__(self, bench: Workbench, cache: str) -> None:
        self.bench = bench
        self.debs = os.path.join(cache, "debs")
        self.own = os.path.join(cache, "apt")
        self.lists = _HOST_LISTS
        self._words: tuple[str, ...] = ()  # apt's own, of an update that did not bring everything
        self._records: dict[str, Package | None] = {}  # None: apt does not know it
        for folder in ("state/lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(self.own, folder), exist_ok=True)
        os.makedirs(self.debs, exist_ok=True)
        for name, text in (("apt.conf", _CONFIG), ("status", "")):
            with open(os.path.join(self.own, name), "w", encoding="utf-8") as file:
                file.write(text)

    def update(self) -> None:
        """Fetch package lists of our own, and use them from now on.

        A single third-party repository that cannot be reached makes the whole update fail, so that
        is only a warning: what counts is whether the packages are known afterwards.

        Raises:
            QvmError: there are no lists at all.
        """
        self.lists = os.path.join(self.own, "state/lists")
        self._records.clear()
        try:
            self._apt("apt-get", "-q", "update")
        except CommandError as error:
            self._words = complaints(error.stderr) or error.details
            if not any("_Packages" in name for name in os.listdir(self.lists)):
                raise QvmError("apt-get update failed", details=self._words, hint=NETWORK_HINT) from error
            self.bench.io.warn(f"apt-get update could not fetch all package lists: {self._words[-1]}")

    def resolve(self, names: list[str], *, alone: list[str]) -> list[Package]:
        """The candidate versions of `names` with the libraries they depend on, and of `alone` without.

        Raises:
            QvmError: apt does not know one of them.
        """
        found: dict[str, Package] = {}
        todo = list(names)
        self.look_up([*names, *alone])
        while todo:
            wanted = [self.package(name) for name in todo]
            found.update({package.name: package for package in wanted})
            needed = {name for package in wanted for name in package.depends}
            libraries = {name for name in needed if name.startswith("lib") or name == "zlib1g"}
            self.look_up(sorted(libraries))
            todo = [name for name in sorted(libraries - found.keys()) if self._records[name]]
        found.update({name: self.package(name) for name in alone})
        return [found[name] for name in sorted(found)]

    def package(self, name: str) -> Package:
        """The candidate version of one package.

        Raises:
            QvmError: apt does not know it.
        """
        self.look_up([name])
        package = self._records[name]
        if package is None:
            raise QvmError(
                f"apt does not know the package {name}",
                details=self._words,
                hint="the built-in guests are made of Debian packages: apt needs a Debian repository",
            )
        return package

    def look_up(self, names: list[str]) -> None:
        """Ask apt for many packages at once; each question takes it a while."""
        unknown = [name for name in dict.fromkeys(names) if name not in self._records]
        if not unknown:
            return
        try:
            text = self._apt("apt-cache", "--no-all-versions", "show", *unknown)
        except CommandError as error:  # some are unknown; the others have been printed
            text = error.stdout
        self._records.update(dict.fromkeys(unknown))
        self._records.update({package.name: package for package in parse(text)})

    def fetch(self, packages: list[Package]) -> list[str]:
        """Download what is not there yet; the paths of the .deb files.

        Raises:
            CommandError: apt cannot download them; with its own words.
        """
        paths = [self._deb(package) for package in packages]
        missing = [p for p, path in zip(packages, paths, strict=True) if not _is_whole(path, p)]
        if missing:
            part = os.path.join(self.debs, "part")
            shutil.rmtree(part, ignore_errors=True)
            os.mkdir(part)
            self._apt("apt-get", "-q", "download", *(f"{p.name}={p.version}" for p in missing), cwd=part)
            self._take(part, missing)
        return paths

    def _take(self, part: str, packages: list[Package]) -> None:
        """Move downloaded files to their final names, by what they hold."""
        found = {_sha256(os.path.join(part, name)): os.path.join(part, name) for name in os.listdir(part)}
        for package in packages:
            if package.sha256 not in found:
                raise QvmError(f"apt-get download did not fetch {package.name} {package.version}")
            os.rename(found[package.sha256], self._deb(package))
        shutil.rmtree(part)

    def close(self) -> None:
        """Remove apt's binary caches: 70 MB, and made again within a second."""
        for name in ("pkgcache.bin", "srcpkgcache.bin"):
            files.remove(os.path.join(self.own, "cache", name))

    def prune(self, packages: list[Package]) -> None:
        """Remove downloaded packages other than these."""
        keep = {os.path.basename(self._deb(package)) for package in packages}
        for name in set(os.listdir(self.debs)) - keep:
            path = os.path.join(self.debs, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def unpack(self, packages: list[Package], into: str) -> None:
        """Unpack the packages over one another into a folder of the bench."""
        os.makedirs(self.bench.path(into), exist_ok=True)
        for path in self.fetch(packages):
            self.bench.run("dpkg-deb", "-x", path, into)

    def _deb(self, package: Package) -> str:
        version = package.version.replace(":", "%3a")
        return os.path.join(self.debs, f"{package.name}_{version}.deb")

    def _apt(self, program: str, *words: str, cwd: str = "") -> str:
        """Run apt with our folders in place of the host's."""
        folders = {
            "Dir::State": f"{self.own}/state",
            "Dir::State::lists": self.lists,
            "Dir::State::status": f"{self.own}/status",  # what is installed here decides nothing
            "Dir::Cache": f"{self.own}/cache",
            "Dir::Cache::pkgcache": "pkgcache.bin",  # container images switch it off: 1 s a question
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            "APT::Architecture": ARCHITECTURE,
            "APT::Sandbox::User": "root",  # as root, apt would download as a user who cannot write here
        }
        options = [word for name, value in folders.items() for word in ("-o", f"{name}={value}")]
        return self.bench.run(program, "-c", f"{self.own}/apt.conf", *options, *words, cwd=cwd)


def parse(text: str) -> list[Package]:
    """The packages that `apt-cache show` describes.

    >>> parse("Package: a\\nVersion: 1\\nDepends: b (>= 2) | c, d:any\\nSize: 5\\nSHA256: 00\\n")[0].depends
    ('b', 'd')
    """
    found = []
    for record in re.split(r"\n\n+", text.strip()):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", record, re.MULTILINE))
        if not {"Package", "Version", "Size", "SHA256"} <= fields.keys():
            continue
        depends = ",".join(fields.get(name, "") for name in ("Pre-Depends", "Depends"))
        names = (re.match(r"\s*([a-z0-9][a-z0-9+.-]*)", one) for one in depends.split(","))
        found.append(
            Package(
                name=fields["Package"],
                version=fields["Version"],
                depends=tuple(name[1] for name in names if name),
                sha256=fields["SHA256"],
                size_bytes=int(fields["Size"]),
            )
        )
    return found


def _is_whole(path: str, package: Package) -> bool:
    try:
        return os.path.getsize(path) == package.size_bytes and _sha256(path) == package.sha256
    except FileNotFoundError:
        return False


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def complaints(words: str) -> tuple[str, ...]:
    """The lines of apt's that say what went wrong, each once, the last six."""
    lines = [line.strip() for line in words.splitlines() if line.startswith(("E:", "W:", "Err:"))]
    return tuple(dict.fromkeys(lines))[-6:]
