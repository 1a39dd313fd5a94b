"""Internal snapshots of qcow2 images, judged by qemu-img; and tables of them that lie."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidImage
from ovafs.formats.qcow2.snapshots import MAX_SNAPSHOTS, parse_snapshots
from ovafs.model import DiskFormat
from ovafs.storage.chain import open_chain
from ovafs.storage.map_cache import MapCache
from ovafs.transfer.disk_plans import DiskPlans
from tests.support.chains import read_disk
from tests.support.images import create, io, run, scatter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.storage.chain import Chain

MIB = 1 << 20
SIZE = 16 * MIB
TABLE_OFFSET = 64  # of the field in the header


@contextlib.contextmanager
def opened(path: Path, snapshot: str = "") -> Iterator[Chain]:
    with contextlib.closing(open_chain(str(path), DiskFormat.QCOW2, snapshot=snapshot)) as chain:
        chain.read_extents()
        yield chain


def expected(path: Path, snapshot: str, folder: Path) -> bytes:
    """What qemu-img makes of it."""
    target = folder / "expected.raw"
    words = ("-l", f"snapshot.name={snapshot}") if snapshot else ()
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", *words, path, target)
    return target.read_bytes()


async def content(path: Path, snapshot: str = "") -> bytes:
    with opened(path, snapshot) as chain:
        return await read_disk(chain)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Over a backing file, with two snapshots and changes after each."""
    base = create(tmp_path / "base.qcow2", SIZE)
    scatter(base, SIZE, seed=1)
    path = create(tmp_path / "disk.qcow2", SIZE, backing=str(base))
    for number, name in enumerate(("first", "Zwischenstand ä")):
        scatter(path, SIZE, seed=10 + number)
        run("qemu-img", "snapshot", "-c", name, path)
    scatter(path, SIZE, seed=20)
    return path


@pytest.mark.parametrize("snapshot", ["first", "Zwischenstand ä", ""])
async def test_the_disk_as_it_was(image: Path, tmp_path: Path, snapshot: str) -> None:
    assert await content(image, snapshot) == expected(image, snapshot, tmp_path)


async def test_all_of_them_differ(image: Path) -> None:
    assert len({await content(image, snapshot) for snapshot in ("", "first", "Zwischenstand ä")}) == 3


async def test_a_disk_that_was_smaller(tmp_path: Path) -> None:
    image = create(tmp_path / "disk.qcow2", SIZE)
    scatter(image, SIZE, seed=1)
    run("qemu-img", "snapshot", "-c", "small", image)
    run("qemu-img", "resize", "-q", image, "32M")
    io(image, "write -P 7 20M 1M")
    found = await content(image, "small")
    assert len(found) == SIZE
    assert found == expected(image, "small", tmp_path)[:SIZE]


def test_plans_of_snapshots_are_their_own(image: Path) -> None:
    plans = DiskPlans(MapCache(None))
    layouts = []
    for snapshot in ("first", "", "first"):
        with opened(image, snapshot) as chain:
            layouts.append(plans.plan(chain).layout)
    assert layouts[0] == layouts[2] != layouts[1]


def test_a_snapshot_that_is_not_there(image: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match="has no snapshot 'none'; see 'qemu-img snapshot -l'"):
        open_chain(str(image), DiskFormat.QCOW2, snapshot="none")
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(MIB))
    with pytest.raises(InvalidImage, match="has no snapshot 'first': it is no qcow2 image"):
        open_chain(str(raw), DiskFormat.RAW, snapshot="first")
    none = create(tmp_path / "none.qcow2", SIZE)
    with pytest.raises(InvalidImage, match="has no snapshot 'first'"):
        open_chain(str(none), DiskFormat.QCOW2, snapshot="first")


def _patch(path: Path, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("field", "data", "message"),
    [
        (0, struct.pack(">Q", 1 << 60), "L2 table|L1 table|lies behind|behind the end"),
        (0, struct.pack(">Q", 513), "L1 table at 513 is not aligned"),
        (8, struct.pack(">I", 1 << 30), "L1 table of 1073741824 entries, more than 32 MiB"),
        (8, struct.pack(">I", 0), "L1 table of 0 entries is too small"),
        (36, struct.pack(">I", 1 << 31), "the table of snapshots is cut off in entry 0"),
        (14, struct.pack(">H", 65535), "has no snapshot|cut off"),
    ],
)
def test_tables_that_lie(tmp_path: Path, field: int, data: bytes, message: str) -> None:
    image = create(tmp_path / "disk.qcow2", SIZE)
    scatter(image, SIZE, seed=1)
    run("qemu-img", "snapshot", "-c", "first", image)
    header = image.read_bytes()[:104]
    _patch(image, int.from_bytes(header[TABLE_OFFSET : TABLE_OFFSET + 8]) + field, data)
    with pytest.raises(InvalidImage, match=message), opened(image, "first"):
        pass


def test_numbers_beyond_all_bounds() -> None:
    with pytest.raises(InvalidImage, match="65537 snapshots, more than 65536"):
        list(parse_snapshots(b"", MAX_SNAPSHOTS + 1, "x"))
    with pytest.raises(InvalidImage, match="cut off in entry 0"):
        list(parse_snapshots(bytes(39), 1, "x"))
    assert list(parse_snapshots(b"", 0, "x")) == []
