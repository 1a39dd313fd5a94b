"""The header parser: what qemu-img wrote reads as qemu-img says; what breaks the format is refused by name."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from ovafs.errors import InvalidImage, OvafsError, UnsupportedFeature
from ovafs.formats.qcow2.header import Compression, References, header_area, parse_header, parse_references
from tests.support.images import create, hand_made, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ("1G", {"compat": "0.10"}),
        ("1G", {"compat": "0.10", "cluster_size": "512"}),
        ("1G", {}),
        ("0", {}),
        ("512", {"cluster_size": "2M"}),
        ("100M", {"cluster_size": "4k", "lazy_refcounts": "on"}),
        ("16T", {}),
        ("1G", {"compression_type": "zstd"}),
        ("1G", {"extended_l2": "on"}),
        ("1G", {"extended_l2": "on", "cluster_size": "16k", "compression_type": "zstd", "refcount_bits": "1"}),
    ],
    ids=str,
)
def test_fields_are_what_qemu_says(tmp_path: Path, size: str, options: dict[str, str]) -> None:
    path = create(tmp_path / "a.qcow2", size, **options)
    info = json.loads(run("qemu-img", "info", "--output=json", path))
    details = info["format-specific"]["data"]
    data = path.read_bytes()
    header = parse_header(data[: header_area(data)], "a.qcow2")
    assert header.virtual_size == info["virtual-size"]
    assert header.cluster_size == info["cluster-size"] == header_area(data)
    assert header.version == (2 if details["compat"] == "0.10" else 3)
    assert header.extended_l2 == details.get("extended-l2", False)
    assert header.compression == (Compression.ZSTD if details["compression-type"] == "zstd" else Compression.DEFLATE)
    assert header.backing_file is None
    assert header.backing_format is None


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("form", ["raw", "qcow2"])
@pytest.mark.parametrize("name", ["base.img", "sub dir/bäse.img", "x" * 200])
def test_backing_file_and_format(tmp_path: Path, compat: str, form: str, name: str) -> None:
    path = tmp_path / "a.qcow2"
    options = f"compat={compat}"
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-o", options, "-b", name, "-F", form, path, "1M")
    header = parse_header(path.read_bytes(), "a.qcow2")
    assert header.backing_file == name
    assert header.backing_format == form


def test_backing_name_that_is_no_utf8_keeps_its_bytes() -> None:
    header = parse_header(hand_made(backing=b"b\xffse"), "x")
    assert header.backing_file is not None
    assert header.backing_file.encode("utf-8", "surrogateescape") == b"b\xffse"


def test_name_without_length_is_no_name() -> None:
    data = bytearray(hand_made(backing=b"base"))
    data[16:20] = bytes(4)
    assert parse_header(bytes(data), "x").backing_file is None


@pytest.mark.parametrize(("stored", "seen"), [(1000, 512), (511, 0), (1024, 1024), ((1 << 20) + 513, (1 << 20) + 512)])
def test_broken_last_sector_is_left_out_as_qemu_does(tmp_path: Path, stored: int, seen: int) -> None:
    path = tmp_path / "a.qcow2"
    path.write_bytes(hand_made(size=stored))
    assert json.loads(run("qemu-img", "info", "--output=json", path))["virtual-size"] == seen
    assert parse_header(path.read_bytes(), "x").virtual_size == seen


FEATURE_NAMES = struct.pack(">II", 0x6803F857, 96) + (
    struct.pack(">BB46s", 0, 40, b"time travel") + struct.pack(">BB46s", 1, 41, b"compatible, of no interest")
)
DATA_FILE = struct.pack(">II", 0x44415441, 11) + b"/etc/passwd".ljust(16, b"\0")

UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"version": 1}, "qcow2 version 1"),
    ({"version": 4}, "qcow2 version 4"),
    ({"crypt": 1}, "encryption (AES)"),
    ({"crypt": 2}, "encryption (LUKS)"),
    ({"crypt": 9}, "encryption (method 9)"),
    ({"incompatible": 1}, "dirty bit"),
    ({"incompatible": 4}, "external data file"),
    ({"incompatible": 4, "extensions": DATA_FILE}, "external data file"),
    ({"extensions": DATA_FILE}, "external data file"),
    ({"incompatible": 1 << 40}, "incompatible feature bit 40"),
    ({"incompatible": 1 << 40, "extensions": FEATURE_NAMES}, "bit 40 (time travel)"),
    ({"incompatible": 1 << 41 | 1 << 5, "extensions": FEATURE_NAMES}, "bit 5, bit 41"),
    ({"incompatible": 8, "header_length": 112, "after_header": b"\2" + bytes(7)}, "compression type 2"),
]


@pytest.mark.parametrize(("fields", "name"), UNSUPPORTED, ids=lambda value: str(value)[:40])
def test_unsupported_features_are_named(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        parse_header(hand_made(**fields), "some.qcow2")
    assert name in caught.value.feature
    assert str(caught.value).startswith("some.qcow2: unsupported: ")


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"incompatible": 2}, "corrupt bit"),
    ({"cluster_bits": 8}, "cluster_bits is 8"),
    ({"cluster_bits": 22}, "cluster_bits is 22"),
    ({"refcount_order": 7}, "refcount_order is 7"),
    ({"header_length": 96}, "header_length is 96"),
    ({"header_length": 108}, "header_length is 108"),
    ({"header_length": 0x7FFFFFF8}, "header_length is 2147483640"),
    ({"l1_size": 0x7FFFFFFF}, "more than 32 MiB"),
    ({"l1_size": (4 << 20) + 1}, "more than 32 MiB"),
    ({"size": 1 << 50}, "too small"),
    ({"size": 2**64 - 1}, "too small"),
    ({"l1_size": 0}, "too small"),
    ({"l1_offset": 0x30001}, "not aligned"),
    ({"l1_offset": 0}, "overlaps the header"),
    ({"backing": b"x" * 2000}, "more than 1023"),
    ({"backing": b"a\0b"}, "zero byte"),
    ({"extensions": struct.pack(">II", 0x6803F857, 0xFFFFFFF0)}, "claims 4294967280 bytes"),
    ({"extensions": struct.pack(">II", 0, 0x3E000000)}, "claims 1040187392 bytes"),  # at the end of the list
    ({"incompatible": 8}, "contradicts incompatible feature bit 3"),
    ({"header_length": 112, "after_header": b"\1" + bytes(7)}, "contradicts incompatible feature bit 3"),
    ({"incompatible": 16, "cluster_bits": 13}, "extended L2"),
]


@pytest.mark.parametrize(("fields", "reason"), INVALID, ids=lambda value: str(value)[:40])
def test_headers_that_break_the_format_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        parse_header(hand_made(**fields), "some.qcow2")
    assert reason in caught.value.reason


@pytest.mark.parametrize("length", range(0, 104, 4))
def test_cut_header(length: int) -> None:
    with pytest.raises(InvalidImage):
        parse_header(hand_made()[:length], "x")


def test_backing_name_outside_the_first_cluster() -> None:
    data = bytearray(hand_made(backing=b"base"))
    data[8:16] = struct.pack(">Q", 65534)
    with pytest.raises(InvalidImage, match="outside the first cluster"):
        parse_header(bytes(data), "x")


def test_extensions_end_where_the_backing_name_begins() -> None:
    name = struct.pack(">II", 0x44415441, 0x41414141)
    header = parse_header(hand_made(version=2, backing=name), "x")
    assert header.backing_file == "DATAAAAA"


def test_unknown_extensions_and_snapshots_are_skipped() -> None:
    extension = struct.pack(">II", 0x12345678, 5) + b"hello".ljust(8, b"\0")
    backing_format = struct.pack(">II", 0xE2792ACA, 3) + b"raw".ljust(8, b"\0")
    data = hand_made(extensions=extension + backing_format, snapshots=2**32 - 1, snapshots_offset=0x10000)
    assert parse_header(data, "x").backing_format == "raw"


def test_messages_are_printable() -> None:
    names = struct.pack(">II", 0x6803F857, 48) + struct.pack(">BB46s", 0, 40, b"\x1b[31m\nred\xff")
    with pytest.raises(OvafsError) as caught:
        parse_header(hand_made(incompatible=1 << 40, extensions=names), "x")
    assert str(caught.value).isprintable()


def test_references() -> None:
    """What an importer looks at beside the disk itself."""
    data = hand_made(snapshots=3, snapshots_offset=4096, refcount_clusters=2)
    assert parse_references(data) == References(0, 1, 65536, 2, 16, 3, 4096, has_bitmaps=False)
    assert parse_references(hand_made(l1_size=5, refcount_order=0)).l1_entries == 5
    assert parse_references(hand_made(refcount_order=0)).refcount_bits == 1
    assert parse_references(hand_made(version=2)).refcount_bits == 16
    assert parse_references(data[:95] + b"\1" + data[96:]).has_bitmaps
    assert parse_references(hand_made(backing=b"base.raw")).backing_file_offset == 112
    assert parse_references(hand_made(version=2, backing=b"base.raw")).backing_file_offset == 72
