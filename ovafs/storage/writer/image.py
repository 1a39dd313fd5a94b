"""An image file that is stored byte for byte as it comes, of a length that only its end tells."""

from __future__ import annotations

from ovafs.storage.writer.gather import BLOCK
from ovafs.storage.writer.raw import RawWriter

_STEP = 64 << 20  # bytes by which the file becomes longer: a hole, cut off at the end


class ImageWriter(RawWriter):
    """A new file at ``path``, which nothing may have as its name yet; what it holds, others have to judge.

    Its offsets are those of the image file, and ``virtual_size`` is the file's length so far. Aligned blocks of 64 KiB
    of zeros are holes. Raises NoSpace, WriteFailed.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, 0)
        self._length = 0

    def write_at(self, guest_offset: int, data: memoryview) -> None:
        """Write ``data`` at an offset of the file, which may make it longer. Raises NoSpace, WriteFailed."""
        self.virtual_size = max(self.virtual_size, guest_offset + len(data))
        super().write_at(guest_offset, data)

    def _place(self, guest_offset: int) -> int:
        if guest_offset + BLOCK > self._length:
            self._length = (guest_offset // _STEP + 2) * _STEP
            self._file.resize(self._length)
        return super()._place(guest_offset)

    def _complete(self) -> None:
        self._file.resize(self.virtual_size)
