"""put and get with a real guest, beside scp, sftp and tar over ssh on the same cached connection.

    .venv/bin/python benchmarks/files.py [--rounds N] [--mib N] [--files N] [--image FILE --key FILE]

The machine is `tiny`, or one of an image with GNU tar (`--image`, account `qvm`). The files are 1 GiB of
random bytes, 1 GiB that is nearly all holes, and a folder of 10,000 small files, unless other sizes are
given: without KVM each takes minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import QVM, Action, compare, environment

FOLDERS = 100


def options() -> argparse.Namespace:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--mib", type=int, default=1024)
    given.add_argument("--files", type=int, default=10_000)
    given.add_argument("--image")
    given.add_argument("--key")
    return given.parse_args()


def qvm(where: Path, *words: str) -> None:
    subprocess.run([QVM, *words], cwd=where, env=environment(), stdin=subprocess.DEVNULL, check=True)


def make_sources(folder: Path, mib: int, files: int) -> None:
    """`random`, `holes` and the folder `many`."""
    with (folder / "random").open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    with (folder / "holes").open("wb") as file:
        file.truncate(mib << 20)
        for at in range(0, mib << 20, max(1 << 20, (mib << 20) // 8)):
            file.seek(at)
            file.write(os.urandom(4096))
    for number in range(files):
        path = folder / f"many/d{number % FOLDERS}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1024))


def guest_options(where: Path) -> list[str]:
    """What reaches the guest over the connection that qvm has open."""
    note = dict(line.split(" ", 1) for line in (where / ".qvm/running").read_text().splitlines())
    return ["-F", "none", "-o", f"ControlPath={note['runtime']}/ssh", "-o", f"Port={note['ssh_port']}"]


def shell(line: str) -> Action:
    return ["sh", "-c", line]


def pairs(folder: Path, how: list[str]) -> list[tuple[str, list[str], dict[str, Action], float]]:
    """Name, words for qvm, its rivals, and the most that it may take beside the first one."""
    ssh = " ".join(["ssh", *how, "qvm@127.0.0.1"])
    scp = ["scp", "-q", "-r", "-p", *how]
    there, back = "qvm@127.0.0.1:t/", f"{folder}/back"
    rows: list[tuple[str, list[str], dict[str, Action], float]] = []
    for name, allowed in (("random", 1.1), ("holes", 1.0)):
        batch_put, batch_get = (
            shell(f"echo '{line}' | sftp -q -b - {' '.join(how)} qvm@127.0.0.1")
            for line in (f"put -p {folder}/{name} t/", f"get -p t/{name} {back}/")
        )
        source = f"{folder}/{name}"
        rows += [
            (
                f"put {name}",
                ["put", source, "t/"],
                {"scp": [*scp, source, there], "sftp": batch_put},
                allowed,
            ),
            (
                f"get {name}",
                ["get", f"t/{name}", f"{back}/"],
                {"scp": [*scp, f"{there}{name}", back], "sftp": batch_get},
                allowed,
            ),
        ]
    tar_put = shell(f"tar -c -C {folder} many | {ssh} 'tar -x -C t'")
    tar_get = shell(f"{ssh} 'tar -c -C t many' | tar -x -C {back}")
    rows += [
        ("put many", ["put", f"{folder}/many", "t/"], {"tar | ssh tar": tar_put}, 1.2),
        ("get many", ["get", "t/many", f"{back}/"], {"ssh tar | tar": tar_get}, 1.2),
    ]
    return rows


def main() -> int:
    given = options()
    folder = Path(tempfile.mkdtemp(prefix="qvm-bench-"))
    where = folder / "bench"
    is_good = True
    try:
        make_sources(folder, given.mib, given.files)
        (folder / "back").mkdir()
        image = given.image or "tiny"
        qvm(folder, "create", "bench", "--image", image, "--user", "qvm")
        with (where / "data.raw").open("wb") as file:
            file.truncate((4 * given.mib + 1024) << 20)
        subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=1000:1000", where / "data.raw"], check=True)
        qvm(where, "disk", "add", "data.raw")
        if given.key:
            qvm(where, "config", f"VM_SSH_IDENTITY={given.key}")
        qvm(where, "start", "--ssh-attempts", "120")
        qvm(where, "ssh", "mkdir -p t; sudo mount /dev/vdb t")
        for name, words, rivals, allowed in pairs(folder, guest_options(where)):
            is_good &= compare(
                name, [QVM, *words], rivals, allowed=allowed, rounds=given.rounds, cwd=where,
                env=environment(),
            )  # fmt: skip
    finally:
        if where.exists():
            subprocess.run([QVM, "kill"], cwd=where, env=environment(), capture_output=True, check=False)
        shutil.rmtree(folder)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
