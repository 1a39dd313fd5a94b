"""What an archive is made of once its large members lie elsewhere: their places, and every other byte.

| region | its bytes |
|---|---|
| ``LITERAL`` | are kept here: headers, padding, descriptor, manifest, small members, the first bytes of a disk file |
| ``ZEROS`` | are zeros, such as what may follow the end of an archive |
| a number | are bytes of the source of this number: a member's, from ``start`` on |

It grows at its end while the archive arrives, and can be read all the time. Held are the literal bytes, up to
``MAX_LITERALS``, and a few regions for each member.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from ovafs.streams.segment import Literal, SourceRange, Zero

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ovafs.streams.segment import Segment

MAX_LITERALS = 16 << 20
"""Bytes. A descriptor and a manifest have 8 MiB at the most each; real packages need some tens of KiB."""

MAX_REGIONS = 1 << 16

LITERAL = -1
ZEROS = -2

_BLOCK = 512


class Region(NamedTuple):
    """``length`` bytes from ``start``: of the literal bytes, of the source of this number, or of nothing."""

    source: int
    start: int
    length: int


class Skeleton:
    """A ``Content`` whose sources are numbered from 0; see the module."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.literals = bytearray()
        self.size = 0
        self.is_whole = True
        """False once there was too much to be kept; then nothing of it can be read."""
        self._ends: list[int] = []

    @classmethod
    def load(cls, regions: Iterable[tuple[int, int, int]], literals: bytes) -> Skeleton:
        """What was stored. Raises ValueError if it cannot be a skeleton."""
        loaded = cls()
        loaded.literals += literals
        for region in regions:
            source, start, length = region
            if source < ZEROS or start < 0 or length <= 0:
                raise ValueError(f"region {region}")
            if source == LITERAL and start + length > len(literals):
                raise ValueError(f"region {region} of {len(literals)} literal bytes")
            loaded._append(Region(source, start, length))
        return loaded

    def add(self, data: memoryview) -> None:
        """The next bytes of the archive, which are kept here."""
        if not data:
            return
        if len(data) >= _BLOCK and not bytes(data).strip(b"\0"):
            self._append(Region(ZEROS, 0, len(data)))
            return
        self._append(Region(LITERAL, len(self.literals), len(data)))
        if self.is_whole:
            self.literals += data

    def add_range(self, source: int, start: int, length: int) -> None:
        """The next bytes of the archive are ``length`` (at least 1) bytes of a source."""
        self._append(Region(source, start, length))

    def sources(self) -> set[int]:
        """The sources that are needed."""
        return {region.source for region in self.regions if region.source >= 0}

    def moved(self, place: Callable[[int, int], tuple[int, int]]) -> Skeleton:
        """The same with other sources: ``place`` says of a source and an offset in it which they are now."""
        changed = [
            Region(*place(region.source, region.start), region.length) if region.source >= 0 else region
            for region in self.regions
        ]
        return Skeleton.load(changed, bytes(self.literals))

    def plan(self, offset: int, length: int) -> list[Segment]:
        """Segments of ``[offset, offset + length)``; raises ValueError for a range outside of ``[0, size]``."""
        end = offset + length
        if not 0 <= offset <= end <= self.size or not self.is_whole:
            raise ValueError(f"range {offset}+{length} of {self.size} bytes")
        segments: list[Segment] = []
        index = bisect_right(self._ends, offset)
        while offset < end:
            region = self.regions[index]
            start = region.start + offset - (self._ends[index] - region.length)
            count = min(end, self._ends[index]) - offset
            if region.source == LITERAL:
                segments.append(Literal(bytes(self.literals[start : start + count])))
            elif region.source == ZEROS:
                segments.append(Zero(count))
            else:
                segments.append(SourceRange(region.source, start, count))
            offset += count
            index += 1
        return segments

    def label(self, offset: int) -> str:
        """What lies at ``offset``, in words for a log line."""
        if not 0 <= offset < self.size:
            return "end of file"
        source = self.regions[bisect_right(self._ends, offset)].source
        return {LITERAL: "archive", ZEROS: "zeros"}.get(source, f"disk {source}")

    def _append(self, region: Region) -> None:
        """Add a region, or let the last one grow."""
        last = self.regions[-1] if self.regions else None
        continues = (
            last is not None
            and last.source == region.source
            and (region.source == ZEROS or last.start + last.length == region.start)
        )
        self.size += region.length
        if last is not None and continues:
            self.regions[-1] = last._replace(length=last.length + region.length)
            self._ends[-1] = self.size
        else:
            self.regions.append(region)
            self._ends.append(self.size)
        end_of_literals = region.start + region.length if region.source == LITERAL else 0
        if end_of_literals > MAX_LITERALS or len(self.regions) > MAX_REGIONS:
            self.is_whole = False
            self.literals.clear()
            self.regions.clear()
            self._ends.clear()
