"""Finding what is worth storing: blocks of zeros become holes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 4096
_ZEROS = bytes(BLOCK)


def data_runs(data: memoryview, offset: int) -> Iterator[tuple[int, int]]:
    """Start and end, in ``data``, of each run of blocks that are not all zeros.

    Blocks are 4 KiB, aligned in the space in which ``data`` lies at ``offset``; a part of a block at either end of
    ``data`` counts as a block. One comparison in C for each.
    """
    start = -1
    position, size = 0, len(data)
    end = BLOCK - offset % BLOCK
    while position < size:
        if _ZEROS.startswith(data[position:end]):
            if start >= 0:
                yield start, position
                start = -1
        elif start < 0:
            start = position
        position, end = end, end + BLOCK
    if start >= 0:
        yield start, size
