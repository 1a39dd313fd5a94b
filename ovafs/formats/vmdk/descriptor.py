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
(CVE-2022-47951). So what is accepted is a whole disk in one sparse extent, which is the file that the descriptor is
embedded in: its name, which nobody keeps right when files are renamed, is looked at for being a bare name only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ovafs.errors import InvalidImage, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE = "# Disk DescriptorFile"
CREATE_TYPES = frozenset(("streamOptimized", "monolithicSparse"))
_NO_PARENT = "ffffffff"

_ASSIGNMENT = re.compile(r'([A-Za-z][\w.]*)\s*=\s*(?:"([^"]*)"|([^\s"]*))')
_EXTENT = re.compile(r'(?:RW|RDONLY|NOACCESS)\s+(\d{1,19})\s+(\w+)(?:\s+"([^"]*)"(?:\s+\d+)?)?')


def parse_descriptor(data: bytes | memoryview, path: str) -> str:
    """Check an embedded descriptor, padded with zero bytes; returns its ``createType``.

    Raises InvalidImage for text that is no descriptor or contradicts itself, UnsupportedFeature for a disk that
    consists of anything but the one sparse extent around it.
    """
    values: dict[str, str] = {}
    extents = 0
    for line in _lines(bytes(data), path):
        if extent := _EXTENT.fullmatch(line):
            extents += 1
            _check_extent(extent[2], extent[3], path)
        elif assignment := _ASSIGNMENT.fullmatch(line):
            _set(values, assignment[1], assignment[2] or assignment[3] or "", path)
        else:
            raise InvalidImage(path, f"descriptor line {line[:80]!r} is neither an assignment nor an extent")
    if extents != 1:
        raise UnsupportedFeature(path, f"VMDK of {extents} extents")
    if values.get("parentcid", _NO_PARENT).lower().removeprefix("0x") != _NO_PARENT:
        raise UnsupportedFeature(path, "VMDK with a parent", "export the machine without snapshots")
    create_type = values.get("createtype", "")
    if create_type not in CREATE_TYPES:
        raise UnsupportedFeature(path, f"VMDK createType {create_type[:80]!r}")
    return create_type


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


def _check_extent(kind: str, name: str | None, path: str) -> None:
    if kind != "SPARSE":
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
