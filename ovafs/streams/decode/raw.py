"""Raw disk files: the bytes are the guest's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import UnsupportedFeature
from ovafs.streams.decode.decoder import Decoder
from ovafs.units import SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Generator

    from ovafs.streams.decode.decoder import Event

_VHD_FOOTER = b"conectix"


class RawDecoder(Decoder):
    """A raw disk; one that ends inside a sector is filled up with zeros, as QEMU does. Holds one sector.

    A fixed VHD is a raw disk with a footer of one sector, the only thing that tells it: it is refused by name when
    the footer comes, for as a raw disk it would be a sector too long.
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
        if tail.startswith(_VHD_FOOTER):
            raise UnsupportedFeature(self._member, "VHD disk", "convert it with 'qemu-img convert -f vpc -O qcow2'")
        self._set_virtual_size(align_up(self._offset, SECTOR))
