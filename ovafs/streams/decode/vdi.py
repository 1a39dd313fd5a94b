"""VDIs: a block map in front, and blocks in any order behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.formats.vdi import BLOCK_SIZE, ENTRY, HEADER_SIZE, parse_header, parse_map
from ovafs.streams.decode.claims import Claim, Use
from ovafs.streams.decode.mapped import MappedDecoder

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ovafs.formats.vdi import Header
    from ovafs.streams.decode.decoder import Event


class VdiDecoder(MappedDecoder):
    """A dynamic or fixed VDI. Holds its block map (up to 16 MiB)."""

    _header: Header

    def _decode(self) -> Generator[Event | None, None, None]:
        first = yield from self._take(HEADER_SIZE, "the VDI header")
        self._header = header = parse_header(first, self._member)
        self._set_virtual_size(header.disk_size)
        if header.blocks:
            self._claim([Claim(header.map_offset, header.blocks * ENTRY, Use.DIRECTORY)])
        yield from self._walk()
        yield from self._recall()

    def _parse(self, claim: Claim, data: memoryview) -> Iterator[Claim]:  # noqa: ARG002  # there is one table
        """A claim for each run of blocks that follow each other in the disk and in the file."""
        places = parse_map(data)
        index = 0
        while index < len(places):
            place, count = places[index], 1
            if place:
                while index + count < len(places) and places[index + count] == place + count:
                    count += 1
                start = self._header.data_offset + (place - 1) * BLOCK_SIZE
                yield Claim(start, count * BLOCK_SIZE, Use.DATA, index * BLOCK_SIZE)
            index += count
