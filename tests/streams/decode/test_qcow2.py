"""qcow2 files decoded while they arrive: what QEMU makes, judged by what QEMU reads."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.streams.decode.qcow2 import Qcow2Decoder
from tests.support import images
from tests.support.decoding import assert_decodes, assert_same, decode, every

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.decoding import Disk

MIB = 1 << 20


def make(size: int | None = None) -> Qcow2Decoder:
    return Qcow2Decoder("disk.qcow2", size)


def scattered(path: Path, size: int, *, seed: int = 1) -> Path:
    """A raw disk: data that compresses and data that does not, at places of no meaning, up to the very end."""
    rng = random.Random(seed)
    content = bytearray(size)
    for number in range(24):
        start = rng.randrange(0, size, 512)
        length = min(rng.choice((512, 5000, 65536, 150_000)), size - start)
        content[start : start + length] = (
            rng.randbytes(length) if number % 2 else (b"text %d " % number * length)[:length]
        )
    content[-100:] = b"e" * 100
    path.write_bytes(content)
    return path


def check(image: Path) -> Disk:
    """The image decodes to what qemu-img converts it to."""
    expected = images.convert(image, image.with_suffix(".judge")).read_bytes()
    return assert_decodes(make, image.read_bytes(), expected)


OPTIONS = {
    "version 2": ["-o", "compat=0.10"],
    "version 3": [],
    "512 B": ["-o", "cluster_size=512"],
    "4 KiB": ["-o", "cluster_size=4k"],
    "2 MiB": ["-o", "cluster_size=2M"],
    "subclusters": ["-o", "extended_l2=on,cluster_size=16k"],
    "unordered": ["-W", "-o", "cluster_size=4k"],
    "preallocated metadata": ["-o", "preallocation=metadata,cluster_size=4k"],
    "refcounts of 64 bits": ["-o", "refcount_bits=64,cluster_size=4k"],
    "lazy refcounts": ["-o", "lazy_refcounts=on"],
}
COMPRESSED = {
    "deflate": ["-c"],
    "deflate 4 KiB": ["-c", "-o", "cluster_size=4k"],
    "zstd": ["-c", "-o", "compression_type=zstd"],
    "zstd 2 MiB": ["-c", "-o", "compression_type=zstd,cluster_size=2M"],
    "deflate, version 2": ["-c", "-o", "compat=0.10"],
}


@pytest.mark.parametrize("size", [5 * MIB, 3 * MIB + 1536], ids=["even", "odd"])
@pytest.mark.parametrize("name", OPTIONS)
def test_converted_files_need_no_spool(name: str, size: int, tmp_path: Path) -> None:
    """qemu-img convert writes every table before what it maps."""
    raw = scattered(tmp_path / "disk.raw", size)
    image = images.convert(raw, tmp_path / "disk.qcow2", "raw", "qcow2", *OPTIONS[name])
    assert check(image).kept == 0


@pytest.mark.parametrize("size", [5 * MIB, 3 * MIB + 1536], ids=["even", "odd"])
@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_files(name: str, size: int, tmp_path: Path) -> None:
    """QEMU goes on filling a host cluster behind the next L2 table: less than a cluster is kept for each table."""
    raw = scattered(tmp_path / "disk.raw", size)
    image = images.convert(raw, tmp_path / "disk.qcow2", "raw", "qcow2", *COMPRESSED[name])
    assert check(image).kept < 128 * 1024


@pytest.mark.parametrize("mode", ["falloc", "full"])
def test_tables_at_the_end(mode: str, tmp_path: Path) -> None:
    """QEMU puts all L2 tables but the first behind the preallocated data: that has to be kept, the zeros not."""
    raw = scattered(tmp_path / "disk.raw", 5 * MIB)
    image = images.convert(raw, tmp_path / "disk.qcow2", "raw", "qcow2", "-o", f"preallocation={mode},cluster_size=4k")
    assert 0 < check(image).kept < 3 * MIB < image.stat().st_size


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"cluster_size": "4k"}, {"extended_l2": "on"}, {"compat": "0.10"}])
def test_files_of_a_living_machine(options: dict[str, str], seed: int, tmp_path: Path) -> None:
    """Random writes, zeros, discards: clusters in any order, freed ones used again."""
    image = images.create(tmp_path / "disk.qcow2", 20 * MIB, **options)
    for step in range(3):
        images.scatter(image, 20 * MIB, seed=seed * 10 + step, count=16)
    check(image)


def test_a_table_behind_its_data(tmp_path: Path) -> None:
    """Discarded clusters are used again, for data of a table that lies behind them."""
    image = images.create(tmp_path / "disk.qcow2", 64 * MIB, cluster_size="4k")
    images.io(image, "write -P 1 0 256k", "write -P 2 40M 4k", "discard 0 256k", "write -P 3 41M 100k")
    assert check(image).kept > 0


def test_a_grown_disk_has_its_tables_elsewhere(tmp_path: Path) -> None:
    """The L1 table moves behind the data when it grows out of its cluster."""
    image = images.create(tmp_path / "disk.qcow2", MIB, cluster_size="512")
    images.io(image, "write -P 5 0 1M")
    images.run("qemu-img", "resize", "-q", image, 8 * MIB)
    images.io(image, "write -P 6 7M 100k")
    assert check(image).kept > 0


def test_rebased_and_committed(tmp_path: Path) -> None:
    """A chain made into one file by qemu-img: no trace of the backing file is left."""
    top = images.make_chain(tmp_path, 3)
    flat = images.convert(top, tmp_path / "flat.qcow2", "qcow2", "qcow2")
    assert_decodes(make, flat.read_bytes(), images.convert(top, tmp_path / "judge.raw").read_bytes())


@pytest.mark.parametrize("size", [0, 512, 65536, 65536 + 512])
def test_tiny_disks(size: int, tmp_path: Path) -> None:
    image = images.create(tmp_path / "disk.qcow2", size, cluster_size="512")
    if size:
        images.io(image, f"write -P 9 {size - 512} 512")
    assert_decodes(make, image.read_bytes(), bytes(max(0, size - 512)) + b"\x09" * min(size, 512), tiny=True)


def test_a_window_larger_than_qemus(tmp_path: Path) -> None:
    """Compressed by others than QEMU, which reads it."""
    content = (random.Random(2).randbytes(30_000) * 3)[:65536]
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = stream.compress(content) + stream.flush()
    entry = images.compressed_entry(5 << 16, len(packed))
    image = tmp_path / "disk.qcow2"
    image.write_bytes(
        images.hand_made(size=65536, l1=[4 << 16 | images.COPIED], l2=[entry], tail=packed + bytes(-len(packed) % 512))
    )
    check(image)
    assert decode(make(), image.read_bytes())[0] == content


def test_a_large_sparse_disk(tmp_path: Path) -> None:
    """16 TiB, three clusters, and nothing that grows with the virtual size."""
    clusters = [(0, b"first"), (1 << 20, b"middle"), ((1 << 28) - 1, b"last")]
    image = images.sparse_qcow2(tmp_path / "disk.qcow2", 1 << 44, clusters)
    found: dict[int, bytes] = {}
    decoder = make(image.stat().st_size)
    for event in [*decoder.receive_data(image.read_bytes()), *decoder.finish()]:
        found[event[0]] = bytes(event.data).rstrip(b"\0")
    assert decoder.virtual_size == 1 << 44
    assert found == {number << 16: head for number, head in clusters}


@given(st.data())
def test_any_pieces(data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(1, len(PIECEWISE)), max_size=8))
    decoder = make(data.draw(st.sampled_from([None, len(PIECEWISE)])))
    assert_same(decode(decoder, PIECEWISE, cuts)[0], EXPECTED)


def small_file() -> bytes:
    """Standard, zero and late clusters in clusters of 512 bytes, the L2 table behind some of its data."""
    c = 512
    l2 = [4 * c | images.COPIED, 0, 6 * c | images.COPIED, 1, 7 * c | images.COPIED]
    head = images.hand_made(cluster_bits=9, size=5 * c, l1=[5 * c | images.COPIED], l2=[])
    table = b"".join(entry.to_bytes(8, "big") for entry in l2).ljust(c, b"\0")
    return head[: 4 * c].ljust(4 * c, b"\0") + b"A" * c + table + b"B" * c + b"C" * c


PIECEWISE = small_file()
EXPECTED = b"A" * 512 + bytes(512) + b"B" * 512 + bytes(512) + b"C" * 512


def test_memory_is_bounded(tmp_path: Path) -> None:
    """64 MiB in pieces of 1 MiB: a table and a few claims, no data."""
    raw = tmp_path / "disk.raw"
    raw.write_bytes(random.Random(1).randbytes(MIB) * 64)
    data = memoryview(images.convert(raw, tmp_path / "disk.qcow2", "raw", "qcow2").read_bytes())
    decoder = make(len(data))
    tracemalloc.start()
    for start in range(0, len(data), MIB):
        for event in decoder.receive_data(data[start : start + MIB]):
            del event
    list(decoder.finish())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIB


def test_the_data_are_views(tmp_path: Path) -> None:
    raw = scattered(tmp_path / "disk.raw", 3 * MIB)
    data = images.convert(raw, tmp_path / "disk.qcow2", "raw", "qcow2").read_bytes()
    for start in every(65536, len(data)):
        piece = data[start : start + 65536]
        decoder = make()
        list(decoder.receive_data(data[:start]))
        assert all(event.data.obj is piece for event in decoder.receive_data(piece))
