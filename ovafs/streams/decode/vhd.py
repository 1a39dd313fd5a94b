"""VHDs: fixed ones, which are raw disks with a footer, and dynamic ones, with a table of blocks.

Every byte of a dynamic VHD is behind its header, the table normally in front of the blocks. Of a block its bitmap
comes first; it says which sectors of the data are anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.formats.vhd import (
    DYNAMIC,
    DYNAMIC_HEADER_SIZE,
    ENTRY,
    FIXED,
    FOOTER_SIZE,
    parse_dynamic_header,
    parse_footer,
    parse_table,
    written_runs,
)
from ovafs.streams.decode.claims import Claim, Use
from ovafs.streams.decode.decoder import Decoder
from ovafs.streams.decode.mapped import MappedDecoder
from ovafs.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ovafs.formats.vhd import DynamicHeader
    from ovafs.streams.decode.decoder import Event


class VhdFixedDecoder(Decoder):
    """A fixed VHD. Its beginning does not tell what it is: somebody must have said so. Holds one sector."""

    def _decode(self) -> Generator[Event | None, None, None]:
        if self._size is not None:
            self._set_virtual_size(max(0, self._size - FOOTER_SIZE))
        held = b""  # perhaps the footer
        while (yield from self._more()):
            start = self._offset - len(held)
            data = self._cut(len(self._chunk))
            ready = max(0, len(held) + len(data) - FOOTER_SIZE)
            yield from self._write(start, memoryview(held[:ready]))
            yield from self._write(start + len(held), data[: max(0, ready - len(held))])
            held = (held + bytes(data[-FOOTER_SIZE:]))[-FOOTER_SIZE:]
        self._check_footer(held)

    def _check_footer(self, data: bytes) -> None:
        if len(data) < FOOTER_SIZE:
            raise self._invalid("the file is too short for the footer of a VHD")
        footer, size = parse_footer(data, self._member), self._offset - FOOTER_SIZE
        if footer.kind != FIXED or footer.size != size:
            raise self._invalid(f"its footer is of a disk of {footer.size} bytes, or of another kind; {size} are there")
        self._set_virtual_size(size)


class VhdDynamicDecoder(MappedDecoder):
    """A dynamic VHD. Holds its table (up to 4 MiB) and the bitmap of a block."""

    _header: DynamicHeader

    def __init__(self, member: str, size: int | None = None) -> None:
        super().__init__(member, size)
        self._last = b""  # bytes that nothing claimed, up to _last_end
        self._last_end = 0

    def _decode(self) -> Generator[Event | None, None, None]:
        copy = bytes((yield from self._take(FOOTER_SIZE, "the copy of the VHD footer")))
        footer = parse_footer(copy, self._member)
        if footer.kind != DYNAMIC:
            raise self._invalid("begins with the footer of a fixed VHD")
        data = yield from self._take(DYNAMIC_HEADER_SIZE, "the header of the dynamic VHD")
        self._header = header = parse_dynamic_header(data, footer, self._member)
        self._set_virtual_size(footer.size)
        if header.blocks:
            self._claim([Claim(header.table_offset, header.blocks * ENTRY, Use.DIRECTORY)])
        yield from self._walk()
        yield from self._recall()
        if self._last_end != self._offset or self._last != copy:
            raise self._invalid("does not end with the footer that it begins with")

    def _unclaimed(self, offset: int, data: memoryview) -> Iterator[Event]:
        if data:
            before = self._last if self._last_end == offset else b""
            self._last = (before + bytes(data[-FOOTER_SIZE:]))[-FOOTER_SIZE:]
            self._last_end = offset + len(data)
        return super()._unclaimed(offset, data)

    def _parse(self, claim: Claim, data: memoryview) -> Iterator[Claim]:
        return self._parse_table(data) if claim.use == Use.DIRECTORY else self._parse_bitmap(claim, data)

    def _parse_table(self, data: memoryview) -> Iterator[Claim]:
        places = parse_table(data, self._header, self._member)
        self._keeps = False  # what no bitmap claims from now on is nothing
        for number, sector in enumerate(places):
            if sector:
                yield Claim(sector * SECTOR, self._header.bitmap_size, Use.TABLE, number)

    def _parse_bitmap(self, claim: Claim, data: memoryview) -> Iterator[Claim]:
        start = claim.start + self._header.bitmap_size
        guest = claim.guest * self._header.block_size
        for first, end in written_runs(data, self._header.block_size // SECTOR):
            yield Claim(start + first * SECTOR, (end - first) * SECTOR, Use.DATA, guest + first * SECTOR)
