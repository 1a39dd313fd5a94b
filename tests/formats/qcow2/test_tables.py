"""L1 and L2 decoding against an entry-by-entry decoder that follows the spec's tables word by word."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.errors import InvalidImage, UnsupportedFeature
from ovafs.formats.qcow2 import tables
from ovafs.formats.qcow2.header import Compression, Header
from ovafs.formats.qcow2.tables import ClusterKind, L2Decoder, compressed_range, l2_table_runs
from ovafs.streams.extents import Kind
from tests.support.images import COMPRESSED, COPIED

BITS = 16
CLUSTER = 1 << BITS
FILE_SIZE = 1000 * CLUSTER + 100


def header(*, version: int = 3, extended_l2: bool = False, entries: int = 1, bits: int = BITS) -> Header:
    return Header(version, 1 << 40, bits, 3 * CLUSTER, entries, Compression.DEFLATE, extended_l2, None, None)


class Run(NamedTuple):
    start: int
    length: int
    kind: int
    host: int


def decode(entries: list[int], base: int = 0, **fields: bool | int) -> list[Run]:
    table = bytearray(struct.pack(f">{len(entries)}Q", *entries))
    stale = b"\x80" * 64  # a reused buffer is longer than the tables in it
    decoder = L2Decoder(header(**fields), FILE_SIZE, "x", 1 << 20)  # type: ignore[arg-type]
    decoder.decode(table + stale, len(table), base)
    return rows(decoder)


def rows(decoder: L2Decoder) -> list[Run]:
    columns = (decoder.starts, decoder.lengths, decoder.kinds, decoder.hosts)
    return [Run(*row) for row in zip(*columns, strict=True)]


def join(runs: list[Run]) -> list[Run]:
    result: list[Run] = []
    for run in runs:
        last = result[-1] if result else None
        if (
            last is not None
            and last.kind == run.kind != ClusterKind.COMPRESSED
            and last.start + last.length == run.start
            and (run.kind == ClusterKind.ZERO or last.host + last.length == run.host)
        ):
            result[-1] = last._replace(length=last.length + run.length)
        else:
            result.append(run)
    return result


def reference(entries: list[int]) -> list[Run] | None:
    """The runs of standard L2 entries, None if one of them is wrong."""
    result = []
    for number, entry in enumerate(entries):
        guest, offset = number * CLUSTER, entry & 0x00FFFFFFFFFFFE00
        if entry & COMPRESSED:
            if entry & ((1 << 54) - 1) >= FILE_SIZE:
                return None
            result.append(Run(guest, CLUSTER, ClusterKind.COMPRESSED, entry & (COMPRESSED - 1)))
            continue
        if entry & 0x3F000000000001FE or offset % CLUSTER:
            return None
        if entry & 1:
            result.append(Run(guest, CLUSTER, ClusterKind.ZERO, 0))
        elif offset >= FILE_SIZE:
            return None
        elif offset:
            result.append(Run(guest, CLUSTER, ClusterKind.STANDARD, offset))
    return join(result)


good_offsets = st.integers(0, 1000).map(lambda number: number * CLUSTER)
good_entries = st.one_of(
    st.just(0),
    st.just(COPIED),
    good_offsets.map(lambda offset: offset | COPIED),
    good_offsets,
    st.sampled_from([1, COPIED | 1, 5 * CLUSTER | 1, 1001 * CLUSTER | 1]),
    st.integers(0, FILE_SIZE - 1).map(lambda offset: COMPRESSED | offset),
    st.integers(0, 255).map(lambda sectors: COMPRESSED | sectors << 54 | 12345),
)


@st.composite
def stretches(draw: st.DrawFn, entries: st.SearchStrategy[int]) -> list[int]:
    """Tables as they are: long empty and long contiguous stretches, and single entries between."""
    result: list[int] = []
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["empty", "contiguous", "equal", "single"]))
        count = draw(st.integers(1, 300))
        first = draw(entries)
        if kind == "empty":
            result += [0] * draw(st.sampled_from([1, 2, 511, 512, 513, 2000]))
        elif kind == "contiguous":
            result += [(first & ~0xFFFF) + number * CLUSTER & 2**64 - 1 | first & 1 for number in range(count)]
        elif kind == "equal":
            result += [first] * count
        else:
            result.append(first)
    return result


@given(stretches(good_entries))
def test_decodes_as_the_spec_says(entries: list[int]) -> None:
    expected = reference(entries)
    if expected is None:
        with pytest.raises(InvalidImage):
            decode(entries)
    else:
        assert decode(entries) == expected


@given(stretches(st.integers(0, 2**64 - 1)))
def test_arbitrary_entries_are_decoded_right_or_refused(entries: list[int]) -> None:
    expected = reference(entries)
    if expected is None:
        with pytest.raises(InvalidImage):
            decode(entries)
    else:
        assert decode(entries) == expected


def subcluster_reference(pairs: list[tuple[int, int]]) -> list[Run] | None:
    result = []
    size = CLUSTER // 32
    for number, (entry, bitmap) in enumerate(pairs):
        guest, offset = number * CLUSTER, entry & ~COPIED
        if entry & COMPRESSED:
            if entry & ((1 << 54) - 1) >= FILE_SIZE:
                return None
            result.append(Run(guest, CLUSTER, ClusterKind.COMPRESSED, entry & (COMPRESSED - 1)))
            continue
        if offset % CLUSTER or offset >> 56:
            return None
        for sub in range(32):
            stored, zero = bitmap >> sub & 1, bitmap >> (32 + sub) & 1
            if stored and (zero or not offset or offset >= FILE_SIZE):
                return None
            if stored:
                result.append(Run(guest + sub * size, size, ClusterKind.STANDARD, offset + sub * size))
            elif zero:
                result.append(Run(guest + sub * size, size, ClusterKind.ZERO, 0))
    return join(result)


bitmaps = st.one_of(
    st.sampled_from([0, 0xFFFFFFFF, 0xFFFFFFFF << 32, 0x0000FFFF, 0xFFFF0000 << 32 | 0xFFFF]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1).map(lambda bits: (bits << 32) | (~bits & 0xFFFFFFFF)),
    st.integers(0, 2**64 - 1),
)


@given(st.lists(st.tuples(good_entries, bitmaps), max_size=40))
def test_subclusters_decode_as_the_spec_says(pairs: list[tuple[int, int]]) -> None:
    expected = subcluster_reference(pairs)
    flat = [word for pair in pairs for word in pair]
    if expected is None:
        with pytest.raises(InvalidImage):
            decode(flat, extended_l2=True)
    else:
        assert decode(flat, extended_l2=True) == expected


def test_runs_grow_across_tables_and_calls() -> None:
    decoder = L2Decoder(header(), FILE_SIZE, "x", 10)
    for part in range(3):
        table = bytearray(struct.pack(">8Q", *(COPIED | (100 + part * 8 + n) * CLUSTER for n in range(8))))
        decoder.decode(table, 64, part * 8 * CLUSTER)
    assert rows(decoder) == [Run(0, 24 * CLUSTER, ClusterKind.STANDARD, 100 * CLUSTER)]


def test_zero_clusters_do_not_exist_in_version_2() -> None:
    with pytest.raises(InvalidImage, match="version 2"):
        decode([1], version=2)
    assert decode([COPIED | 5 * CLUSTER], version=2) == [Run(0, CLUSTER, ClusterKind.STANDARD, 5 * CLUSTER)]


@pytest.mark.parametrize("extended", [False, True])
def test_number_of_runs_is_bounded(extended: bool) -> None:
    decoder = L2Decoder(header(extended_l2=extended), FILE_SIZE, "x", 100)
    table = bytearray(struct.pack(">202Q", *([COPIED | 5 * CLUSTER, 0x55555555 if extended else 0] * 101)))
    with pytest.raises(UnsupportedFeature, match="more than 100 extents"):
        decoder.decode(table, len(table), 0)


def test_kinds_are_those_of_extent_maps() -> None:
    """The columns go into an extent map as they are."""
    names = {"STANDARD": "DATA"}
    assert {names.get(kind.name, kind.name): int(kind) for kind in ClusterKind} == {k.name: int(k) for k in Kind}


@pytest.mark.parametrize("bits", [9, 16, 21])
def test_compressed_range(bits: int) -> None:
    offset_bits = 70 - bits
    assert compressed_range(0, bits) == (0, 512)
    assert compressed_range(100, bits) == (100, 412)
    most = (1 << (bits - 8)) - 1
    assert compressed_range(most << offset_bits | 1000, bits) == (1000, (most + 1) * 512 - 488)


# -- L1 --------------------------------------------------------------------------------------------------------

COVERAGE = CLUSTER * CLUSTER // 8


def runs_of(l1: list[int], file_size: int = FILE_SIZE) -> list[tuple[int, int, int]]:
    return [tuple(run) for run in l2_table_runs(struct.pack(f">{len(l1)}Q", *l1), header(), file_size, "x")]  # type: ignore[misc]


def test_l1_joins_neighbours_up_to_a_batch() -> None:
    l1 = [
        0,
        COPIED | 5 * CLUSTER,
        6 * CLUSTER,
        0,
        7 * CLUSTER,
        *(COPIED | (10 + n) * CLUSTER for n in range(6)),
        COPIED,
    ]
    assert runs_of(l1) == [
        (COVERAGE, 5 * CLUSTER, 2 * CLUSTER),
        (4 * COVERAGE, 7 * CLUSTER, CLUSTER),
        (5 * COVERAGE, 10 * CLUSTER, 4 * CLUSTER),
        (9 * COVERAGE, 14 * CLUSTER, 2 * CLUSTER),
    ]


def test_l1_may_name_one_table_twice() -> None:
    assert runs_of([5 * CLUSTER, 5 * CLUSTER]) == [(0, 5 * CLUSTER, CLUSTER), (COVERAGE, 5 * CLUSTER, CLUSTER)]


@pytest.mark.parametrize(
    "entry",
    [5 * CLUSTER + 512, 5 * CLUSTER | 1, 5 * CLUSTER | COMPRESSED, 1 << 57, 1000 * CLUSTER, 1 << 45, 2**64 - 1],
    ids=hex,
)
def test_l1_entries_that_name_no_table_are_refused(entry: int) -> None:
    with pytest.raises(InvalidImage, match="is not an L2 table"):
        runs_of([entry])


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 1 << 30)
    with pytest.raises(UnsupportedFeature, match="more than 1 GiB of L2 tables"):
        runs_of([5 * CLUSTER] * ((1 << 30 >> BITS) + 1))
