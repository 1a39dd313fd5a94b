r"""The sparse extent header of a VMDK (VMware, Virtual Disk Format 5.0, "Hosted Sparse Extent Header"; little endian).

| bytes | field | what is accepted |
|---|---|---|
| 0-3 | magic | ``KDMV`` |
| 4-7 | version | 1, 2, 3 (ovftool, vCenter, VirtualBox and QEMU write 3 for streamOptimized) |
| 8-11 | flags | bits 0, 1, 2, 16, 17; 16 and 17 together or neither |
| 12-19 | capacity (sectors of 512 bytes) | 1 to what 2,097,152 grain tables map; no multiple of anything |
| 20-27 | grainSize (sectors) | a power of two, 16 to 2048 (8 KiB to 1 MiB) |
| 28-35, 36-43 | descriptorOffset, descriptorSize (sectors) | embedded, before the first grain, up to 1 MiB |
| 44-47 | numGTEsPerGT | 512 |
| 48-55 | rgdOffset (sectors) | not read: the redundant copy of the tables |
| 56-63 | gdOffset (sectors) | 2^64 - 1: the footer, a copy of the header, says where |
| 64-71 | overHead (sectors) | where grains or markers begin |
| 72 | uncleanShutdown | 0 |
| 73-76 | ``\n``, space, ``\r``, ``\n`` | exactly that, if flag 0 is set |
| 77-78 | compressAlgorithm | 1 (deflate) with flag 16, else 0 |

| flag | meaning |
|---|---|
| 0 | the newline test at byte 73 is valid |
| 1 | there is a redundant grain directory |
| 2 | a grain table entry of 1 is a grain of zeros |
| 16 | grains are compressed |
| 17 | grains and tables have markers |
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ovafs.errors import InvalidImage, UnsupportedFeature
from ovafs.units import MIB, SECTOR

MAGIC = b"KDMV"
HEADER_SIZE = SECTOR

FLAG_NEWLINE_TEST = 1 << 0
FLAG_REDUNDANT = 1 << 1
FLAG_ZEROED_GRAINS = 1 << 2
FLAG_COMPRESSED = 1 << 16
FLAG_MARKERS = 1 << 17
_STREAM = FLAG_COMPRESSED | FLAG_MARKERS
_KNOWN_FLAGS = FLAG_NEWLINE_TEST | FLAG_REDUNDANT | FLAG_ZEROED_GRAINS | _STREAM

GD_AT_END = (1 << 64) - 1
"""The value of ``gd_offset`` in a header whose footer knows better."""

TABLE_ENTRIES = 512
MIN_GRAIN = 16
MAX_GRAIN = 2048
MAX_TABLES = 1 << 21
"""Grain tables that a disk may have: 64 TiB in grains of 64 KiB; VMware's own limit is 62 TiB."""
MAX_DESCRIPTOR = MIB

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_NEWLINES = b"\n \r\n"


class Header(NamedTuple):
    """A checked header. Offsets and sizes are in sectors, as stored."""

    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    gd_offset: int
    overhead: int

    @property
    def is_stream(self) -> bool:
        """Grains are compressed and have markers: a streamOptimized extent."""
        return self.flags & _STREAM == _STREAM

    @property
    def zeroed_grains(self) -> bool:
        """A grain table entry of 1 stands for zeros."""
        return bool(self.flags & FLAG_ZEROED_GRAINS)

    @property
    def tables(self) -> int:
        """Number of grain tables, which is the number of entries of the grain directory."""
        return -(-self.capacity // (self.grain_size * TABLE_ENTRIES))


def parse_header(data: bytes | memoryview, path: str) -> Header:
    """Check and decode the first sector of a VMDK; ``path`` is for messages only.

    Raises InvalidImage when the header contradicts the format, UnsupportedFeature (by name) when the image needs
    something that this reader does not do.
    """
    if len(data) < HEADER_SIZE:
        raise InvalidImage(path, f"VMDK header is cut off after {len(data)} bytes")
    magic, version, flags, capacity, grain, d_offset, d_size, entries, _, gd, overhead, unclean, newlines, algorithm = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise InvalidImage(path, "not a VMDK sparse extent")
    if version not in {1, 2, 3}:
        raise UnsupportedFeature(path, f"VMDK version {version}")
    _check_flags(flags, algorithm, path)
    if unclean:
        raise UnsupportedFeature(path, "VMDK that was not closed cleanly", "have the machine exported again")
    if flags & FLAG_NEWLINE_TEST and newlines != _NEWLINES:
        raise InvalidImage(path, "line ends were converted: the file went through a transfer in text mode")
    header = Header(version, flags, capacity, grain, d_offset, d_size, gd, overhead)
    _check_sizes(header, entries, path)
    return header


def check_footer(header: Header, footer: Header, path: str) -> None:
    """Raises InvalidImage unless ``footer`` says of the disk what ``header`` says, and where the directory is."""
    if footer[:4] != header[:4]:
        raise InvalidImage(path, f"footer {footer[:4]} contradicts the header {header[:4]}")
    if footer.gd_offset == GD_AT_END:
        raise InvalidImage(path, "footer does not say where the grain directory is")


def _check_flags(flags: int, algorithm: int, path: str) -> None:
    unknown = flags & ~_KNOWN_FLAGS
    if unknown:
        raise UnsupportedFeature(path, f"VMDK flags {unknown:#x}")
    if flags & _STREAM not in {0, _STREAM}:
        raise UnsupportedFeature(path, "VMDK with only one of compressed grains and markers")
    if algorithm != (1 if flags & FLAG_COMPRESSED else 0):
        raise UnsupportedFeature(path, f"VMDK compression algorithm {algorithm}")


def _check_sizes(header: Header, entries: int, path: str) -> None:
    grain = header.grain_size
    if not MIN_GRAIN <= grain <= MAX_GRAIN or grain & (grain - 1):
        raise UnsupportedFeature(path, f"VMDK grains of {grain} sectors")
    if entries != TABLE_ENTRIES:
        raise UnsupportedFeature(path, f"VMDK grain tables of {entries} entries")
    if not 0 < header.tables <= MAX_TABLES:
        raise UnsupportedFeature(path, f"VMDK capacity of {header.capacity} sectors")
    if not header.descriptor_offset or not header.descriptor_size:
        raise UnsupportedFeature(path, "VMDK without an embedded descriptor")
    if header.descriptor_size * SECTOR > MAX_DESCRIPTOR:
        raise InvalidImage(path, f"VMDK descriptor of {header.descriptor_size} sectors, more than 1 MiB")
    if header.descriptor_offset + header.descriptor_size > header.overhead:
        raise InvalidImage(path, "VMDK descriptor lies behind the first grain")
    if not header.gd_offset:
        raise InvalidImage(path, "VMDK without a grain directory")
