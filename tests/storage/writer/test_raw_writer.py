"""The raw writer: the same bytes as a plain file that had the same writes, and holes for zeros."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovafs.storage.writer.raw import RawWriter
from tests.support.filesystems import in_memory
from tests.support.oracles import sha256
from tests.support.written import Write, apply, reference

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
BLOCK = 1 << 16


def check(folder: Path, size: int, writes: list[Write]) -> Path:
    path = folder / "v.raw"
    path.unlink(missing_ok=True)
    writer = RawWriter(str(path), size)
    apply(writer, writes)
    writer.finish()
    assert path.stat().st_size == size
    assert writer.allocated == path.stat().st_blocks * 512
    assert sha256(path) == sha256(reference(folder / "truth", size, writes))
    return path


@st.composite
def files(draw: st.DrawFn) -> tuple[int, list[Write]]:
    size = draw(st.one_of(st.integers(0, 3 * BLOCK), st.sampled_from([2 * MIB, 5 * MIB + 1])))
    writes = []
    for seed in range(1, draw(st.integers(0, 10)) + 1):
        offset = min(size, draw(st.integers(0, 40)) * BLOCK // 4 + draw(st.sampled_from([0, 0, 0, 1, 512, 4096])))
        length = draw(st.sampled_from([0, 1, 512, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, MIB, 2 * MIB + 512]))
        writes.append(Write(offset, min(length, size - offset), draw(st.sampled_from([seed, seed, 0, None]))))
    return size, writes


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files())
def test_any_writes(tmp_path: Path, disk: tuple[int, list[Write]]) -> None:
    check(tmp_path, *disk)


@pytest.mark.parametrize("piece", [4096, 128 << 10, 300_001, MIB])
def test_a_stream_with_zeros_becomes_a_sparse_file(tmp_path: Path, piece: int) -> None:
    truth = b"".join(bytes([seed]) * BLOCK if seed % 4 == 1 else bytes(BLOCK) for seed in range(200))
    writer = RawWriter(str(tmp_path / "v"), len(truth))
    for start in range(0, len(truth), piece):
        writer.write_at(start, memoryview(truth)[start : start + piece])
    writer.finish()
    assert (tmp_path / "v").read_bytes() == truth
    assert 50 * BLOCK <= (tmp_path / "v").stat().st_blocks * 512 <= 51 * BLOCK  # with the file system's own blocks


def test_random_order(tmp_path: Path) -> None:
    writes = [Write(start, 160 << 10, start // BLOCK % 3) for start in range(0, 16 * MIB, 128 << 10)]
    random.Random(3).shuffle(writes)
    check(tmp_path, 17 * MIB, writes)


def test_overwritten_with_zeros_gives_storage_back(tmp_path: Path) -> None:
    writes = [Write(0, 8 * MIB, 1), Write(MIB, 2 * MIB, 0), Write(4 * MIB, 2 * MIB, None)]
    assert check(tmp_path, 8 * MIB, writes).stat().st_blocks * 512 == 4 * MIB


def test_a_file_system_without_holes_in_written_files(tmp_path: Path) -> None:
    with in_memory(tmp_path, "ramfs") as folder:
        writes = [Write(0, 8 * MIB, 1), Write(MIB + 512, 2 * MIB, 0), Write(4 * MIB, 3 * MIB + 1, None)]
        check(folder, 8 * MIB, writes)


def test_a_large_sparse_disk(tmp_path: Path) -> None:
    writer = RawWriter(str(tmp_path / "v"), 8 << 40)
    writer.write_at((8 << 40) - 512, memoryview(b"x" * 512))
    writer.zero_at(0, 8 << 40)
    writer.write_at((4 << 40) + 1, memoryview(b"abc"))
    writer.finish()
    assert (tmp_path / "v").stat().st_size == 8 << 40
    assert writer.allocated <= BLOCK
    with (tmp_path / "v").open("rb") as file:
        file.seek(4 << 40)
        assert file.read(5) == b"\0abc\0"
        file.seek(-512, 2)
        assert file.read() == bytes(512)
