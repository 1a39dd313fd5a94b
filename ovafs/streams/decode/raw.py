"""Raw disk files: the bytes are the guest's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import InvalidPackage
from ovafs.formats.vhd import COOKIE
from ovafs.streams.decode.decoder import Decoder
from ovafs.units import SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Generator

    from ovafs.streams.decode.decoder import Event


class RawDecoder(Decoder):
    """A raw disk; one that ends inside a sector is filled up with zeros, as QEMU does. Holds one sector.

    A fixed VHD is a raw disk with a footer of one sector, the only thing that tells it. Where nobody says that it is
    one it is refused when the footer comes: one program takes it for a raw disk, another for one that is shorter.
    """

    def _decode(self) -> Generator[Event | None, None, None]:
        if self._size is not None:
            self._set_virtual_size(align_up(self._size, SECTOR))
        tail = b""
        while (yield from self._more()):
            offset = self._offset
            data = self._cut(len(self._chunk))
            tail = (tail + bytes(data[-SECTOR:]))[-SECTOR:]
            yield from self._write(offset, data)
        if tail.startswith(COOKIE):
            hint = "if it is a VHD give the file the name .vhd, else cut off its last 512 bytes"
            raise InvalidPackage("ends like a fixed VHD, but is not called one", member=self._member, hint=hint)
        self._set_virtual_size(align_up(self._offset, SECTOR))
