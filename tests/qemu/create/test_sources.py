"""`qvm create`: what a machine's disk is made from, and what its `.vmrc` says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.kill_steps import killed_at
from tests.support.world import DEADLINE_S, QVM, World

ISO = b"\0" * 32768 + b"\1CD001\1" + b"\0" * 4096


def info(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        subprocess.check_output(["qemu-img", "info", "-U", "--output=json", path])
    )
    return found


def image(world: World, name: str, size: str = "20M") -> Path:
    path = world.home / name
    subprocess.run(["qemu-img", "create", "-q", "-f", path.suffix[1:], path, size], check=True)
    return path


def value(world: World, machine: str, name: str) -> str:
    return world.run("-C", machine, "config", name).out.rstrip("\n")


def require_starts(world: World, machine: str) -> None:
    result = world.run("-C", machine, "start", "--no-wait")
    assert result.status == 0, result
    assert world.run("-C", machine, "kill").status == 0


def test_create_with_a_size_has_an_empty_disk(world: World) -> None:
    result = world.run(
        "create", "web", "7680M", "--disk", "1.5G", "--disk", "64M", "--label", "a b", "--cpus", "3"
    )
    assert result.status == 0, result
    assert info(world.home / "web/web-base.qcow2")["virtual-size"] == 8053063680
    assert info(world.home / "web/web-backing.qcow2")["backing-filename"] == "./web-base.qcow2"
    assert info(world.home / "web/web-disk1.qcow2")["virtual-size"] == 3 << 29
    assert value(world, "web", "VM_DISKS") == "web-disk1.qcow2\nweb-disk2.qcow2"
    assert value(world, "web", "VM_MACHINE_CPUS") == "3"
    require_starts(world, "web")


def test_create_raw_and_from_a_template(world: World) -> None:
    (world.home / "template").write_text("# ours\nVM_MACHINE_MEM=96\nVM_QEMU_MACHINE=q35  # new\n")
    words = ["--format", "raw", "--template", "template", "--set", "VM_DISK_BUS=sata"]
    assert world.run("create", "web", "64M", *words).status == 0
    assert info(world.home / "web/web-base.raw")["format"] == "raw"
    text = (world.home / "web/.vmrc").read_text()
    assert text.startswith("# ours\nVM_MACHINE_MEM=96\nVM_QEMU_MACHINE=q35  # new\n")
    assert value(world, "web", "VM_DISK_BUS") == "sata"
    require_starts(world, "web")


def test_create_with_an_installer_has_it_in_the_drive(world: World) -> None:
    iso = world.home / "installer.iso"
    iso.write_bytes(ISO)
    assert world.run("create", "web", "30G", "--iso", "installer.iso").status == 0
    assert value(world, "web", "VM_CDROM") == str(iso)
    assert info(world.home / "web/web-base.qcow2")["virtual-size"] == 30 << 30
    assert world.run("create", "mail", "--iso", iso).status == 0
    assert info(world.home / "mail/mail-base.qcow2")["virtual-size"] == 20 << 30
    require_starts(world, "web")


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vdi", "raw"])
def test_create_from_any_format_copies_links_and_moves(world: World, kind: str) -> None:
    disk = image(world, f"disk.{kind}")
    assert world.run("create", "one", "--from", disk).status == 0
    assert "backing-filename" not in info(world.home / "one/one-base.qcow2")
    result = world.run("create", "two", "--from", disk, "--link")
    assert "its disk is backed by that image, which must stay as it is" in result.out
    assert info(world.home / "two/two-base.qcow2")["backing-filename"] == str(disk)
    result = world.run("create", "three", "--from", disk, "--move")
    assert result.status == 2, result
    assert f"{world.home}/two/two-base.qcow2 is backed by disk.{kind}" in result.err
    assert disk.exists()
    assert not (world.home / "three").exists()
    assert world.run("delete", "--now", "-y", "two").status == 0
    assert disk.exists()
    assert world.run("create", "three", "--from", disk, "--move").status == 0
    assert not disk.exists()
    require_starts(world, "three")


def test_create_bare_is_the_commented_configuration(world: World) -> None:
    assert world.run("create", "web", "--bare").status == 0
    assert sorted(path.name for path in (world.home / "web").iterdir()) == [".qvm", ".vmrc"]
    assert world.run("-C", "web", "config", "--check").status == 0
    text = (world.home / "web/.vmrc").read_text()
    assert "\n#VM_MACHINE_CPUS=2\n" in text
    (world.home / "web/.vmrc").write_text(text.replace("\n#VM_", "\nVM_"))
    assert world.run("-C", "web", "config", "--check").status == 0


def test_create_bare_says_what_has_to_be_there(world: World) -> None:
    made = world.run("create", "web", "--bare").out.splitlines()[1]
    assert made.startswith(
        "web: there is nothing to start yet: put an installed system there as web/web-seed.qcow2, then "
        "`cd web && qvm init` and `qvm start`; or `cd web && qvm config edit` names"
    )
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", world.home / "web/web-seed.qcow2", "1M"], check=True
    )
    assert world.run("init", cwd=world.home / "web").status == 0
    require_starts(world, "web")
    one = world.run("create", "one", "--bare", "--set", "VM_USE_SNAPSHOTS=no").out
    assert "there as one/one.qcow2, then `cd one && qvm start`; or" in one
    net = world.run("create", "net", "--bare", "--set", "VM_BOOT=network").out
    assert net.endswith("net: `cd net && qvm start` starts it\n")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["1G", "--image", "tiny"], "--image and a size exclude each other"),
        (["--from", "a", "--bare"], "--from and --bare exclude each other"),
        (["--link", "1G"], "--link needs --image or --from"),
        (["--move", "--image", "tiny"], "--move needs --from"),
        (["--bare", "--disk", "1G"], "--disk needs a machine with disks"),
        (["--from", "nothing.qcow2"], "--image names a built-in image: "),
        (
            ["1G", "--set", "VM_DISKS=other-disk1.qcow2"],
            "VM_DISKS names other-disk1.qcow2, which is not there",
        ),
        (["20"], "a size needs a unit"),
        (["20X"], "is not a size"),
        (["0M"], "more than 0"),
        (["--iso", "global-vmrc"], "is not a CD image"),
        (["1G", "--id", "7"], "two digits"),
        (["1G", "--set", "VM_MACHINE_NAME=x"], "it is chosen by the word NAME"),
        (["1G", "--set", "VM_MACHINE_ID=07"], "it is chosen by --id NN"),
        (["1G", "--set", "VM_FMT=raw"], "it is chosen by --format FORMAT"),
        (["1G", "--set", "VM_USE_SNAPSHOTS=no"], "the disk would be web.qcow2, which was not made"),
    ],
)
def test_create_refuses_and_leaves_nothing(world: World, words: list[str], why: str) -> None:
    before = [path for path in sorted(world.home.iterdir()) if path.name != ".local"]
    result = world.run("create", "web", *words)
    assert result.status in (1, 2), result
    assert why in result.err
    assert [path for path in sorted(world.home.iterdir()) if path.name != ".local"] == before


def test_create_when_all_ids_are_taken_gets_an_address(world: World) -> None:
    for number in range(1, 100):
        folder = world.home / f"m/{number:02}"
        folder.mkdir(parents=True)
        (folder / ".vmrc").write_text(f"VM_MACHINE_NAME=m{number:02}\nVM_MACHINE_ID={number:02}\n")
    known = world.home / ".local/share/qvm/machines"
    known.parent.mkdir(parents=True)
    known.write_text("".join(f"m{n:02}\t{world.home}/m/{n:02}\n" for n in range(1, 100)))
    assert world.run("create", "web", "64M").status == 0
    assert world.run("create", "mail", "64M").status == 0
    addresses = set()
    for name in ("web", "mail"):
        assert value(world, name, "VM_NET_MAC") == "auto"
        line = world.run("-C", name, "dryrun").out
        addresses.add(line.partition('"mac": "')[2][:17])
    assert len(addresses) == 2
    assert all(each.startswith("52:54:00:") for each in addresses)


def test_create_killed_at_each_step_is_whole_or_nothing(world: World) -> None:
    disk = image(world, "disk.qcow2")
    for step in range(200):
        is_over = killed_at(world, step, "create", "web", "--from", str(disk)) == 0
        if is_over:
            break
        result = world.run("create", "other", "1M")
        assert result.status == 0, result
        assert not (world.home / "web").exists() or (world.home / "web/web-backing.qcow2").exists(), step
        assert not [path for path in world.home.iterdir() if path.name.startswith(".web")], step
        for name in ("web", "other"):
            world.run("delete", "--now", "-y", name)
    else:
        pytest.fail("it never came to its end")
    require_starts(world, "web")


def test_create_by_moving_keeps_what_others_need(world: World) -> None:
    disk = image(world, "disk.vmdk")
    saved = image(world, "saved.qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "ready", saved], check=True)
    result = world.run("create", "web", "--from", saved, "--move", "--format", "raw")
    assert (result.status, "holds snapshots, which raw cannot take over" in result.err) == (1, True), result
    assert world.run("create", "db", "1M").status == 0
    result = world.run("create", "web", "--from", "db/db-base.qcow2", "--move")
    assert (result.status, "belongs to the machine in" in result.err) == (2, True), result
    (world.home / "way.vmdk").symlink_to(disk)
    result = world.run("create", "web", "--from", "way.vmdk", "--move")
    assert (result.status, "is not a plain file" in result.err) == (2, True), result
    assert not (world.home / "web").exists()
    assert all(path.exists() for path in (saved, disk, world.home / "db/db-base.qcow2"))
    result = world.run("create", "web", "--from", saved, "--move")
    assert result.status == 0, result
    names = subprocess.check_output(["qemu-img", "snapshot", "-l", world.home / "web/web-base.qcow2"])
    assert b"ready" in names


def test_machines_created_at_a_time_get_different_ids(world: World) -> None:
    words = [[QVM, "create", f"web{n}", "1M"] for n in range(6)]
    begun = [subprocess.Popen(line, cwd=world.home, env=world.environ) for line in words]
    assert [child.wait(DEADLINE_S) for child in begun] == [0] * 6
    ids = {value(world, f"web{n}", "VM_MACHINE_ID") for n in range(6)}
    assert len(ids) == 6
    assert len(json.loads(world.run("--json", "list").out)["machines"]) == 6
    result = world.run("create", "mail", "1M", "--id", min(ids))
    assert (result.status, " has it" in result.err) == (2, True), result
    assert not (world.home / "mail").exists()


def test_address_or_port_of_a_known_machine_is_refused(world: World) -> None:
    (world.home / "template").write_text("VM_NET_MAC=52:54:00:01:02:03\nVM_SSH_PORT=2201\n")
    assert world.run("create", "web", "64M", "--template", "template").status == 0
    for words, name in (
        (["--template", "template"], "VM_NET_MAC"),
        (["--template", "template", "--set", "VM_NET_MAC=auto"], "VM_SSH_PORT"),
        (["--set", "VM_SSH_PORT=2201"], "VM_SSH_PORT"),
    ):
        result = world.run("create", "mail", "64M", *words)
        said = f"is that of the machine in {world.home}/web"
        assert (result.status, f"create: {name}=" in result.err, said in result.err) == (2, True, True), (
            result
        )
        assert not (world.home / "mail").exists()
    more = ["--set", "VM_NET_MAC=auto", "--set", "VM_SSH_PORT=auto"]
    assert world.run("create", "mail", "64M", "--template", "template", *more).status == 0


def test_template_with_disks_of_a_known_machine_is_refused(world: World) -> None:
    assert world.run("create", "web", "64M").status == 0
    shared = image(world, "shared.qcow2")
    overlay = world.home / "web/web-backing.qcow2"
    for setting in (f"VM_DISKS={shared}", "VM_DISKS=../shared.qcow2", f"VM_QEMU_EXTRA=-hdb {overlay}"):
        assert world.run("-C", "web", "config", setting).status == 0
        path = overlay if overlay.name in setting else shared
        result = world.run("create", "mail", "64M", "--template", "web/.vmrc")
        why = f"{path} is a disk of the machine in {world.home}/web, and two must not write to it"
        assert (result.status, why in result.err) == (2, True), result
        assert not (world.home / "mail").exists()
        assert world.run("-C", "web", "config", f"{setting.partition('=')[0]}=").status == 0
    assert world.run("-C", "web", "config", f"VM_DISKS={shared}").status == 0
    words = ["create", "mail", "64M", "--template", "web/.vmrc", "--set"]
    assert world.run(*words, f"VM_DISKS={shared}:qcow2:ro").status == 0
    assert world.run("delete", "--now", "-y", "mail").status == 0
    assert world.run(*words, "VM_DISKS=").status == 0
    assert world.run("create", "bare", "--bare", "--set", "VM_DISKS=later.qcow2").status == 0


def test_create_with_a_wrong_name_says_why(world: World) -> None:
    for name, why, hint in (
        ("10G", "10G is a size; the name is missing", "`qvm create NAME 10G`"),
        ("n\nl", "'n\\nl' cannot be the name", "use characters that can be printed"),
        ("x" * 201, "must be at most 200 bytes long", "the machine's files are named after it"),
    ):
        words = ["create", name, *([] if name == "10G" else ["1M"])]
        result = world.run(*words)
        assert (result.status, why in result.err, hint in result.err) == (2, True, True), result
    assert world.run("create", "./10G", "10G").status == 0
