from __future__ import annotations

import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.formats import tar

EIGHT_GIB = 8 << 30

names = st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=100)


def by_tarfile(name: str, size: int, mtime: int) -> bytes:
    """The header as oVirt's packer makes it."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = mtime
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


@given(names, st.integers(0, 2**88 - 1), st.integers(0, 8**11 - 1))
def test_equals_the_header_of_the_standard_library(name: str, size: int, mtime: int) -> None:
    assert tar.member_header(name, size, mtime) == by_tarfile(name, size, mtime)


@pytest.mark.parametrize("size", [0, 1, 511, EIGHT_GIB - 1, EIGHT_GIB, EIGHT_GIB + 1, 1 << 50, 2**88 - 1])
def test_sizes_around_8_gib_read_back(size: int) -> None:
    header = tar.member_header("disk", size, 0)
    assert header == by_tarfile("disk", size, 0)
    assert tarfile.TarInfo.frombuf(header, "ascii", "strict").size == size


def test_octal_up_to_8_gib_and_base_256_from_there() -> None:
    assert tar.member_header("disk", EIGHT_GIB - 1, 0)[124:136] == b"77777777777\0"
    assert tar.member_header("disk", EIGHT_GIB, 0)[124:136] == b"\x80" + bytes(6) + b"\x02\0\0\0\0"


def test_golden_header() -> None:
    """The bytes of an OVA are a promise: a copy is resumed, and compared, years after it was begun."""
    header = tar.member_header("3f0c6c1e-3d1f-4a66-9f0b-6c2f4f5a7b10", 9_000_000_000, 1_700_000_000)
    assert header.hex() == (
        "33663063366331652d336431662d346136362d396630622d366332663466356137623130"
        + "00" * 64
        + "303030303634340030303030303030003030303030303000"
        + "800000000000000218711a00"
        + "313435323437373034303000"
        + "303132323736002030"
        + "00" * 100
        + "7573746172202000"
        + "00" * 247
    )


@pytest.mark.parametrize("name", ["", "a\0b", "n" * 101, "dïsk", "\ud800"])
def test_refuses_names_that_do_not_fit(name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be the name of a tar member; it takes 1 to 100 ASCII characters$"):
        tar.member_header(name, 0, 0)


def test_takes_a_name_of_100_bytes() -> None:
    assert tar.member_header("n" * 100, 0, 0)[:101] == b"n" * 100 + b"0"


@pytest.mark.parametrize("size", [-1, 2**88])
def test_refuses_sizes_that_do_not_fit(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^tar member 'disk': a size of {size} bytes cannot be written$"):
        tar.member_header("disk", size, 0)


@pytest.mark.parametrize("mtime", [-1, 8**11])
def test_refuses_times_that_do_not_fit(mtime: int) -> None:
    with pytest.raises(ValueError, match=rf"^tar member 'disk': the time {mtime} cannot be written$"):
        tar.member_header("disk", 0, mtime)


def test_end_of_archive_is_two_zero_blocks() -> None:
    assert bytes(1024) == tar.END_OF_ARCHIVE
