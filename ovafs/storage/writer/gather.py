"""Joins short writes, so that the storage gets large ones: a queue of pieces in the order of their writing."""

from __future__ import annotations

from typing import NamedTuple

BLOCK_BITS = 16
BLOCK = 1 << BLOCK_BITS
"""The unit in which zeros are left out: a cluster of the qcow2 that we write, and as much for raw."""

GATHERED = 1 << 20
"""Bytes that are worth a write of their own."""

MAX_PIECES = 512
"""So that very short, scattered writes are bounded too; well below IOV_MAX (1024 on Linux)."""


class Piece(NamedTuple):
    """Bytes at a guest offset."""

    offset: int
    data: memoryview


class Gather:
    """Takes writes, and gives them back in order once they are GATHERED bytes or MAX_PIECES pieces.

    Holds less than that (and a block), in copies: what :meth:`add` returns may refer to the caller's memory, what stays
    here does not. Long writes pass without a copy, except for their first and last block.
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytearray]] = []
        self._size = 0
        self._end = -1  # where the last piece ends
        self._low = self._high = 0  # all pieces lie in [low, high)

    def overlaps(self, offset: int, length: int) -> bool:
        """Whether a piece may lie in this range."""
        return bool(self._pieces) and offset < self._high and offset + length > self._low

    def add(self, offset: int, data: memoryview) -> list[Piece]:
        """Take a write; returns what is to be written now, oldest first."""
        lead = -offset % BLOCK if offset == self._end else 0  # what the started block still wants
        if len(data) < lead or (self._size + len(data) < GATHERED and len(self._pieces) < MAX_PIECES):
            self._keep(offset, data)
            return []
        # All of it goes but the started block at its end. Cut anywhere else, both parts of a block would be looked at
        # alone, and written alone.
        self._keep(offset, data[:lead])
        cut = max(lead, len(data) - (offset + len(data)) % BLOCK)
        pieces = self.drain()
        if lead < cut:
            pieces.append(Piece(offset + lead, data[lead:cut]))
        self._keep(offset + cut, data[cut:])
        return pieces

    def drain(self) -> list[Piece]:
        """Everything that is held, oldest first."""
        pieces = [Piece(offset, memoryview(data)) for offset, data in self._pieces]
        self._pieces = []
        self._size = 0
        self._end = -1
        return pieces

    def _keep(self, offset: int, data: memoryview) -> None:
        if not data:
            return
        if not self._pieces:
            self._low, self._high = offset, offset
        if offset == self._end:
            self._pieces[-1][1].extend(data)
        else:
            self._pieces.append((offset, bytearray(data)))
        self._end = offset + len(data)
        self._size += len(data)
        self._low = min(self._low, offset)
        self._high = max(self._high, self._end)
