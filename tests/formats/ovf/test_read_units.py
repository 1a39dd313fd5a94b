from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.units import MAX_SIZE, memory_size, size_in_bytes, unit_size, whole_number

MIB = 1 << 20


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("byte", 1),
        ("bytes", 1),
        ("Byte", 1),
        ("B", 1),
        ("byte * 2^20", MIB),
        ("byte*2^20", MIB),
        ("byte * 2 ^ 30", 1 << 30),
        ("  byte  *  1024  ", 1024),
        ("byte * 1024 * 1024", MIB),
        ("byte*1024*2^10", MIB),
        ("KiloBytes", 1024),
        ("MegaBytes", MIB),
        ("megabyte", MIB),
        ("GigaBytes", 1 << 30),
        ("TeraBytes", 1 << 40),
        ("MebiBytes", MIB),
        ("KB", 1024),
        ("MB", MIB),
        ("MiB", MIB),
        ("GB", 1 << 30),
        ("TiB", 1 << 40),
    ],
)
def test_units(unit: str, size: int) -> None:
    assert unit_size(unit, "x") == size


@pytest.mark.parametrize(
    "unit",
    ["hertz * 10^6", "MegaHertz", "byte * x", "byte ** 2", "byte * 2^-1", "byte * 2^63", "byte * 0", "PB", "2^20"],
)
def test_unknown_units(unit: str) -> None:
    with pytest.raises(InvalidPackage, match=r"^capacity: unknown unit .*units look like 'byte \* 2\^20'$"):
        unit_size(unit, "capacity")


@pytest.mark.parametrize(
    ("quantity", "unit", "size"),
    [
        ("512", "byte * 2^20", 512 * MIB),
        ("512", "", 512 * MIB),
        ("1", "byte*2^30", 1024 * MIB),
        ("2048", "MegaBytes", 2048 * MIB),
        ("536870912", "byte", 512 * MIB),
        ("536870912", "", 512 * MIB),
        ("1000000", "byte", MIB),
        (str(MIB + 1), "byte", 2 * MIB),
        (" 4 ", "byte * 2 ^ 20", 4 * MIB),
    ],
)
def test_memory(quantity: str, unit: str, size: int) -> None:
    assert memory_size(quantity, unit) == size


def test_no_memory() -> None:
    with pytest.raises(InvalidPackage, match="memory: the machine has none"):
        memory_size("0", "byte * 2^20")


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "1e3", "0x10", "\u0661", "9" * 30, str(MAX_SIZE + 1), "${size}", "1 2"]
)
def test_no_whole_number(text: str) -> None:
    with pytest.raises(InvalidPackage, match=rf"^size: .* is no whole number from 0 to {MAX_SIZE}"):
        whole_number(text, "size")


def test_products_have_a_limit() -> None:
    assert size_in_bytes(str(2**33 - 1), "byte * 2^30", "disk") == (2**33 - 1) << 30
    with pytest.raises(InvalidPackage, match="is beyond any limit"):
        size_in_bytes(str(2**33), "byte * 2^30", "disk")


@given(st.text(max_size=12), st.text("bytemgaBMG *^0123456789", max_size=20))
def test_anything_is_read_or_refused(number: str, unit: str) -> None:
    with contextlib.suppress(InvalidPackage):
        assert 0 < memory_size(number, unit) <= MAX_SIZE + MIB
