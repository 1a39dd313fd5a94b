"""Where a disk's bytes lie: extents in guest coordinates, kept in columns.

An :class:`ExtentMap` is sorted, without overlap, and as small as the disk is fragmented: five numbers for each
run, 27 bytes, never anything that grows with the virtual size. What no extent covers is a *hole*: in the map of
one layer it lets the backing file show through, in a collapsed map it reads as zeros. A ZERO extent reads as
zeros and hides the backing file, so it exists in layer maps only.

| kind | ``host`` is |
|---|---|
| DATA | host offset in the layer's file, advancing with the guest offset |
| ZERO | 0 |
| COMPRESSED | the cluster's compressed cluster descriptor (qcow2 spec); each extent is one cluster |
"""

from __future__ import annotations

import enum
import sys
from array import array
from bisect import bisect_left, bisect_right
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Kind(enum.IntEnum):
    """What an extent holds."""

    DATA = 1
    ZERO = 2
    COMPRESSED = 3


class Extent(NamedTuple):
    """A run of guest bytes; ``layer`` is the index of its file in the chain, 0 is the top."""

    start: int
    length: int
    kind: Kind
    host: int
    layer: int


class ExtentMap:
    """Extents of one layer or of a collapsed chain; append in ascending order, then only read."""

    __slots__ = ("hosts", "kinds", "layers", "lengths", "starts")

    def __init__(self) -> None:
        self.starts = array("Q")
        self.lengths = array("Q")
        self.hosts = array("Q")
        self.layers = array("H")
        self.kinds = array("B")

    def append(self, start: int, length: int, kind: Kind, host: int = 0, layer: int = 0) -> None:
        """Add an extent behind the last one, or let the last one grow when this continues it.

        A part of a COMPRESSED cluster keeps ``start`` inside the cluster; readers align down.
        """
        if self.starts:
            end = self.starts[-1] + self.lengths[-1]
            if start < end:
                msg = f"extent at {start} begins before the last one ends ({end})"
                raise ValueError(msg)
            if (
                start == end
                and kind != Kind.COMPRESSED
                and self.kinds[-1] == kind
                and self.layers[-1] == layer
                and (kind == Kind.ZERO or self.hosts[-1] + self.lengths[-1] == host)
            ):
                self.lengths[-1] += length
                return
        self.starts.append(start)
        self.lengths.append(length)
        self.hosts.append(host)
        self.layers.append(layer)
        self.kinds.append(kind)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Extent:
        return Extent(
            self.starts[index],
            self.lengths[index],
            Kind(self.kinds[index]),
            self.hosts[index],
            self.layers[index],
        )

    def __iter__(self) -> Iterator[Extent]:
        return (self[index] for index in range(len(self.starts)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExtentMap):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def first_after(self, offset: int) -> int:
        """Index of the first extent that ends behind ``offset`` (``len(self)`` when there is none)."""
        index = bisect_right(self.starts, offset) - 1
        if index < 0 or self.starts[index] + self.lengths[index] <= offset:
            return index + 1
        return index

    def to_bytes(self) -> bytes:
        """The columns as bytes, for a cache on this machine (native byte order)."""
        count = len(self.starts).to_bytes(8, sys.byteorder)
        return count + b"".join(getattr(self, name).tobytes() for name in _COLUMNS)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Self:
        """The reverse of :meth:`to_bytes`. Raises ValueError when ``data`` has another length."""
        view = memoryview(data)
        count = int.from_bytes(view[:8], sys.byteorder)
        result = cls()
        position = 8
        for name in _COLUMNS:
            column = getattr(result, name)
            end = position + count * column.itemsize
            column.frombytes(view[position:end])
            position = end
        if len(view) != position or len(result.kinds) != count:
            msg = f"{len(view)} bytes do not hold {count} extents"
            raise ValueError(msg)
        return result


_COLUMNS = ("starts", "lengths", "hosts", "layers", "kinds")


class Layer(NamedTuple):
    """One file of a chain: its own extents (as layer 0) and its size in guest bytes."""

    extents: ExtentMap
    virtual_size: int


def collapse(layers: Sequence[Layer]) -> ExtentMap:
    """The guest's view of a chain, ``layers[0]`` on top: what is stored, and in which layer; no ZERO extents.

    A layer shows its backing file through its holes, up to the smaller of the two sizes: behind the end of a
    short backing file the guest reads zeros, even if a file further down is longer.
    """
    view = ExtentMap()
    for number in reversed(range(len(layers))):
        extents, virtual_size = layers[number]
        top = ExtentMap()
        _copy_range(extents, 0, virtual_size, top)
        top.layers = array("H", [number]) * len(top.starts)
        view = _overlay(top, view, virtual_size)
    return _without_zeros(view)


def _overlay(top: ExtentMap, below: ExtentMap, virtual_size: int) -> ExtentMap:
    """``top`` over ``below``, which is cut at ``virtual_size``.

    Costs a step for each place where the two change over, not for each extent: a chain of many files has few
    extents in most of them, and in all of them together it may have millions.
    """
    if not below.starts:
        return top
    result = ExtentMap()
    position = 0  # all before it is in the result
    index = 0  # the first extent of top that is not
    while position < virtual_size:
        lower = below.first_after(position)
        lower_start = below.starts[lower] if lower < len(below.starts) else virtual_size
        # Everything of top that begins before the next extent below, and then below as far as top leaves room.
        following = bisect_right(top.starts, max(lower_start, position), index)
        if following > index:
            _append_rows(top, index, following, result)
            position = max(position, top.starts[following - 1] + top.lengths[following - 1])
            index = following
        gap_end = top.starts[index] if index < len(top.starts) else virtual_size
        if position < gap_end:
            _copy_range(below, position, gap_end, result)
            position = gap_end
    return result


def _copy_range(source: ExtentMap, start: int, end: int, target: ExtentMap) -> None:
    """Append what ``source`` holds in ``[start, end)``; extents at the edges are cut."""
    first = source.first_after(start)
    last = bisect_left(source.starts, end, first)
    if first == last:
        return
    row = len(target.starts)
    _append_rows(source, first, last, target)
    skipped = start - target.starts[row]
    if skipped > 0:
        target.starts[row] += skipped
        target.lengths[row] -= skipped
        if target.kinds[row] == Kind.DATA:
            target.hosts[row] += skipped
    target.lengths[-1] = min(target.lengths[-1], end - target.starts[-1])


def _append_rows(source: ExtentMap, first: int, last: int, target: ExtentMap) -> None:
    for name in _COLUMNS:
        getattr(target, name).extend(getattr(source, name)[first:last])


def _without_zeros(extents: ExtentMap) -> ExtentMap:
    if Kind.ZERO not in extents.kinds:
        return extents
    keep = [kind != Kind.ZERO for kind in extents.kinds]
    result = ExtentMap()
    for name in _COLUMNS:
        getattr(result, name).extend(array(getattr(result, name).typecode, compress(getattr(extents, name), keep)))
    return result
