"""Every shape of disk reads as ``qemu-img convert`` reads it, and stores nothing that ``qemu-img map`` calls zeros."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.support.chains import check_reads, opened, read
from tests.support.images import (
    COPIED,
    convert,
    create,
    hand_made,
    io,
    make_chain,
    qemu_map,
    run,
    scatter,
    stored_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

SIZE = 3 << 20


def raw(path: Path, size: int = SIZE) -> Path:
    path.write_bytes(b"")
    os.truncate(path, size)
    return path


def text(path: Path, size: int = SIZE) -> Path:
    """A raw file that compresses, with zeros in it."""
    data = b"".join(b"line %d of the disk\n" % n for n in range(size // 32)).ljust(size, b"\0")[:size]
    path.write_bytes(data[: size // 2] + bytes(size // 4) + data[: size - size // 2 - size // 4])
    return path


# Each builder makes a disk in a folder and returns its top file; a name that ends in .raw is a raw image.


def raw_sparse(folder: Path) -> Path:
    scatter(path := raw(folder / "a.raw"), SIZE, seed=1, form="raw")
    return path


def raw_full(folder: Path) -> Path:
    (path := folder / "a.raw").write_bytes(random.Random(1).randbytes(SIZE))
    return path


def raw_empty(folder: Path) -> Path:
    return raw(folder / "a.raw")


def raw_without_bytes(folder: Path) -> Path:
    return raw(folder / "a.raw", 0)


def raw_odd(folder: Path) -> Path:
    (path := folder / "a.raw").write_bytes(random.Random(1).randbytes(100_001))
    return path


def raw_ends_in_a_hole(folder: Path) -> Path:
    io(path := raw(folder / "a.raw", SIZE), "write -P 1 0 64k", form="raw")
    return path


def qcow2_empty(folder: Path) -> Path:
    return create(folder / "a.qcow2", SIZE)


def qcow2_without_bytes(folder: Path) -> Path:
    return create(folder / "a.qcow2", 0)


def qcow2_full(folder: Path) -> Path:
    return convert(raw_full(folder), folder / "a.qcow2", "raw", "qcow2")


def scattered(**options: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        scatter(path := create(folder / "a.qcow2", SIZE, **options), SIZE, seed=2, count=20)
        return path

    return build


def scattered_v2(folder: Path) -> Path:
    scatter(path := create(folder / "a.qcow2", SIZE, compat="0.10"), SIZE, seed=2, count=20, zeros=False)
    return path


def many_tables(folder: Path) -> Path:
    """512-byte clusters: an L2 table maps 32 KiB, so 3 MiB have 96 of them."""
    path = create(folder / "a.qcow2", SIZE, cluster_size="512")
    scatter(path, SIZE, seed=3, count=60)
    return path


def preallocated_metadata(folder: Path) -> Path:
    path = create(folder / "a.qcow2", 64 << 20, preallocation="metadata")
    io(path, "write -P 5 1M 100k", "write -P 6 60M 4k")
    return path


def preallocated_falloc(folder: Path) -> Path:
    io(path := create(folder / "a.qcow2", SIZE, preallocation="falloc"), "write -P 5 1M 100k")
    return path


def compressed(kind: str, **options: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        options["compression_type"] = kind
        listed = ",".join(f"{key}={value}" for key, value in options.items())
        path = convert(text(folder / "t.raw"), folder / "a.qcow2", "raw", "qcow2", "-c", "-o", listed)
        io(path, "write -P 7 70k 100k", "write -z 300k 64k", "discard 512k 128k")
        return path

    return build


def compressed_below(folder: Path) -> Path:
    """A compressed base under an overlay with smaller clusters, which covers parts of compressed clusters."""
    convert(text(folder / "t.raw"), folder / "b.qcow2", "raw", "qcow2", "-c")
    path = create(folder / "a.qcow2", SIZE, backing="b.qcow2", cluster_size="4k")
    scatter(path, SIZE, seed=9, count=20)
    return path


def snapshots(folder: Path) -> Path:
    path = scattered()(folder)
    run("qemu-img", "snapshot", "-c", "one", path)
    scatter(path, SIZE, seed=4)
    run("qemu-img", "snapshot", "-c", "two", path)
    scatter(path, SIZE, seed=5)
    return path


def zeros_hide_the_backing_file(folder: Path) -> Path:
    scatter(create(folder / "b.qcow2", SIZE), SIZE, seed=1, zeros=False, count=30)
    path = create(folder / "a.qcow2", SIZE, backing="b.qcow2")
    io(path, "write -z 0 1M", "discard 1M 512k", "write -P 3 2M 64k", "write -z -u 2M 32k", "write -z 2500k 3k")
    return path


def backing(size: int, form: str = "qcow2", top: int = SIZE) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        base = folder / f"b.{form}"
        if form == "raw":
            base.write_bytes(random.Random(5).randbytes(size))
        else:
            convert(text(folder / "t.raw", size), base, "raw", "qcow2")
        path = create(folder / "a.qcow2", top, backing=base.name, backing_format=form)
        io(path, "write -P 9 128k 64k")
        return path

    return build


def short_in_the_middle(folder: Path) -> Path:
    """Behind the end of the middle file the guest reads zeros, though the lowest file goes on."""
    (folder / "c.raw").write_bytes(random.Random(5).randbytes(SIZE))
    create(folder / "b.qcow2", SIZE // 3 & ~511, backing="c.raw", backing_format="raw")
    return create(folder / "a.qcow2", SIZE, backing="b.qcow2")


def relative_names(folder: Path) -> Path:
    (folder / "base dir").mkdir()
    (folder / "top").mkdir()
    scatter(create(folder / "base dir" / "b.qcow2", SIZE), SIZE, seed=1)
    path = folder / "top" / "a.qcow2"
    name = "../base dir/b.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", name, "-F", "qcow2", path)
    scatter(path, SIZE, seed=2)
    return path


def absolute_names(folder: Path) -> Path:
    scatter(create(folder / "b.qcow2", SIZE), SIZE, seed=1)
    return create(folder / "a.qcow2", SIZE, backing=str(folder / "b.qcow2"))


def file_protocol(folder: Path) -> Path:
    scatter(create(folder / "b.qcow2", SIZE), SIZE, seed=1)
    return create(folder / "a.qcow2", SIZE, backing=f"file:{folder / 'b.qcow2'}")


def chain(depth: int, **options: bool) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        return make_chain(folder, depth, SIZE, raw_base=options.get("raw_base", False))

    return build


def odd_size(size: int) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (source := folder / "t.raw").write_bytes(random.Random(7).randbytes(size))
        return convert(source, folder / "a.qcow2", "raw", "qcow2")

    return build


def broken_last_sector(folder: Path) -> Path:
    """A header whose size is no multiple of 512: QEMU leaves the last, broken sector out."""
    data = bytearray(odd_size(200 * 512)(folder).read_bytes())
    data[24:32] = (150 * 512 + 300).to_bytes(8, "big")
    (path := folder / "p.qcow2").write_bytes(data)
    return path


def last_cluster_cut(folder: Path) -> Path:
    """The file ends inside the last data cluster: the rest of it reads as zeros."""
    path = folder / "a.qcow2"
    data = random.Random(3).randbytes(65536 + 1000)
    path.write_bytes(
        hand_made(size=4 << 16, l1=[COPIED | 0x40000], l2=[0, COPIED | 0x50000, COPIED | 0x60000], tail=data)
    )
    return path


def last_cluster_cut_over_data(folder: Path) -> Path:
    last_cluster_cut(folder)
    (folder / "b.raw").write_bytes(b"b" * (4 << 16))
    run("qemu-img", "rebase", "-u", "-b", "b.raw", "-F", "raw", folder / "a.qcow2")
    return folder / "a.qcow2"


def shared_cluster(folder: Path) -> Path:
    (path := folder / "a.qcow2").write_bytes(
        hand_made(size=64 << 16, l1=[COPIED | 0x40000], l2=[COPIED | 0x50000] * 64, tail=b"D" * 65536)
    )
    return path


def one_table_twice(folder: Path) -> Path:
    (path := folder / "a.qcow2").write_bytes(
        hand_made(size=1 << 20, cluster_bits=9, l1_size=32, l1=[4 << 9] * 32, l2=[5 << 9] * 40, tail=b"D" * 512)
    )
    return path


def subclusters(folder: Path) -> Path:
    path = create(folder / "a.qcow2", SIZE, extended_l2="on")
    scatter(path, SIZE, seed=8, count=60)
    io(path, "write -P 1 1000k 2k", "write -z 1002k 2k", "discard 1004k 10k")
    return path


def subclusters_over_data(folder: Path) -> Path:
    (folder / "b.raw").write_bytes(random.Random(5).randbytes(SIZE))
    options = {"extended_l2": "on", "cluster_size": "128k"}
    path = create(folder / "a.qcow2", SIZE, backing="b.raw", backing_format="raw", **options)
    scatter(path, SIZE, seed=8, count=60)
    return path


def subclusters_compressed(folder: Path) -> Path:
    return compressed("zstd", extended_l2="on", cluster_size="32k")(folder)


def copied_sparsely(folder: Path) -> Path:
    """A qcow2 file that lost its blocks of zeros in a copy: holes inside clusters."""
    text(folder / "t.raw")
    convert(folder / "t.raw", folder / "c.qcow2", "raw", "qcow2", "-S", "0")
    run("cp", "--sparse=always", folder / "c.qcow2", folder / "a.qcow2")
    return folder / "a.qcow2"


SHAPES = {
    f.__name__: f
    for f in [
        raw_sparse, raw_full, raw_empty, raw_without_bytes, raw_odd, raw_ends_in_a_hole, qcow2_empty,
        qcow2_without_bytes, qcow2_full, scattered_v2, many_tables, preallocated_metadata, preallocated_falloc,
        compressed_below, snapshots,
        zeros_hide_the_backing_file, short_in_the_middle, relative_names, absolute_names, file_protocol,
        broken_last_sector, last_cluster_cut, last_cluster_cut_over_data, shared_cluster, one_table_twice, subclusters,
        subclusters_over_data, subclusters_compressed, copied_sparsely,
    ]
} | {
    **{f"cluster_size_{n}": scattered(cluster_size=n) for n in ("512", "1k", "4k", "64k", "256k", "1M", "2M")},
    "lazy_refcounts": scattered(lazy_refcounts="on"),
    **{f"deflate_{n}": compressed("zlib", cluster_size=n) for n in ("512", "4k", "64k", "2M")},
    **{f"zstd_{n}": compressed("zstd", cluster_size=n) for n in ("512", "64k", "2M")},
    "backing_smaller": backing(1 << 20),
    "backing_smaller_raw": backing(1 << 20, "raw"),
    "backing_smaller_odd": backing(1_000_001, "raw"),
    "backing_larger": backing(5 << 20),
    "backing_larger_raw": backing(5 << 20, "raw"),
    "backing_larger_odd_top": backing(5 << 20, "raw", 777 * 512),
    **{f"chain_{depth}": chain(depth) for depth in (2, 3, 30)},
    **{f"chain_{depth}_on_raw": chain(depth, raw_base=True) for depth in (2, 10)},
    **{f"odd_size_{size}": odd_size(size) for size in (512, 65536 + 512, 1_000_000)},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
async def test_reads_as_qemu_reads(tmp_path: Path, shape: str) -> None:
    path = SHAPES[shape](tmp_path)
    form = "raw" if path.suffix == ".raw" else "qcow2"
    expected = convert(path, tmp_path / "expected", form).read_bytes()
    with opened(path, form) as disk:
        await check_reads(disk, expected)
        stored = sectors((e.start, e.length) for e in disk.extents)
        # QEMU takes parts of clusters that the file system only reserves for data; they read as zeros (see above).
        assert stored <= sectors((e.start, e.length) for e in qemu_map(path, form) if e.stored and not e.zero)


def sectors(ranges: Iterable[tuple[int, int]]) -> set[int]:
    """Numbers of the sectors that the ranges touch. (QEMU's maps are made of sectors.)"""
    return {number for start, length in ranges for number in range(start // 512, -(-(start + length) // 512))}


async def test_sparse_disk_of_16_tib(tmp_path: Path) -> None:
    path = create(tmp_path / "a.qcow2", "16T")
    io(path, "write -P 1 0 4k", "write -P 2 9T 64k", f"write -P 3 {(16 << 40) - 512} 512")
    with opened(path) as disk:
        assert disk.virtual_size == 16 << 40
        assert len(disk.extents) == 3
        # QEMU reserves whole clusters; how much of them is stored is the file system's affair.
        assert 65536 + 4096 + 512 <= stored_bytes(disk.extents) <= 3 << 16
        assert await read(disk, (9 << 40) - 512, 67_000) == bytes(512) + b"\2" * 65536 + bytes(952)
        assert await read(disk, (16 << 40) - 1024, 1024) == bytes(512) + b"\3" * 512
