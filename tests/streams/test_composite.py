from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.streams.composite import Composite
from ovafs.streams.segment import Literal, Segment, SourceRange, Zero
from tests.support.plan_contract import check_cuts, check_plan_contract, guest_bytes


class Disk:
    """Content that is all source."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size

    @property
    def stored(self) -> int:
        return self.size

    def plan(self, offset: int, length: int) -> list[Segment]:
        return [SourceRange(self.number, offset, length)]

    def label(self, offset: int) -> str:
        return f"byte {offset}"


def nested() -> tuple[Composite, bytes]:
    inner = Composite()
    inner.append(b"magic", "header")
    inner.append(Disk(3, 700), "data", alignment=512)
    outer = Composite()
    outer.append(b"name", "entry")
    assert outer.append(inner, "member x", alignment=64) == 64
    assert outer.append(Zero(100), "tail") == 64 + 1212
    assert outer.append(b"end", "mark") == 64 + 1312
    image = b"magic" + bytes(507) + guest_bytes(SourceRange(3, 0, 700))
    return outer, b"name" + bytes(60) + image + bytes(100) + b"end"


def test_keeps_the_contract_nested() -> None:
    check_plan_contract(*nested())


def test_plan_of_every_region_and_across_them() -> None:
    outer, _ = nested()
    assert outer.plan(1, 2) == [Literal(b"am")]
    assert outer.plan(64 + 600, 10) == [SourceRange(3, 88, 10)]
    assert outer.plan(64 + 1211, 102) == [SourceRange(3, 699, 1), Zero(100), Literal(b"e")]


def test_labels_from_outside_in() -> None:
    outer, _ = nested()
    labels = [outer.label(at) for at in (0, 3, 4, 64, 69, 576, 577, 64 + 1212, outer.size - 1, outer.size)]
    assert labels == [
        "entry",
        "entry",
        "padding before member x",
        "member x: header",
        "member x: padding before data",
        "member x: data: byte 0",
        "member x: data: byte 1",
        "tail",
        "mark",
        "end of file",
    ]


def test_stored_leaves_out_zeros_at_every_depth() -> None:
    outer, _ = nested()
    assert outer.stored == 4 + (5 + 700) + 3


def test_empty_parts_add_no_region() -> None:
    layout = Composite()
    assert layout.append(b"", "nothing") == 0
    assert layout.append(Zero(0), "nothing") == 0
    assert layout.append(Composite(), "nothing", alignment=8) == 0
    assert (layout.size, layout.stored, layout.plan(0, 0), layout.label(0)) == (0, 0, [], "end of file")
    layout.append(b"x", "mark")
    assert layout.label(0) == "mark"


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 5), (5, 0), (4, 1), (2, -1)])
def test_refuses_ranges_outside(offset: int, length: int) -> None:
    layout = Composite()
    layout.append(b"four", "mark")
    with pytest.raises(ValueError, match=r"is outside of 4 bytes$"):
        layout.plan(offset, length)


@pytest.mark.parametrize(("part", "label"), [(b"x", ""), (Zero(-1), "less than nothing")])
def test_refuses_illegal_regions(part: bytes | Zero, label: str) -> None:
    with pytest.raises(AssertionError, match="illegal region"):
        Composite().append(part, label)


parts = st.one_of(
    st.binary(max_size=40).filter(lambda data: not data or any(data)),
    st.integers(0, 40).map(Zero),
    st.builds(Disk, st.integers(0, 3), st.integers(0, 40)),
)


@given(st.lists(st.tuples(parts, st.sampled_from([1, 1, 4, 16]))), st.lists(st.integers(0, 400)))
def test_any_regions_read_like_their_bytes_one_after_another(
    regions: list[tuple[bytes | Zero | Disk, int]], cuts: list[int]
) -> None:
    layout, reference = Composite(), b""
    for part, alignment in regions:
        offset = layout.append(part, "part", alignment=alignment)
        reference += bytes(-len(reference) % alignment)
        assert offset == len(reference)
        if isinstance(part, Disk):
            reference += guest_bytes(SourceRange(part.number, 0, part.size)) if part.size else b""
        else:
            reference += part if isinstance(part, bytes) else bytes(part.length)
    check_cuts(layout, reference, [cut for cut in cuts if cut <= layout.size])
