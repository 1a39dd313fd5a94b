"""VMDKs made by hand: in the layouts of writers that cannot be run here, and in ways that no writer should."""

from __future__ import annotations

import struct
import zlib
from itertools import accumulate
from typing import Any, NamedTuple

SECTOR = 512
GD_AT_END = (1 << 64) - 1
STREAM_FLAGS = 0x30001
TABLE_ENTRIES = 512


def header(
    capacity: int,
    *,
    magic: bytes = b"KDMV",
    version: int = 3,
    flags: int = STREAM_FLAGS,
    grain: int = 128,
    descriptor_offset: int = 1,
    descriptor_size: int = 20,
    entries: int = TABLE_ENTRIES,
    rgd: int = 0,
    gd: int = GD_AT_END,
    overhead: int = 128,
    unclean: int = 0,
    newlines: bytes = b"\n \r\n",
    algorithm: int = 1,
) -> bytes:
    """A header sector; sizes in sectors."""
    fields = (magic, version, flags, capacity, grain, descriptor_offset, descriptor_size, entries, rgd, gd, overhead)
    return struct.pack("<4sIIQQQQIQQQB4sH", *fields, unclean, newlines, algorithm).ljust(SECTOR, b"\0")


def descriptor(
    create_type: str = "streamOptimized",
    extent: str = 'RDONLY 131072 SPARSE "disk.vmdk"',
    *,
    before: str = "",
    parent: str = "ffffffff",
) -> bytes:
    """The text of a descriptor, not padded."""
    head = f"# Disk DescriptorFile\nversion=1\n{before}CID=12345678\nparentCID={parent}\n"
    return (
        f'{head}createType="{create_type}"\n# Extent description\n{extent}\n\nddb.adapterType = "lsilogic"\n'.encode()
    )


def marker(value: int, kind: int) -> bytes:
    """A marker of a kind other than a grain."""
    return struct.pack("<QII", value, 0, kind).ljust(SECTOR, b"\0")


def grain_block(lba: int, data: bytes, level: int = 1) -> bytes:
    """A grain marker with its data, padded to a sector."""
    return raw_grain(lba, zlib.compress(data, level))


def raw_grain(lba: int, compressed: bytes, size: int | None = None) -> bytes:
    """A grain marker with data that is compressed already, or never was."""
    block = struct.pack("<QI", lba, len(compressed) if size is None else size) + compressed
    return block + bytes(-len(block) % SECTOR)


class Stream(NamedTuple):
    """A streamOptimized file in parts, so that a test can cut or change it at their edges."""

    parts: list[bytes]

    @property
    def data(self) -> bytes:
        return b"".join(self.parts)

    @property
    def edges(self) -> list[int]:
        """Where parts end, but for the last."""
        return list(accumulate(len(part) for part in self.parts if part))[:-1]


def grains_of(content: bytes, grain: int = 128) -> list[tuple[int, bytes]]:
    """LBA and padded bytes of the grains of a disk that are not all zeros."""
    size = grain * SECTOR
    pieces = ((at, content[at : at + size].ljust(size, b"\0")) for at in range(0, len(content), size))
    return [(at // SECTOR, piece) for at, piece in pieces if any(piece)]


def stream(
    content: bytes,
    layout: str = "end",
    *,
    grain: int = 128,
    grains: list[tuple[int, bytes]] | None = None,
    text: bytes | None = None,
    level: int = 1,
    table_lies: dict[int, int] | None = None,
) -> Stream:
    """A streamOptimized VMDK. ``layout``: who writes it so.

    | layout | |
    |---|---|
    | end | VirtualBox: tables behind all grains, directory, footer |
    | between | VMware's paper: each table behind its grains; ovftool's progress markers too |
    | front | open-vmdk: directory and tables in front, without markers |
    | twice | Xen Orchestra: zeros, tables behind one marker, directory, both again, footer; values of 0 |
    | known | COT: as "end", but the header knows where the directory is |

    ``grains`` overrides what comes (LBA and bytes, in order); ``table_lies`` what a table says of a grain (by LBA).
    """
    capacity = len(content) // SECTOR
    return _Writer(capacity, grain, text or descriptor(), level, table_lies or {}).write(
        layout, grains_of(content, grain) if grains is None else grains
    )


class _Writer:
    def __init__(self, capacity: int, grain: int, text: bytes, level: int, lies: dict[int, int]) -> None:
        self.capacity = capacity
        self.grain = grain
        self.text = text
        self.level = level
        self.lies = lies
        self.tables = -(-capacity // (grain * TABLE_ENTRIES))
        self.directory_sectors = -(-self.tables * 4 // SECTOR)
        self.parts: list[bytes] = []
        self.where: dict[int, int] = {}  # grain number to sector

    @property
    def position(self) -> int:
        return sum(map(len, self.parts)) // SECTOR

    def write(self, layout: str, grains: list[tuple[int, bytes]]) -> Stream:
        return getattr(self, f"_{layout}")(grains)  # type: ignore[no-any-return]

    def _begin(
        self, overhead: int = 128, descriptor_size: int = 20, gd: int = GD_AT_END, flags: int = STREAM_FLAGS
    ) -> None:
        sizes: dict[str, Any] = {
            "grain": self.grain,
            "descriptor_size": descriptor_size,
            "overhead": overhead,
            "gd": gd,
            "flags": flags,
        }
        self.parts.append(header(self.capacity, **sizes))
        self.parts.append(self.text.ljust(descriptor_size * SECTOR, b"\0"))
        self.parts.append(bytes((overhead - 1 - descriptor_size) * SECTOR))
        self.header_sizes = sizes

    def _grains(self, grains: list[tuple[int, bytes]]) -> None:
        for lba, data in grains:
            self.where[lba // self.grain] = self.lies.get(lba, self.position)
            self.parts.append(grain_block(lba, data, self.level))

    def _table(self, number: int) -> bytes:
        first = number * TABLE_ENTRIES
        entries = (self.where.get(first + index, 0) for index in range(TABLE_ENTRIES))
        return struct.pack(f"<{TABLE_ENTRIES}I", *entries)

    def _is_used(self, number: int) -> bool:
        return any(grain // TABLE_ENTRIES == number for grain in self.where)

    def _directory(self, tables: dict[int, int]) -> bytes:
        entries = [tables.get(number, 0) for number in range(self.tables)]
        return struct.pack(f"<{self.tables}I", *entries).ljust(self.directory_sectors * SECTOR, b"\0")

    def _footer(self, gd: int, value: int = 1) -> None:
        self.parts += [marker(value, 3), header(self.capacity, **{**self.header_sizes, "gd": gd}), bytes(SECTOR)]

    def _marked_table(self, number: int, tables: dict[int, int]) -> None:
        self.parts.append(marker(4, 1))
        tables[number] = self.position
        self.parts.append(self._table(number))

    def _marked_directory(self, tables: dict[int, int], value: int | None = None) -> int:
        self.parts.append(marker(self.directory_sectors if value is None else value, 2))
        gd = self.position
        self.parts.append(self._directory(tables))
        return gd

    def _end(self, grains: list[tuple[int, bytes]]) -> Stream:
        self._begin()
        self._grains(grains)
        tables: dict[int, int] = {}
        for number in range(self.tables):
            if self._is_used(number):
                self._marked_table(number, tables)
        self._footer(self._marked_directory(tables))
        return Stream(self.parts)

    def _between(self, grains: list[tuple[int, bytes]]) -> Stream:
        self._begin()
        tables: dict[int, int] = {}
        for number in range(self.tables):
            self._grains([one for one in grains if one[0] // self.grain // TABLE_ENTRIES == number])
            if self._is_used(number):
                self._marked_table(number, tables)
            self.parts.append(marker(0, 4))
        self._footer(self._marked_directory(tables))
        return Stream(self.parts)

    def _known(self, grains: list[tuple[int, bytes]]) -> Stream:
        made = _Writer(self.capacity, self.grain, self.text, self.level, self.lies)._end(grains)
        gd = struct.unpack_from("<Q", made.parts[-2], 56)[0]
        return Stream([made.parts[-2], *made.parts[1:]]) if gd != GD_AT_END else made

    def _front(self, grains: list[tuple[int, bytes]]) -> Stream:
        overhead = 21 + self.directory_sectors + 4 * self.tables
        self._begin(overhead, gd=21)
        self._grains(grains)
        first = 21 + self.directory_sectors
        self.parts[2] = self._directory({number: first + 4 * number for number in range(self.tables)}) + b"".join(
            map(self._table, range(self.tables))
        )
        self.parts.append(bytes(SECTOR))
        return Stream(self.parts)

    def _twice(self, grains: list[tuple[int, bytes]]) -> Stream:
        self._begin(overhead=13, descriptor_size=12, flags=STREAM_FLAGS | 2)
        self._grains(grains)
        self.parts.append(bytes(3 * SECTOR))
        for _ in range(2):
            self.parts.append(marker(0, 1))
            first = self.position
            self.parts.append(b"".join(map(self._table, range(self.tables))))
            gd = self._marked_directory({number: first + 4 * number for number in range(self.tables)}, 0)
        self._footer(gd, 0)
        return Stream(self.parts)


LAYOUTS = ("end", "between", "front", "twice", "known")


def sparse(
    capacity: int,
    grains: dict[int, bytes],
    *,
    grain: int = 128,
    flags: int = 3,
    text: bytes | None = None,
    tables_last: bool = False,
    entries: dict[int, int] | None = None,
) -> bytes:
    """A monolithicSparse VMDK of one grain table: ``grains`` by number, in the file's order.

    ``entries`` overrides where the table has a grain; ``tables_last`` puts directory and table behind the grains.
    """
    overhead = grain * -(-32 // grain)
    body = b"".join(data.ljust(grain * SECTOR, b"\0") for data in grains.values())
    where = {number: overhead + index * grain for index, number in enumerate(grains)} | (entries or {})
    gd = overhead + len(body) // SECTOR if tables_last else 21
    directory = struct.pack("<I", gd + 1).ljust(SECTOR, b"\0")
    table = struct.pack(f"<{TABLE_ENTRIES}I", *(where.get(number, 0) for number in range(TABLE_ENTRIES)))
    text = text or descriptor("monolithicSparse", f'RW {capacity} SPARSE "disk.vmdk"')
    head = header(capacity, version=1, flags=flags, grain=grain, gd=gd, overhead=overhead, algorithm=0)
    head += text.ljust(20 * SECTOR, b"\0")
    if tables_last:
        return head.ljust(overhead * SECTOR, b"\0") + body + directory + table
    return (head + directory + table).ljust(overhead * SECTOR, b"\0") + body
