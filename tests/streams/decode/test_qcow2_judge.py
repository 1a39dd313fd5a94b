"""qcow2 files that are kept: what QEMU makes is accepted, what it could write wrongly is refused."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from ovafs.errors import InvalidPackage
from ovafs.streams.decode.decoder import Write
from ovafs.streams.decode.disk_file import DiskFileDecoder
from ovafs.streams.decode.qcow2_judge import Qcow2Judge
from tests.streams.decode.test_qcow2 import COMPRESSED, OPTIONS, scattered
from tests.streams.decode.test_qcow2_hostile import HOSTILE, LATE
from tests.support import images
from tests.support.decoding import (
    Disk,
    assert_refused,
    assert_same,
    decode,
    every,
    mutations,
    pieces,
    random_cuts,
    refusal,
)
from tests.support.images import COPIED, compressed_entry, deflated, hand_made
from tests.support.oracles import check_qcow2

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
CLUSTER = 65536


def make(size: int | None = None) -> Qcow2Judge:
    return Qcow2Judge("disk.qcow2", size)


def assert_accepted(data: bytes) -> None:
    """The judge takes the file, in any pieces, its size known or not; through DiskFileDecoder it comes as it is."""
    for number, cuts in enumerate(((), every(65_537, len(data)), every(4096, len(data)), random_cuts(len(data), 1))):
        content, record = decode(make(None if number % 2 else len(data)), data, cuts)
        assert record.writes == []
        assert not content.strip(b"\0")
    decoder = DiskFileDecoder("disk.qcow2", len(data), keep_qcow2=True)
    found, kept = bytearray(len(data)), Disk()
    for piece in pieces(data, random_cuts(len(data), 2)):
        for event in decoder.receive_data(piece):
            if isinstance(event, Write):
                found[event.guest_offset : event.guest_offset + len(event.data)] = event.data
            else:
                kept.apply([event])
    assert (
        list(decoder.finish(lambda offset, length: bytes(found[offset : offset + length]).ljust(length, b"\0"))) == []
    )
    assert decoder.is_kept
    assert decoder.is_verbatim
    assert_same(bytes(found), data)


@pytest.mark.parametrize("name", [*OPTIONS, *COMPRESSED])
def test_converted_files(name: str, tmp_path: Path) -> None:
    raw = scattered(tmp_path / "disk.raw", 3 * MIB + 1536)
    image = images.convert(raw, tmp_path / "disk.qcow2", "raw", "qcow2", *(OPTIONS | COMPRESSED)[name])
    assert_accepted(image.read_bytes())


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32, 64])
def test_widths_of_refcounts(bits: int, tmp_path: Path) -> None:
    raw = scattered(tmp_path / "disk.raw", 2 * MIB)
    options = ["-o", f"refcount_bits={bits},cluster_size=4k"]
    image = images.convert(raw, tmp_path / "disk.qcow2", "raw", "qcow2", *options)
    assert_accepted(image.read_bytes())
    data = bytearray(image.read_bytes())
    at = int.from_bytes(data[(table := int.from_bytes(data[48:56], "big")) : table + 8], "big")
    data[at : at + 4096] = bytes(4096)
    assert_refused(make, bytes(data), "host cluster 0 has a refcount of 0, and 1 refer to it")


@pytest.mark.parametrize("preallocation", ["metadata", "falloc", "full"])
def test_preallocated_files_that_are_written_grown_and_discarded(preallocation: str, tmp_path: Path) -> None:
    """Tables behind their data, an L1 table and a refcount table that moved, zero clusters that keep their place."""
    image = tmp_path / "disk.qcow2"
    options = f"preallocation={preallocation},cluster_size=512"
    images.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "8M")
    images.io(image, "write -P 7 1M 1M", "write -z 1M 64k", "discard 4M 1M", "write -P 8 4M 256k")
    images.run("qemu-img", "resize", "-q", image, "80M")
    images.io(image, "write -P 9 60M 8M", "write -c -P 3 70M 4k")
    check_qcow2(image)
    assert_accepted(image.read_bytes())


def test_leaked_clusters_are_no_reason(tmp_path: Path) -> None:
    image = images.create(tmp_path / "disk.qcow2", "8M")
    images.io(image, "write -P 7 0 1M")
    data = bytearray(image.read_bytes())
    data += bytes(CLUSTER)
    (block,) = struct.unpack_from(">Q", data, CLUSTER)
    struct.pack_into(">H", data, block + 2 * (len(data) // CLUSTER - 1), 1)
    image.write_bytes(data)
    assert "1 leaked clusters" in images.run("sh", "-c", f"qemu-img check {image} || true")
    assert_accepted(bytes(data))


def _image(l2: list[int], tail: bytes, counts: list[int] | None = None, **fields: Any) -> bytes:
    """A small image whose refcount block says 1 for its first 64 clusters, or ``counts`` for the first of them."""
    data = hand_made(size=fields.pop("size", 64 * CLUSTER), l1=[4 * CLUSTER | COPIED], l2=l2, tail=tail, **fields)
    refcounts = struct.pack(">64H", *[*(counts or []), *[1] * 64][:64]).ljust(CLUSTER, b"\0")
    return data[: 2 * CLUSTER] + refcounts + data[3 * CLUSTER :]


ENTRY = 5 * CLUSTER | COPIED
BLOCK = b"D" * CLUSTER
TEXT = deflated(b"text" * (CLUSTER // 4))
TWO = TEXT + TEXT
PACKED = [compressed_entry(5 * CLUSTER, len(TEXT)), compressed_entry(5 * CLUSTER + len(TEXT), len(TEXT))]
AUTOCLEAR = 88

GOOD = _image([ENTRY], BLOCK)

BEHIND_THE_END = "lies behind the end of the file"

BROKEN = {
    "refcount 0": (_image([ENTRY], BLOCK, [1, 1, 1, 1, 1, 0]), "host cluster 5 has a refcount of 0, and 1 refer to it"),
    "refcount of the L1 table": (_image([ENTRY], BLOCK, [1, 1, 1, 0]), "host cluster 3 has a refcount of 0"),
    "refcount of itself": (_image([ENTRY], BLOCK, [1, 1, 0]), "host cluster 2 has a refcount of 0"),
    "refcounts of compressed clusters": (_image(PACKED, TWO.ljust(512, b"\0"), [1] * 6), "of 1, and 2 refer to it"),
    "data twice, refcount 2": (_image([ENTRY, ENTRY], BLOCK, [1, 1, 1, 1, 1, 2]), "refer to the host clusters"),
    "zeros in the place of data": (
        _image([ENTRY, ENTRY | 1], BLOCK),
        "two things refer to the host clusters at 327680",
    ),
    "zeros in the place of the L2 table": (_image([4 * CLUSTER | COPIED | 1], b""), "two things refer to"),
    "zeros in the place of the header's cluster": (_image([ENTRY, CLUSTER | COPIED | 1], BLOCK), "two things refer to"),
    "data behind the end of the disk": (_image([ENTRY, ENTRY], BLOCK, size=CLUSTER), "two things refer to"),
    "an L2 table behind the end of the disk": (
        _image([ENTRY], BLOCK, l1_size=2)[: 3 * CLUSTER + 8]
        + struct.pack(">Q", 5 * CLUSTER | COPIED)
        + _image([ENTRY], BLOCK, l1_size=2)[3 * CLUSTER + 16 :],
        "two things refer to",
    ),
    "refcount block in the place of data": (
        GOOD[: CLUSTER + 8] + struct.pack(">Q", 5 * CLUSTER) + GOOD[CLUSTER + 16 :],
        "refer to",
    ),
    "refcount block that is not aligned": (
        GOOD[: CLUSTER + 8] + struct.pack(">Q", 12345) + GOOD[CLUSTER + 16 :],
        "refcount block at 12345",
    ),
    "no refcount block": (
        GOOD[:CLUSTER] + bytes(CLUSTER) + GOOD[2 * CLUSTER :],
        "is missing",
    ),
    "refcount block behind the end": (
        GOOD[:CLUSTER] + struct.pack(">Q", 1 << 30) + GOOD[CLUSTER + 8 :],
        BEHIND_THE_END,
    ),
    "no offset of a snapshot table": (GOOD[:64] + struct.pack(">Q", 77) + GOOD[72:], "its snapshot table is said"),
    "offset of a snapshot table beyond all": (GOOD[:64] + struct.pack(">Q", 1 << 63) + GOOD[72:], "where none can be"),
    "bitmaps": (
        GOOD[: AUTOCLEAR + 7] + b"\1" + GOOD[AUTOCLEAR + 8 :],
        "persistent bitmaps",
    ),
    "zeros far away": (_image([1 << 50 | COPIED | 1], b""), BEHIND_THE_END),
}
# What is said where the size of the file is not known.
LATER = {
    "refcount block behind the end": "refcount block 0 is missing",
    "zeros far away": "more than 33554432 clusters",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_QEMU_would_write_wrongly(name: str) -> None:  # noqa: N802  # its name
    data, message = BROKEN[name]
    assert_refused(lambda: make(len(data)), data, message)
    assert_refused(make, data, LATER.get(name, message), every(10_000, len(data)))


def test_the_images_that_were_broken_are_good_otherwise() -> None:
    assert_accepted(_image([ENTRY], BLOCK))
    assert_accepted(_image(PACKED, TWO.ljust(512, b"\0"), [1, 1, 1, 1, 1, 2]))
    assert_accepted(_image([ENTRY, 6 * CLUSTER | COPIED | 1], BLOCK * 2))


@pytest.mark.parametrize("name", [name for name, (_, message) in HOSTILE.items() if message])
def test_what_is_not_decoded_is_not_kept(name: str) -> None:
    data, _ = HOSTILE[name]
    for cuts in ((), every(30_000, len(data))):
        assert refusal(make(len(data)), data, cuts) is not None
        assert refusal(make(None), data, cuts) is not None


def test_what_is_behind_the_end_takes_no_memory() -> None:
    """Else a header could ask for 3 bytes for each cluster of a file of 2 TiB."""
    data, _ = HOSTILE["L1 behind the end"]
    tracemalloc.start()
    try:
        assert_refused(lambda: make(len(data)), data, "lies behind the end of the file")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", LATE)
def test_hostile_late_tables(name: str) -> None:
    assert isinstance(refusal(make(len(LATE[name])), LATE[name]), InvalidPackage)


def test_damaged_files_are_judged_in_words(tmp_path: Path) -> None:
    """An event list or an error of ours; what passes, qemu-img finds no error in but that flag, and reads alike."""
    image = tmp_path / "disk.qcow2"
    images.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", image, "4M")
    images.io(image, "write -P 7 0 64k", "write -P 8 1M 32k", "write -c -P 9 2M 4k")
    for number, data in enumerate(mutations(image.read_bytes(), 300, seed=3, region=0x9000)):
        if refusal(make(len(data)), data, every(7777, len(data))) is None and number % 10 == 0:
            image.write_bytes(data)
            said = images.run("sh", "-c", f"qemu-img check -f qcow2 {image} 2>&1 || true")
            assert "refcount=0" not in said
            assert "overlap" not in said.lower()
