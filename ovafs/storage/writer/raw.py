"""A raw volume: guest offsets are file offsets, and what is zeros is a hole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import OvafsError
from ovafs.storage.writer.block_writer import BlockWriter, Place
from ovafs.storage.writer.gather import BLOCK
from ovafs.storage.writer.new_file import NewFile

if TYPE_CHECKING:
    from collections.abc import Iterable


class RawWriter(BlockWriter):
    """A new sparse file of ``virtual_size`` bytes at ``path``, which nothing may have as its name yet.

    Aligned blocks of 64 KiB of zeros are holes. Raises NoSpace, WriteFailed.
    """

    def __init__(self, path: str, virtual_size: int) -> None:
        file = NewFile(path)
        super().__init__(file, virtual_size)
        self._end = 0  # nothing was written from here on
        try:
            file.resize(virtual_size)
        except OvafsError:
            file.remove()
            raise

    def _place(self, guest_offset: int) -> int:
        self._end = max(self._end, (guest_offset | BLOCK - 1) + 1)
        return guest_offset

    def _placed(self, start: int, stop: int) -> Iterable[Place]:
        stop = min(stop, self._end)
        return [Place(start, start, stop - start)] if start < stop else []

    def _complete(self) -> None:
        """The file has had its length since it was made."""
