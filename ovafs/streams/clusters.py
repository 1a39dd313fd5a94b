"""Which clusters of a disk hold any stored data, and the number of each among them (its *rank*).

Kept in two columns, 16 bytes for each run of neighbouring clusters: nothing grows with the virtual size.

| column | meaning |
|---|---|
| ``firsts[i]`` | number of the first cluster of run i; ascending, and runs never touch |
| ``ranks[i]`` | how many clusters the runs before run i hold; one more element at the end is the total |
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from itertools import accumulate, compress, islice
from operator import sub
from typing import TYPE_CHECKING, Self

from ovafs.streams.extents import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovafs.streams.extents import ExtentMap

_ITEM = 8


class ClusterRuns:
    """Runs of clusters of ``1 << cluster_bits`` bytes; immutable."""

    __slots__ = ("cluster_bits", "firsts", "ranks")

    def __init__(self, cluster_bits: int, firsts: array[int], ranks: array[int]) -> None:
        self.cluster_bits = cluster_bits
        self.firsts = firsts
        self.ranks = ranks

    @classmethod
    def from_extents(cls, extents: ExtentMap, cluster_bits: int) -> Self:
        """The clusters that a DATA or COMPRESSED extent touches; a cluster with ZERO extents only is left out."""
        stored = bytes(extents.kinds).replace(bytes((Kind.ZERO,)), b"\0")  # a selector for each extent
        return cls._covering(compress(zip(extents.starts, extents.lengths, strict=True), stored), cluster_bits, 0)

    def coarsened(self, bits: int) -> Self:
        """The groups of ``1 << bits`` neighbouring clusters that hold at least one of these."""
        lengths = map(sub, islice(self.ranks, 1, None), self.ranks)
        return self._covering(zip(self.firsts, lengths, strict=True), bits, self.cluster_bits)

    @classmethod
    def _covering(cls, ranges: Iterable[tuple[int, int]], shift: int, unit_bits: int) -> Self:
        """What covers ascending ``ranges`` (start, length in units of ``1 << unit_bits``), ``1 << shift`` a piece."""
        firsts = array("Q")
        stops = []
        stop = -1
        rest = (1 << shift) - 1
        for start, length in ranges:
            first = start >> shift
            if first > stop:
                firsts.append(first)
                stops.append(stop)
            stop = start + length + rest >> shift
        stops.append(stop)
        counts = map(sub, islice(stops, 1, None), firsts)
        return cls(shift + unit_bits, firsts, array("Q", accumulate(counts, initial=0)))

    @property
    def total(self) -> int:
        """Number of clusters in all runs."""
        return self.ranks[-1]

    @property
    def end(self) -> int:
        """Number of the cluster behind the last one; 0 when there is none."""
        return self.firsts[-1] + self.ranks[-1] - self.ranks[-2] if self.firsts else 0

    def __len__(self) -> int:
        return len(self.firsts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClusterRuns):
            return NotImplemented
        return (self.cluster_bits, self.firsts, self.ranks) == (other.cluster_bits, other.firsts, other.ranks)

    __hash__ = None  # type: ignore[assignment]

    def run_at_rank(self, rank: int) -> int:
        """Index of the run that holds the cluster of this rank; ``0 <= rank < total``."""
        return bisect_right(self.ranks, rank) - 1

    def first_run_after(self, cluster: int) -> int:
        """Index of the first run that ends behind ``cluster`` (``len(self)`` when there is none)."""
        index = bisect_right(self.firsts, cluster) - 1
        if index < 0 or self.firsts[index] + self.ranks[index + 1] - self.ranks[index] <= cluster:
            return index + 1
        return index

    def to_bytes(self) -> bytes:
        """Everything as bytes, for a cache on this machine (native byte order)."""
        head = array("Q", (self.cluster_bits, len(self.firsts)))
        return head.tobytes() + self.firsts.tobytes() + self.ranks.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Self:
        """The reverse of :meth:`to_bytes`. Raises ValueError when ``data`` has another length.

        The values are trusted as far as lookups stay in range: a cache that may be damaged needs a digest.
        """
        view = memoryview(data)
        cluster_bits, count = (int.from_bytes(view[at : at + _ITEM], sys.byteorder) for at in (0, _ITEM))
        middle = (2 + count) * _ITEM
        if len(view) != middle + (count + 1) * _ITEM:
            raise ValueError(f"{len(view)} bytes do not hold {count} runs of clusters")
        firsts, ranks = array("Q"), array("Q")
        firsts.frombytes(view[2 * _ITEM : middle])
        ranks.frombytes(view[middle:])
        return cls(cluster_bits, firsts, ranks)
