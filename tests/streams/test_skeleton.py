"""What is left of an archive when its large members lie elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.streams import skeleton as skeleton_module
from ovafs.streams.segment import SourceRange, Zero
from ovafs.streams.skeleton import LITERAL, ZEROS, Region, Skeleton
from tests.support.plan_contract import guest_bytes, planned_bytes

parts = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=600),
        st.integers(1, 2000).map(bytes),
        st.tuples(st.integers(0, 3), st.integers(0, 5000), st.integers(1, 3000)),
    ),
    max_size=12,
)


@given(parts=parts, data=st.data())
def test_it_grows_and_every_range_can_be_planned(
    parts: list[bytes | tuple[int, int, int]], data: st.DataObject
) -> None:
    grown = Skeleton()
    expected = b""
    for part in parts:
        if isinstance(part, bytes):
            grown.add(memoryview(part))
            expected += part
        else:
            grown.add_range(*part)
            expected += guest_bytes(SourceRange(*part))
        assert grown.size == len(expected)
        offset = data.draw(st.integers(0, grown.size))
        length = data.draw(st.integers(0, grown.size - offset))
        assert planned_bytes(grown, offset, length) == expected[offset : offset + length]
    loaded = Skeleton.load([tuple(region) for region in grown.regions], bytes(grown.literals))  # type: ignore[misc]
    assert planned_bytes(loaded, 0, loaded.size) == expected
    assert grown.sources() <= {0, 1, 2, 3}


def test_what_continues_is_one_region() -> None:
    grown = Skeleton()
    for number in range(1000):
        grown.add(memoryview(b"x" * 10))
        assert grown.regions[-1].length == 10 * (number + 1)
    for number in range(10):
        grown.add_range(0, number * 100, 100)
    grown.add_range(1, 0, 1)
    grown.add(memoryview(bytes(1 << 20)))
    grown.add(memoryview(bytes(1 << 20)))
    assert grown.regions[3] == Region(ZEROS, 0, 2 << 20)
    assert grown.plan(10_000 + 1001, 1 << 20) == [Zero(1 << 20)]
    assert len(grown.literals) == 10_000
    assert grown.label(0) == "archive"
    assert grown.label(10_000) == "disk 0"
    assert grown.label(11_002) == "zeros"
    assert grown.label(grown.size) == "end of file"


def test_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton_module, "MAX_LITERALS", 1000)
    monkeypatch.setattr(skeleton_module, "MAX_REGIONS", 10)
    long, scattered = Skeleton(), Skeleton()
    for number in range(300):
        long.add(memoryview(b"1234"))
        scattered.add_range(number % 2, 0, 1)
    for one, size in ((long, 1200), (scattered, 300)):
        assert one.size == size
        assert not one.is_whole
        assert len(one.literals) < 1000
        assert len(one.regions) <= 10 or one is long
        with pytest.raises(ValueError, match="range"):
            one.plan(0, 1)


@pytest.mark.parametrize(
    "region", [(-3, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, -1), (LITERAL, 0, 4), (LITERAL, 3, 1), (LITERAL, 1 << 70, 1)]
)
def test_what_cannot_be_a_skeleton(region: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="region"):
        Skeleton.load([(LITERAL, 0, 3), region], b"abc")


def test_other_sources() -> None:
    grown = Skeleton()
    grown.add(memoryview(b"head"))
    grown.add_range(5, 100, 10)
    moved = grown.moved(lambda source, start: (source - 5, start + 1000))
    assert moved.regions == [Region(LITERAL, 0, 4), Region(0, 1100, 10)]
