"""Where the clusters of a qcow2 image lie while it is written: the L1 table, and those L2 tables that are in use.

The L1 table stays in memory (8 bytes for 512 MiB of guest). L2 tables (64 KiB each, 128 MiB for 1 TiB of data) are kept
up to a number; the one not used for longest goes to the file, and comes back from there when it is needed again.
A table is written before the L1 entry that names it, and both after everything that the table names.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING

from ovafs.formats.qcow2.encode import CLUSTER, ENTRY, L2_BITS, decode_entries, encode_entries
from ovafs.formats.qcow2.tables import COPIED_FLAG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ovafs.storage.writer.new_file import NewFile

_L2_ENTRIES = 1 << L2_BITS
_OFFSET = ~COPIED_FLAG


class GuestMap:
    """Maps guest clusters (numbers) to host offsets. ``allocate`` gives the host offset of a new cluster.

    ``l1_offset`` is where the file has its L1 table of ``l1_size`` entries, all zeros now; ``max_tables`` bounds the
    L2 tables in memory. The methods raise NoSpace and WriteFailed.
    """

    def __init__(
        self, file: NewFile, l1_offset: int, l1_size: int, allocate: Callable[[], int], max_tables: int
    ) -> None:
        self._file = file
        self._l1_offset = l1_offset
        self._l1 = array("Q", [0]) * l1_size  # host offsets of L2 tables, 0: none
        self._allocate = allocate
        self._max_tables = max_tables
        self._tables: OrderedDict[int, array[int]] = OrderedDict()  # by L1 index, the last used at the end
        self._changed: set[int] = set()

    def place(self, cluster: int) -> int:
        """The host offset of a guest cluster, which is allocated if it has none."""
        l1_index, index = cluster >> L2_BITS, cluster & _L2_ENTRIES - 1
        table = self._table(l1_index) if self._l1[l1_index] else self._new_table(l1_index)
        if not table[index]:
            table[index] = self._allocate() | COPIED_FLAG
            self._changed.add(l1_index)
        return table[index] & _OFFSET

    def placed(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """The guest clusters of ``[first, stop)`` that have a host cluster, with its offset."""
        while first < stop:
            l1_index = first >> L2_BITS
            base = l1_index << L2_BITS
            end = min(stop, base + _L2_ENTRIES)
            if self._l1[l1_index]:
                entries = self._table(l1_index)[first - base : end - base]
                yield from ((first + index, entry & _OFFSET) for index, entry in enumerate(entries) if entry)
            first = end

    def write(self) -> None:
        """Write all tables that differ from what the file has."""
        for l1_index in list(self._tables):
            self._write_table(l1_index)

    def _table(self, l1_index: int) -> array[int]:
        table = self._tables.get(l1_index)
        if table is None:
            self._make_room()
            table = decode_entries(self._file.read(CLUSTER, self._l1[l1_index]))
            self._tables[l1_index] = table
        else:
            self._tables.move_to_end(l1_index)
        return table

    def _new_table(self, l1_index: int) -> array[int]:
        self._make_room()
        self._l1[l1_index] = self._allocate()
        table = self._tables[l1_index] = array("Q", [0]) * _L2_ENTRIES
        return table

    def _make_room(self) -> None:
        while len(self._tables) >= self._max_tables:
            oldest = next(iter(self._tables))
            self._write_table(oldest)
            del self._tables[oldest]

    def _write_table(self, l1_index: int) -> None:
        if l1_index not in self._changed:
            return
        offset = self._l1[l1_index]
        self._file.write(encode_entries(self._tables[l1_index]), offset)
        self._file.write(encode_entries([offset | COPIED_FLAG]), self._l1_offset + l1_index * ENTRY)
        self._changed.discard(l1_index)
