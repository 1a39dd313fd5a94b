"""The part of writing a volume that does not depend on its format: order, joining, and zeros that are not stored."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from ovafs.storage.writer.gather import BLOCK, Gather

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ovafs.storage.writer.gather import Piece
    from ovafs.storage.writer.new_file import NewFile

_BATCH = 4 << 20  # bytes that are looked at together; also bounds how many views one pwritev gets
_ZEROS = bytes(BLOCK)


class Place(NamedTuple):
    """Guest bytes that have a place in the file."""

    guest_offset: int
    file_offset: int
    length: int


class BlockWriter(ABC):
    """A :class:`~ovafs.storage.writer.volume_writer.VolumeWriter` of which a format says where blocks lie."""

    def __init__(self, file: NewFile, virtual_size: int) -> None:
        self.path = file.path
        self.virtual_size = virtual_size
        self._file = file
        self._gather = Gather()
        self._turn = threading.Lock()
        self._finished = False
        self._allocated = 0

    # -- what a format says ---------------------------------------------------------------------------------

    @abstractmethod
    def _place(self, guest_offset: int) -> int:
        """Where in the file the byte at ``guest_offset`` lies; its block gets a place if it has none."""

    @abstractmethod
    def _placed(self, start: int, stop: int) -> Iterable[Place]:
        """The parts of the file in which guest bytes ``[start, stop)`` have a place, ascending in the guest."""

    @abstractmethod
    def _complete(self) -> None:
        """Write what is missing in the file once all guest bytes are in it."""

    # -- VolumeWriter -----------------------------------------------------------------------------------------

    @property
    def allocated(self) -> int:
        """Bytes that the file takes in storage."""
        if not self._finished:
            with contextlib.suppress(OSError):
                return os.stat(self.path, follow_symlinks=False).st_blocks * 512
        return self._allocated

    def write_at(self, guest_offset: int, data: memoryview) -> None:
        """Write ``data`` at ``guest_offset``. Raises NoSpace, WriteFailed, ValueError outside of the disk."""
        self._check(guest_offset, len(data))
        with self._turn:
            for start in range(0, len(data), _BATCH):
                self._store(self._gather.add(guest_offset + start, data[start : start + _BATCH]))

    def zero_at(self, guest_offset: int, length: int) -> None:
        """Let ``length`` bytes read as zeros. Raises NoSpace, WriteFailed, ValueError outside of the disk."""
        self._check(guest_offset, length)
        with self._turn:
            self._store(self._gather.drain() if self._gather.overlaps(guest_offset, length) else [])
            self._clear(guest_offset, guest_offset + length)

    def flush(self) -> None:
        """Hand everything to the storage. Raises NoSpace, WriteFailed."""
        with self._turn:
            self._store(self._gather.drain())

    def read_at(self, guest_offset: int, length: int) -> bytes:
        """What was written at ``guest_offset``. Raises WriteFailed, ValueError outside of the disk."""
        self._check_range(guest_offset, length)
        data = bytearray(length)
        with self._turn:
            self._store(self._gather.drain())
            for guest, offset, count in self._placed(guest_offset, guest_offset + length):
                start = guest - guest_offset
                data[start : start + count] = self._file.read(count, offset)
        return bytes(data)

    def finish(self) -> None:
        """Complete the file, put it on stable storage and close it; idempotent. Raises NoSpace, WriteFailed."""
        with self._turn:
            if self._finished:
                return
            self._store(self._gather.drain())
            self._complete()
            self._allocated = self._file.finish()
            self._finished = True

    def discard(self) -> None:
        """Close the file and remove it; idempotent."""
        with self._turn:
            self._gather.drain()
            self._file.remove()

    # -- inside -----------------------------------------------------------------------------------------------

    def _check(self, guest_offset: int, length: int) -> None:
        self._check_range(guest_offset, length)
        if self._finished:
            raise ValueError(f"{self.path} is finished")

    def _check_range(self, guest_offset: int, length: int) -> None:
        if not 0 <= guest_offset <= guest_offset + length <= self.virtual_size:
            raise ValueError(f"{length} bytes at {guest_offset} are not inside a disk of {self.virtual_size} bytes")

    def _store(self, pieces: list[Piece]) -> None:
        for offset, view in _blocks(pieces):
            if _ZEROS.startswith(view):  # memcmp, without a copy: 30 GB/s
                self._clear(offset, offset + len(view))
            else:
                self._file.queue(view, self._place(offset))
        self._file.flush()

    def _clear(self, start: int, stop: int) -> None:
        for _, offset, length in self._placed(start, stop):
            self._file.clear(offset, length)


def _blocks(pieces: Iterable[Piece]) -> Iterator[tuple[int, memoryview]]:
    """The pieces, cut where blocks begin."""
    for offset, data in pieces:
        start = 0
        while start < len(data):
            stop = start + BLOCK - (offset + start) % BLOCK
            yield offset + start, data[start:stop]
            start = stop
