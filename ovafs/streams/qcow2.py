"""A qcow2 image that is stored nowhere: laid out from the list of allocated clusters alone.

| host clusters | content |
|---|---|
| 0 | header (version 3, 64 KiB clusters, no extensions, no feature bits) |
| 1 .. | refcount table, then refcount blocks (16 bit; every refcount is 1, these clusters included) |
| .. | L1 table |
| .. | L2 tables, only of L1 entries below which there is data, in guest order |
| .. end | data clusters in guest order |

Source: qemu, docs/interop/qcow2.txt. Everything is in closed form: the n-th L2 table and the n-th data cluster
lie n clusters behind the first. All metadata precedes all data, so that a reader can decode the image in one pass.
Tables are computed for the range that is asked for; memory grows with the runs of clusters, nothing else.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from functools import partial
from typing import TYPE_CHECKING

from ovafs.formats.qcow2.encode import (
    CLUSTER,
    CLUSTER_BITS,
    ENTRY,
    L2_BITS,
    MAX_VIRTUAL_SIZE,
    REFCOUNT,
    ceil_shift,
    check_virtual_size,
    encode_entries,
    encode_header,
    encode_refcounts,
    l1_entries,
    solve_refcounts,
)
from ovafs.formats.qcow2.tables import COPIED_FLAG
from ovafs.streams.composite import Composite
from ovafs.streams.segment import Literal, SourceRange, Zero

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.streams.clusters import ClusterRuns
    from ovafs.streams.segment import Segment

__all__ = ["CLUSTER", "CLUSTER_BITS", "MAX_VIRTUAL_SIZE", "PlannedQcow2", "l2_tables"]

_ONE_ENTRY = struct.Struct(">Q")


class PlannedQcow2(Composite):
    """The image of disk number ``disk``; its bytes are a pure function of ``virtual_size`` and ``runs``.

    ``virtual_size`` in bytes is a multiple of 512 up to MAX_VIRTUAL_SIZE; ``runs`` has clusters of 64 KiB. What
    lies behind ``virtual_size`` in the last cluster is zeros, and no SourceRange reaches there. Raises ValueError
    for other values, and when the image would be longer than qemu's largest refcount table counts (2 PiB).
    ``tables`` is :func:`l2_tables` of the runs, for a caller that has kept them.

    ``size`` is a multiple of 64 KiB; ``stored`` leaves out the zeros behind the header and behind the guest's end.
    """

    __slots__ = ("virtual_size",)

    def __init__(self, disk: int, virtual_size: int, runs: ClusterRuns, tables: ClusterRuns | None = None) -> None:
        super().__init__()
        _check_input(virtual_size, runs)
        self.virtual_size = virtual_size
        _lay_out(self, disk, virtual_size, runs, tables or l2_tables(runs))


def l2_tables(runs: ClusterRuns) -> ClusterRuns:
    """The L2 tables that map ``runs``, as runs of L1 entries; half of the time that planning an image takes."""
    return runs.coarsened(L2_BITS)


def _check_input(virtual_size: int, runs: ClusterRuns) -> None:
    check_virtual_size(virtual_size)
    if runs.cluster_bits != CLUSTER_BITS:
        raise ValueError(f"runs of {1 << runs.cluster_bits}-byte clusters do not fit clusters of {CLUSTER}")
    if runs.end > ceil_shift(virtual_size, CLUSTER_BITS):
        raise ValueError(f"cluster {runs.end - 1} lies behind the virtual size of {virtual_size} bytes")


def _lay_out(layout: Composite, disk: int, virtual_size: int, runs: ClusterRuns, tables: ClusterRuns) -> None:
    """Measure every region first, because the refcounts count them all; then compute offsets; then append."""
    l1_clusters = ceil_shift(l1_entries(virtual_size) * ENTRY, CLUSTER_BITS)
    counted = 1 + l1_clusters + tables.total + runs.total
    table_clusters, blocks = solve_refcounts(counted)

    blocks_offset = 1 + table_clusters << CLUSTER_BITS
    l1_offset = blocks_offset + (blocks << CLUSTER_BITS)
    l2_offset = l1_offset + (l1_clusters << CLUSTER_BITS)
    data_offset = l2_offset + (tables.total << CLUSTER_BITS)
    end = counted + table_clusters + blocks << CLUSTER_BITS

    layout.append(encode_header(virtual_size, l1_offset, table_clusters), "header")
    refcount_table = _Table(table_clusters, ENTRY, partial(_block_offsets, blocks_offset, blocks))
    layout.append(refcount_table, "refcount table", alignment=CLUSTER)
    refcounts = _Table(blocks, REFCOUNT, partial(_refcounts, end >> CLUSTER_BITS))
    l1_table = _Table(l1_clusters, ENTRY, partial(_entries, tables, l2_offset))
    l2_tables = _Table(tables.total, ENTRY, partial(_l2_entries, tables, runs, data_offset))
    starts = (
        layout.append(refcounts, "refcount blocks"),
        layout.append(l1_table, "L1 table"),
        layout.append(l2_tables, "L2 tables"),
        layout.append(_DataClusters(disk, virtual_size, runs), "data clusters"),
        layout.size,
    )
    if starts != (blocks_offset, l1_offset, l2_offset, data_offset, end):
        raise AssertionError(f"qcow2 of {virtual_size} bytes: regions lie at {starts}, not where the tables point")


class _Table:
    """Clusters of table entries, ``width`` bytes each, that ``compute(first, stop)`` makes when they are read."""

    __slots__ = ("_compute", "_width", "size")

    def __init__(self, clusters: int, width: int, compute: Callable[[int, int], bytes]) -> None:
        self.size = clusters << CLUSTER_BITS
        self._width = width
        self._compute = compute

    @property
    def stored(self) -> int:
        return self.size

    def plan(self, offset: int, length: int) -> list[Segment]:
        first, skip = divmod(offset, self._width)
        data = self._compute(first, -(-(offset + length) // self._width))
        return [Literal(data[skip : skip + length])]

    def label(self, offset: int) -> str:
        return f"entry {offset // self._width}"


def _block_offsets(blocks_offset: int, blocks: int, first: int, stop: int) -> bytes:
    """Entries ``[first, stop)`` of the refcount table: offsets of the blocks, then zeros."""
    used = min(stop, blocks)
    offsets = encode_entries(
        range(blocks_offset + (first << CLUSTER_BITS), blocks_offset + (used << CLUSTER_BITS), CLUSTER)
    )
    return offsets.ljust((stop - first) * ENTRY, b"\0")


def _refcounts(clusters: int, first: int, stop: int) -> bytes:
    """Refcounts of the host clusters ``[first, stop)``: 1 up to the end of the file, 0 behind it."""
    return encode_refcounts(min(stop, clusters) - first, stop - first)


def _entries(runs: ClusterRuns, base: int, first: int, stop: int) -> bytes:
    """L1 or L2 entries of the clusters ``[first, stop)``; the cluster of rank 0 lies at host offset ``base``."""
    entries = bytearray((stop - first) * ENTRY)
    firsts, ranks = runs.firsts, runs.ranks
    for index in range(runs.first_run_after(first), len(firsts)):
        start = firsts[index]
        if start >= stop:
            break
        end = min(stop, start + ranks[index + 1] - ranks[index])
        host = base + (ranks[index] << CLUSTER_BITS)
        if start < first:
            host += first - start << CLUSTER_BITS
            start = first
        begin = (start - first) * ENTRY
        if end - start == 1:  # what a fragmented disk is made of
            _ONE_ENTRY.pack_into(entries, begin, COPIED_FLAG | host)
            continue
        behind = (end - first) * ENTRY
        entries[begin:behind] = encode_entries(range(host, host + (end - start << CLUSTER_BITS), CLUSTER))
        entries[begin:behind:ENTRY] = bytes((COPIED_FLAG >> 56,)) * (end - start)
    return bytes(entries)


def _l2_entries(tables: ClusterRuns, runs: ClusterRuns, data_offset: int, first: int, stop: int) -> bytes:
    """Entries ``[first, stop)`` of all L2 tables, which lie side by side without those that would be empty."""
    parts = []
    while first < stop:
        index = tables.run_at_rank(first >> L2_BITS)
        end = min(stop, tables.ranks[index + 1] << L2_BITS)
        gap = tables.firsts[index] - tables.ranks[index] << L2_BITS
        parts.append(_entries(runs, data_offset, first + gap, end + gap))
        first = end
    return b"".join(parts)


class _DataClusters:
    """The allocated clusters, in guest order."""

    __slots__ = ("_disk", "_firsts", "_ranks", "_virtual_size", "size", "stored")

    def __init__(self, disk: int, virtual_size: int, runs: ClusterRuns) -> None:
        self._disk = disk
        self._virtual_size = virtual_size
        self._firsts = runs.firsts
        self._ranks = runs.ranks
        self.size = runs.total << CLUSTER_BITS
        self.stored = self.size - max(0, (runs.end << CLUSTER_BITS) - virtual_size)

    def plan(self, offset: int, length: int) -> list[Segment]:
        firsts, ranks = self._firsts, self._ranks
        index = bisect_right(ranks, offset >> CLUSTER_BITS) - 1
        segments: list[Segment] = []
        end = offset + length
        guest = piece = 0
        while offset < end:
            piece = min(end, ranks[index + 1] << CLUSTER_BITS) - offset
            guest = (firsts[index] - ranks[index] << CLUSTER_BITS) + offset
            segments.append(SourceRange(self._disk, guest, piece))
            offset += piece
            index += 1
        behind = guest + piece - self._virtual_size  # only the last run can end there
        if behind > 0:
            segments[-1:] = (
                [Zero(piece)] if behind >= piece else [SourceRange(self._disk, guest, piece - behind), Zero(behind)]
            )
        return segments

    def label(self, offset: int) -> str:
        index = bisect_right(self._ranks, offset >> CLUSTER_BITS) - 1
        return f"guest offset {(self._firsts[index] - self._ranks[index] << CLUSTER_BITS) + offset}"
