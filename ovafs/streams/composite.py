"""A stream laid out of contiguous, labelled regions: literal bytes, zeros, or another stream."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

from ovafs.streams.segment import Content, Literal, Zero
from ovafs.units import align_up

if TYPE_CHECKING:
    from ovafs.streams.segment import Segment


class StoredContent(Content, Protocol):
    """Content that knows how much of it must be stored by whoever keeps a sparse copy."""

    @property
    def stored(self) -> int:
        """Number of bytes outside of regions that are zeros by layout; at most ``size``."""
        ...


Part = bytes | Zero | StoredContent


class Composite:
    """An ordered array of regions without gaps; append from front to end, then only read."""

    __slots__ = ("_ends", "_labels", "_parts", "_starts", "size", "stored")

    def __init__(self) -> None:
        self.size = 0
        self.stored = 0
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._parts: list[Part] = []
        self._labels: list[str] = []

    def append(self, part: Part, label: str, *, alignment: int = 1) -> int:
        """Add ``part`` at the next multiple of ``alignment``, behind zeros if need be; returns its offset.

        An empty part adds no region. A content's own labels follow ``label`` and a colon. A composite is complete
        when it is appended: its regions become regions of this one, so that a plan is one look-up, however deep
        composites are nested.
        """
        start = align_up(self.size, alignment)
        padding = start - self.size
        if padding:
            self._append(self.size, padding, Zero(padding), f"padding before {label}", 0)
        if isinstance(part, bytes):
            length = stored = len(part)
        elif isinstance(part, Zero):
            length, stored = part.length, 0
        else:
            length, stored = part.size, part.stored
        if isinstance(part, Composite):
            self._splice(part, label)
        elif length:
            self._append(start, length, part, label, stored)
        return start

    def _splice(self, inner: Composite, label: str) -> None:
        base = self.size
        for start, end, part, inner_label in zip(inner._starts, inner._ends, inner._parts, inner._labels, strict=True):
            self._append(base + start, end - start, part, f"{label}: {inner_label}", 0)
        self.stored += inner.stored

    def _append(self, start: int, length: int, part: Part, label: str, stored: int) -> None:
        """The only place that adds a region: contiguous, not empty, labelled."""
        if start != self.size or length <= 0 or not 0 <= stored <= length or not label:
            raise AssertionError(f"illegal region {label!r}: {length} bytes at {start}, {stored} stored")
        self._starts.append(start)
        self._ends.append(start + length)
        self._parts.append(part)
        self._labels.append(label)
        self.size = start + length
        self.stored += stored

    def plan(self, offset: int, length: int) -> list[Segment]:
        """Segments of ``[offset, offset + length)``; raises ValueError for a range outside of ``[0, size]``."""
        end = offset + length
        if not 0 <= offset <= end <= self.size:
            raise ValueError(f"range {offset}+{length} is outside of {self.size} bytes")
        if not length:
            return []
        index = bisect_right(self._starts, offset) - 1
        if end <= self._ends[index]:
            return _plan_part(self._parts[index], offset - self._starts[index], length)
        segments: list[Segment] = []
        while offset < end:
            stop = min(end, self._ends[index])
            segments += _plan_part(self._parts[index], offset - self._starts[index], stop - offset)
            offset = stop
            index += 1
        return segments

    def label(self, offset: int) -> str:
        """Labels of the regions around ``offset``, from outside in, joined by ": "."""
        if not 0 <= offset < self.size:
            return "end of file"
        index = bisect_right(self._starts, offset) - 1
        part = self._parts[index]
        if isinstance(part, bytes | Zero):
            return self._labels[index]
        return f"{self._labels[index]}: {part.label(offset - self._starts[index])}"


def _plan_part(part: Part, offset: int, length: int) -> list[Segment]:
    if isinstance(part, bytes):
        return [Literal(part[offset : offset + length])]
    if isinstance(part, Zero):
        return [Zero(length)]
    return part.plan(offset, length)
