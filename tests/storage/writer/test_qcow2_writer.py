"""The qcow2 writer: any writes in any order, judged by qemu against a plain file that had the same writes."""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovafs.errors import UnsupportedFeature
from ovafs.formats.qcow2.encode import MAX_VIRTUAL_SIZE
from ovafs.formats.qcow2.header import parse_header
from ovafs.storage.writer.qcow2 import Qcow2Writer
from tests.support.images import qemu_map
from tests.support.oracles import check_qcow2, image_info
from tests.support.processes import run
from tests.support.written import Write, apply, check_report, judge_qcow2, refcounts, reference

if TYPE_CHECKING:
    from pathlib import Path

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
CLUSTER = 64 * KIB
L1_SPAN = 512 * MIB


def written(path: Path, size: int, writes: list[Write], *, max_tables: int = 64) -> Path:
    writer = Qcow2Writer(str(path), size, max_tables=max_tables)
    apply(writer, writes)
    writer.finish()
    return path


def check_reads(image: Path, writes: list[Write]) -> None:
    """qemu reads what each write of a sector wrote."""
    reads = [f"read -P {(write.seed or 0) * 37 % 255 + 1} {write.offset} 512" for write in writes]
    output = run("qemu-io", "-r", "-f", "qcow2", *itertools.chain(*(("-c", read) for read in reads)), image).stdout
    assert output.count("read 512/512 bytes") == len(writes)
    assert "failed" not in output.lower()


@st.composite
def disks(draw: st.DrawFn) -> tuple[int, list[Write]]:
    """A size, and writes near cluster and L1 boundaries, overlapping more often than by chance."""
    size = draw(st.sampled_from([CLUSTER, 3 * MIB, 2 * L1_SPAN + 3 * CLUSTER])) - draw(st.sampled_from([0, 512, 1024]))
    bases = [0, CLUSTER, 5 * CLUSTER, MIB, L1_SPAN - CLUSTER, L1_SPAN, 2 * L1_SPAN, size - CLUSTER]
    writes = []
    for seed in range(1, draw(st.integers(0, 8)) + 1):
        base = draw(st.sampled_from([base for base in bases if 0 <= base < size]))
        offset = min(size, base + draw(st.sampled_from([0, 0, 1, 512, 4096, CLUSTER - 1])))
        length = draw(st.sampled_from([0, 1, 512, 4096, CLUSTER, CLUSTER + 1, 3 * CLUSTER, MIB, 2 * MIB + 512]))
        writes.append(Write(offset, min(length, size - offset), draw(st.sampled_from([seed, seed, seed, 0, None]))))
    return size, writes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(disk=disks(), max_tables=st.sampled_from([1, 2, 64]))
def test_any_writes(tmp_path: Path, disk: tuple[int, list[Write]], max_tables: int) -> None:
    size, writes = disk
    image = written(tmp_path / "v.qcow2", size, writes, max_tables=max_tables)
    judge_qcow2(image, reference(tmp_path / "truth", size, writes))
    touched = {
        cluster
        for write in writes
        if write.seed and write.length
        for cluster in range(write.offset // CLUSTER, (write.offset + write.length - 1) // CLUSTER + 1)
    }
    assert check_report(image).get("allocated-clusters", 0) <= len(touched)
    image.unlink()


@pytest.mark.parametrize("piece", [128 * KIB, MIB, MIB + 512, 300_000, 4096, 9 * MIB])
def test_a_stream_in_order_is_written_in_large_pieces(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 24 * MIB
    writes = [Write(start, min(piece, size - start), 1 + number) for number, start in enumerate(range(0, size, piece))]
    calls: list[tuple[int, int]] = []
    pwritev = os.pwritev

    def recorded(fd: int, views: list[memoryview], offset: int) -> int:
        calls.append((offset, sum(map(len, views))))
        return pwritev(fd, views, offset)

    monkeypatch.setattr(os, "pwritev", recorded)
    writer = Qcow2Writer(str(tmp_path / "v"), size)
    calls.clear()
    apply(writer, writes)
    streamed = list(calls)
    writer.finish()
    assert all(length >= MIB for _, length in streamed)
    assert all(offset + length == after for (offset, length), (after, _) in itertools.pairwise(streamed))
    assert sum(length for _, length in streamed) > size - 2 * MIB
    judge_qcow2(tmp_path / "v", reference(tmp_path / "truth", size, writes))


def test_holes_between_data_do_not_cut_the_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    pwritev = os.pwritev

    def recorded(fd: int, views: list[memoryview], offset: int) -> int:
        calls.append(sum(map(len, views)))
        return pwritev(fd, views, offset)

    monkeypatch.setattr(os, "pwritev", recorded)
    writes = []
    for start in range(0, 32 * MIB, 3 * CLUSTER):  # as a decoder of a sparse format reports them
        writes += [Write(start, CLUSTER, 1 + start // CLUSTER), Write(start + CLUSTER, CLUSTER, None)]
    writer = Qcow2Writer(str(tmp_path / "v"), 33 * MIB)
    calls.clear()
    apply(writer, writes)
    assert min(calls) >= MIB - CLUSTER
    writer.finish()
    judge_qcow2(tmp_path / "v", reference(tmp_path / "truth", 33 * MIB, writes))


@pytest.mark.parametrize("size", [0, 512, CLUSTER - 512, CLUSTER, CLUSTER + 512, L1_SPAN, L1_SPAN + 512, 16 * TIB])
def test_nothing_written(tmp_path: Path, size: int) -> None:
    image = written(tmp_path / "v", size, [])
    check_qcow2(image)
    assert image_info(image)["virtual-size"] == size
    assert sum(entry.length for entry in qemu_map(image)) == size
    assert not any(entry.stored for entry in qemu_map(image))
    assert image.stat().st_blocks * 512 <= 256 * KIB


def test_zeros_are_not_stored(tmp_path: Path) -> None:
    writer = Qcow2Writer(str(tmp_path / "v"), GIB)
    for start in range(0, 256 * MIB, 8 * MIB):
        writer.write_at(start, memoryview(bytes(8 * MIB)))
    writer.zero_at(256 * MIB, 768 * MIB)
    writer.finish()
    assert (tmp_path / "v").stat().st_size == 4 * CLUSTER
    check_qcow2(tmp_path / "v")


def test_a_few_writes_in_16_tib(tmp_path: Path) -> None:
    places = [0, CLUSTER - 512, 7 * TIB + 512, 15 * TIB, 16 * TIB - 512]
    writes = [Write(place, 512, number + 1) for number, place in enumerate(places)]
    # A plain file of this size is more than ext4 holds, so the truth is in another file, read by its own offsets.
    image = written(tmp_path / "v", 16 * TIB, writes, max_tables=2)
    check_qcow2(image)
    check_reads(image, writes)
    assert sum(entry.length for entry in qemu_map(image) if entry.stored) == 4 * CLUSTER
    assert image.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize("order", ["ascending", "random"])
def test_tables_leave_memory_and_come_back(tmp_path: Path, order: str) -> None:
    size = 40 * L1_SPAN
    writes = [
        Write(table * L1_SPAN + cluster * CLUSTER, 4096, 1 + table + cluster)
        for table in range(40)
        for cluster in (0, 1, 8191)
    ]
    if order == "random":
        random.Random(1).shuffle(writes)
    writes += [Write(table * L1_SPAN + CLUSTER, CLUSTER, table % 2 or None) for table in range(40)]
    image = written(tmp_path / "v", size, writes, max_tables=3)
    judge_qcow2(image, reference(tmp_path / "truth", size, writes))
    assert check_report(image)["allocated-clusters"] == 120


def test_random_order(tmp_path: Path) -> None:
    rng = random.Random(2)
    writes = [Write(start, 160 * KIB, rng.randrange(4)) for start in range(0, 24 * MIB, 128 * KIB)]
    rng.shuffle(writes)
    image = written(tmp_path / "v", 25 * MIB, writes)
    judge_qcow2(image, reference(tmp_path / "truth", 25 * MIB, writes))


@pytest.mark.parametrize("count", [32759, 32760, 32761, 33000])
def test_a_file_longer_than_one_refcount_block_counts(tmp_path: Path, count: int) -> None:
    # Header, refcount table, refcount block, L1 table, then 4 L2 tables: 32760 clusters of data fill 2 GiB. Each gets
    # one sector, so the file is long, and takes a sixteenth of that.
    writes = [Write(number * CLUSTER, 512, 1 + number % 200) for number in range(count)]
    image = written(tmp_path / "v", count * CLUSTER + 4 * MIB, writes)
    clusters = 4 + -(-count // 8192) + count
    assert image.stat().st_size == (clusters + (clusters > 32768)) * CLUSTER
    check_qcow2(image)
    assert refcounts(image) == {1: image.stat().st_size // CLUSTER}
    check_reads(image, [writes[number] for number in (0, 1, 8191, 8192, 20000, *range(32755, count, 5), count - 1)])


def test_overwritten_with_zeros(tmp_path: Path) -> None:
    size = 8 * MIB
    writes = [Write(0, size, 1), Write(CLUSTER, 3 * CLUSTER, 0), Write(4 * MIB + 512, 2 * MIB, None)]
    image = written(tmp_path / "v", size, writes)
    judge_qcow2(image, reference(tmp_path / "truth", size, writes))
    assert image.stat().st_blocks * 512 < 6 * MIB + CLUSTER
    assert image_info(image)["actual-size"] == image.stat().st_blocks * 512


def test_every_moment_is_well_formed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each write to the file, as kill -9 would leave it: no corruption, and marked as not complete."""
    image = tmp_path / "v"
    pwritev = os.pwritev
    moments = 0

    def observed(fd: int, views: list[memoryview], offset: int) -> int:
        nonlocal moments
        count = pwritev(fd, views, offset)
        with image.open("rb") as file:
            has_header = file.read(4) == b"QFI\xfb"
        if has_header:
            moments += 1
            report = check_report(image)
            assert not report.get("corruptions"), report
            assert not report.get("check-errors"), report
        return count

    monkeypatch.setattr(os, "pwritev", observed)
    writer = Qcow2Writer(str(image), 6 * L1_SPAN, max_tables=1)
    for number in range(20):  # across the end of an L1 entry: one table leaves memory while its data is on the way
        data = bytes([number + 1]) * 5 * CLUSTER
        writer.write_at((number * 3 % 5 + 1) * L1_SPAN - (3 + number) * CLUSTER, memoryview(data + bytes(512) + data))
        if number % 3:
            writer.flush()
        with image.open("rb") as file, pytest.raises(UnsupportedFeature, match="not closed cleanly"):
            parse_header(file.read(CLUSTER), "v")
    writer.finish()
    assert moments > 50
    check_qcow2(image)


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    writer = Qcow2Writer(str(tmp_path / "v"), TIB)
    piece = memoryview(b"\1" * 512)
    tracemalloc.start()
    try:
        for start in range(0, TIB, L1_SPAN):  # all 2048 tables: 128 MiB
            writer.write_at(start, piece)
        writer.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB
    check_qcow2(tmp_path / "v")


def test_scattered_short_writes_are_bounded(tmp_path: Path) -> None:
    writer = Qcow2Writer(str(tmp_path / "v"), GIB)
    tracemalloc.start()
    try:
        for start in range(0, 20_000 * 1024, 1024):
            writer.write_at(start, memoryview(b"x"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    writer.finish()
    assert peak < 2 * MIB
    check_qcow2(tmp_path / "v")


def test_threads_take_turns(tmp_path: Path) -> None:
    size = 16 * MIB
    writer = Qcow2Writer(str(tmp_path / "v"), size)
    writes = [Write(start, 96 * KIB, 1 + start // CLUSTER) for start in range(0, size - CLUSTER, 96 * KIB)]
    threads = [threading.Thread(target=apply, args=(writer, writes[part::4])) for part in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    writer.finish()
    judge_qcow2(tmp_path / "v", reference(tmp_path / "truth", size, writes))


def test_sizes_that_qcow2_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no multiple of 512"):
        Qcow2Writer(str(tmp_path / "v"), 1000)
    for size in (MAX_VIRTUAL_SIZE, MAX_VIRTUAL_SIZE + 512):
        with pytest.raises(UnsupportedFeature, match="qcow2"):
            Qcow2Writer(str(tmp_path / "v"), size)
    assert list(tmp_path.iterdir()) == []


def test_data_that_the_caller_changes_afterwards(tmp_path: Path) -> None:
    buffer = bytearray(2 * MIB)
    writer = Qcow2Writer(str(tmp_path / "v"), 64 * MIB)
    writes, offset = [], 0
    for seed, length in enumerate([1, 511, 512, 4096, 65535, 65536, 65537, MIB] * 5, 1):
        buffer[:length] = bytes((seed,)) * length
        writer.write_at(offset, memoryview(buffer)[:length])
        writes.append((offset, bytes(buffer[:length])))
        offset += length
    writer.finish()
    with (tmp_path / "truth").open("wb") as file:
        file.truncate(64 * MIB)
        for start, data in writes:
            os.pwrite(file.fileno(), data, start)
    judge_qcow2(tmp_path / "v", tmp_path / "truth")


def test_the_kernel_begins_to_store_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hints: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, start, length, _advice: hints.append((start, length)))
    writer = Qcow2Writer(str(tmp_path / "v"), 64 * MIB)
    apply(writer, [Write(start, MIB, 1) for start in range(0, 64 * MIB, MIB)])
    writer.finish()
    assert sum(length for _, length in hints) >= 56 * MIB
    assert all(8 * MIB <= length <= 16 * MIB for _, length in hints)
    assert all(start + length <= after for (start, length), (after, _) in itertools.pairwise(hints))
