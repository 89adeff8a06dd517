"""What `pip install` puts where: built, installed into an environment of its own, and looked for there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from qvmsh.cli.completion_scripts import FILES, SCRIPTS
from tests.support.world import DEADLINE_S, ROOT

ONLY_IN_A_CLONE = {f"scripts/{name}" for name in ("docs", "qemu10", "quickstart", "reference", "test")}
"""What the pages name for users with a clone."""


def run(argv: Sequence[str | Path], **env: str) -> str:
    done = subprocess.run(
        list(map(str, argv)),
        env=os.environ | env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], cwd=ROOT, check=True
    )
    with tarfile.open(next(folder.glob("*.tar.gz"))) as tar:
        tar.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def prefix(sdist: Path) -> Path:
    """An environment with the wheel that comes from the source distribution; what it needs is lent to it."""
    folder = sdist.parent / "prefix"
    wheels = sdist.parent / "wheels"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels], cwd=sdist, check=True
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python")]
    wheel = next(wheels.glob("*.whl"))
    subprocess.run([*pip, "install", "-q", "--no-compile", "--no-deps", "--no-index", wheel], check=True)
    return folder


def test_sdist_has_every_file_of_the_repository(sdist: Path) -> None:
    patterns = (
        ".ci/run",
        "*.md",
        "LICENSE",
        "pyproject.toml",
        "tests/**/*.py",
        "docs/**/*.md",
        "scripts/*",
        "rc/**/*",
    )
    for path in [path for pattern in patterns for path in ROOT.glob(pattern)]:
        assert (sdist / path.relative_to(ROOT)).exists(), path


def test_installed_qvm_runs_and_is_the_installed_one(prefix: Path) -> None:
    code = "import qvmsh; print(qvmsh.__file__)"
    assert run([prefix / "bin/python", "-P", "-c", code]).startswith(str(prefix))
    assert "usage" in run([prefix / "bin/qvm", "start", "--help"]).lower()
    shell = run([prefix / "bin/qvm", "sh", "--shell", "-c", "type -p vm; vm start --help; type -t vm_ssh"])
    assert shell.startswith(str(prefix)), shell
    assert shell.endswith("function\n")


def test_man_finds_the_installed_page(prefix: Path) -> None:
    page = prefix / "share/man/man1/qvm.1"
    assert page.read_text() == (ROOT / "rc/man/qvm.1").read_text()
    if shutil.which("man"):
        assert run(["man", "-M", prefix / "share/man", "-w", "qvm"]).strip() == str(page)


def test_completion_files_are_those_of_the_command() -> None:
    for shell, name in FILES.items():
        text = (ROOT / "rc/completions" / name).read_text()
        assert text == SCRIPTS[shell], "run: python -m qvmsh.cli.completion_scripts"


def test_bash_finds_the_installed_completion(prefix: Path) -> None:
    loader = "/usr/share/bash-completion/bash_completion"
    if not os.path.exists(loader):
        pytest.skip("needs bash-completion")
    code = f". {loader}; _completion_loader qvm; complete -p qvm"
    folder = str(prefix / "share")
    done = subprocess.run(
        ["bash", "-c", code],
        env=os.environ | {"XDG_DATA_HOME": folder, "BASH_COMPLETION_USER_DIR": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "complete -F _qvm qvm\n", done


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_finds_the_installed_completion(prefix: Path, tmp_path: Path) -> None:
    code = 'fpath=("$1" $fpath); autoload -Uz compinit; compinit -u -d "$2"; print $_comps[qvm]'
    found = run(["zsh", "-fc", code, "zsh", prefix / "share/zsh/site-functions", tmp_path / "dump"])
    assert found == "_qvm\n"


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish_finds_the_installed_completion(prefix: Path, tmp_path: Path) -> None:
    path = f"{prefix}/bin:{os.environ['PATH']}"
    env = {"XDG_DATA_DIRS": str(prefix / "share"), "HOME": str(tmp_path), "PATH": path}
    assert "start" in run(["fish", "-c", "complete -C 'qvm sta'"], **env)


def test_all_that_the_documents_name_is_installed(prefix: Path) -> None:
    doc = prefix / "share/doc/qvm"
    pages = [doc / "README.md", *doc.glob("docs/**/*.md")]
    assert len(pages) > 30
    missing = []
    for page in pages:
        text = page.read_text()
        names = set(re.findall(r"(?<![\w./])((?:docs|rc|scripts)/[\w./-]*\w/?)", text)) - ONLY_IN_A_CLONE
        missing += [(page.name, name) for name in names if not (doc / name).exists()]
        text = re.sub(r"^```.*?^```|`[^`]*`", "", text, flags=re.MULTILINE | re.DOTALL)
        links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
        missing += [(page.name, link) for link in links if not (page.parent / link).exists()]
    assert not missing
    for path in (ROOT / "scripts/examples").iterdir():
        assert os.access(doc / "scripts/examples" / path.name, os.X_OK), path
    assert (doc / "rc/vmrc").read_text() == (ROOT / "rc/vmrc").read_text()
    named = re.findall(r"PREFIX/(share[\w/]*)", (ROOT / "rc/man/qvm.1").read_text())
    assert named
    assert all((prefix / name).exists() for name in named)
