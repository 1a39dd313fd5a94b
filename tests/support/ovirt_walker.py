"""How oVirt's host walks the tar of an OVA when it imports one: the behaviour of ``extract_ova.py``, as a judge.

It is no tar reader: it looks at name and size only, never rounds a disk's size, and takes every entry that is not
a descriptor, a ``.dat`` or ``pad`` for a disk. Nothing of ovafs is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BLOCK = 512


class WalkerError(Exception):
    """The import fails here."""


class FoundDisk(NamedTuple):
    """A disk entry: oVirt attaches a loop device at ``offset`` and converts from there."""

    name: str
    offset: int
    size: int
    target: str


def walk(path: Path, mapping: Mapping[str, str]) -> list[FoundDisk]:
    """The disks of the OVA at ``path``, in the order in which they would be converted.

    ``mapping`` goes from the name that a disk entry must have to the path of its target, which holds the id of the
    new image. Raises WalkerError where the import fails; the file is read as the host does it, in blocks of 512
    bytes at multiples of 512.
    """
    disks = []
    with path.open("rb", buffering=0) as file:
        while True:
            if file.tell() % BLOCK:
                raise WalkerError(f"a read at {file.tell()}: EINVAL with direct I/O")
            header = file.read(BLOCK)
            if len(header) < BLOCK:
                raise WalkerError("the archive ends without an end mark")
            if header == bytes(BLOCK):
                break
            name, size = _name(header), _number(header[124:136])
            if name.lower().endswith(("ovf", "dat")):
                file.seek(-(-size // BLOCK) * BLOCK, 1)
            elif name == "pad":
                file.seek(size, 1)
            elif name not in mapping:
                raise WalkerError(f"KeyError: {name!r}")
            else:
                disks.append(FoundDisk(name, file.tell(), size, mapping[name]))
                file.seek(size, 1)
    if missing := set(mapping) - {disk.name for disk in disks}:
        raise WalkerError(f"never found: {sorted(missing)}")
    return disks


def _name(header: bytes) -> str:
    return header[:100].partition(b"\0")[0].decode(errors="surrogateescape")


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.partition(b"\0")[0].decode("ascii").strip() or "0", 8)
    except ValueError as error:
        raise WalkerError(f"invalid header: {field!r} is no size") from error
