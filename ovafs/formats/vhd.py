r"""The structures of a VHD (Microsoft, Virtual Hard Disk Image Format Specification 1.0; big endian).

Footer, the last 512 bytes of every VHD; a dynamic one begins with a copy of it:

| bytes | field | what is accepted |
|---|---|---|
| 0-7 | cookie | ``conectix`` |
| 8-11, 12-15 | features, version | not read; 0x00010000 |
| 16-23 | data offset | of the dynamic header: 512; of a fixed disk: 2^64 - 1 |
| 24-39 | time, creator's name, version and host | anything |
| 40-47 | original size | not read |
| 48-55 | current size (bytes) | a multiple of 512; this is the size of the disk |
| 56-59 | geometry | not read: it cannot say every size |
| 60-63 | disk type | 2 (fixed), 3 (dynamic); 4 (differencing) is refused |
| 64-67 | checksum | the complement of the sum of all other bytes |
| 68-83, 84 | UUID, saved state | anything; 0 |

Dynamic header, 1024 bytes at 512:

| bytes | field | what is accepted |
|---|---|---|
| 0-7 | cookie | ``cxsparse`` |
| 8-15 | data offset | not read |
| 16-23 | table offset | behind this header, a multiple of 512 |
| 24-27 | version | 0x00010000 |
| 28-31 | entries of the table | at most 2^20 (2 TiB in blocks of 2 MiB), and enough for the disk |
| 32-35 | block size (bytes) | a power of two, 64 KiB to 256 MiB; 2 MiB is usual |
| 36-39 | checksum | as in the footer |
| 40-1023 | parent | not read |

The block allocation table has a u32 for each block of the disk: the sector where it begins in the file, with a bitmap
of whole sectors, and then the data; 0xffffffff: never written. A sector of the block whose bit is 0 was never written
and reads as zeros, whatever lies there; the first sector is the highest bit.
"""

from __future__ import annotations

import struct
import sys
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidImage, UnsupportedFeature
from ovafs.units import KIB, MIB, SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Iterator

COOKIE = b"conectix"
FOOTER_SIZE = SECTOR
DYNAMIC_HEADER_SIZE = 1024
ENTRY = 4
MAX_BLOCKS = 1 << 20
MIN_BLOCK_SIZE = 64 * KIB
MAX_BLOCK_SIZE = 256 * MIB

FIXED, DYNAMIC = 2, 3
_DIFFERENCING = 4

_FOOTER = struct.Struct(">8sIIQ4x4x4x4xQQ4xII16sB")
_DYNAMIC_HEADER = struct.Struct(">8sQQIIII")
_DYNAMIC_COOKIE = b"cxsparse"
_VERSION = 0x00010000
_NOWHERE = (1 << 64) - 1
_UNALLOCATED = 0xFFFFFFFF
_CHECKSUM_AT = {FOOTER_SIZE: 64, DYNAMIC_HEADER_SIZE: 36}


class Footer(NamedTuple):
    """``size`` of the disk in bytes; ``kind`` FIXED or DYNAMIC."""

    size: int
    kind: int


class DynamicHeader(NamedTuple):
    """Sizes and offsets in bytes; ``bitmap_size`` is what lies before the data of each block."""

    table_offset: int
    blocks: int
    block_size: int
    bitmap_size: int


def parse_footer(data: bytes | memoryview, path: str) -> Footer:
    """Check and decode a footer, or its copy in front. Raises InvalidImage, UnsupportedFeature."""
    cookie, _, version, data_offset, _, size, kind, _, _, saved_state = _FOOTER.unpack_from(data)
    if cookie != COOKIE:
        raise InvalidImage(path, "not a VHD: the cookie of its footer is missing")
    _check_sum(bytes(data[:FOOTER_SIZE]), "footer", path)
    if version != _VERSION:
        raise UnsupportedFeature(path, f"VHD version {version >> 16}.{version & 0xFFFF}")
    if kind not in {FIXED, DYNAMIC}:
        name = "differencing VHD" if kind == _DIFFERENCING else f"VHD of the type {kind}"
        raise UnsupportedFeature(path, name, "have the disk exported without snapshots")
    if saved_state:
        raise UnsupportedFeature(path, "VHD of a machine in saved state", "shut the machine down and export it again")
    if size % SECTOR:
        raise InvalidImage(path, f"a disk of {size} bytes")
    if data_offset != (_NOWHERE if kind == FIXED else FOOTER_SIZE):
        raise InvalidImage(path, f"its data offset is {data_offset}")
    return Footer(size, kind)


def parse_dynamic_header(data: bytes | memoryview, footer: Footer, path: str) -> DynamicHeader:
    """Check and decode the dynamic header. Raises InvalidImage, UnsupportedFeature."""
    cookie, _, table_offset, version, blocks, block_size, _ = _DYNAMIC_HEADER.unpack_from(data)
    if cookie != _DYNAMIC_COOKIE:
        raise InvalidImage(path, "the cookie of its dynamic header is missing")
    _check_sum(bytes(data[:DYNAMIC_HEADER_SIZE]), "dynamic header", path)
    if version != _VERSION:
        raise UnsupportedFeature(path, f"dynamic VHD version {version >> 16}.{version & 0xFFFF}")
    if block_size & (block_size - 1) or not MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE:
        raise InvalidImage(path, f"blocks of {block_size} bytes")
    if blocks > MAX_BLOCKS:
        raise InvalidImage(path, f"{blocks} blocks, more than {MAX_BLOCKS}")
    if blocks * block_size < footer.size:
        raise InvalidImage(path, f"a disk of {footer.size} bytes in {blocks} blocks of {block_size}")
    if table_offset % SECTOR or table_offset < FOOTER_SIZE + DYNAMIC_HEADER_SIZE:
        raise InvalidImage(path, f"its block allocation table is at {table_offset}")
    return DynamicHeader(table_offset, blocks, block_size, align_up(block_size // SECTOR // 8, SECTOR))


def parse_table(data: bytes | memoryview, header: DynamicHeader, path: str) -> array[int]:
    """The sector of each block, its bitmap first; 0 where zeros are read. Raises InvalidImage if blocks overlap."""
    entries = array("I", bytes(data[: header.blocks * ENTRY]))
    if sys.byteorder == "little":
        entries.byteswap()
    if 0 in entries:
        raise InvalidImage(path, "its block allocation table has a block in the place of the footer")
    places = array("I", (0 if entry == _UNALLOCATED else entry for entry in entries))
    length = (header.bitmap_size + header.block_size) // SECTOR
    if any(second - first < length for first, second in pairwise(sorted(filter(None, places)))):
        raise InvalidImage(path, "its block allocation table has blocks that overlap")
    return places


def written_runs(bitmap: bytes | memoryview, sectors: int) -> Iterator[tuple[int, int]]:
    """First and end of each run of sectors in a block that were written."""
    bits = int.from_bytes(bytes(bitmap), "big")
    total = len(bitmap) * 8
    position = 0
    while position < sectors:
        rest = bits & (1 << total - position) - 1
        start = total - rest.bit_length()
        if start >= sectors:
            return
        inverted = ~rest & (1 << total - start) - 1
        end = min(total - inverted.bit_length(), sectors)
        yield start, end
        position = end


def _check_sum(block: bytes, what: str, path: str) -> None:
    at = _CHECKSUM_AT[len(block)]
    found = int.from_bytes(block[at : at + 4], "big")
    if found != ~(sum(block) - sum(block[at : at + 4])) & 0xFFFFFFFF:
        raise InvalidImage(path, f"the checksum of its {what} is wrong")
