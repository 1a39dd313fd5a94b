"""Grain directory and grain tables of a VMDK: little endian u32 numbers of sectors, 0 for "not there".

| table | an entry says where |
|---|---|
| grain directory | a grain table is; one entry for each table |
| grain table | a grain is; 512 entries; 1 is a grain of zeros if the header has flag 2 |
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING

from ovafs.errors import InvalidImage
from ovafs.formats.vmdk.header import TABLE_ENTRIES
from ovafs.units import SECTOR, align_up

if TYPE_CHECKING:
    from ovafs.formats.vmdk.header import Header

ENTRY = 4
TABLE_SIZE = TABLE_ENTRIES * ENTRY
"""Bytes of a grain table: 4 sectors."""


def directory_size(header: Header) -> int:
    """Bytes of the grain directory, in whole sectors."""
    return align_up(header.tables * ENTRY, SECTOR)


def parse_directory(data: bytes | memoryview, header: Header) -> array[int]:
    """Where each grain table is, in sectors; 0: all its grains are unallocated."""
    return _entries(data[: header.tables * ENTRY])


def parse_table(data: bytes | memoryview, header: Header, path: str) -> array[int]:
    """Where each of a table's grains is, in sectors; 0 where zeros are read, also for an explicit grain of zeros.

    Raises InvalidImage for an entry that points into the header's area.
    """
    entries = _entries(data[:TABLE_SIZE])
    if header.zeroed_grains:
        entries = array("I", (entry if entry != 1 else 0 for entry in entries))
    if any(0 < entry < header.overhead for entry in entries):
        raise InvalidImage(path, "a grain table has a grain inside the metadata")
    return entries


def _entries(data: bytes | memoryview) -> array[int]:
    entries = array("I", bytes(data))
    if sys.byteorder == "big":
        entries.byteswap()
    return entries
