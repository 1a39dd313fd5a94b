r"""The qcow2 that ovafs makes: version 3, clusters of 64 KiB, 16-bit refcounts, no extensions and no feature bits.

| bytes | header field | value |
|---|---|---|
| 0-3, 4-7 | magic, version | ``QFI\xfb``, 3 |
| 8-15, 16-19 | backing_file_offset, _size | 0 |
| 20-23 | cluster_bits | 16 |
| 24-31 | size (virtual, bytes) | a multiple of 512 |
| 32-35 | crypt_method | 0 |
| 36-39, 40-47 | l1_size (entries), l1_table_offset | 0 and 0 for a disk of 0 bytes, as qemu-img create writes it |
| 48-55, 56-59 | refcount_table_offset, _clusters | always cluster 1 |
| 60-71 | nb_snapshots, snapshots_offset | 0 |
| 72-79 | incompatible_features | 0; bit 0 (dirty) while an image is being written |
| 80-95 | compatible_, autoclear_features | 0 |
| 96-99 | refcount_order | 4 |
| 100-103 | header_length | 104, the least that version 3 allows |

Source: qemu, docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import TYPE_CHECKING

from ovafs.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterable

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
ENTRY = 8
"""Bytes of an entry in an L1, L2 or refcount table."""
L2_BITS = CLUSTER_BITS - 3  # an L2 table is one cluster of 8-byte entries
L1_BITS = CLUSTER_BITS + L2_BITS  # guest bytes below one L1 entry: 512 MiB
REFCOUNT = 2
"""Bytes of a refcount."""
REFCOUNTS = CLUSTER // REFCOUNT
"""Refcounts in one refcount block: the clusters of 2 GiB of file."""

MAX_L1_TABLE = 32 << 20  # bytes; qemu's QCOW_MAX_L1_SIZE
MAX_REFCOUNT_TABLE = 8 << 20  # bytes; qemu's QCOW_MAX_REFTABLE_SIZE

MAX_VIRTUAL_SIZE = MAX_L1_TABLE // ENTRY << L1_BITS
"""Guest bytes (2 PiB) below the largest L1 table that qemu opens."""

_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_REFCOUNT_ORDER = 4
_DIRTY = 1

HEADER_SIZE = _HEADER.size


def check_virtual_size(virtual_size: int) -> None:
    """Raise ValueError unless qcow2 can hold a disk of ``virtual_size`` bytes."""
    if not 0 <= virtual_size <= MAX_VIRTUAL_SIZE:
        raise ValueError(f"a virtual size of {virtual_size} bytes is more than qcow2 holds ({MAX_VIRTUAL_SIZE})")
    if virtual_size % SECTOR:
        raise ValueError(f"a virtual size of {virtual_size} bytes is no multiple of {SECTOR}")


def l1_entries(virtual_size: int) -> int:
    """Entries of the L1 table of a disk of ``virtual_size`` bytes."""
    return ceil_shift(virtual_size, L1_BITS)


def solve_refcounts(counted: int) -> tuple[int, int]:
    """Clusters of refcount table and refcount blocks that count ``counted`` clusters and themselves.

    The smallest solution: both numbers only grow from zero, and one more cluster seldom needs another. Raises
    ValueError when qemu would not open so large a table (about 2 PiB of clusters).
    """
    table = blocks = 0
    while True:
        need_blocks = -(-(counted + table + blocks) // REFCOUNTS)
        need_table = ceil_shift(need_blocks * ENTRY, CLUSTER_BITS)
        if (need_table, need_blocks) == (table, blocks):
            break
        table, blocks = need_table, need_blocks
    if table << CLUSTER_BITS > MAX_REFCOUNT_TABLE:
        raise ValueError(f"a qcow2 image of {counted + table + blocks} clusters is longer than qemu opens")
    return table, blocks


def encode_header(virtual_size: int, l1_offset: int, refcount_table_clusters: int, *, is_dirty: bool = False) -> bytes:
    """The first 104 bytes of an image; ``l1_offset`` in bytes. The rest of the first cluster is zeros."""
    l1_size = l1_entries(virtual_size)
    return _HEADER.pack(
        b"QFI\xfb",
        3,  # version
        0,  # backing_file_offset
        0,  # backing_file_size
        CLUSTER_BITS,
        virtual_size,
        0,  # crypt_method
        l1_size,
        l1_offset if l1_size else 0,
        CLUSTER,  # refcount_table_offset
        refcount_table_clusters,
        0,  # nb_snapshots
        0,  # snapshots_offset
        _DIRTY if is_dirty else 0,  # incompatible_features
        0,  # compatible_features
        0,  # autoclear_features
        _REFCOUNT_ORDER,
        _HEADER.size,  # header_length
    )


def encode_refcounts(clusters: int, count: int) -> bytes:
    """``count`` refcounts: 1 for the first ``clusters`` (at most ``count``), 0 for the others."""
    return (b"\0\1" * clusters).ljust(count * REFCOUNT, b"\0")


def encode_entries(values: Iterable[int]) -> bytes:
    """Table entries in the image's byte order."""
    numbers = array("Q", values)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()


def decode_entries(data: bytes) -> array[int]:
    """Table entries from the image's byte order."""
    numbers = array("Q", data)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def ceil_shift(value: int, bits: int) -> int:
    """``value`` divided by ``1 << bits``, rounded up."""
    return -(-value >> bits)
