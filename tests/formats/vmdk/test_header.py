"""The header of a VMDK, its footer, tables and markers."""

from __future__ import annotations

import struct
from array import array
from typing import Any

import pytest

from ovafs.errors import ImageError, InvalidImage, UnsupportedFeature
from ovafs.formats.vmdk.header import GD_AT_END, Header, check_footer, parse_header
from ovafs.formats.vmdk.markers import Marker, MarkerType, parse_marker
from ovafs.formats.vmdk.tables import directory_size, parse_directory, parse_table
from tests.support import vmdk


def test_a_header_as_ovftool_writes_it() -> None:
    header = parse_header(vmdk.header(4_194_304, descriptor_size=1), "disk")
    assert header == Header(3, 0x30001, 4_194_304, 128, 1, 1, GD_AT_END, 128)
    assert header.is_stream
    assert not header.zeroed_grains
    assert header.tables == 64
    assert directory_size(header) == 512


def test_a_header_as_qemu_writes_it() -> None:
    header = parse_header(vmdk.header(131_073, version=1, flags=7, rgd=21, gd=26, algorithm=0), "disk")
    assert not header.is_stream
    assert header.zeroed_grains
    assert header.tables == 3  # 32 MiB each, and a sector


REFUSED: dict[str, tuple[dict[str, Any], type[ImageError], str]] = {
    "magic": ({"magic": b"XDMV"}, InvalidImage, "not a VMDK"),
    "version 0": ({"version": 0}, UnsupportedFeature, "version 0"),
    "version 4": ({"version": 4}, UnsupportedFeature, "version 4"),
    "flags": ({"flags": 0x30001 | 1 << 18}, UnsupportedFeature, "flags 0x40000"),
    "markers alone": ({"flags": 0x20001}, UnsupportedFeature, "only one of compressed grains and markers"),
    "compression alone": ({"flags": 0x10001}, UnsupportedFeature, "only one of compressed grains and markers"),
    "algorithm 0": ({"algorithm": 0}, UnsupportedFeature, "algorithm 0"),
    "algorithm 2": ({"algorithm": 2}, UnsupportedFeature, "algorithm 2"),
    "algorithm without compression": ({"flags": 1}, UnsupportedFeature, "algorithm 1"),
    "unclean": ({"unclean": 1}, UnsupportedFeature, "not closed cleanly"),
    "text mode": ({"newlines": b"\r\n \r"}, InvalidImage, "transfer in text mode"),
    "no capacity": ({"capacity": 0}, UnsupportedFeature, "capacity of 0 sectors"),
    "too much capacity": ({"capacity": (1 << 37) + 1}, UnsupportedFeature, "capacity of 137438953473 sectors"),
    "grain of 8": ({"grain": 8}, UnsupportedFeature, "grains of 8 sectors"),
    "grain of 4096": ({"grain": 4096}, UnsupportedFeature, "grains of 4096 sectors"),
    "grain of 100": ({"grain": 100}, UnsupportedFeature, "grains of 100 sectors"),
    "grain of 0": ({"grain": 0}, UnsupportedFeature, "grains of 0 sectors"),
    "entries": ({"entries": 256}, UnsupportedFeature, "tables of 256 entries"),
    "no descriptor": ({"descriptor_offset": 0}, UnsupportedFeature, "without an embedded descriptor"),
    "empty descriptor": ({"descriptor_size": 0}, UnsupportedFeature, "without an embedded descriptor"),
    "large descriptor": ({"descriptor_size": 2049, "overhead": 4096}, InvalidImage, "more than 1 MiB"),
    "late descriptor": ({"descriptor_offset": 109}, InvalidImage, "behind the first grain"),
    "no directory": ({"gd": 0}, InvalidImage, "without a grain directory"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_headers_that_are_refused(name: str) -> None:
    fields, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        parse_header(vmdk.header(**({"capacity": 2048} | fields)), "disk")


def test_the_newline_test_needs_its_flag() -> None:
    assert parse_header(vmdk.header(2048, flags=0x30000, newlines=bytes(4)), "disk").is_stream


def test_a_header_that_was_cut_off() -> None:
    with pytest.raises(InvalidImage, match="cut off after 511 bytes"):
        parse_header(vmdk.header(2048)[:511], "disk")


def test_every_byte_changed() -> None:
    """A header, or an error of ours."""
    good = vmdk.header(2048)
    for position in range(79):
        for value in (0, 1, 0x7F, 0xFF):
            data = bytearray(good)
            data[position] = value
            try:
                parse_header(bytes(data), "disk")
            except ImageError:
                continue


@pytest.mark.parametrize("changed", [{"capacity": 4096}, {"version": 1}, {"flags": 0x30003}, {"grain": 64}])
def test_a_footer_must_agree(changed: dict[str, Any]) -> None:
    header = parse_header(vmdk.header(2048), "disk")
    good: dict[str, Any] = {"capacity": 2048, "gd": 500}
    check_footer(header, parse_header(vmdk.header(**good, overhead=400), "disk"), "disk")
    with pytest.raises(InvalidImage, match="contradicts the header"):
        check_footer(header, parse_header(vmdk.header(**(good | changed)), "disk"), "disk")
    with pytest.raises(InvalidImage, match="does not say where"):
        check_footer(header, header, "disk")


def test_tables() -> None:
    header = parse_header(vmdk.header(3 * 65536, flags=0x30005), "disk")
    directory = struct.pack("<128I", 600, 0, 700, *[9] * 125)
    assert parse_directory(directory, header) == array("I", [600, 0, 700])
    table = struct.pack("<512I", 0, 128, 1, *[0] * 508, 0xFFFFFFFF)
    assert parse_table(table, header, "disk") == array("I", [0, 128, 0, *[0] * 508, 0xFFFFFFFF])
    with pytest.raises(InvalidImage, match="inside the metadata"):
        parse_table(table, header._replace(flags=0x30001), "disk")


def test_markers() -> None:
    assert parse_marker(vmdk.grain_block(640, b"x" * 65536), "disk")[:2] == (MarkerType.GRAIN, 640)
    assert parse_marker(vmdk.marker(4, 1), "disk") == Marker(MarkerType.GRAIN_TABLE, 4, 0)
    assert parse_marker(bytes(512), "disk") == Marker(MarkerType.END_OF_STREAM, 0, 0)
    assert parse_marker(vmdk.marker(0, 4), "disk") == Marker(MarkerType.PROGRESS, 0, 0)
    for kind in (5, 0xFFFFFFFF):
        with pytest.raises(UnsupportedFeature, match=f"marker of type {kind}"):
            parse_marker(vmdk.marker(0, kind), "disk")
