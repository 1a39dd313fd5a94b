r"""The qcow2 header, versions 2 and 3, and its extensions (QEMU docs/interop/qcow2, big endian).

| bytes | field | v2 | what is accepted |
|---|---|---|---|
| 0-3 | magic | yes | ``QFI\xfb`` |
| 4-7 | version | yes | 2, 3 |
| 8-15 | backing_file_offset | yes | 0 or inside the first cluster |
| 16-19 | backing_file_size | yes | up to 1023 bytes |
| 20-23 | cluster_bits | yes | 9-21 |
| 24-31 | size (virtual, bytes) | yes | what the L1 table covers |
| 32-35 | crypt_method | yes | 0; 2 (LUKS) by QEMU only |
| 36-39 | l1_size (entries) | yes | up to 32 MiB of table |
| 40-47 | l1_table_offset | yes | aligned to a cluster, behind the header |
| 48-55, 56-59 | refcount_table_offset, _clusters | yes | any: refcounts do not decide what the guest sees |
| 60-63, 64-71 | nb_snapshots, snapshots_offset | yes | any: see ``snapshots`` |
| 72-79 | incompatible_features | | bits 3 (compression type) and 4 (extended L2); 2 (data file) by QEMU only |
| 80-87, 88-95 | compatible_, autoclear_features | | any, by their definition |
| 96-99 | refcount_order | | up to 6 |
| 100-103 | header_length | 72 | 104 or more, a multiple of 8, inside the first cluster |
| 104 | compression_type | | 0 deflate, 1 zstd (needs bit 3) |

Extensions follow the header, each ``type, length, data`` padded to 8 bytes, until type 0, the backing file name
or the end of the first cluster.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidImage, OnlyByQemu, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"QFI\xfb"
V2_HEADER_SIZE = 72
V3_HEADER_SIZE = 104
MIN_HEAD = 24
"""Bytes that :func:`header_area` needs."""

MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MIN_EXTENDED_CLUSTER_BITS = 14
MAX_L1_SIZE = 32 << 20
MAX_BACKING_NAME = 1023
MAX_REFCOUNT_ORDER = 6

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")

_LUKS = 2
_ENCRYPTION = {1: "encryption (AES)", _LUKS: "encryption (LUKS)"}

_EXTERNAL_DATA_FILE = "external data file"
_DATA_FILE_BIT = 2
_COMPRESSION_TYPE_BIT = 3
_EXTENDED_L2_BIT = 4
_BITMAPS_BIT = 1  # of autoclear_features
_KNOWN_BITS = 1 << _COMPRESSION_TYPE_BIT | 1 << _EXTENDED_L2_BIT
_DIRTY_HINT = "repair it with 'qemu-img check -r all' while nothing uses it"


class Extension(enum.IntEnum):
    """Header extensions that say something about the guest's bytes; all others are skipped, as the spec demands."""

    END = 0
    BACKING_FORMAT = 0xE2792ACA
    FEATURE_NAMES = 0x6803F857
    EXTERNAL_DATA_FILE = 0x44415441


class Compression(enum.IntEnum):
    """The header's compression_type."""

    DEFLATE = 0
    ZSTD = 1


class Header(NamedTuple):
    """What a reader needs of a checked header.

    ``virtual_size`` is a multiple of 512: QEMU counts whole sectors and leaves a broken last one out (shown by
    ``qemu-img info`` on a header that says 1000: 512 bytes). ``backing_file`` is as stored, undecodable bytes
    as surrogates; None when there is none. ``backing_format`` is None when the header records none. What QEMU has to
    read (see :func:`parse_header`) ``is_encrypted`` by LUKS, or has its data in ``data_file``, a raw one.
    """

    version: int
    virtual_size: int
    cluster_bits: int
    l1_table_offset: int
    l1_entries: int
    compression: Compression
    extended_l2: bool
    backing_file: str | None
    backing_format: str | None
    is_encrypted: bool = False
    data_file: str | None = None

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster, 512 to 2 MiB."""
        return 1 << self.cluster_bits

    @property
    def l2_coverage(self) -> int:
        """Guest bytes that one L2 table (of one cluster) maps."""
        return 1 << (self.cluster_bits * 2 - (4 if self.extended_l2 else 3))


class References(NamedTuple):
    """What a header names beside the disk itself, as stored: a reader needs none of it, an importer all.

    ``l1_entries`` are all of the L1 table, those behind the end of the disk too. ``refcount_bits`` is 1 to 64.
    """

    backing_file_offset: int
    l1_entries: int
    refcount_table_offset: int
    refcount_table_clusters: int
    refcount_bits: int
    snapshots: int
    snapshots_offset: int
    has_bitmaps: bool


def parse_references(data: bytes) -> References:
    """The references of a header that :func:`parse_header` accepted."""
    _, version, backing, *_, l1_entries, _, refcounts, refcount_clusters, snapshots, table = _V2.unpack_from(data)
    autoclear, refcount_order = 0, 4
    if version == 3:
        _, _, autoclear, refcount_order, _ = _V3.unpack_from(data, V2_HEADER_SIZE)
    return References(
        backing_file_offset=backing,
        l1_entries=l1_entries,
        refcount_table_offset=refcounts,
        refcount_table_clusters=refcount_clusters,
        refcount_bits=1 << refcount_order,
        snapshots=snapshots,
        snapshots_offset=table,
        has_bitmaps=bool(autoclear & _BITMAPS_BIT),
    )


def header_area(head: bytes) -> int:
    """Bytes from the start of the file in which the header and all that belongs to it lie: the first cluster.

    ``head`` holds at least MIN_HEAD bytes of a qcow2 file. A senseless cluster size gives the smallest area; it is
    :func:`parse_header` that refuses it.
    """
    bits = int.from_bytes(head[20:24], "big")
    return 1 << min(max(bits, MIN_CLUSTER_BITS), MAX_CLUSTER_BITS)


def parse_header(data: bytes, path: str, *, by_qemu: bool = False) -> Header:
    """Check and decode the header; ``data`` is the file's first cluster (:func:`header_area`), or all if it is shorter.

    With ``by_qemu`` it is QEMU that reads the image, not ovafs.

    Raises InvalidImage when the header contradicts the format, UnsupportedFeature (by name) when the image needs
    something that its reader does not do: OnlyByQemu, when QEMU does. ``path`` is for messages only.
    """
    if not data.startswith(MAGIC):
        raise InvalidImage(path, "not a qcow2 image", "see what it is with 'qemu-img info'")
    if len(data) < V2_HEADER_SIZE:
        raise InvalidImage(path, f"qcow2 header is cut off after {len(data)} bytes")
    version = int.from_bytes(data[4:8], "big")
    if version not in {2, 3}:
        raise UnsupportedFeature(path, f"qcow2 version {version}", "convert it with 'qemu-img convert -O qcow2'")
    fields = _V2.unpack_from(data)
    _, _, backing_offset, backing_size, cluster_bits, size, crypt_method, l1_size, l1_offset, *_ = fields
    if not MIN_CLUSTER_BITS <= cluster_bits <= MAX_CLUSTER_BITS:
        raise InvalidImage(path, f"cluster_bits is {cluster_bits}, not 9 to 21")
    if crypt_method == _LUKS and not by_qemu:
        raise OnlyByQemu(path, _ENCRYPTION[_LUKS])
    if crypt_method not in {0, _LUKS}:
        raise UnsupportedFeature(path, _ENCRYPTION.get(crypt_method, f"encryption (method {crypt_method})"))
    data = data[: 1 << cluster_bits]
    incompatible, header_length, compression = 0, V2_HEADER_SIZE, Compression.DEFLATE
    if version == 3:
        incompatible, header_length = _parse_v3(data, path)
    extensions_end = min(backing_offset or len(data), len(data))
    extensions = dict(_extensions(data[:extensions_end], header_length, path))
    data_file = _data_file(incompatible, extensions, path)
    if data_file is not None and not by_qemu:
        raise OnlyByQemu(path, _EXTERNAL_DATA_FILE)
    _refuse_features(incompatible, extensions, path)
    if version == 3:
        compression = _compression(data, incompatible, header_length, path)
    header = Header(
        version=version,
        virtual_size=size & ~511,
        cluster_bits=cluster_bits,
        l1_table_offset=l1_offset,
        l1_entries=0,
        compression=compression,
        extended_l2=bool(incompatible >> _EXTENDED_L2_BIT & 1),
        backing_file=_backing_file(data, backing_offset, backing_size, path),
        backing_format=_text(extensions.get(Extension.BACKING_FORMAT, b"")) or None,
        is_encrypted=crypt_method == _LUKS,
        data_file=data_file,
    )
    return header._replace(l1_entries=l1_entries(header, l1_size, path))


def _parse_v3(data: bytes, path: str) -> tuple[int, int]:
    """incompatible_features and header_length of a version 3 header."""
    if len(data) < V3_HEADER_SIZE:
        raise InvalidImage(path, f"qcow2 header is cut off after {len(data)} bytes")
    incompatible, _, _, refcount_order, header_length = _V3.unpack_from(data, V2_HEADER_SIZE)
    if refcount_order > MAX_REFCOUNT_ORDER:
        raise InvalidImage(path, f"refcount_order is {refcount_order}, more than 6")
    if header_length < V3_HEADER_SIZE or header_length % 8 or header_length > len(data):
        raise InvalidImage(path, f"header_length is {header_length}")
    return incompatible, header_length


def _extensions(area: bytes, position: int, path: str) -> Iterator[tuple[int, bytes]]:
    """Type and data of each header extension in ``area`` from ``position``."""
    while position + _EXTENSION.size <= len(area):
        kind, length = _EXTENSION.unpack_from(area, position)
        position += _EXTENSION.size
        if length > len(area) - position:  # QEMU minds it of the end, too
            raise InvalidImage(
                path, f"header extension {kind:#010x} claims {length} bytes, {len(area) - position} left"
            )
        if kind == Extension.END:
            return
        yield kind, area[position : position + length]
        position += length + -length % 8


def _refuse_features(incompatible: int, extensions: dict[int, bytes], path: str) -> None:
    if incompatible & 1:
        raise UnsupportedFeature(path, "dirty bit is set (image was not closed cleanly)", _DIRTY_HINT)
    if incompatible & 2:
        raise InvalidImage(path, "corrupt bit is set", _DIRTY_HINT)
    unknown = incompatible & ~(7 | _KNOWN_BITS)
    if unknown:
        names = _feature_names(extensions.get(Extension.FEATURE_NAMES, b""))
        bits = [bit for bit in range(64) if unknown >> bit & 1]
        listed = ", ".join(f"bit {bit} ({names[bit]})" if bit in names else f"bit {bit}" for bit in bits)
        raise UnsupportedFeature(path, f"incompatible feature {listed}")


def _data_file(incompatible: int, extensions: dict[int, bytes], path: str) -> str | None:
    """The name of the file that has the data, as stored; None if it is this one."""
    name = extensions.get(Extension.EXTERNAL_DATA_FILE)
    if not incompatible >> _DATA_FILE_BIT & 1 and name is None:
        return None
    if not incompatible >> _DATA_FILE_BIT & 1 or not name or b"\0" in name:
        raise UnsupportedFeature(path, f"{_EXTERNAL_DATA_FILE} that is not named")
    return name.decode("utf-8", "surrogateescape")


def _feature_names(table: bytes) -> dict[int, str]:
    """Names of incompatible features by bit, from the feature name table (entries: type, bit, 46 bytes of name)."""
    entries = (table[start : start + 48] for start in range(0, len(table) - 47, 48))
    return {entry[1]: name for entry in entries if entry[0] == 0 and (name := _text(entry[2:].rstrip(b"\0")))}


def _compression(data: bytes, incompatible: int, header_length: int, path: str) -> Compression:
    """The compression type, checked against its feature bit as QEMU does."""
    number = data[V3_HEADER_SIZE] if header_length > V3_HEADER_SIZE else 0
    if number not in Compression.__members__.values():
        raise UnsupportedFeature(path, f"compression type {number}")
    if bool(number) != bool(incompatible >> _COMPRESSION_TYPE_BIT & 1):
        raise InvalidImage(path, f"compression type {number} contradicts incompatible feature bit 3")
    return Compression(number)


def _backing_file(data: bytes, offset: int, size: int, path: str) -> str | None:
    if not offset or not size:
        return None
    if size > MAX_BACKING_NAME:
        raise InvalidImage(path, f"backing file name of {size} bytes, more than {MAX_BACKING_NAME}")
    if offset + size > len(data):
        raise InvalidImage(path, f"backing file name at {offset} lies outside the first cluster")
    name = data[offset : offset + size]
    if b"\0" in name:
        raise InvalidImage(path, "backing file name contains a zero byte")
    return name.decode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    """Text of an extension for comparison and messages: printable, whatever the bytes are."""
    return data.decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")


def l1_entries(header: Header, l1_size: int, path: str) -> int:
    """Entries that map the virtual size, of a table of ``l1_size``. Raises InvalidImage if there can be none such."""
    if header.extended_l2 and header.cluster_bits < MIN_EXTENDED_CLUSTER_BITS:
        raise InvalidImage(path, f"extended L2 entries with cluster_bits {header.cluster_bits}, less than 14")
    if l1_size * 8 > MAX_L1_SIZE:
        raise InvalidImage(path, f"L1 table of {l1_size} entries, more than 32 MiB")
    needed = -(-header.virtual_size // header.l2_coverage)
    if needed > l1_size:
        raise InvalidImage(path, f"L1 table of {l1_size} entries is too small for {header.virtual_size} bytes")
    if needed and (header.l1_table_offset % header.cluster_size or header.l1_table_offset < header.cluster_size):
        raise InvalidImage(path, f"L1 table at {header.l1_table_offset} is not aligned or overlaps the header")
    return needed
