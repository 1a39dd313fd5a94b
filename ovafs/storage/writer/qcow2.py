"""A qcow2 volume that grows: version 3, clusters of 64 KiB, no feature bits (docs/interop/qcow2.txt).

| host clusters | content | written |
|---|---|---|
| 0 | header | first, with the dirty bit; without it last |
| 1 .. | refcount table, as long as the full disk would need it; unused entries are a hole | an entry for each block |
| behind it | refcount block 0 | as block n below |
| behind it | L1 table | an entry whenever an L2 table is written |
| to the end | data clusters and L2 tables in order of first use | data as it comes, tables when they leave memory |
| n * 32768 | refcount block n, the first of the 2 GiB that it counts | when the file reaches it: all ones |

Host clusters are given out in order and never given back: a cluster of zeros that had data before keeps its place, as
a hole in the file. So every cluster up to the end has refcount 1, and only the last block is written a second time,
with zeros for what lies behind the end.

The file is a well-formed image from its first moment on. Refcounts are there before the clusters are used, data before
the L2 table, that before its L1 entry. If the process is killed, ``qemu-img check`` finds leaked clusters (data whose
table was still in memory) and no corruption, and the dirty bit says that the image is not complete. After a power
cut nothing is promised before :meth:`~Qcow2Writer.finish` has returned.

Memory: 2 MiB of queued data, 4 MiB of L2 tables, and the L1 table (16 KiB for 1 TiB).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import OvafsError, UnsupportedFeature
from ovafs.formats.qcow2.encode import (
    CLUSTER,
    CLUSTER_BITS,
    ENTRY,
    REFCOUNTS,
    ceil_shift,
    check_virtual_size,
    encode_entries,
    encode_header,
    encode_refcounts,
    l1_entries,
    solve_refcounts,
)
from ovafs.storage.writer.block_writer import BlockWriter, Place
from ovafs.storage.writer.guest_map import GuestMap
from ovafs.storage.writer.new_file import NewFile
from ovafs.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TABLES = 64
"""L2 tables in memory: of 32 GiB of guest. A disk that is written in order needs one at a time."""


class Qcow2Writer(BlockWriter):
    """A new image of a disk of ``virtual_size`` bytes (a multiple of 512) at ``path``, which must not exist yet.

    ``max_tables`` bounds the L2 tables in memory. Raises ValueError, UnsupportedFeature for a disk larger than qcow2
    holds (some GiB less than 2 PiB), NoSpace, WriteFailed.
    """

    def __init__(self, path: str, virtual_size: int, *, max_tables: int = MAX_TABLES) -> None:
        self._refcount_table_clusters = _refcount_table_clusters(path, virtual_size)
        file = NewFile(path)
        super().__init__(file, virtual_size)
        l1_size = l1_entries(virtual_size)
        l1_cluster = 1 + self._refcount_table_clusters + 1
        self._l1_offset = l1_cluster << CLUSTER_BITS
        self._end = l1_cluster + ceil_shift(l1_size * ENTRY, CLUSTER_BITS)  # the next host cluster that is free
        self._last_block = l1_cluster - 1  # the refcount block in use, a host cluster
        self._map = GuestMap(file, self._l1_offset, l1_size, self._allocate, max_tables)
        try:
            file.resize(self._end << CLUSTER_BITS)
            self._write_block(0)
            self._write_header(is_dirty=True)
        except OvafsError:
            file.remove()
            raise

    def _place(self, guest_offset: int) -> int:
        return self._map.place(guest_offset >> CLUSTER_BITS) + guest_offset % CLUSTER

    def _placed(self, start: int, stop: int) -> Iterator[Place]:
        for cluster, host in self._map.placed(start >> CLUSTER_BITS, ceil_shift(stop, CLUSTER_BITS)):
            guest = cluster << CLUSTER_BITS
            first = max(start, guest)
            yield Place(first, host + first - guest, min(stop, guest + CLUSTER) - first)

    def _complete(self) -> None:
        self._map.write()
        used = self._end % REFCOUNTS or REFCOUNTS
        self._file.write(encode_refcounts(used, REFCOUNTS), self._last_block << CLUSTER_BITS)
        self._file.resize(self._end << CLUSTER_BITS)
        self._write_header(is_dirty=False)

    def _allocate(self) -> int:
        """The host offset of a new cluster, of which the file holds nothing yet."""
        if not self._end % REFCOUNTS:
            self._last_block = self._end
            self._end += 1
            self._write_block(self._last_block // REFCOUNTS)
        self._end += 1
        return self._end - 1 << CLUSTER_BITS

    def _write_block(self, number: int) -> None:
        """Begin 2 GiB of file: their refcounts, and the refcount table's entry."""
        offset = self._last_block << CLUSTER_BITS
        self._file.write(encode_refcounts(REFCOUNTS, REFCOUNTS), offset)
        self._file.write(encode_entries([offset]), CLUSTER + number * ENTRY)

    def _write_header(self, *, is_dirty: bool) -> None:
        header = encode_header(self.virtual_size, self._l1_offset, self._refcount_table_clusters, is_dirty=is_dirty)
        self._file.write(header, 0)


def _refcount_table_clusters(path: str, virtual_size: int) -> int:
    """Clusters of refcount table for an image of this size that stores all of its clusters."""
    if virtual_size % SECTOR:
        raise ValueError(f"a virtual size of {virtual_size} bytes is no multiple of {SECTOR}")
    try:
        check_virtual_size(virtual_size)
        l1_size = l1_entries(virtual_size)
        l1_clusters = ceil_shift(l1_size * ENTRY, CLUSTER_BITS)
        clusters = ceil_shift(virtual_size, CLUSTER_BITS)
        return solve_refcounts(1 + l1_clusters + l1_size + clusters)[0]
    except ValueError as error:
        raise UnsupportedFeature(path, str(error)) from error
