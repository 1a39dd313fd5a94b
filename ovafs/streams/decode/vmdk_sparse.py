"""monolithicSparse VMDKs: grains as they are, and tables, normally in front, that say where.

Only the main grain directory and its tables are read; the redundant ones are bytes that nobody claims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import UnsupportedFeature
from ovafs.formats.vmdk.descriptor import parse_descriptor
from ovafs.formats.vmdk.header import GD_AT_END, HEADER_SIZE, TABLE_ENTRIES, parse_header
from ovafs.formats.vmdk.tables import TABLE_SIZE, directory_size, parse_directory, parse_table
from ovafs.streams.decode.claims import Claim, Use
from ovafs.streams.decode.mapped import MappedDecoder
from ovafs.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ovafs.formats.vmdk.header import Header
    from ovafs.streams.decode.decoder import Event


class VmdkSparseDecoder(MappedDecoder):
    """A VMDK of createType monolithicSparse. Holds the grain directory (up to 8 MiB) and a grain table."""

    _header: Header

    def _decode(self) -> Generator[Event | None, None, None]:
        first = yield from self._take(HEADER_SIZE, "the VMDK header")
        self._header = header = parse_header(first, self._member)
        if header.gd_offset == GD_AT_END:
            raise self._invalid("no grain directory, and without markers no footer that could name one")
        self._set_virtual_size(header.capacity * SECTOR)
        self._claim(
            (
                Claim(header.descriptor_offset * SECTOR, header.descriptor_size * SECTOR, Use.DESCRIPTOR),
                Claim(header.gd_offset * SECTOR, directory_size(header), Use.DIRECTORY),
            )
        )
        yield from self._walk()
        yield from self._recall()

    def _parse(self, claim: Claim, data: memoryview) -> Iterator[Claim]:
        if claim.use == Use.DIRECTORY:
            return self._parse_directory(data)
        if claim.use == Use.TABLE:
            return self._parse_table(data, claim.guest)
        create_type = parse_descriptor(data, self._member)
        if create_type != "monolithicSparse":
            raise UnsupportedFeature(self._member, f"VMDK createType {create_type} without markers")
        return iter(())

    def _parse_directory(self, data: memoryview) -> Iterator[Claim]:
        for number, sector in enumerate(parse_directory(data, self._header)):
            if sector:
                yield Claim(sector * SECTOR, TABLE_SIZE, Use.TABLE, number)

    def _parse_table(self, data: memoryview, number: int) -> Iterator[Claim]:
        """A claim for each run of grains that follow each other in the disk and in the file."""
        grain = self._header.grain_size
        first_guest = number * TABLE_ENTRIES * grain
        entries = parse_table(data, self._header, self._member)
        index = 0
        while index < TABLE_ENTRIES:
            start, count = entries[index], 1
            if start:
                while index + count < TABLE_ENTRIES and entries[index + count] == start + count * grain:
                    count += 1
                yield Claim(start * SECTOR, count * grain * SECTOR, Use.DATA, (first_guest + index * grain) * SECTOR)
            index += count
