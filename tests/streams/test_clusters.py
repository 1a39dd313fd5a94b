from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.streams.clusters import ClusterRuns
from ovafs.streams.extents import ExtentMap, Kind

BITS = 4

runs_of_extents = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 60), st.sampled_from(Kind)),
    max_size=20,
)


def extent_map(gaps: list[tuple[int, int, Kind]]) -> ExtentMap:
    """Extents from (gap before, length, kind)."""
    extents, position = ExtentMap(), 0
    for gap, length, kind in gaps:
        extents.append(position + gap, length, kind, position)
        position += gap + length
    return extents


def touched(extents: ExtentMap, cluster: int) -> list[int]:
    """The slow way: every byte's cluster."""
    return sorted(
        {
            offset // cluster
            for start, length, kind, _, _ in extents
            if kind != Kind.ZERO
            for offset in range(start, start + length)
        }
    )


def numbers(runs: ClusterRuns) -> list[int]:
    """All cluster numbers, in the order of their ranks."""
    return [
        first + number
        for index, first in enumerate(runs.firsts)
        for number in range(runs.ranks[index + 1] - runs.ranks[index])
    ]


@given(runs_of_extents)
def test_holds_exactly_the_clusters_with_stored_bytes(gaps: list[tuple[int, int, Kind]]) -> None:
    extents = extent_map(gaps)
    runs = ClusterRuns.from_extents(extents, BITS)
    expected = touched(extents, 1 << BITS)
    assert numbers(runs) == expected
    assert (runs.total, runs.end) == (len(expected), expected[-1] + 1 if expected else 0)
    assert runs.cluster_bits == BITS
    ends = [first + runs.ranks[index + 1] - runs.ranks[index] for index, first in enumerate(runs.firsts)]
    assert all(end < first for end, first in zip(ends, runs.firsts[1:], strict=False)), "runs touch"


@given(runs_of_extents)
def test_lookups_agree_with_counting(gaps: list[tuple[int, int, Kind]]) -> None:
    runs = ClusterRuns.from_extents(extent_map(gaps), BITS)
    clusters = numbers(runs)
    for rank, cluster in enumerate(clusters):
        index = runs.run_at_rank(rank)
        assert runs.firsts[index] + rank - runs.ranks[index] == cluster
    for cluster in range(runs.end + 2):
        later = [number for number in clusters if number >= cluster]
        index = runs.first_run_after(cluster)
        assert index == (runs.run_at_rank(clusters.index(later[0])) if later else len(runs))


@given(runs_of_extents, st.integers(0, 5))
def test_coarsened_equals_larger_clusters(gaps: list[tuple[int, int, Kind]], bits: int) -> None:
    extents = extent_map(gaps)
    runs = ClusterRuns.from_extents(extents, BITS)
    assert runs.coarsened(bits) == ClusterRuns.from_extents(extents, BITS + bits)


@given(runs_of_extents)
def test_comes_back_from_bytes(gaps: list[tuple[int, int, Kind]]) -> None:
    runs = ClusterRuns.from_extents(extent_map(gaps), BITS)
    data = runs.to_bytes()
    back = ClusterRuns.from_bytes(memoryview(data))
    assert back == runs
    assert back.cluster_bits == BITS
    assert back.to_bytes() == data


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + bytes(8), lambda data: data[:5]])
def test_refuses_bytes_of_another_length(change: object) -> None:
    extents = ExtentMap()
    extents.append(0, 100, Kind.DATA)
    data = ClusterRuns.from_extents(extents, BITS).to_bytes()
    assert callable(change)
    with pytest.raises(ValueError, match=r"bytes do not hold \d+ runs of clusters$"):
        ClusterRuns.from_bytes(change(data))


def test_refuses_a_count_that_no_memory_could_hold() -> None:
    with pytest.raises(ValueError, match="do not hold 18446744073709551615 runs"):
        ClusterRuns.from_bytes(bytes(8) + b"\xff" * 8 + bytes(8))


def test_nothing_stored() -> None:
    runs = ClusterRuns.from_extents(ExtentMap(), 16)
    assert (len(runs), runs.total, runs.end, runs.first_run_after(0)) == (0, 0, 0, 0)


def test_equality_looks_at_everything() -> None:
    first = ClusterRuns(16, array("Q", [1]), array("Q", [0, 1]))
    assert first == ClusterRuns(16, array("Q", [1]), array("Q", [0, 1]))
    assert first != ClusterRuns(15, array("Q", [1]), array("Q", [0, 1]))
    assert first != ClusterRuns(16, array("Q", [2]), array("Q", [0, 1]))
    assert first != ClusterRuns(16, array("Q", [1]), array("Q", [0, 2]))
    assert first != "runs"
