"""streamOptimized VMDKs: compressed grains behind markers, which say where in the disk each belongs.

| writer | grain directory and tables |
|---|---|
| ovftool, vCenter, VirtualBox | with markers behind the grains, or each table behind its own; found by the footer |
| open-vmdk, qemu-img | without markers before the first grain; qemu-img writes no end of stream, but zeros or nothing |
| Xen Orchestra | zeros, then all tables behind one marker, the directory, both again, the footer |
| COT | with markers at the end; the header knows where |

The markers alone would do. But readers with random access believe the tables, so both must say the same: at the end
each grain that came has to be where its table has it, and none may be missing. Where a grain is, is compared by a sum
over each table (of 64-bit hashes of grain and sector: an accident changes it); that no grain comes twice is certain.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

from ovafs.errors import UnsupportedFeature
from ovafs.formats.inflate import inflate_grain
from ovafs.formats.vmdk.descriptor import parse_descriptor
from ovafs.formats.vmdk.header import HEADER_SIZE, TABLE_ENTRIES, check_footer, parse_header
from ovafs.formats.vmdk.markers import GRAIN_DATA, MarkerType, parse_marker
from ovafs.formats.vmdk.tables import TABLE_SIZE, directory_size, parse_directory, parse_table
from ovafs.streams.decode.claims import Claim, Use
from ovafs.streams.decode.mapped import MappedDecoder
from ovafs.units import SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ovafs.formats.vmdk.header import Header
    from ovafs.formats.vmdk.markers import Marker
    from ovafs.streams.decode.decoder import Event

_HASH_MASK = (1 << 64) - 1
_TABLE_SECTORS = TABLE_SIZE // SECTOR
_COPIES = 2  # of directory and tables


class VmdkStreamDecoder(MappedDecoder):
    """A VMDK of createType streamOptimized; keeps nothing.

    Holds a compressed and an inflated grain (up to 3 MiB), the grain directory, 16 bytes for each table, and up to the
    last grain that came 2.3 MiB for each TiB of the disk in grains of 64 KiB.
    """

    _header: Header
    _keeps = False  # the markers say of every grain what it is

    def __init__(self, member: str, size: int | None = None) -> None:
        super().__init__(member, size)
        self._seen = _SeenGrains()
        self._table_sectors = array("Q")  # where tables were, ascending, and what is in them
        self._table_sums = array("Q")
        self._directories: dict[int, array[int]] = {}
        self._directory_sector = 0
        self._footer_seen = False
        self._stream_ended = False

    def _decode(self) -> Generator[Event | None, None, None]:
        first = yield from self._take(HEADER_SIZE, "the VMDK header")
        self._header = header = parse_header(first, self._member)
        self._set_virtual_size(header.capacity * SECTOR)
        self._directory_sector = header.gd_offset
        claims = [Claim(header.descriptor_offset * SECTOR, header.descriptor_size * SECTOR, Use.DESCRIPTOR)]
        tables_in_front = header.gd_offset < header.overhead
        if tables_in_front:
            claims.append(Claim(header.gd_offset * SECTOR, directory_size(header), Use.DIRECTORY))
        self._claim(claims)
        yield from self._walk(header.overhead * SECTOR)
        if self._offset != header.overhead * SECTOR:
            raise self._invalid("metadata and the first grain overlap, or the file ends before it")
        yield from self._read_markers()
        if not self._stream_ended and not tables_in_front:
            raise self._invalid("the file ends without the end of the stream")
        self._compare_tables()

    # -- before the first grain --------------------------------------------------------------------------------

    def _parse(self, claim: Claim, data: memoryview) -> Iterator[Claim]:
        if claim.use == Use.DIRECTORY:
            return self._parse_directory(claim.start // SECTOR, data)
        if claim.use == Use.TABLE:
            self._add_table(claim.start // SECTOR, data)
            return iter(())
        create_type = parse_descriptor(data, self._member)
        if create_type != "streamOptimized":
            raise UnsupportedFeature(self._member, f"VMDK createType {create_type} with markers")
        return iter(())

    def _parse_directory(self, sector: int, data: memoryview) -> Iterator[Claim]:
        directory = self._directories[sector] = parse_directory(data, self._header)
        for number, table in enumerate(directory):
            if 0 < table < self._header.overhead:
                yield Claim(table * SECTOR, TABLE_SIZE, Use.TABLE, number)

    # -- markers -----------------------------------------------------------------------------------------------

    def _read_markers(self) -> Generator[Event | None, None, None]:
        while (yield from self._more()):
            sector = self._offset // SECTOR
            block = yield from self._take(SECTOR, "a marker")
            if self._stream_ended and any(block):
                raise self._invalid(f"something follows the end of the stream at sector {sector}")
            marker = parse_marker(block, self._member)
            if self._footer_seen and marker.kind != MarkerType.END_OF_STREAM:
                raise self._invalid(f"something else than the end of the stream follows the footer at sector {sector}")
            if marker.kind == MarkerType.GRAIN:
                yield from self._take_grain(sector, marker, block)
            elif marker.kind == MarkerType.GRAIN_TABLE:
                yield from self._take_tables(marker)
            elif marker.kind == MarkerType.GRAIN_DIRECTORY:
                yield from self._take_directory()
            elif marker.kind == MarkerType.FOOTER:
                yield from self._take_footer()
            elif marker.kind == MarkerType.END_OF_STREAM:
                # Xen Orchestra pads with zeros in front of its tables, where nothing has ended.
                self._stream_ended = self._footer_seen or self._directory_sector in self._directories
                if any(block):
                    raise self._invalid(f"end of stream with a value at sector {sector}")

    def _take_grain(self, sector: int, marker: Marker, block: memoryview) -> Generator[Event | None, None, None]:
        header, lba = self._header, marker.value
        grain_size = header.grain_size * SECTOR
        if lba % header.grain_size or lba >= header.capacity:
            raise self._invalid(
                f"grain at sector {sector} for sector {lba} of the disk, which is not one of its grains"
            )
        if marker.size > 2 * grain_size:
            raise self._invalid(f"grain at sector {sector} of {marker.size} compressed bytes")
        start = bytes(block[GRAIN_DATA:])
        rest = yield from self._take(align_up(GRAIN_DATA + marker.size, SECTOR) - SECTOR, "a grain")
        data = b"".join((start, rest))[: marker.size]
        needed = min(grain_size, (header.capacity - lba) * SECTOR)
        grain = inflate_grain(data, needed, grain_size, self._member)
        if not self._seen.add(lba // header.grain_size, sector):
            raise self._invalid(f"grain at sector {sector} for sector {lba} of the disk comes twice")
        yield from self._write(lba * SECTOR, memoryview(grain))

    def _take_tables(self, marker: Marker) -> Generator[None, None, None]:
        sectors = marker.value or self._header.tables * _TABLE_SECTORS
        tables, odd = divmod(sectors, _TABLE_SECTORS)
        if odd or len(self._table_sums) + tables > _COPIES * self._header.tables:
            raise self._invalid(f"grain tables of {sectors} sectors, too many or not whole")
        for _ in range(tables):
            sector = self._offset // SECTOR
            self._add_table(sector, (yield from self._take(TABLE_SIZE, "a grain table")))

    def _take_directory(self) -> Generator[None, None, None]:
        if len(self._directories) >= _COPIES:
            raise self._invalid(f"more than {_COPIES} grain directories")
        sector = self._offset // SECTOR
        data = yield from self._take(directory_size(self._header), "the grain directory")
        self._directories[sector] = parse_directory(data, self._header)

    def _take_footer(self) -> Generator[None, None, None]:
        footer = parse_header((yield from self._take(HEADER_SIZE, "the footer")), self._member)
        check_footer(self._header, footer, self._member)
        self._directory_sector = footer.gd_offset
        self._footer_seen = True

    # -- tables against grains ---------------------------------------------------------------------------------

    def _add_table(self, sector: int, data: memoryview) -> None:
        entries = parse_table(data, self._header, self._member)
        self._table_sectors.append(sector)
        self._table_sums.append(sum(_hash(*entry) for entry in enumerate(entries) if entry[1]) & _HASH_MASK)

    def _compare_tables(self) -> None:
        directory = self._directories.get(self._directory_sector)
        if directory is None:
            raise self._invalid("the grain directory is missing")
        for number, sector in enumerate(directory):
            expected = 0
            if sector:
                index = bisect_left(self._table_sectors, sector)
                if index == len(self._table_sectors) or self._table_sectors[index] != sector:
                    raise self._invalid(f"grain table {number} is not where the grain directory has it")
                expected = self._table_sums[index]
            if self._seen.table_sum(number) != expected:
                raise self._invalid(f"grain table {number} contradicts the grains in the file, or some are missing")


def _hash(index: int, sector: int) -> int:
    return hash((index, sector))


class _SeenGrains:
    """Which grains have come, a bit each, and a sum over each table's share of them."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._sums = array("Q")

    def add(self, grain: int, sector: int) -> bool:
        """False if the grain has come before."""
        table, index = divmod(grain, TABLE_ENTRIES)
        if table >= len(self._sums):
            new = table + 1 - len(self._sums)
            self._sums.frombytes(bytes(new * self._sums.itemsize))
            self._bits += bytes(new * TABLE_ENTRIES // 8)
        bit = 1 << grain % 8
        if self._bits[grain // 8] & bit:
            return False
        self._bits[grain // 8] |= bit
        self._sums[table] = (self._sums[table] + _hash(index, sector)) & _HASH_MASK
        return True

    def table_sum(self, number: int) -> int:
        """Comparable to the sum over the entries of a grain table."""
        return self._sums[number] if number < len(self._sums) else 0
