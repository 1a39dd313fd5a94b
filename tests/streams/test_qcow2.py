"""The planned qcow2: against a slow reference, against hand-computed numbers, and judged by qemu."""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovafs.formats.qcow2.encode import solve_refcounts
from ovafs.streams.clusters import ClusterRuns
from ovafs.streams.extents import ExtentMap, Kind
from ovafs.streams.qcow2 import CLUSTER, MAX_VIRTUAL_SIZE, PlannedQcow2
from ovafs.streams.segment import Literal, SourceRange, Zero
from tests.support.oracles import assert_same_disk, check_qcow2, image_info, image_map
from tests.support.plan_contract import check_cuts, check_plan_contract, guest_bytes, planned_bytes
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
L1_SPAN = 512 * MIB
COPIED = 1 << 63


def runs_of(clusters: Iterable[tuple[int, int]]) -> ClusterRuns:
    """Runs from (first cluster, count), through extents that begin and end inside of clusters."""
    extents = ExtentMap()
    for first, count in clusters:
        extents.append(first * CLUSTER + 4096, count * CLUSTER - 8192, Kind.DATA, first * CLUSTER)
    return ClusterRuns.from_extents(extents, 16)


def guest(offset: int, length: int) -> bytes:
    return guest_bytes(SourceRange(0, offset, length)) if length else b""


def slow_qcow2(virtual_size: int, clusters: list[int]) -> bytes:
    """The same image written the other way round: host clusters in a dict, tables patched entry by entry."""
    host: dict[int, bytearray] = {}
    l1_size = -(-virtual_size // L1_SPAN)
    l1_clusters = -(-l1_size * 8 // CLUSTER)
    tables = sorted({cluster // 8192 for cluster in clusters})
    used = 1 + 1 + 1 + l1_clusters + len(tables) + len(clusters)
    assert used <= 32768, "the reference has one refcount block"
    for number in range(used):
        host[number] = bytearray(CLUSTER)
        struct.pack_into(">H", host[2], number * 2, 1) if number >= 2 else None
    struct.pack_into(">HH", host[2], 0, 1, 1)
    l1_offset = 3 * CLUSTER
    header = (b"QFI\xfb", 3, 0, 0, 16, virtual_size, 0, l1_size, l1_offset if l1_size else 0, CLUSTER, 1)
    struct.pack_into(">4sIQIIQIIQQIIQQQQII", host[0], 0, *header, 0, 0, 0, 0, 0, 4, 104)
    struct.pack_into(">Q", host[1], 0, 2 * CLUSTER)
    for rank, table in enumerate(tables):
        at = 3 + l1_clusters + rank
        struct.pack_into(">Q", host[3 + table * 8 // CLUSTER], table * 8 % CLUSTER, COPIED | at * CLUSTER)
    for rank, cluster in enumerate(sorted(clusters)):
        at = 3 + l1_clusters + len(tables) + rank
        table = 3 + l1_clusters + tables.index(cluster // 8192)
        struct.pack_into(">Q", host[table], cluster % 8192 * 8, COPIED | at * CLUSTER)
        data = guest(cluster * CLUSTER, min(CLUSTER, virtual_size - cluster * CLUSTER))
        host[at][: len(data)] = data
    return b"".join(host[number] for number in range(used))


def expanded(clusters: Iterable[tuple[int, int]]) -> list[int]:
    return [first + number for first, count in clusters for number in range(count)]


SMALL = {
    "no bytes": (0, []),
    "empty": (10 * GIB, []),
    "one sector": (512, [(0, 1)]),
    "last cluster cut": (3 * CLUSTER + 1024, [(1, 1), (3, 1)]),
    "only the cut cluster": (5 * CLUSTER + 512, [(5, 1)]),
    "up to the L1 entry's end": (L1_SPAN, [(0, 2), (8190, 2)]),
    "run across an L1 entry": (L1_SPAN + 2 * CLUSTER, [(8189, 5)]),
    "L1 entries left out": (5 * L1_SPAN, [(3, 1), (8192 * 3 - 1, 1), (8192 * 4 + 7, 2)]),
    "L1 table of two clusters": (
        9000 * L1_SPAN,
        [(0, 1), (8191 * 8192, 1), (8192 * 8192 + 5, 1), (9000 * 8192 - 1, 1)],
    ),
}


@pytest.mark.parametrize(("virtual_size", "clusters"), SMALL.values(), ids=SMALL)
def test_keeps_the_contract(virtual_size: int, clusters: list[tuple[int, int]]) -> None:
    image = PlannedQcow2(0, virtual_size, runs_of(clusters))
    check_plan_contract(image, slow_qcow2(virtual_size, expanded(clusters)))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A virtual size with some runs of clusters, near L1 boundaries more often than by chance."""
    clusters = []
    position = 0
    for _ in range(draw(st.integers(0, 5))):
        gap = draw(st.one_of(st.integers(1, 5), st.integers(8180, 8200), st.integers(1, 1 << 20)))
        count = draw(st.integers(1, 4))
        clusters.append((position + gap - 1, count))
        position += gap + count
    tail = draw(st.integers(0, 127)) * 512
    last = clusters[-1][0] + clusters[-1][1] if clusters else 0
    beyond = draw(st.sampled_from([0, 0, 1, 8192]))
    return max(0, (last + beyond) * CLUSTER - tail), clusters


@settings(max_examples=60, deadline=None)
@given(layouts(), st.data())
def test_any_layout_reads_like_the_reference(layout: tuple[int, list[tuple[int, int]]], data: st.DataObject) -> None:
    virtual_size, clusters = layout
    image = PlannedQcow2(0, virtual_size, runs_of(clusters))
    cuts = data.draw(st.lists(st.integers(0, image.size), max_size=8))
    check_cuts(image, slow_qcow2(virtual_size, expanded(clusters)), cuts)


def test_data_clusters_in_one_source_range_as_long_as_they_are_neighbours() -> None:
    image = PlannedQcow2(7, GIB, runs_of([(100, 40), (5000, 1)]))
    data = image.size - 41 * CLUSTER
    assert image.plan(data + 512, 2 * MIB) == [SourceRange(7, 100 * CLUSTER + 512, 2 * MIB)]
    assert image.plan(data + 39 * CLUSTER, 2 * CLUSTER) == [
        SourceRange(7, 139 * CLUSTER, CLUSTER),
        SourceRange(7, 5000 * CLUSTER, CLUSTER),
    ]


def test_the_tail_of_the_last_cluster_is_never_read_from_the_source() -> None:
    image = PlannedQcow2(0, 3 * CLUSTER - 1024, runs_of([(1, 2)]))
    end = image.size
    assert image.plan(end - 2048, 2048) == [SourceRange(0, 3 * CLUSTER - 2048, 1024), Zero(1024)]
    assert image.plan(end - 1024, 1024) == [Zero(1024)]
    assert image.plan(end - 5, 3) == [Zero(3)]
    assert image.plan(end - 1025, 1) == [SourceRange(0, 3 * CLUSTER - 1025, 1)]


def test_labels_say_which_entry_or_guest_offset() -> None:
    image = PlannedQcow2(0, 2 * L1_SPAN, runs_of([(3, 1), (8192 + 9, 1)]))
    labels = [image.label(at) for at in range(5, image.size, CLUSTER)]
    assert labels == [
        "header",
        "refcount table: entry 0",
        "refcount blocks: entry 2",
        "L1 table: entry 0",
        "L2 tables: entry 0",
        "L2 tables: entry 8192",
        f"data clusters: guest offset {3 * CLUSTER + 5}",
        f"data clusters: guest offset {8201 * CLUSTER + 5}",
    ]
    assert image.label(104) == "padding before refcount table"
    assert image.label(image.size) == "end of file"


@pytest.mark.parametrize(
    ("virtual_size", "runs", "message"),
    [
        (-512, runs_of([]), "more than qcow2 holds"),
        (MAX_VIRTUAL_SIZE + 512, runs_of([]), r"more than qcow2 holds \(2251799813685248\)$"),
        (1000, runs_of([]), "a virtual size of 1000 bytes is no multiple of 512"),
        (CLUSTER, runs_of([(1, 1)]), "cluster 1 lies behind the virtual size of 65536 bytes"),
        (GIB, ClusterRuns(12, array("Q"), array("Q", [0])), "runs of 4096-byte clusters do not fit clusters of 65536"),
        (MAX_VIRTUAL_SIZE, runs_of([(0, MAX_VIRTUAL_SIZE // CLUSTER)]), "is longer than qemu opens"),
    ],
)
def test_refuses_what_qcow2_cannot_hold(virtual_size: int, runs: ClusterRuns, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlannedQcow2(0, virtual_size, runs)


def test_the_longest_image_that_can_be_counted() -> None:
    """One refcount table of 8 MiB: 2 PiB of file, of which some clusters are metadata."""
    most = (8 << 20) // 8 * 32768
    metadata = 1 + 128 + (1 << 20) + 512
    clusters = most - metadata - (most // 8192)
    image = PlannedQcow2(0, MAX_VIRTUAL_SIZE, runs_of([(0, clusters)]))
    assert most * CLUSTER - 2 * GIB < image.size <= most * CLUSTER
    last_entry = planned_bytes(image, CLUSTER + (8 << 20) - 8, 8)
    assert last_entry == struct.pack(">Q", (1 + 128 + (1 << 20) - 1) * CLUSTER)
    assert image.plan(image.size - CLUSTER, CLUSTER) == [SourceRange(0, (clusters - 1) * CLUSTER, CLUSTER)]


@pytest.mark.parametrize("edge", [32768, 2 * 32768, 8192 * 32768, 3 * 8192 * 32768])
def test_refcounts_cover_everything_with_nothing_to_spare(edge: int) -> None:
    """Around every place where one more cluster needs one more block, or one more cluster of table."""
    for counted in range(edge - edge // 32768 - 8, edge - edge // 32768 + 8):
        table, blocks = solve_refcounts(counted)
        assert blocks * 32768 >= counted + table + blocks
        assert table * 8192 >= blocks
        fewer = [(table, blocks - 1), (table - 1, blocks)]
        assert all(b * 32768 < counted + t + b or t * 8192 < b for t, b in fewer)


# -- judged by qemu ------------------------------------------------------------------------------------


def write_image(image: PlannedQcow2, path: Path) -> Path:
    """The image as a sparse file, with what tests' disks hold in its data clusters."""
    with path.open("wb") as file:
        for offset in range(0, image.size, MIB):
            for segment in image.plan(offset, min(MIB, image.size - offset)):
                match segment:
                    case Literal(data):
                        file.write(data)
                    case Zero(length):
                        file.seek(length, 1)
                    case SourceRange():
                        file.write(guest_bytes(segment))
        file.truncate(image.size)
    return path


def write_raw(virtual_size: int, clusters: list[tuple[int, int]], path: Path) -> Path:
    with path.open("wb") as file:
        for first, count in clusters:
            file.seek(first * CLUSTER)
            file.write(guest(first * CLUSTER, min(count * CLUSTER, virtual_size - first * CLUSTER)))
        file.truncate(virtual_size)
    return path


def judge(virtual_size: int, clusters: list[tuple[int, int]], folder: Path) -> None:
    planned = write_image(PlannedQcow2(0, virtual_size, runs_of(clusters)), folder / "planned.qcow2")
    check_qcow2(planned)
    assert image_info(planned)["virtual-size"] == virtual_size
    allocated = [piece for piece in image_map(planned) if piece["data"]]
    assert sum(piece["length"] for piece in allocated) == sum(
        min(count * CLUSTER, virtual_size - first * CLUSTER) for first, count in clusters
    )
    assert_same_disk(write_raw(virtual_size, clusters, folder / "reference.raw"), planned, "raw", "qcow2")


QEMU_CASES = {name: case for name, case in SMALL.items() if case[0] < TIB}


@pytest.mark.parametrize(("virtual_size", "clusters"), QEMU_CASES.values(), ids=QEMU_CASES)
def test_qemu_sees_the_same_disk(virtual_size: int, clusters: list[tuple[int, int]], tmp_path: Path) -> None:
    judge(virtual_size, clusters, tmp_path)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts())
def test_qemu_sees_the_same_disk_whatever_is_allocated(
    layout: tuple[int, list[tuple[int, int]]], tmp_path: Path
) -> None:
    judge(*layout, tmp_path)


def test_qemu_calls_the_image_plain(tmp_path: Path) -> None:
    planned = write_image(PlannedQcow2(0, GIB, runs_of([(1, 2)])), tmp_path / "planned.qcow2")
    info = image_info(planned)
    assert (info["format"], info["cluster-size"], info["dirty-flag"]) == ("qcow2", CLUSTER, False)
    assert info["format-specific"]["data"] == {
        "compat": "1.1",
        "compression-type": "zlib",
        "lazy-refcounts": False,
        "refcount-bits": 16,
        "corrupt": False,
        "extended-l2": False,
    }
    assert "backing-filename" not in info
    assert "snapshots" not in info


def write_metadata(image: PlannedQcow2, path: Path) -> Path:
    """The image with holes where its data clusters would be."""
    with path.open("wb") as file:
        offset = 0
        while not image.label(offset).startswith("data clusters"):
            file.write(planned_bytes(image, offset, CLUSTER))
            offset += CLUSTER
        file.truncate(image.size)
    return path


@pytest.mark.parametrize("virtual_size", [GIB, 2 * GIB - 37 * CLUSTER, 2 * GIB, 11 * GIB + 512])
def test_qemu_finds_a_fully_allocated_image_clean(virtual_size: int, tmp_path: Path) -> None:
    """From 2 GiB of file up there is more than one refcount block."""
    clusters = -(-virtual_size // CLUSTER)
    image = write_metadata(PlannedQcow2(0, virtual_size, runs_of([(0, clusters)])), tmp_path / "full.qcow2")
    check_qcow2(image)
    pieces = image_map(image)
    assert sum(piece["length"] for piece in pieces if "offset" in piece) == virtual_size
    data = -(-image.stat().st_size // CLUSTER) - clusters
    assert pieces[0]["offset"] == data * CLUSTER


def test_qemu_reads_both_ends_of_16_tib(tmp_path: Path) -> None:
    """The reference is an image of qemu's own, because few file systems take a raw file of 16 TiB."""
    virtual_size, last = 16 * TIB, 16 * TIB // CLUSTER - 2
    planned = write_image(PlannedQcow2(0, virtual_size, runs_of([(0, 1), (last, 2)])), tmp_path / "planned.qcow2")
    check_qcow2(planned)
    pattern = tmp_path / "pattern"
    reference = tmp_path / "reference.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", reference, str(virtual_size))
    for first, count in ((0, 1), (last, 2)):
        pattern.write_bytes(guest(first * CLUSTER, count * CLUSTER))
        write = f"write -q -s {pattern} {first * CLUSTER} {count * CLUSTER}"
        run("qemu-io", "-f", "qcow2", "-c", write, reference)
    assert_same_disk(reference, planned, "qcow2", "qcow2")


def test_qemu_reads_both_ends_of_the_largest_disk(tmp_path: Path) -> None:
    """By ``qemu-img dd``: map and compare take half a minute to look at four million L1 entries."""
    last = MAX_VIRTUAL_SIZE // CLUSTER - 1
    image = PlannedQcow2(0, MAX_VIRTUAL_SIZE, runs_of([(0, 1), (last, 1)]))
    planned = write_image(image, tmp_path / "planned.qcow2")
    check_qcow2(planned)
    piece = tmp_path / "piece"
    for first, part in ((0, "count=1"), (last, f"skip={last}")):
        run("qemu-img", "dd", "-f", "qcow2", "-O", "raw", f"bs={CLUSTER}", part, f"if={planned}", f"of={piece}")
        assert piece.read_bytes() == guest(first * CLUSTER, CLUSTER)
