"""What an export does, block by block: what is copied, what is cloned, and what stays a hole."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ovafs.streams.extents import Kind
from ovafs.streams.segment import SourceRange, Zero, segment_length
from ovafs.units import align_up

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ovafs.storage.source_file import SourceFile
    from ovafs.storage.volume import Volume
    from ovafs.streams.ova import Package
    from ovafs.streams.segment import Segment

BLOCK = 4 << 20
"""Bytes of the package that are planned, read and written together."""


class Copy(NamedTuple):
    """``length`` bytes at ``offset`` of the package that are read and written."""

    offset: int
    length: int
    segments: list[Segment]


class Clone(NamedTuple):
    """``source``, at ``offset`` of the package, which ``file`` holds as it is at ``host_offset``."""

    offset: int
    source: SourceRange
    file: SourceFile
    host_offset: int

    @property
    def length(self) -> int:
        """Number of bytes, a multiple of the alignment; so are both offsets."""
        return self.source.length


class Block(NamedTuple):
    """All that is to be done for ``[offset, end)`` of the package; what is not mentioned are zeros."""

    offset: int
    end: int
    copies: list[Copy]
    clones: list[Clone]


class Sharing(NamedTuple):
    """The files whose blocks the target can share, and the alignment that this needs."""

    files: Collection[SourceFile]
    alignment: int


def blocks(package: Package, volumes: Sequence[Volume], start: int, sharing: Sharing) -> Iterator[Block]:
    """The blocks from ``start`` to the end of the package; each ends at a multiple of BLOCK, or with the package."""
    while start < package.size:
        end = min(start - start % BLOCK + BLOCK, package.size)
        block = Block(start, end, [], [])
        offset = start
        for segment in package.plan(start, end - start):
            clones = []
            if isinstance(segment, SourceRange) and sharing.files:
                clones = list(_clones(volumes[segment.disk], segment, offset, sharing))
            if not isinstance(segment, Zero):
                _add_copies(block.copies, segment, offset, clones)
            block.clones.extend(clones)
            offset += segment_length(segment)
        yield block
        start = end


def _clones(volume: Volume, wanted: SourceRange, offset: int, sharing: Sharing) -> Iterator[Clone]:
    """The aligned parts of ``wanted``, which lies at ``offset`` of the package, that can be shared."""
    extents = volume.extents
    to_package = offset - wanted.guest_offset
    end = wanted.guest_offset + wanted.length
    for index in range(extents.first_after(wanted.guest_offset), len(extents)):
        extent = extents[index]
        if extent.start >= end:
            return
        file = volume.files[extent.layer]
        if extent.kind != Kind.DATA or file not in sharing.files:
            continue
        first = align_up(max(extent.start, wanted.guest_offset) + to_package, sharing.alignment)
        last = min(extent.start + min(extent.length, file.size - extent.host), end) + to_package
        last -= last % sharing.alignment
        host_offset = extent.host + first - to_package - extent.start
        if first < last and host_offset % sharing.alignment == 0:
            yield Clone(first, SourceRange(wanted.disk, first - to_package, last - first), file, host_offset)


def _add_copies(copies: list[Copy], segment: Segment, offset: int, clones: Sequence[Clone]) -> None:
    """Add what of ``segment``, at ``offset`` of the package, lies outside of its ``clones``."""
    if not isinstance(segment, SourceRange) or not clones:
        _add_copy(copies, segment, offset)
        return
    position, end = offset, offset + segment.length
    for clone in clones:
        if position < clone.offset:
            _add_copy(copies, _part(segment, position - offset, clone.offset - offset), position)
        position = clone.offset + clone.length
    if position < end:
        _add_copy(copies, _part(segment, position - offset, end - offset), position)


def _part(segment: SourceRange, start: int, end: int) -> SourceRange:
    return SourceRange(segment.disk, segment.guest_offset + start, end - start)


def _add_copy(copies: list[Copy], segment: Segment, offset: int) -> None:
    """Let the last copy grow when the segment continues it: then both are written at once."""
    length = segment_length(segment)
    if copies and copies[-1].offset + copies[-1].length == offset:
        last = copies[-1]
        copies[-1] = Copy(last.offset, last.length + length, [*last.segments, segment])
    else:
        copies.append(Copy(offset, length, [segment]))
