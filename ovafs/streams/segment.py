"""The vocabulary of plans: what the bytes of a range are, without fetching one of them.

``plan(offset, length)`` is the only read primitive of everything that ovafs shows. A plan is a list of
segments, and ``ovafs.transfer.execute`` is the only code that turns one into bytes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Literal(NamedTuple):
    """Bytes that the planner computed itself: headers, tables, the descriptor. Never empty."""

    data: bytes


class Zero(NamedTuple):
    """``length`` zero bytes; at least 1."""

    length: int


class SourceRange(NamedTuple):
    """``length`` guest bytes (at least 1) of the package's disk number ``disk``, from ``guest_offset``."""

    disk: int
    guest_offset: int
    length: int


Segment = Literal | Zero | SourceRange


def segment_length(segment: Segment) -> int:
    """Number of bytes that the segment stands for."""
    return len(segment.data) if isinstance(segment, Literal) else segment.length


class Content(Protocol):
    """A stream of bytes whose size and layout are known before any byte is read.

    The contract (``tests/support/plan_contract.py`` checks it for every implementation): for any range inside
    ``[0, size]`` the segments of ``plan`` cover it exactly and in order, none is empty, and planning a part
    gives the same bytes as the same part of a larger plan. Planning never blocks and never fails.
    """

    @property
    def size(self) -> int:
        """Exact number of bytes."""
        ...

    def plan(self, offset: int, length: int) -> list[Segment]:
        """Segments of ``[offset, offset + length)``; the caller clamps the range to ``size`` first."""
        ...

    def label(self, offset: int) -> str:
        """What lies at ``offset``, in words for a log line ("disk 1: L2 tables")."""
        ...
