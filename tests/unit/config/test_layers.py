"""The layers put together: which wins, where it came from, what is wrong in all of them at once."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from qvmsh.config import files, layers
from qvmsh.config.settings import CONTEXT_MARK, EXPORTED_MARK
from qvmsh.errors import ConfigError

ME = pwd.getpwuid(os.geteuid()).pw_name
WHOLE = f"VM_MACHINE_NAME=demo\nVM_MACHINE_ID=33\nVM_MACHINE_OWNER={ME}\n"


class Place:
    """A machine's directory, a global and a user's file, and an environment that names them."""

    def __init__(self, base: Path) -> None:
        self.directory = base / "demo"
        self.vmrc = self.directory / ".vmrc"
        self.shared = base / "global"
        self.user = base / "xdg" / "qvm" / "vmrc"
        self.directory.mkdir()
        self.user.parent.mkdir(parents=True)
        self.shared.touch()
        self.environ = {
            "HOME": str(base),
            "XDG_CONFIG_HOME": str(base / "xdg"),
            "VM_GLOBAL_CONFIG": str(self.shared),
        }

    def load(self, text: str = "", *overrides: tuple[str, str], **environ: str) -> layers.Settings:
        self.vmrc.write_text(WHOLE + text)
        return layers.load(str(self.directory), self.environ | environ, overrides)

    def problems(self, text: str = "", *overrides: tuple[str, str], **environ: str) -> list[str]:
        return [self.short(p) for p in self.load(text, *overrides, **environ).problems]

    def warnings(self, text: str = "", *overrides: tuple[str, str], **environ: str) -> list[str]:
        return [self.short(w) for w in self.load(text, *overrides, **environ).warnings]

    def short(self, what: object) -> str:
        return str(what).replace(f"{self.directory}/", "")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir("/")  # messages then show whole paths
    return Place(tmp_path)


def test_load_later_layer_wins_and_each_knows_its_origin(place: Place) -> None:
    name = "VM_QEMU_CPU"
    seen = []

    def look(text: str = "", *overrides: tuple[str, str], **environ: str) -> None:
        found = place.load(text, *overrides, **environ)
        origin = str(found.origin(name)).replace(str(place.directory.parent), "")
        seen.append((found[name], found.origin(name).layer, origin))

    look()
    look(VM_QEMU_CPU="env")
    place.shared.write_text("\nVM_QEMU_CPU=shared\n")
    look(VM_QEMU_CPU="env")
    place.user.write_text("VM_QEMU_CPU=user\n")
    look(VM_QEMU_CPU="env")
    look("VM_QEMU_CPU=own\n", VM_QEMU_CPU="env")
    look("VM_QEMU_CPU=own\n", (name, "set"), VM_QEMU_CPU="env")
    assert seen == [
        ("", "built-in", "built-in"),
        ("env", "environment", "environment"),
        ("shared", "global", "/global:2"),
        ("user", "user", "/xdg/qvm/vmrc:1"),
        ("own", "vmrc", "/demo/.vmrc:4"),
        ("set", "--set", "--set"),
    ]


def test_load_values_are_seen_by_later_layers(place: Place) -> None:
    place.shared.write_text("DATA=/srv\nVM_QEMU_EXTRA=-a\n")
    found = place.load('VM_QEMU_EXTRA="$VM_QEMU_EXTRA -b $DATA $HERE $VM_FMT $PWD $VM_HOME"\n', HERE="env")
    here = str(place.directory)
    assert found.words("VM_QEMU_EXTRA") == ["-a", "-b", "/srv", "env", "qcow2", here, here]


def test_load_default_is_seen_plainly_but_counts_as_unset(place: Place) -> None:
    found = place.load("A=$VM_FMT\nVM_FMT=${VM_FMT:-raw}\nB=$VM_SNAPSHOT_BASEFILENAME:$VM_MACHINE_USER\n")
    assert (found["A"], found["VM_FMT"], found["B"]) == ("qcow2", "raw", f"demo-base.raw:{ME}")


def test_load_values_in_the_type_of_their_kind(place: Place) -> None:
    found = place.load(
        "VM_MACHINE_MEM=2G\nVM_USE_SNAPSHOTS=off\nVM_QEMU_EXTRA=\"-a 'b c'\"\nVM_LOG=log/x\nMINE='a b'\n"
        "VM_SSH_IDENTITY='~/key'\nVM_ERRLOG=/abs\n"
    )
    assert found["VM_MACHINE_MEM"] == "2G"
    assert found.VM_MACHINE_MEM == found.integer("VM_MACHINE_MEM") == 2048
    assert found.VM_USE_SNAPSHOTS is found.boolean("VM_USE_SNAPSHOTS") is False
    assert found.VM_QEMU_EXTRA == ["-a", "b c"]
    assert found.VM_LOG == found.path("VM_LOG") == str(place.directory / "log/x")
    assert found.path("VM_SSH_IDENTITY") == place.environ["HOME"] + "/key"
    assert found.path("VM_ERRLOG") == "/abs"
    assert found.MINE == found.text("MINE") == "a b"
    assert found.VM_SHUTDOWN_TIMEOUT == 120
    assert found.path("VM_INCLUDE") == ""
    assert {"VM_MACHINE_MEM", "MINE", "check"} <= set(dir(found))
    with pytest.raises(AttributeError, match="VM_NOTHING is not set"):
        found.VM_NOTHING  # noqa: B018


def test_load_what_is_set_and_what_is_there(place: Place) -> None:
    found = place.load("MINE=\nVM_NETWORK=x\nVM_FMT=\n")
    assert "VM_FMT" in found
    assert not found.is_set("VM_FMT")
    assert found["VM_FMT"] == "qcow2"
    assert found.is_set("MINE")
    assert found.is_set("VM_NETWORK")
    assert "VM_NET_GUEST" not in found
    assert "VM_NOTHING" not in found
    assert not found.is_set("VM_NOTHING")
    assert found.is_set("VM_MACHINE_NAME")
    assert not found.is_set("VM_SNAPSHOT_BASEFILENAME")
    assert next(iter(found)) == "VM_MACHINE_NAME"
    assert list(found)[-1] == "MINE"
    with pytest.raises(KeyError):
        found["VM_NET_GUEST"]


def test_load_snapshot_names_give_file_names(place: Place) -> None:
    def file_names(found: layers.Settings) -> list[str]:
        return [found[f"VM_SNAPSHOT_{which}FILENAME"] for which in ("SEED", "BASE", "BACKING")]

    assert file_names(place.load()) == ["demo-seed.qcow2", "demo-base.qcow2", "demo-backing.qcow2"]
    place.shared.write_text("VM_SNAPSHOT_BASENAME_DEFAULT=golden\nVM_SNAPSHOT_SEEDNAME_DEFAULT=s\n")
    found = place.load("VM_SNAPSHOT_SEEDNAME=mine\nVM_FMT=raw\n")
    assert file_names(found) == ["demo-mine.raw", "demo-golden.raw", "demo-backing.raw"]
    assert str(found.origin("VM_SNAPSHOT_BASENAME")) == f"{place.shared}:1"
    assert str(found.origin("VM_SNAPSHOT_BASEFILENAME")) == "computed"


def test_load_problems_of_all_layers_come_at_once(place: Place) -> None:
    place.shared.write_text("VM_SSH_PORT=99999\n`x`\n")
    place.vmrc.write_text('VM_MACHINE_ID=7\nVM_MACHINE_NAME=\nA=$(x)\nVM_QEMU_EXTRA="\'"\n')
    found = layers.load(
        str(place.directory), place.environ | {"VM_FMT": "Qcow2"}, [("VM_MACHINE_MEM", "2GB"), ("1x", "")]
    )
    output = [place.short(problem).replace(f"{place.shared}", "global") for problem in found.problems]
    assert output == [
        "global:2:1: `x` is a command; .vmrc is read, never run; write NAME=value, or put the command into a "
        "script for qvm",
        ".vmrc:3:3: $(...) would run a command, which .vmrc does not support; write the value itself",
        "--set: '1x' is not a valid variable name",
        ".vmrc:2:1: VM_MACHINE_NAME is empty, but every machine needs it (name of the machine; used in its "
        "file names); write VM_MACHINE_NAME=demo",
        ".vmrc:1:1: VM_MACHINE_ID is '7', but must be two digits (00 to 99); write VM_MACHINE_ID=07 instead",
        ".vmrc: VM_MACHINE_OWNER is not set, but every machine needs it (account of this host that "
        "owns the machine and whose ssh key is used); write VM_MACHINE_OWNER=ACCOUNT",
        "--set: VM_MACHINE_MEM is '2GB', but must be a number of MiB, or one with K, M, G or T: 2048, 2G; "
        "write VM_MACHINE_MEM=2G instead",
        "environment: VM_FMT is 'Qcow2', but must be one of qcow2, raw, qcow, qed, vdi, vhdx, vmdk, vpc; "
        "write VM_FMT=qcow2 instead",
        ".vmrc:4:1: VM_QEMU_EXTRA is \"'\", but must be words, split as a shell would (an unclosed ')",
        "global:1:1: VM_SSH_PORT is '99999', but must be auto, or a port from 1 to 65535; write "
        "VM_SSH_PORT=auto instead",
    ]
    with pytest.raises(ConfigError) as caught:
        found.check()
    assert caught.value.problems == tuple(found.problems)
    assert list(caught.value.details) == [str(problem) for problem in found.problems]
    assert "the configuration has 10 problems" in str(caught.value)


def test_load_wrong_value_in_a_lower_layer_only_is_accepted(place: Place) -> None:
    place.shared.write_text("VM_SSH_PORT=wrong\n")
    assert place.problems("VM_SSH_PORT=2222\n") == []


def test_typed_value_that_is_wrong_raises_even_without_check(place: Place) -> None:
    found = place.load("VM_MACHINE_MEM=lots\n")
    with pytest.raises(ConfigError, match="VM_MACHINE_MEM is 'lots'"):
        found.integer("VM_MACHINE_MEM")


def test_load_unknown_owner_is_a_problem(place: Place) -> None:
    (problem,) = place.problems("VM_MACHINE_OWNER=nobody-here-at-all\n")
    assert problem.startswith(
        ".vmrc:4:1: VM_MACHINE_OWNER is 'nobody-here-at-all', but must be an account of this host"
    )


# includes


def test_include_acts_at_its_line_relative_to_its_file(place: Place) -> None:
    below = place.directory / "conf"
    below.mkdir()
    (below / "a").write_text("A=a\nB=$BEFORE\nVM_INCLUDE=b\nC=a\n")
    (below / "b").write_text("C=b\nD=b\n")
    found = place.load("BEFORE=1\nA=0\nVM_INCLUDE=conf/a\nBEFORE=2\nD=3$D\n")
    assert [found[name] for name in "ABCD"] == ["a", "1", "a", "3b"]
    assert (found.origin("A").layer, found.origin("A").file) == ("include", str(below / "a"))
    assert found.problems == []
    assert "VM_INCLUDE" not in found.exported()


def test_include_in_a_shared_file_is_relative_to_that_file(place: Place) -> None:
    (place.user.parent / "more").write_text("VM_QEMU_CPU=included\n")
    place.user.write_text("VM_INCLUDE=more\n")
    assert place.load()["VM_QEMU_CPU"] == "included"


@pytest.mark.parametrize(
    ("files_", "why"),
    [
        ({}, ".vmrc:4:1: VM_INCLUDE: a does not exist"),
        ({"a": "VM_INCLUDE=a\n"}, "a:1:1: VM_INCLUDE: a cycle: a is being read already"),
        (
            {"a": "VM_INCLUDE=b\n", "b": "\nVM_INCLUDE=.vmrc\n"},
            "b:2:1: VM_INCLUDE: a cycle: .vmrc is being read",
        ),
        ({"a": "A=$(x)\n"}, "a:1:3: $(...)"),
        ({"a": None}, ".vmrc:4:1: VM_INCLUDE: a cannot be read: it is a directory"),
    ],
)
def test_include_that_cannot_be_is_a_problem_at_its_line(
    place: Place, files_: dict[str, str | None], why: str
) -> None:
    for name, text in files_.items():
        if text is None:
            (place.directory / name).mkdir()
        else:
            (place.directory / name).write_text(text)
    (problem,) = place.problems("VM_INCLUDE=a\n")
    assert problem.startswith(why)


def test_include_that_multiplies_comes_to_an_end(place: Place) -> None:
    for number in range(30):
        (place.directory / f"f{number}").write_text(f"VM_INCLUDE=f{number + 1}\n" * 2)
    assert any("too many files" in problem for problem in place.problems("VM_INCLUDE=f0\n"))


def test_include_twice_in_a_row_is_not_a_cycle(place: Place) -> None:
    (place.directory / "a").write_text("A=${A}x\n")
    found = place.load("VM_INCLUDE=a\nVM_INCLUDE=a\n")
    assert (found["A"], found.problems) == ("xx", [])


# files that cannot be used


def test_load_without_vmrc_names_the_one_above(place: Place) -> None:
    below = place.directory / "archive" / "old"
    below.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"no \.vmrc in .*/archive/old") as caught:
        layers.load(str(below), place.environ)
    assert "qvm create" in str(caught.value.hint)
    place.vmrc.write_text(WHOLE)
    with pytest.raises(ConfigError) as caught:
        layers.load(str(below), place.environ)
    assert caught.value.hint == f"there is one above: `qvm -C {place.directory} ...`"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: p.mkdir(), "it is a directory"),
        (os.mkfifo, "it is not a regular file"),
        (lambda p: p.symlink_to("nowhere"), "it is a broken link"),
        (lambda p: p.write_bytes(b"#" * (files.MAX_BYTES + 1)), "it is larger than 256 KiB"),
        (lambda p: p.symlink_to(".vmrc"), "too many levels of symbolic links"),
    ],
)
def test_load_vmrc_that_is_not_a_readable_file_is_refused(place: Place, make, why: str) -> None:  # type: ignore[no-untyped-def]
    make(place.vmrc)
    with pytest.raises(ConfigError, match=rf"cannot read .*/\.vmrc: {why}"):
        layers.load(str(place.directory), place.environ)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_load_vmrc_that_may_not_be_read_is_refused(place: Place) -> None:
    place.vmrc.write_text(WHOLE)
    place.vmrc.chmod(0)
    with pytest.raises(ConfigError, match="permission denied"):
        layers.load(str(place.directory), place.environ)


def test_load_global_file_that_is_named_must_be_there(place: Place) -> None:
    (problem,) = place.problems(VM_GLOBAL_CONFIG="/no/where")
    assert problem.startswith("/no/where: VM_GLOBAL_CONFIG names it, but it does not exist")
    assert place.problems(VM_GLOBAL_CONFIG="/dev/null") == []
    (problem,) = place.problems(VM_GLOBAL_CONFIG="/dev/zero")
    assert problem == "/dev/zero: cannot be read: it is not a regular file"


# warnings, and names that cannot be set


def test_load_near_name_is_kept_and_warned_of(place: Place) -> None:
    found = place.load("VM_QEMU_ACEL=kvm\nVM_OWN_THING=1\nDATA=2\n", VM_MACHINE_MEMM="2")
    assert found.problems == []
    assert [place.short(w) for w in found.warnings] == [
        "environment: VM_MACHINE_MEMM is not a variable of qvm; it is kept as your own; did you mean "
        "VM_MACHINE_MEM?",
        ".vmrc:4:1: VM_QEMU_ACEL is not a variable of qvm; it is kept as your own; did you mean "
        "VM_QEMU_ACCEL?",
    ]
    (note,) = found.notes  # `vm` let people have VM_ names of their own: only `config --check` tells
    assert place.short(note) == ".vmrc:5:1: VM_OWN_THING is not a variable of qvm; it is kept as your own"
    assert found["VM_QEMU_ACEL"] == found.exported()["VM_QEMU_ACEL"] == "kvm"


def test_load_variable_of_a_later_version_says_what_it_waits_for(place: Place) -> None:
    assert place.warnings("VM_NET_GUEST=x\nVM_SHELL=\n") == [
        ".vmrc:4:1: VM_NET_GUEST has no effect yet: qvm does not support bridges yet"
    ]


def test_load_bridges_are_an_error_for_now(place: Place) -> None:
    assert place.problems("VM_NETWORK=br0\n") == [
        ".vmrc:4:1: VM_NETWORK needs bridges, which are not supported yet; remove it: the guest then has "
        "user mode networking and an ssh port"
    ]


def test_load_computed_name_cannot_be_set(place: Place) -> None:
    output = place.problems("VM_SNAPSHOT_BASEFILENAME=x\n", ("VM_SNAPSHOT_SEEDFILENAME", "y"))
    assert output == [
        ".vmrc:4:1: VM_SNAPSHOT_BASEFILENAME is computed and cannot be set; set VM_SNAPSHOT_BASENAME instead",
        "--set: VM_SNAPSHOT_SEEDFILENAME is computed and cannot be set; set VM_SNAPSHOT_SEEDNAME",
    ]
    found = place.load("A=$VM_SNAPSHOT_BASEFILENAME\n", VM_SNAPSHOT_BASEFILENAME="foreign")
    assert found["A"] == found["VM_SNAPSHOT_BASEFILENAME"] == "demo-base.qcow2"


def test_load_name_of_the_context_changes_nothing_in_a_file(place: Place) -> None:
    found = place.load("VM_HOME=/else\nA=$VM_HOME\n")
    assert found["A"] == found.exported()["VM_HOME"] == str(place.directory)
    assert [place.short(w) for w in found.warnings] == [
        ".vmrc:4:1: VM_HOME is determined before any file is read, so this line has no effect; remove it"
    ]
    assert place.problems("", ("VM_HOME", "/else")) == [
        "--set: VM_HOME cannot be set here; -C names the machine"
    ]


def test_load_overridden_value_of_the_environment_is_mentioned(place: Place) -> None:
    assert place.warnings("VM_MACHINE_MEM=512\n", VM_MACHINE_MEM="2048") == [
        "environment: VM_MACHINE_MEM='2048' is overridden by .vmrc:4; `qvm config VM_MACHINE_MEM=...` "
        "changes the file, `qvm --set VM_MACHINE_MEM=...` overrides every file"
    ]
    assert len(place.warnings("VM_MACHINE_CPUS=16\n", VM_MACHINE_CPUS="1")) == 1
    assert place.warnings("VM_MACHINE_MEM=${VM_MACHINE_MEM:-512}\n", VM_MACHINE_MEM="2048") == []
    assert place.warnings('VM_QEMU_EXTRA="$VM_QEMU_EXTRA -b"\n', VM_QEMU_EXTRA="-a") == []
    assert place.warnings("VM_FMT=raw\n", ("VM_FMT", "qed"), VM_FMT="qcow2") == []


def test_load_quote_that_was_forgotten_is_pointed_at(place: Place) -> None:
    (warning,) = place.warnings('A="x\nVM_FMT="raw\n')
    assert (
        warning
        == ".vmrc:4:1: the value of A contains a line that looks like an assignment; is its quote closed?"
    )


# what children get


def test_exported_has_all_values_in_their_plain_spelling(place: Place) -> None:
    found = place.load(
        "VM_MACHINE_MEM=2G\nVM_USE_SNAPSHOTS=FALSE\nexport A='x\ny'\nVM_NETWORK=/c\n"
    ).exported()
    assert found["VM_MACHINE_MEM"] == "2048"
    assert found["VM_USE_SNAPSHOTS"] == "no"
    assert found["A"] == "x\ny"
    assert found["VM_NETWORK"] == "/c"
    assert found["VM_FMT"] == "qcow2"
    assert found["VM_SNAPSHOT_BACKINGFILENAME"] == "demo-backing.qcow2"
    assert found["VM_HOME"] == str(place.directory)
    assert found["VM_CONFIG"] == str(place.vmrc)
    assert found[CONTEXT_MARK] == os.path.realpath(place.directory)
    assert "VM_NET_GUEST" not in found
    assert "HOME" not in found


def test_export_read_again_by_the_same_machine_is_not_the_users(place: Place) -> None:
    text = 'VM_QEMU_EXTRA="$VM_QEMU_EXTRA -b"\nA="$A+"\nPATH="$PATH:/x"\n'
    first = place.load(text, VM_SSH_ATTEMPTS="5", PATH="/bin")
    first.accept()
    exported = first.exported()
    again = place.load(text, **exported)
    again.accept()
    assert (again["VM_QEMU_EXTRA"], again["A"]) == (" -b", "+")
    assert again["VM_SSH_ATTEMPTS"] == "5"
    assert str(again.origin("VM_SSH_ATTEMPTS")) == "environment"
    assert str(again.origin("VM_FMT")) == "built-in"
    assert again.warnings == []
    assert again.exported() == exported | {"PATH": "/bin:/x:/x"}  # as if a shell had read it twice
    changed = place.load(text, **exported | {"VM_FMT": "raw"})  # in the shell, by the user
    assert (changed["VM_FMT"], str(changed.origin("VM_FMT"))) == ("raw", "environment")
    assert "VM_NETWORK" not in place.load("", **place.load("VM_NETWORK=/c\n").exported())


def test_export_of_names_that_programs_heed_needs_acceptance(place: Place) -> None:
    text = "PATH=/x\nLD_PRELOAD=/x\nPYTHONPATH=/x\nEDITOR=/x\nA=1\nVM_QEMU_BIN=./x\n"
    found = place.load(text, PATH="/bin", EDITOR="vi")
    heeded = ["PATH", "LD_PRELOAD", "PYTHONPATH", "EDITOR"]
    assert found.withheld() == heeded
    assert found.withheld_warning() == [
        "not exported until `qvm allow`: PATH, LD_PRELOAD, PYTHONPATH, EDITOR of .vmrc"
    ]
    exported = found.exported()
    assert not exported.keys() & set(heeded)
    assert (exported["A"], exported["VM_QEMU_BIN"]) == ("1", "./x")
    assert found["PATH"] == "/x"
    found.accept()
    assert found.withheld() == found.withheld_warning() == []
    assert found.exported()["PATH"] == "/x"
    again = place.load(text + "B=1\n", **found.exported())  # changed since
    assert "PATH" in again.withheld()
    assert "PATH" not in again.stale()  # a shell without PATH finds nothing


def test_exported_values_never_reach_another_machine(place: Place, tmp_path: Path) -> None:
    exported = place.load("VM_NETWORK=/secret.iso\nA=1\nVM_OWN=2\n", VM_SSH_ATTEMPTS="5").exported()
    other = tmp_path / "other"
    other.mkdir()
    (other / ".vmrc").write_text(WHOLE.replace("demo", "other") + "B=$A$VM_NETWORK$VM_OWN\n")
    found = layers.load(str(other), place.environ | exported)
    assert found["B"] == ""
    assert "VM_NETWORK" not in found
    assert found["VM_SSH_ATTEMPTS"] == "30"
    assert found.problems == found.warnings == []
    assert {"VM_NETWORK", "A", "VM_OWN"} <= set(found.stale())
    assert not {"VM_HOME", "VM_MACHINE_NAME", "HOME", EXPORTED_MARK} & set(found.stale())
    assert place.load("VM_NETWORK=/c\n", **exported).stale() == ["A", "VM_OWN"]


def test_shown_is_relative_from_here_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.shown(str(tmp_path / "a" / ".vmrc")) == "a/.vmrc"
    assert files.shown("/etc/qvm/vmrc") == "/etc/qvm/vmrc"


def test_load_reads_a_file_once_and_executes_nothing(place: Place, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    place.problems(f"A=$(touch {canary})\nB=`touch {canary}`\nC=<(touch {canary})\ntouch {canary}\n")
    assert not canary.exists()
    assert stat.S_ISREG(place.vmrc.stat().st_mode)
