"""Markers of a streamOptimized VMDK (Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents").

Each begins on a sector: ``u64 value, u32 size``, then, if size is 0, ``u32 type``.

| size | type | value | what follows the marker |
|---|---|---|---|
| not 0 | | LBA of the grain (sectors) | ``size`` bytes of zlib data from byte 12, padded to a sector |
| 0 | 0 | 0 | nothing: end of stream |
| 0 | 1 | sectors | a grain table; Xen Orchestra writes 0 and then all tables |
| 0 | 2 | sectors, or 0 | the grain directory |
| 0 | 3 | 1, or 0 | the footer |
| 0 | 4 | 0 | nothing: "progress", written by ovftool and vCenter, in no paper |
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from ovafs.errors import UnsupportedFeature

GRAIN_DATA = 12
"""Offset of a grain's data in its first sector."""

_MARKER = struct.Struct("<QII")


class MarkerType(enum.IntEnum):
    """The types of markers that are not grains; GRAIN stands for all others."""

    END_OF_STREAM = 0
    GRAIN_TABLE = 1
    GRAIN_DIRECTORY = 2
    FOOTER = 3
    PROGRESS = 4
    GRAIN = -1


class Marker(NamedTuple):
    """A marker as stored: ``size`` in bytes, 0 for all but grains."""

    kind: MarkerType
    value: int
    size: int


def parse_marker(sector: bytes | memoryview, path: str) -> Marker:
    """The marker in the first 16 bytes of ``sector``. Raises UnsupportedFeature for a type that is not known."""
    value, size, kind = _MARKER.unpack_from(sector)
    if size:
        return Marker(MarkerType.GRAIN, value, size)
    try:
        return Marker(MarkerType(kind), value, 0)
    except ValueError:
        raise UnsupportedFeature(path, f"VMDK marker of type {kind}") from None
