"""Raw disk files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.streams.decode.decoder import Write
from ovafs.streams.decode.raw import RawDecoder
from tests.support.decoding import assert_decodes, assert_refused, decode


def make(size: int | None = None) -> RawDecoder:
    return RawDecoder("disk.img", size)


def test_content_and_holes() -> None:
    content = b"a" * 5000 + bytes(100_000) + b"b" + bytes(8191) + b"c" * 4096
    record = assert_decodes(make, content + bytes(-len(content) % 512), content + bytes(-len(content) % 512))
    assert record.writes == [(0, 8192), (102_400, 106_496), (110_592, 117_760)]


@given(st.lists(st.sampled_from([b"\0", b"\0" * 4096, b"\0" * 9000, b"x", b"x" * 5000]), max_size=8), st.data())
def test_any_content_in_any_pieces(parts: list[bytes], data: st.DataObject) -> None:
    content = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, max(1, len(content))), max_size=6))
    expected = content + bytes(-len(content) % 512)
    assert decode(make(len(content)), content, cuts)[0] == expected
    assert decode(make(), content, cuts)[0] == expected


def test_the_virtual_size_is_known_at_once_if_the_size_is() -> None:
    assert make(100).virtual_size is None  # nothing has run yet
    decoder = make(1000)
    assert list(decoder.receive_data(b"x")) == [Write(0, memoryview(b"x"))]
    assert decoder.virtual_size == 1024
    unknown = make()
    list(unknown.receive_data(b"x"))
    assert unknown.virtual_size is None
    list(unknown.finish())
    assert unknown.virtual_size == 512


@pytest.mark.parametrize("cuts", [[], [1000], [4096 + 3], range(1, 4608)])
def test_a_fixed_vhd_that_is_not_called_one_is_refused(cuts: list[int]) -> None:
    assert_refused(
        make, bytes(4096) + b"conectix".ljust(512, b"\0"), "ends like a fixed VHD, but is not called one", cuts
    )


def test_a_size_that_is_not_kept() -> None:
    assert_refused(lambda: make(1000), b"x" * 999, "ends after 999 of 1000 bytes")
    assert_refused(lambda: make(1000), b"x" * 1001, "more than the 1000 bytes")
    assert_refused(lambda: make(1 << 60), b"x", "a virtual size of")
