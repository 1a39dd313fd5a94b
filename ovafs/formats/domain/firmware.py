"""Descriptions of UEFI firmware that a host has (QEMU's docs/interop/firmware.json), as far as variables need them.

| member | read |
|---|---|
| ``mapping.device`` | "flash" |
| ``mapping.mode`` | "split", which is the default: code and variables are two files |
| ``mapping.executable`` | file with the code, raw |
| ``mapping.nvram-template`` | file with variables to begin with, raw |
| ``targets[]`` | ``architecture``, ``machines``: patterns of machine types |
| ``features[]`` | "secure-boot" |

Variables belong to one layout of the flash: those of one build can be used with another that has files of their size.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

MAX_DESCRIPTION = 1 << 20
"""Bytes of a description; real ones have one kilobyte."""


class FirmwareBuild(NamedTuple):
    """Paths of the code and of the variables to begin with, which have ``size`` bytes (0: not known)."""

    code: str
    template: str
    has_secure_boot: bool
    size: int = 0


class _File(msgspec.Struct):
    filename: str
    format: str = "raw"


class _Mapping(msgspec.Struct):
    device: str
    executable: _File | None = None
    template: _File | None = msgspec.field(default=None, name="nvram-template")
    mode: str = "split"


class _Target(msgspec.Struct):
    architecture: str
    machines: list[str]


class _Description(msgspec.Struct):
    mapping: _Mapping
    targets: list[_Target]
    features: list[str] = []


def read_firmware(text: bytes, arch: str, machine: str) -> FirmwareBuild | None:
    """The firmware if it is for machine types like ``machine`` ("pc-q35-9.0") of ``arch``, with variables in a file.

    None for all else, also for what is no such description: others read them, too, and judge them.
    """
    try:
        found = msgspec.json.decode(text, type=_Description)
    except msgspec.DecodeError:
        return None
    code, template = found.mapping.executable, found.mapping.template
    if found.mapping.device != "flash" or found.mapping.mode != "split" or code is None or template is None:
        return None
    suits = any(
        target.architecture == arch and any(fnmatchcase(machine, pattern) for pattern in target.machines)
        for target in found.targets
    )
    if not suits or not all(file.format == "raw" and file.filename.startswith("/") for file in (code, template)):
        return None
    return FirmwareBuild(code.filename, template.filename, "secure-boot" in found.features)
