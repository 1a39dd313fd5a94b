"""The table of internal snapshots: where the L1 table of each lies (QEMU docs/interop/qcow2, "Snapshots").

| bytes of an entry | field |
|---|---|
| 0-7, 8-11 | l1_table_offset, l1_size |
| 12-13, 14-15 | lengths of the unique ID and of the name |
| 16-31 | date_sec, date_nsec, vm_clock_nsec |
| 32-35, 36-39 | vm_state_size, extra_data_size |
| 40 .. | extra data: vm_state_size (u64), disk_size (u64), ... |
| .. | unique ID, name, padding to 8 bytes |
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidImage
from ovafs.formats.qcow2.header import Header, l1_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TABLE = 16 << 20
"""Bytes of a table that are read; QEMU allows as much."""

MAX_SNAPSHOTS = 65536

_ENTRY = struct.Struct(">QIHHIIQII")


class Snapshot(NamedTuple):
    """An entry; ``disk_size`` in bytes, 0 where the entry does not say it: then that of the image holds."""

    name: str
    l1_table_offset: int
    l1_size: int
    disk_size: int


def parse_snapshots(table: bytes, count: int, path: str) -> Iterator[Snapshot]:
    """The ``count`` entries of a table; ``table`` are bytes from its beginning on. Raises InvalidImage."""
    if count > MAX_SNAPSHOTS:
        raise InvalidImage(path, f"{count} snapshots, more than {MAX_SNAPSHOTS}")
    position = 0
    for number in range(count):
        if position + _ENTRY.size > len(table):
            raise InvalidImage(path, f"the table of snapshots is cut off in entry {number}")
        offset, l1_size, id_size, name_size, *_, extra_size = _ENTRY.unpack_from(table, position)
        extra = position + _ENTRY.size
        end = extra + extra_size + id_size + name_size
        if end > len(table):
            raise InvalidImage(path, f"the table of snapshots is cut off in entry {number}")
        disk_size = int.from_bytes(table[extra + 8 : extra + 16]) if extra_size >= 16 else 0
        yield Snapshot(_text(table[end - name_size : end]), offset, l1_size, disk_size)
        position = end + -end % 8


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def at_snapshot(header: Header, snapshot: Snapshot, path: str) -> Header:
    """The header of the disk as it was then. Raises InvalidImage for an L1 table that cannot be."""
    size = snapshot.disk_size or header.virtual_size
    then = header._replace(virtual_size=size & ~511, l1_table_offset=snapshot.l1_table_offset)
    return then._replace(l1_entries=l1_entries(then, snapshot.l1_size, path))
