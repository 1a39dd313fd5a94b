"""What tables say lies where in a disk file, waiting for the file to get there.

Tables come in the guest's order, the file in its own. Claims are kept in columns, 25 bytes each, one sorted batch
for each table, and come out by merging the batches: a file that grew in the guest's order needs a few claims at a
time, a scattered one as many as it has runs ahead of the place that was reached.
"""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_right
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_BATCH_WEIGHT = 24  # a batch costs as much memory as so many claims: 600 bytes

NEVER = 1 << 64
"""Behind every offset."""


class Use(enum.IntEnum):
    """What a claimed range of a disk file is."""

    DATA = 1
    COMPRESSED = 2
    TABLE = 3
    DIRECTORY = 4
    DESCRIPTOR = 5
    REFCOUNTS = 6
    IGNORED = 7


class Claim(NamedTuple):
    """``length`` bytes at ``start`` of the disk file; ``guest`` is the guest offset, or the number of the table."""

    start: int
    length: int
    use: Use
    guest: int = 0


class _Batch:
    """Claims in ascending order, and how many of them are gone."""

    __slots__ = ("guests", "lengths", "next", "starts", "uses")

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.starts = array("Q", [claim.start for claim in claims])
        self.lengths = array("Q", [claim.length for claim in claims])
        self.guests = array("Q", [claim.guest for claim in claims])
        self.uses = array("B", [claim.use for claim in claims])
        self.next = 0


class Claims:
    """A priority queue of claims, by where they start."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []  # start of the next claim and number of its batch
        self._batches: dict[int, _Batch] = {}
        self._serial = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, claims: list[Claim]) -> None:
        """Add a table's claims, in any order."""
        if not claims:
            return
        claims.sort()
        self._batches[self._serial] = _Batch(claims)
        heappush(self._heap, (claims[0].start, self._serial))
        self._serial += 1
        self._count += len(claims)

    @property
    def weight(self) -> int:
        """Memory that is held, as a number of claims of 25 bytes."""
        return self._count + len(self._batches) * _BATCH_WEIGHT

    @property
    def next_start(self) -> int:
        """Where the next claim starts; NEVER if there is none."""
        return self._heap[0][0] if self._heap else NEVER

    def pop(self) -> Claim:
        """The next claim."""
        start, serial = self._heap[0]
        batch = self._batches[serial]
        index = batch.next
        claim = Claim(start, batch.lengths[index], Use(batch.uses[index]), batch.guests[index])
        batch.next = index + 1
        if batch.next < len(batch.starts):
            heapreplace(self._heap, (batch.starts[batch.next], serial))
        else:
            heappop(self._heap)
            del self._batches[serial]
        self._count -= 1
        return claim


class KeptRanges:
    """Which ranges of the disk file were given to the caller to keep; they come in ascending order."""

    def __init__(self) -> None:
        self._starts = array("Q")
        self._ends = array("Q")

    def add(self, start: int, end: int) -> None:
        """Add a range behind all others."""
        if self._ends and self._ends[-1] == start:
            self._ends[-1] = end
        else:
            self._starts.append(start)
            self._ends.append(end)

    def end_of(self, offset: int) -> int:
        """Where the kept range around ``offset`` ends; ``offset`` itself if that was not kept."""
        index = bisect_right(self._starts, offset) - 1
        return max(offset, self._ends[index]) if index >= 0 else offset
