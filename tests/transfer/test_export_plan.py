"""Blocks of an export: whatever is copied, cloned and left out, the file gets the bytes of the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from ovafs.streams.clusters import ClusterRuns
from ovafs.streams.extents import ExtentMap, Kind
from ovafs.streams.ova import Package
from ovafs.streams.qcow2 import CLUSTER_BITS, PlannedQcow2
from ovafs.streams.segment import Literal, Segment, SourceRange
from ovafs.transfer.export_plan import BLOCK, Sharing, blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTOR = 512
KIB = 1 << 10


class File:
    """A file of a chain, whose bytes say where they are from."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        first, stop = offset // SECTOR, -(-(offset + length) // SECTOR)
        data = b"".join((b"file %d sector %09d|" % (self.number, n)).ljust(SECTOR, b"x") for n in range(first, stop))
        return data[offset - first * SECTOR :][:length].ljust(length, b"\0")


class FakeChain(NamedTuple):
    extents: ExtentMap
    files: list[File]

    def guest_bytes(self, wanted: SourceRange) -> bytes:
        data = bytearray(wanted.length)
        end = wanted.guest_offset + wanted.length
        for start, length, kind, host, layer in self.extents:
            first, last = max(start, wanted.guest_offset), min(start + length, end)
            if first < last and kind == Kind.DATA:
                piece = self.files[layer].read(host + first - start, last - first)
                data[first - wanted.guest_offset : last - wanted.guest_offset] = piece
            elif first < last:
                data[first - wanted.guest_offset : last - wanted.guest_offset] = b"c" * (last - first)
        return bytes(data)


@st.composite
def chains(draw: st.DrawFn) -> FakeChain:
    """Extents of sectors or of 4 KiB, at host offsets that are aligned or not, in files that may end inside."""
    unit = draw(st.sampled_from([SECTOR, 4 * KIB, 64 * KIB]))
    extents = ExtentMap()
    files = [File(number, draw(st.sampled_from([512 * KIB, 9 << 20, (9 << 20) - 700]))) for number in range(3)]
    position = 0
    for _ in range(draw(st.integers(0, 12))):
        position += draw(st.integers(0, 40)) * unit
        length = draw(st.integers(1, 60)) * unit
        kind = draw(st.sampled_from([Kind.DATA, Kind.DATA, Kind.DATA, Kind.COMPRESSED]))
        host = draw(st.integers(0, 100)) * draw(st.sampled_from([SECTOR, 4 * KIB]))
        extents.append(position, length, kind, host, draw(st.integers(0, 2)))
        position += length
    return FakeChain(extents, files)


def package_of(disks: Sequence[FakeChain]) -> Package:
    planned = []
    for number, chain in enumerate(disks):
        end = chain.extents.starts[-1] + chain.extents.lengths[-1] if chain.extents else 0
        size = (end >> CLUSTER_BITS) + 1 << CLUSTER_BITS
        planned.append((f"disk{number}", PlannedQcow2(number, size, ClusterRuns.from_extents(chain.extents, 16))))
    return Package("vm.ovf", b"<a>" + b" " * 1000 + b"</a>", planned, 0)


def segment_bytes(segment: Segment, disks: Sequence[FakeChain]) -> bytes:
    if isinstance(segment, Literal):
        return segment.data
    if isinstance(segment, SourceRange):
        return disks[segment.disk].guest_bytes(segment)
    return bytes(segment.length)


@settings(deadline=None)
@given(
    disks=st.lists(chains(), min_size=1, max_size=2),
    shared=st.sets(st.integers(0, 2)),
    alignment=st.sampled_from([4096, 65536]),
    data=st.data(),
)
def test_blocks_make_the_bytes_of_the_plan(
    disks: list[FakeChain], shared: set[int], alignment: int, data: st.DataObject
) -> None:
    package = package_of(disks)
    start = data.draw(st.integers(0, package.size))
    files: Any = {chain.files[number] for chain in disks for number in shared}
    content = bytearray(package.size)
    written = bytearray(package.size)
    position = start
    typed: Any = disks
    for block in blocks(package, typed, start, Sharing(files, alignment)):
        assert block.offset == position
        assert block.end % BLOCK == 0 or block.end == package.size
        position = block.end
        for copy in block.copies:
            piece = b"".join(segment_bytes(segment, disks) for segment in copy.segments)
            assert len(piece) == copy.length <= BLOCK
            assert block.offset <= copy.offset < copy.offset + copy.length <= block.end
            content[copy.offset : copy.offset + copy.length] = piece
            written[copy.offset : copy.offset + copy.length] = b"w" * copy.length
        for clone in block.clones:
            file: Any = clone.file
            assert file in files
            assert clone.offset % alignment == clone.host_offset % alignment == clone.length % alignment == 0
            assert clone.host_offset + clone.length <= file.size
            content[clone.offset : clone.offset + clone.length] = file.read(clone.host_offset, clone.length)
            assert not any(written[clone.offset : clone.offset + clone.length])
            written[clone.offset : clone.offset + clone.length] = b"w" * clone.length
    assert position == package.size
    expected = b"".join(segment_bytes(segment, disks) for segment in package.plan(start, package.size - start))
    assert bytes(content[start:]) == expected
    assert not any(content[:start])


def test_what_lies_aligned_is_cloned_to_the_last_byte() -> None:
    extents = ExtentMap()
    extents.append(0, 10 << 20, Kind.DATA, 1 << 20, 0)
    chain = FakeChain(extents, [File(0, 11 << 20)])
    package = package_of([chain])
    typed: Any = [chain]
    files: Any = set(chain.files)
    found = list(blocks(package, typed, 0, Sharing(files, 4096)))
    assert sum(clone.length for block in found for clone in block.clones) == 10 << 20
    assert sum(copy.length for block in found for copy in block.copies) == package.stored - (10 << 20)
