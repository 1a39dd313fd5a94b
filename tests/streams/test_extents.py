"""Extent maps and the collapse of chains, against a model that paints one number for each guest unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.streams.extents import ExtentMap, Kind, Layer, collapse
from tests.support.images import stored_bytes

UNITS = 24


@st.composite
def layer_maps(draw: st.DrawFn) -> Layer:
    """A layer of up to UNITS units; its extents may reach behind its virtual size, as an L2 table's do."""
    extents = ExtentMap()
    position = 0
    while True:
        start = position + draw(st.integers(0, 3))
        length = draw(st.integers(1, 5))
        if start + length > UNITS:
            break
        kind = draw(st.sampled_from(Kind))
        length = 1 if kind == Kind.COMPRESSED else length
        host = 0 if kind == Kind.ZERO else draw(st.integers(1, 3)) * 100 + start
        extents.append(start, length, kind, host)
        position = start + length
    return Layer(extents, draw(st.integers(0, UNITS)))


def painted(layers: list[Layer]) -> list[tuple[int, int, int] | None]:
    """For each unit of the guest (layer, kind, host), or None where it reads as zeros: walked down the chain."""
    result: list[tuple[int, int, int] | None] = []
    for unit in range(layers[0].virtual_size):
        result.append(None)
        for number, (extents, virtual_size) in enumerate(layers):
            if unit >= virtual_size:
                break
            found = [e for e in extents if e.start <= unit < e.start + e.length]
            if found and found[0].kind != Kind.ZERO:
                inside = unit - found[0].start if found[0].kind == Kind.DATA else 0
                result[unit] = (number, found[0].kind, found[0].host + inside)
            if found:
                break
    return result


def unpainted(extents: ExtentMap, size: int) -> list[tuple[int, int, int] | None]:
    result: list[tuple[int, int, int] | None] = [None] * size
    for extent in extents:
        for unit in range(extent.length):
            assert result[extent.start + unit] is None
            inside = unit if extent.kind == Kind.DATA else 0
            result[extent.start + unit] = (extent.layer, extent.kind, extent.host + inside)
    return result


@given(st.lists(layer_maps(), min_size=1, max_size=5))
def test_collapse_shows_what_a_walk_down_the_chain_shows(layers: list[Layer]) -> None:
    copies = [Layer(ExtentMap.from_bytes(layer.extents.to_bytes()), layer.virtual_size) for layer in layers]
    result = collapse(layers)
    assert unpainted(result, layers[0].virtual_size) == painted(layers)
    assert list(result.starts) == sorted(result.starts)
    assert Kind.ZERO not in result.kinds
    assert layers == copies, "the layers' own maps are left as they were"


@given(st.lists(layer_maps(), min_size=1, max_size=3))
def test_bytes_and_back(layers: list[Layer]) -> None:
    extents = collapse(layers)
    assert ExtentMap.from_bytes(extents.to_bytes()) == extents
    assert ExtentMap.from_bytes(memoryview(extents.to_bytes())) == extents


@pytest.mark.parametrize("cut", [0, 7, 8, 9, 30])
def test_truncated_bytes_are_refused(cut: int) -> None:
    extents = ExtentMap()
    extents.append(0, 512, Kind.DATA, 4096)
    extents.append(1024, 512, Kind.DATA, 8192)
    with pytest.raises(ValueError):
        ExtentMap.from_bytes(extents.to_bytes()[:cut])


def test_append_lets_the_last_extent_grow_only_if_the_new_one_continues_it() -> None:
    extents = ExtentMap()
    extents.append(0, 10, Kind.DATA, 100)
    extents.append(10, 10, Kind.DATA, 110)
    extents.append(20, 10, Kind.DATA, 130)
    extents.append(30, 10, Kind.DATA, 140, 1)
    extents.append(40, 10, Kind.ZERO)
    extents.append(50, 10, Kind.ZERO)
    extents.append(60, 10, Kind.COMPRESSED, 7)
    extents.append(70, 10, Kind.COMPRESSED, 17)
    assert list(extents.lengths) == [20, 10, 10, 20, 10, 10]
    assert stored_bytes(extents) == 60


def test_append_refuses_what_begins_before_the_end() -> None:
    extents = ExtentMap()
    extents.append(0, 10, Kind.DATA, 100)
    with pytest.raises(ValueError, match="begins before"):
        extents.append(9, 1, Kind.DATA, 200)


def test_first_after() -> None:
    extents = ExtentMap()
    extents.append(10, 10, Kind.DATA, 100)
    extents.append(30, 10, Kind.DATA, 200)
    assert [extents.first_after(offset) for offset in (0, 10, 19, 20, 30, 39, 40)] == [0, 0, 0, 1, 1, 1, 2]
