r"""The header of a VDI (VirtualBox, VDICore.h, version 1.1; little endian) and its block map.

| bytes | field | what is accepted |
|---|---|---|
| 0-63 | text | anything |
| 64-67 | signature | ``0xbeda107f`` |
| 68-71 | version | 0x00010001 |
| 72-75 | header size | not read |
| 76-79 | image type | 1 (dynamic), 2 (fixed: all blocks are there); undo and differencing images are refused |
| 80-83 | flags | not read |
| 84-339 | comment | anything |
| 340-343 | offset of the block map | behind the header, a multiple of 512 |
| 344-347 | offset of the blocks | behind the block map, a multiple of 512 |
| 348-363 | legacy geometry, sector size | not read; 512 |
| 368-375 | disk size (bytes) | a multiple of 512, not more than the blocks hold |
| 376-379 | block size (bytes) | 1 MiB, as VirtualBox and QEMU have it |
| 380-383 | extra bytes for each block | 0 |
| 384-387 | blocks in the disk | at most 2^22 (4 TiB) |
| 388-391 | blocks allocated | not read |
| 392-423 | UUIDs of the image and its last snapshot | anything |
| 424-455 | UUIDs of the linked and the parent image | zeros |

The block map has a u32 for each block of the disk: the number of the block in the file; 0xffffffff: never written;
0xfffffffe: discarded, and zeros.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import NamedTuple

from ovafs.errors import InvalidImage, UnsupportedFeature
from ovafs.units import MIB, SECTOR

HEADER_SIZE = SECTOR
BLOCK_SIZE = MIB
MAX_BLOCKS = 1 << 22
ENTRY = 4

_HEADER = struct.Struct("<64x4sIIII256xIIIIIIIQIIII16x16x16s16s")
_SIGNATURE = b"\x7f\x10\xda\xbe"
_VERSION = 0x00010001
_TYPES = {3: "an undo image", 4: "a differencing image"}
_DYNAMIC, _FIXED = 1, 2
_FIRST_SPECIAL = 0xFFFFFFFE


class Header(NamedTuple):
    """Offsets and sizes in bytes; ``blocks`` are those of the disk."""

    map_offset: int
    data_offset: int
    disk_size: int
    blocks: int


def parse_header(data: bytes | memoryview, path: str) -> Header:
    """Check and decode the first HEADER_SIZE bytes. Raises InvalidImage, UnsupportedFeature."""
    fields = _HEADER.unpack_from(data)
    signature, version, _, kind, _, map_offset, data_offset = fields[:7]
    sector_size, _, disk_size, block_size, extra, blocks, _, linked, parent = fields[10:]
    if signature != _SIGNATURE:
        raise InvalidImage(path, "not a VDI: its signature is missing")
    if version != _VERSION:
        raise UnsupportedFeature(path, f"VDI version {version >> 16}.{version & 0xFFFF}")
    if kind not in {_DYNAMIC, _FIXED} or any(linked) or any(parent):
        hint = "have the disk exported without snapshots"
        raise UnsupportedFeature(path, f"VDI that is {_TYPES.get(kind, 'based on another image')}", hint)
    if (sector_size, block_size, extra) != (SECTOR, BLOCK_SIZE, 0):
        raise UnsupportedFeature(path, f"VDI with sectors of {sector_size} and blocks of {block_size} + {extra} bytes")
    if blocks > MAX_BLOCKS:
        raise InvalidImage(path, f"{blocks} blocks, more than {MAX_BLOCKS}")
    if disk_size % SECTOR or disk_size > blocks * BLOCK_SIZE:
        raise InvalidImage(path, f"a disk of {disk_size} bytes in {blocks} blocks of 1 MiB")
    if map_offset % SECTOR or map_offset < HEADER_SIZE:
        raise InvalidImage(path, f"its block map is at {map_offset}")
    if data_offset % SECTOR or data_offset < map_offset + blocks * ENTRY:
        raise InvalidImage(path, f"its blocks begin at {data_offset}, inside the block map or nowhere")
    return Header(map_offset, data_offset, disk_size, blocks)


def parse_map(data: bytes | memoryview) -> array[int]:
    """The place of each block in the file, in blocks, plus 1; 0 where zeros are read."""
    entries = array("I", bytes(data))
    if sys.byteorder == "big":
        entries.byteswap()
    return array("I", (0 if entry >= _FIRST_SPECIAL else entry + 1 for entry in entries))
