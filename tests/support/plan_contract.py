"""The contract of ``ovafs.streams.segment.Content``, checked the same way for every implementation.

For any range the segments of ``plan`` cover it exactly and in order, none is empty, and a part of a range has the
bytes of the same part of the whole.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from ovafs.streams.segment import Literal, SourceRange, Zero, segment_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ovafs.streams.composite import StoredContent
    from ovafs.streams.segment import Content, Segment

    Resolve = Callable[[SourceRange], bytes]

SECTOR = 512


def guest_bytes(source: SourceRange) -> bytes:
    """What the disks of tests hold: in each sector its disk and its number, again and again; nowhere zeros."""
    first = source.guest_offset // SECTOR
    stop = -(-(source.guest_offset + source.length) // SECTOR)
    sectors = b"".join((b"%d:%014d|" % (source.disk, number)).ljust(32, b".") * 16 for number in range(first, stop))
    skip = source.guest_offset - first * SECTOR
    return sectors[skip : skip + source.length]


def segment_bytes(segment: Segment, resolve: Resolve) -> bytes:
    match segment:
        case Literal(data):
            return data
        case Zero(length):
            return bytes(length)
        case SourceRange():
            data = resolve(segment)
            assert len(data) == segment.length
            return data


def planned_bytes(content: Content, offset: int, length: int, resolve: Resolve = guest_bytes) -> bytes:
    """The bytes of a range, after a check that its segments cover it exactly and that none is empty."""
    segments = content.plan(offset, length)
    assert all(segment_length(segment) > 0 for segment in segments), segments
    assert sum(map(segment_length, segments)) == length, segments
    return b"".join(segment_bytes(segment, resolve) for segment in segments)


def check_cuts(content: Content, reference: bytes, cuts: Iterable[int], resolve: Resolve = guest_bytes) -> None:
    """Each piece between neighbouring ``cuts`` reads like the same piece of ``reference``."""
    assert content.size == len(reference)
    for start, end in pairwise(sorted({0, content.size, *cuts})):
        assert planned_bytes(content, start, end - start, resolve) == reference[start:end], (start, end)
        assert content.label(start)


def check_plan_contract(content: StoredContent, reference: bytes, resolve: Resolve = guest_bytes) -> None:
    """All of the contract, with ``reference`` as the bytes that the whole must have.

    Ranges of every kind: the whole, none, both sides of every place where a segment ends, and what hypothesis finds.
    """
    check_cuts(content, reference, (), resolve)
    whole = content.plan(0, content.size)
    assert content.stored == sum(segment_length(segment) for segment in whole if not isinstance(segment, Zero))
    ends = _ends(whole)
    check_cuts(content, reference, {near for end in ends for near in (end - 1, end, end + 1) if 0 <= near <= ends[-1]})
    for end in ends:
        assert content.plan(end, 0) == []
    _check_random_cuts(content, reference, ends, resolve)


def _ends(segments: Sequence[Segment]) -> list[int]:
    ends = [0]
    for segment in segments:
        ends.append(ends[-1] + segment_length(segment))
    return ends


def _check_random_cuts(content: Content, reference: bytes, ends: list[int], resolve: Resolve) -> None:
    anywhere = st.integers(0, content.size)
    aligned = anywhere.map(lambda offset: offset & ~0xFFF)
    near_end = st.tuples(st.sampled_from(ends), st.integers(-20, 20)).map(sum)
    cut = st.one_of(anywhere, aligned, near_end.map(lambda offset: min(max(offset, 0), content.size)))

    @settings(max_examples=25, deadline=None, database=None)
    @given(st.lists(cut, max_size=12))
    def check(cuts: list[int]) -> None:
        check_cuts(content, reference, cuts, resolve)

    check()
