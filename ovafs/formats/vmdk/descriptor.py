"""The descriptor of a VMDK: text that says of which extents the disk consists.

VMware, Virtual Disk Format 5.0, "Layout Basics", "The Descriptor File":

    # Disk DescriptorFile
    version=1
    CID=fcf05d74
    parentCID=ffffffff
    createType="streamOptimized"
    # Extent description
    RDONLY 131072 SPARSE "disk.vmdk"
    # The Disk Data Base
    ddb.adapterType = "lsilogic"

A descriptor can name any file of the reader's host as an extent or as a parent, and readers have opened them
(CVE-2022-47951). So what is accepted of an embedded one is a whole disk in one sparse extent, which is the file that
the descriptor is embedded in: its name, which nobody keeps right when files are renamed, is looked at for being a bare
name only (:func:`parse_descriptor`). A descriptor in a file of its own names files beside it (:func:`parse_extents`):

| type | an extent |
|---|---|
| ``FLAT``, ``VMFS`` | raw, from a sector of its file on (FLAT; VMFS: from the first) |
| ``SPARSE`` | a sparse extent, which has a header |
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidImage, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SIGNATURE = "# Disk DescriptorFile"
CREATE_TYPES = frozenset(("streamOptimized", "monolithicSparse"))
_NO_PARENT = "ffffffff"

_ASSIGNMENT = re.compile(r'([A-Za-z][\w.]*)\s*=\s*(?:"([^"]*)"|([^\s"]*))')
_EXTENT = re.compile(r'(?:RW|RDONLY)\s+(\d{1,19})\s+(\w+)(?:\s+"([^"]*)"(?:\s+(\d{1,19}))?)?')

FLAT_TYPES = frozenset(("FLAT", "VMFS"))
SPLIT_TYPES = frozenset(("monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse", "vmfs"))
MAX_EXTENTS = 1024
"""Files beside a descriptor: a disk of 2 TiB in files of 2 GiB."""


class DescriptorExtent(NamedTuple):
    """A part of a disk; ``sectors`` of 512 bytes, in the file ``name`` beside the descriptor, from ``offset`` on."""

    sectors: int
    kind: str
    name: str
    offset: int


def parse_descriptor(data: bytes | memoryview, path: str) -> str:
    """Check an embedded descriptor, padded with zero bytes; returns its ``createType``.

    Raises InvalidImage for text that is no descriptor or contradicts itself, UnsupportedFeature for a disk that
    consists of anything but the one sparse extent around it.
    """
    create_type, extents = _parse(data, frozenset(("SPARSE",)), path)
    if len(extents) != 1:
        raise UnsupportedFeature(path, f"VMDK of {len(extents)} extents")
    if create_type not in CREATE_TYPES:
        raise UnsupportedFeature(path, f"VMDK createType {create_type[:80]!r}")
    return create_type


def parse_extents(data: bytes | memoryview, path: str) -> tuple[str, list[DescriptorExtent]]:
    """Check a descriptor in a file of its own; returns its ``createType`` and its extents, which are in other files.

    Raises InvalidImage, UnsupportedFeature, as :func:`parse_descriptor`.
    """
    create_type, extents = _parse(data, FLAT_TYPES | {"SPARSE"}, path)
    if not 0 < len(extents) <= MAX_EXTENTS or not all(extent.sectors for extent in extents):
        raise UnsupportedFeature(path, f"VMDK of {len(extents)} extents, or of empty ones")
    if create_type not in SPLIT_TYPES:
        raise UnsupportedFeature(path, f"VMDK createType {create_type[:80]!r}")
    return create_type, extents


def write_extents(create_type: str, extents: Iterable[DescriptorExtent], paths: Mapping[str, str]) -> bytes:
    """A descriptor of the same disk, with other names for its files.

    All are "RW": QEMU leaves out all others (block/vmdk.c, ``vmdk_parse_extents``).
    """
    lines = [SIGNATURE, "version=1", "CID=fffffffe", f"parentCID={_NO_PARENT}", f'createType="{create_type}"']
    for extent in extents:
        line = f'RW {extent.sectors} {extent.kind} "{paths[extent.name]}"'
        lines.append(line + (f" {extent.offset}" if extent.kind == "FLAT" else ""))
    return "".join(f"{line}\n" for line in lines).encode()


def _parse(data: bytes | memoryview, kinds: frozenset[str], path: str) -> tuple[str, list[DescriptorExtent]]:
    """The createType and the extents of a whole disk without a parent."""
    values: dict[str, str] = {}
    extents = []
    for line in _lines(bytes(data), path):
        if extent := _EXTENT.fullmatch(line):
            _check_extent(extent[2], extent[3], kinds, path)
            extents.append(DescriptorExtent(int(extent[1]), extent[2], extent[3] or "", int(extent[4] or 0)))
        elif assignment := _ASSIGNMENT.fullmatch(line):
            _set(values, assignment[1], assignment[2] or assignment[3] or "", path)
        else:
            raise InvalidImage(path, f"descriptor line {line[:80]!r} is neither an assignment nor an extent")
    if values.get("parentcid", _NO_PARENT).lower().removeprefix("0x") != _NO_PARENT:
        raise UnsupportedFeature(path, "VMDK with a parent", "export the machine without snapshots")
    return values.get("createtype", ""), extents


def _lines(data: bytes, path: str) -> Iterator[str]:
    """The lines that say something, without space around them.

    A zero byte ends them, for every reader. What may lie behind it is left from a longer text: QEMU writes a new CID,
    which has fewer digits one time in sixteen, over the old one.
    """
    text, _, _ = data.partition(b"\0")
    try:
        lines = text.decode().split("\n")  # not splitlines, which knows more line ends than readers of VMDKs
    except UnicodeDecodeError:
        lines = text.decode("latin-1").split("\n")  # a name in the encoding of some Windows
    if lines[0].strip() != SIGNATURE:
        raise InvalidImage(path, "descriptor does not begin with its signature")
    return (line for line in map(str.strip, lines) if line and not line.startswith("#"))


def _check_extent(kind: str, name: str | None, kinds: frozenset[str], path: str) -> None:
    if kind not in kinds:
        raise UnsupportedFeature(path, f"VMDK extent of type {kind[:80]!r}")
    if name is None or not name or "/" in name or "\\" in name or name in {".", ".."}:
        raise UnsupportedFeature(path, f"VMDK extent {name!r:.80}, which is not a bare file name")


def _set(values: dict[str, str], key: str, value: str, path: str) -> None:
    key = key.lower()
    if key == "parentfilenamehint":
        raise UnsupportedFeature(path, "VMDK with a parent", "export the machine without snapshots")
    if key in values and not key.startswith("ddb."):
        raise InvalidImage(path, f"descriptor sets {key!r:.80} twice")
    values[key] = value
