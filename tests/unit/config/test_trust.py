"""Whose `.vmrc` root uses. Needs root, since only root can make files of others."""

from __future__ import annotations

import io
import os
import pwd
import shutil
from pathlib import Path

import pytest

from qvmsh.config import files, layers, trust
from qvmsh.errors import ConfigError, MissingProgramError
from qvmsh.io import Io
from qvmsh.machine import programs as tools
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.settings import config as configuration
from tests.support.world import bare_environ

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = pwd.getpwnam("nobody").pw_uid
OWNER = pwd.getpwuid(os.geteuid()).pw_name
WHOLE = f"VM_MACHINE_NAME=demo\nVM_MACHINE_ID=33\nVM_MACHINE_OWNER={OWNER}\n"


@pytest.fixture
def vmrc(tmp_path: Path) -> Path:
    path = tmp_path / "demo" / ".vmrc"
    path.parent.mkdir()
    path.write_text(WHOLE)
    return path


def load(vmrc: Path, **more: str) -> layers.Settings:
    return layers.load(str(vmrc.parent), bare_environ(vmrc.parents[1] / "home", **more))


@as_root
def test_load_foreign_vmrc_as_root_is_refused(vmrc: Path) -> None:
    load(vmrc).check()
    os.chown(vmrc, NOBODY, -1)
    with pytest.raises(ConfigError, match=r"root does not use .*\.vmrc: it belongs to nobody") as caught:
        load(vmrc)
    assert "qvm allow" in str(caught.value.hint)
    assert f"chown root {vmrc}" in str(caught.value.hint)
    load(vmrc, SUDO_UID=str(NOBODY)).check()


@as_root
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_load_vmrc_that_others_can_write_as_root_is_refused(vmrc: Path, mode: int) -> None:
    vmrc.chmod(mode)
    with pytest.raises(ConfigError, match=f"it is writable by others \\(mode {mode:o}\\)") as caught:
        load(vmrc)
    assert "chmod go-w" in str(caught.value.hint)


@as_root
def test_load_link_to_a_foreign_file_as_root_is_refused(vmrc: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    vmrc.rename(foreign)
    os.chown(foreign, NOBODY, -1)
    vmrc.symlink_to(foreign)
    with pytest.raises(ConfigError, match="belongs to nobody"):
        load(vmrc)


@as_root
def test_load_foreign_include_as_root_is_refused(vmrc: Path) -> None:
    more = vmrc.with_name("more")
    more.write_text("A=1\n")
    vmrc.write_text(WHOLE + "VM_INCLUDE=more\n")
    os.chown(more, NOBODY, -1)
    with pytest.raises(ConfigError, match=r"root does not use .*/more"):
        load(vmrc)


@as_root
def test_allow_accepts_the_present_content_only(vmrc: Path, tmp_path: Path) -> None:
    more = vmrc.with_name("more")
    more.write_text("A=1\n")
    vmrc.write_text(WHOLE + "VM_INCLUDE=more\n")
    for path in (vmrc, more):
        os.chown(path, NOBODY, -1)
    vm = BaseMachine(vmrc.parent, environ=bare_environ(tmp_path / "home"))
    with pytest.raises(ConfigError, match="root does not use"):
        vm.settings  # noqa: B018
    report = configuration.allow(vm)
    assert list(report.files) == [str(vmrc), str(more)]
    assert str(vmrc) in str(report)
    assert report.files[str(vmrc)] in str(report)
    assert vm.settings["A"] == "1"
    assert str(configuration.allow(vm)) == str(report)
    stored = (tmp_path / "home/.local/share/qvm/allowed").read_text().splitlines()
    assert len(stored) == 2
    more.write_text("A=2\n")
    vm.reload()
    with pytest.raises(ConfigError, match=r"root does not use .*/more"):
        vm.settings  # noqa: B018


@as_root
def test_allow_of_one_file_is_not_for_a_copy_of_it(vmrc: Path, tmp_path: Path) -> None:
    os.chown(vmrc, NOBODY, -1)
    configuration.allow(BaseMachine(vmrc.parent, environ=bare_environ(tmp_path / "home")))
    load(vmrc).check()
    other = tmp_path / "other" / ".vmrc"
    other.parent.mkdir()
    other.write_bytes(vmrc.read_bytes())
    os.chown(other, NOBODY, -1)
    with pytest.raises(ConfigError, match="root does not use"):
        load(other)


@as_root
@pytest.mark.parametrize("spoil", [lambda p: p.chmod(0o666), lambda p: os.chown(p, NOBODY, -1)])
def test_allowed_list_that_others_could_write_counts_for_nothing(vmrc: Path, tmp_path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    os.chown(vmrc, NOBODY, -1)
    configuration.allow(BaseMachine(vmrc.parent, environ=bare_environ(tmp_path / "home")))
    load(vmrc).check()
    spoil(Path(trust.allowed_file(bare_environ(tmp_path / "home"))))
    with pytest.raises(ConfigError, match="root does not use"):
        load(vmrc)


def test_allow_of_own_vmrc_lets_a_look_run_what_it_names(vmrc: Path, tmp_path: Path) -> None:
    more = vmrc.with_name("more")
    more.write_text("VM_QEMU_IMG=./img\n")
    vmrc.write_text(WHOLE + "VM_QEMU_BIN=./qemu\nVM_INCLUDE=more\n")
    vm = BaseMachine(vmrc.parent, environ=bare_environ(tmp_path / "home"))
    names = ("VM_QEMU_BIN", "VM_QEMU_IMG")
    assert not any(map(vm.settings.may_run, names))
    assert vm.settings.may_run("VM_SSH_OPTIONS")  # it is not set
    assert list(configuration.allow(vm).files) == [str(vmrc), str(more)]
    assert all(map(vm.settings.may_run, names))
    more.write_text("VM_QEMU_IMG=./image\n")
    vm.reload()
    assert not any(map(vm.settings.may_run, names))


def test_what_other_layers_name_may_be_run_by_a_look(vmrc: Path, tmp_path: Path) -> None:
    user, more = tmp_path / "home/.config/qvm/vmrc", tmp_path / "more"
    user.parent.mkdir(parents=True)
    user.write_text(f"VM_QEMU_BIN=/x/qemu\nVM_INCLUDE={more}\n")
    more.write_text("VM_SSH_OPTIONS=-A\n")
    vmrc.write_text(WHOLE + "VM_QEMU_IMG=./img\n")
    found = load(vmrc)
    assert found.may_run("VM_QEMU_BIN")
    assert found.may_run("VM_SSH_OPTIONS")
    assert not found.may_run("VM_QEMU_IMG")
    env = bare_environ(tmp_path / "home")
    assert layers.load(str(vmrc.parent), env, [("VM_QEMU_IMG", "./img")]).may_run("VM_QEMU_IMG")
    assert load(vmrc, VM_SSH_IDENTITY="/x").may_run("VM_SSH_IDENTITY")


@pytest.mark.parametrize("named", ["./qemu-img", "./img", "../img", "sh", "/bin/sh", "no-such-qemu-img"])
def test_look_runs_the_qemu_img_of_path(vmrc: Path, tmp_path: Path, named: str) -> None:
    usual = tmp_path / "bin/qemu-img"
    usual.parent.mkdir()
    for path in (usual, vmrc.with_name("qemu-img"), vmrc.with_name("img"), tmp_path / "img"):
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    vmrc.write_text(WHOLE + f"VM_QEMU_IMG={named}\n")
    said = io.StringIO()
    env = bare_environ(tmp_path / "home", PATH=f"{usual.parent}:/bin")
    vm = BaseMachine(vmrc.parent, environ=env, io=Io(stderr=said))
    assert tools.qemu_img(vm) == tools.qemu_img(vm) == str(usual)
    assert said.getvalue().count(f"VM_QEMU_IMG={named} is not run by read-only commands") == 1
    assert "qvm allow" in said.getvalue()
    tools.require_accepted(vm)
    if named.startswith("no"):
        with pytest.raises(MissingProgramError):
            tools.qemu_img(vm)
    else:
        expected = shutil.which("sh") if "sh" in named else vmrc.parent / named
        assert expected
        assert os.path.samefile(tools.qemu_img(vm), expected)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("VM_QEMU_BIN=qemu-system-aarch64\n", "qemu-system-aarch64"),
        ("VM_QEMU_BIN=./qemu-system-aarch64\n", "qemu-system-aarch64"),
        ("VM_QEMU_BIN=/opt/x/qemu-kvm\n", "qemu-kvm"),
        ("VM_QEMU_BIN=./evil\nVM_MACHINE_ARCH=aarch64\n", "qemu-system-aarch64"),
        ("VM_QEMU_BIN=./qemu-system-arm\nVM_MACHINE_ARCH=arm\n", ""),
    ],
)
def test_look_runs_the_qemu_of_that_name_on_path(vmrc: Path, tmp_path: Path, text: str, name: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for each in ("qemu-system-aarch64", "qemu-kvm"):
        (folder / each).write_text("#!/bin/sh\n")
        (folder / each).chmod(0o755)
    vmrc.write_text(WHOLE + text)
    vm = BaseMachine(vmrc.parent, environ=bare_environ(tmp_path / "home", PATH=str(folder)))
    if name:
        assert tools.qemu(vm) == str(folder / name)
    else:
        with pytest.raises(MissingProgramError, match="qemu-system-arm is not installed") as caught:
            tools.qemu(vm)
        assert "or accept VM_QEMU_BIN=./qemu-system-arm with `qvm allow`" in str(caught.value.hint)
    assert bool(vm.settings.warnings) == (bool(name) and "/" in text)


def test_distrust_says_why(vmrc: Path) -> None:
    source = files.read(str(vmrc))
    assert (files.distrust(source.status, {}) is None) == (os.geteuid() == 0)
    assert files.distrust(source.status, {"SUDO_UID": str(os.geteuid())}) is None
    assert files.distrust(source.status, {"SUDO_UID": "x"}) == files.distrust(source.status, {})


def test_accept_as_code_does_not_accept_as_configuration(vmrc: Path, tmp_path: Path) -> None:
    env, data = bare_environ(tmp_path / "home"), b"x = 1\n"
    code, conf = str(vmrc.with_name(trust.RC)), str(vmrc)
    trust.allow(code, data, env, trust.CODE)
    assert trust.is_allowed(code, data, env, trust.CODE)
    assert not trust.is_allowed(code, data, env)
    assert not trust.is_allowed(code, data + b"#", env, trust.CODE)
    assert not trust.is_allowed(conf, data, env, trust.CODE)
    trust.allow(conf, data, env)
    assert not trust.is_allowed(conf, data, env, trust.CODE)
    assert trust.is_allowed(conf, data, env)


def test_allow_accepts_the_code_of_the_directory_for_anybody(vmrc: Path, tmp_path: Path) -> None:
    code = vmrc.with_name(trust.RC)
    code.write_bytes(b"echo hi\n")
    env = bare_environ(tmp_path / "home")
    report = configuration.allow(BaseMachine(vmrc.parent, environ=env))
    assert list(report.files) == [str(vmrc), str(code)]
    assert trust.is_allowed(str(code), b"echo hi\n", env, trust.CODE)
    code.unlink()
    code.mkdir()
    with pytest.raises(ConfigError, match="cannot read"):
        configuration.allow(BaseMachine(vmrc.parent, environ=env))


@as_root
def test_allow_by_root_accepts_code_and_foreign_configuration(vmrc: Path, tmp_path: Path) -> None:
    code = vmrc.with_name(trust.RC)
    code.write_bytes(b"echo hi\n")
    os.chown(vmrc, NOBODY, -1)
    report = configuration.allow(BaseMachine(vmrc.parent, environ=bare_environ(tmp_path / "home")))
    assert list(report.files) == [str(vmrc), str(code)]
    load(vmrc).check()
