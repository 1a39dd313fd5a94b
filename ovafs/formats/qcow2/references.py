"""Which host clusters the tables of a qcow2 image refer to, and how often it says so itself.

A refcount block is one cluster of refcounts, ``refcount_bits`` (1 to 64) each, for the host clusters that follow each
other; of widths below 8 the lowest bits of a byte come first. The refcount table holds the blocks' host offsets in
bits 9-63, 0 for a block whose refcounts are all 0 (QEMU docs/interop/qcow2, "Host cluster management").
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple

from ovafs.formats.qcow2.tables import COMPRESSED_FLAG, OFFSET_MASK, compressed_range

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ovafs.formats.qcow2.header import Header

_TYPES = {8: "B", 16: "H", 32: "I", 64: "Q"}


class HostRange(NamedTuple):
    """Bytes of the image file that an L2 table refers to: whole clusters, or the sectors of a compressed one."""

    offset: int
    length: int
    is_compressed: bool


def host_ranges(l2_table: bytes, header: Header) -> Iterator[HostRange]:
    """What an L2 table refers to, in its order, neighbours joined.

    Also clusters that read as zeros, and those behind the end of the disk: the next write there may use them.
    """
    entries = _big_endian("Q", l2_table)
    size = header.cluster_size
    start = end = 0
    for entry in entries[::2] if header.extended_l2 else entries:
        if entry & COMPRESSED_FLAG:
            yield HostRange(*compressed_range(entry & (COMPRESSED_FLAG - 1), header.cluster_bits), is_compressed=True)
            continue
        offset = entry & OFFSET_MASK
        if not offset:
            continue
        if offset != end:
            if end:
                yield HostRange(start, end - start, is_compressed=False)
            start = end = offset
        end += size
    if end:
        yield HostRange(start, end - start, is_compressed=False)


def decode_refcounts(block: bytes, bits: int) -> Sequence[int]:
    """The refcounts of a block, of ``bits`` each."""
    if bits >= 8:
        return _big_endian(_TYPES[bits], block)
    mask = (1 << bits) - 1
    return [byte >> shift & mask for byte in block for shift in range(0, 8, bits)]


def decode_refcount_table(table: bytes) -> Sequence[int]:
    """The host offset of each refcount block, 0 for none."""
    return _big_endian("Q", table)


def _big_endian(code: str, data: bytes) -> array[int]:
    values = array(code, bytes(data))
    if sys.byteorder == "little":
        values.byteswap()
    return values
