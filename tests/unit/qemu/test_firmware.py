"""Which UEFI firmware is taken: descriptors, then known places. Source: QEMU docs/interop/firmware.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qvmsh.errors import MissingProgramError
from qvmsh.qemu import firmware


class Host:
    """A host with firmware of the test's own."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = top
        self.folders = [top / "share", top / "etc"]
        monkeypatch.setattr(firmware, "FOLDERS", tuple(map(str, self.folders)))
        monkeypatch.setattr(firmware, "_PLACES", {})
        self.environ = {"HOME": str(top / "home")}

    def put(self, name: str, *, folder: int = 0, features: tuple[str, ...] = (), **more: Any) -> str:
        """A descriptor and its files; the path of the code."""
        where = self.folders[folder]
        where.mkdir(exist_ok=True)
        code, template = where / f"{name}.code", where / f"{name}.vars"
        code.touch()
        template.touch()
        descriptor = {
            "interface-types": ["uefi"],
            "mapping": {
                "device": "flash",
                "executable": {"filename": str(code), "format": "raw"},
                "nvram-template": {"filename": str(template), "format": "raw"},
            },
            "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
            "features": list(features),
        } | more
        (where / f"{name}.json").write_text(json.dumps(descriptor))
        return str(code)

    def found(self, machine: str = "pc", *, is_secure: bool = False, arch: str = "x86_64") -> str:
        return firmware.find(arch, machine, is_secure=is_secure, environ=self.environ).code


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_find_takes_the_first_descriptor_that_fits(host: Host) -> None:
    host.put("40-secure", features=("secure-boot", "enrolled-keys", "requires-smm"))
    plain = host.put("60-plain")
    host.put("70-other")
    assert host.found() == host.found("q35") == host.found("pc-q35-7.2,x=y") == plain


def test_find_secure_needs_the_keys(host: Host) -> None:
    host.put("10-no-keys", features=("secure-boot", "requires-smm"))
    q35 = [{"architecture": "x86_64", "machines": ["pc-q35-*"]}]
    wanted = host.put("20-keys", features=("secure-boot", "enrolled-keys", "requires-smm"), targets=q35)
    assert host.found("q35", is_secure=True) == wanted
    assert firmware.find("x86_64", "q35", is_secure=True, environ={}).needs_smm
    with pytest.raises(
        MissingProgramError, match="no UEFI firmware with Secure Boot for x86_64, machine type pc"
    ):
        host.found("pc", is_secure=True)


def test_find_later_folder_replaces_and_an_empty_file_hides(host: Host) -> None:
    host.put("10-a")
    mine = host.put("10-a", folder=1)
    assert host.found() == mine
    (host.folders[1] / "10-a.json").write_text("")
    with pytest.raises(MissingProgramError):
        host.found()


@pytest.mark.parametrize(
    "more",
    [
        {"interface-types": ["bios"]},
        {"mapping": {"device": "memory", "filename": "x"}},
        {
            "mapping": {
                "device": "flash",
                "mode": "stateless",
                "executable": {"filename": "x", "format": "raw"},
            }
        },
        {"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]},
        {"targets": "nonsense"},
        {"mapping": None},
    ],
)
def test_find_descriptor_of_other_or_broken_firmware_is_skipped(host: Host, more: dict[str, Any]) -> None:
    host.put("10-other", **more)
    (host.folders[0] / "11-broken.json").write_text("{")
    plain = host.put("60-plain")
    assert host.found() == plain


def test_find_descriptor_whose_file_is_gone_is_passed_over(host: Host) -> None:
    Path(host.put("10-gone")).unlink()
    plain = host.put("60-plain")
    assert host.found() == plain


def test_find_without_descriptors_looks_at_the_known_places(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, template = tmp_path / "c", tmp_path / "v"
    places = {("aarch64", False): (("/nonexistent", "/nonexistent"), (str(code), str(template)))}
    monkeypatch.setattr(firmware, "_PLACES", places)
    with pytest.raises(MissingProgramError) as caught:
        host.found("virt", arch="aarch64")
    assert "qemu-efi-aarch64" in str(caught.value.hint)
    code.touch()
    template.touch()
    assert host.found("virt", arch="aarch64") == str(code)
