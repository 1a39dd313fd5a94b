"""Descriptions of firmware: those that Debian's package has, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovafs.formats.domain.firmware import FirmwareBuild, read_firmware

FILES = {"executable": {"filename": "/c.fd", "format": "raw"}, "nvram-template": {"filename": "/v.fd", "format": "raw"}}


def description(mapping: dict[str, Any], *, arch: str = "x86_64", machine: str = "pc-q35-*", **more: Any) -> bytes:
    target = {"architecture": arch, "machines": ["pc-i440fx-*", machine]}
    whole = {
        "description": "x",
        "interface-types": ["uefi"],
        "mapping": {"device": "flash", **FILES, **mapping},
        "targets": [target],
        "features": ["acpi-s3", "secure-boot"],
        "tags": [],
        **more,
    }
    return json.dumps(whole).encode()


def read(text: bytes) -> FirmwareBuild | None:
    return read_firmware(text, "x86_64", "pc-q35-0.0")


def test_a_description() -> None:
    assert read(description({})) == FirmwareBuild("/c.fd", "/v.fd", has_secure_boot=True)
    assert read(description({"mode": "split"}, features=[])) == FirmwareBuild("/c.fd", "/v.fd", has_secure_boot=False)


def test_those_of_a_package() -> None:
    folder = Path("/usr/share/qemu/firmware")
    found = {path.name: read(path.read_bytes()) for path in folder.glob("*-edk2-x86_64*.json")}
    if not found:
        pytest.skip("root has not installed the package ovmf")
    for name, build in found.items():
        assert build is not None, name
        assert ("secure" in name) == build.has_secure_boot


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[" * 100_000,
        b"[]",
        b'{"mapping": 1}',
        b"\xff\xfe",
        description({"device": "memory"}),
        description({"mode": "stateless"}),
        description({"mode": "combined"}),
        description({"executable": {"filename": "/c.qcow2", "format": "qcow2"}}),
        description({"nvram-template": {"filename": "v.fd", "format": "raw"}}),
        description({"nvram-template": None}),
        description({}, arch="aarch64"),
        description({}, machine="microvm"),
        description({}, targets=[]),
        description({}, features="secure-boot"),
    ],
)
def test_what_is_no_firmware_for_variables(text: bytes) -> None:
    assert read(text) is None
