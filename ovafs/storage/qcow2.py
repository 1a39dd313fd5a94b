"""One qcow2 file: its header, and the map of what it stores. All of it blocks."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import repeat
from operator import add, le
from typing import TYPE_CHECKING

from ovafs.errors import InvalidImage
from ovafs.formats.detect import HEAD_SIZE
from ovafs.formats.inflate import inflate_cluster
from ovafs.formats.qcow2.header import header_area, parse_header, parse_references
from ovafs.formats.qcow2.snapshots import MAX_TABLE, at_snapshot, parse_snapshots
from ovafs.formats.qcow2.tables import L2Decoder, compressed_range, l2_table_runs
from ovafs.printable import printable
from ovafs.storage.data_ranges import data_ranges
from ovafs.streams.extents import ExtentMap, Kind

if TYPE_CHECKING:
    from ovafs.formats.qcow2.header import Header
    from ovafs.formats.qcow2.snapshots import Snapshot
    from ovafs.storage.source_file import SourceFile
    from ovafs.streams.extents import Extent


def read_header(file: SourceFile, head: bytes, snapshot: str = "", *, by_qemu: bool = False) -> Header:
    """The checked header; ``head`` is the file's first 64 KiB. With the name of a ``snapshot``: as it was then.

    ``by_qemu``: see ``parse_header``. Raises InvalidImage, UnsupportedFeature, ReadFailed, VolumeChanged.
    """
    if len(head) == HEAD_SIZE and header_area(head) > HEAD_SIZE:
        head = file.read(0, header_area(head))
    header = parse_header(head, file.path, by_qemu=by_qemu)
    if snapshot:
        header = at_snapshot(header, _find_snapshot(file, head, snapshot), file.path)
    file.check_unchanged()
    return header


def _find_snapshot(file: SourceFile, head: bytes, name: str) -> Snapshot:
    references = parse_references(head)
    table = file.read(references.snapshots_offset, MAX_TABLE) if references.snapshots else b""
    for snapshot in parse_snapshots(table, references.snapshots, file.path):
        if snapshot.name == name:
            return snapshot
    raise InvalidImage(file.path, f"has no snapshot {printable(name)!r}", "see 'qemu-img snapshot -l'")


def qcow2_extents(file: SourceFile, header: Header, max_extents: int) -> ExtentMap:
    """What the image stores itself, in guest offsets, without its backing file; not cut at its virtual size.

    Clusters (or parts of them) for which the file system stores nothing count as zeros, as QEMU counts them: an
    image with preallocated metadata maps its whole disk and stores none of it.

    Raises InvalidImage, UnsupportedFeature (more than ``max_extents`` extents), ReadFailed, VolumeChanged.
    """
    l1_size = header.l1_entries * 8
    if header.l1_table_offset + l1_size > file.size and l1_size:
        raise InvalidImage(file.path, f"L1 table at {header.l1_table_offset} lies behind the end of the file")
    l1_table = file.read(header.l1_table_offset, l1_size)
    decoder = L2Decoder(header, file.size, file.path, max_extents)
    tables = bytearray()
    for run in l2_table_runs(l1_table, header, file.size, file.path):
        if len(tables) < run.length:
            tables = bytearray(run.length)
        file.read_exact(memoryview(tables)[: run.length], run.host_offset)
        decoder.decode(tables, run.length, run.guest_offset)
    extents = ExtentMap()
    extents.starts, extents.lengths = decoder.starts, decoder.lengths
    extents.hosts, extents.kinds = decoder.hosts, decoder.kinds
    extents.layers = array("H", bytes(2 * len(decoder.starts)))
    extents = _without_holes(extents, file)
    file.check_unchanged()
    return extents


def read_cluster(file: SourceFile, descriptor: int, header: Header) -> bytes:
    """The bytes of a compressed cluster, inflated. Raises InvalidImage, ReadFailed, VolumeChanged."""
    offset, length = compressed_range(descriptor, header.cluster_bits)
    return inflate_cluster(file.read(offset, length), header.compression, header.cluster_size, file.path)[0]


def _without_holes(extents: ExtentMap, file: SourceFile) -> ExtentMap:
    """The extents with the file's holes, and what lies behind its end, turned into zeros."""
    starts, ends = array("Q"), array("Q", [0])
    for start, end in data_ranges(file):
        starts.append(start)
        ends.append(end)
    if len(starts) == 1 and (starts[0], ends[1]) == (0, file.size):
        return extents
    # Index of the data range at or before each extent's host offset, plus one; a loop in C, for most files have
    # few holes, and none where the data is.
    before = list(map(bisect_right, repeat(starts), extents.hosts))
    if all(map(le, map(add, extents.hosts, extents.lengths), map(ends.__getitem__, before))):
        return extents
    result = ExtentMap()
    for extent, index in zip(extents, before, strict=True):
        if extent.kind == Kind.DATA and extent.host + extent.length > ends[index]:
            _append_split(result, extent, starts, ends, index)
        else:
            result.append(*extent)
    return result


def _append_split(result: ExtentMap, extent: Extent, starts: array[int], ends: array[int], index: int) -> None:
    """Append a DATA extent in parts: data where the file holds some, zeros between. ``ends`` is shifted by one."""
    guest = extent.start - extent.host
    position, end = extent.host, extent.host + extent.length
    while position < end:
        if position < ends[index]:
            stop = min(ends[index], end)
            result.append(guest + position, stop - position, Kind.DATA, position)
        else:
            stop = min(starts[index], end) if index < len(starts) else end
            result.append(guest + position, stop - position, Kind.ZERO)
            index += 1
        position = stop
