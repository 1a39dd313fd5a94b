"""VDIs: those that QEMU writes, and those that nobody should."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from ovafs.streams.decode.vdi import VdiDecoder
from tests.support import images, vdi
from tests.support.decoding import assert_decodes, assert_refused, assert_same, every, mutations, refusal
from tests.support.vdi import DISCARDED, MIB, UNALLOCATED

if TYPE_CHECKING:
    from pathlib import Path


def make(size: int | None = None) -> VdiDecoder:
    return VdiDecoder("disk.vdi", size)


def scattered(size: int) -> bytes:
    rng = random.Random(size)
    content = bytearray(size)
    for _ in range(12):
        start = rng.randrange(0, size, 512)
        content[start : start + 5000] = rng.randbytes(5000)
    return bytes(content[:size])


@pytest.mark.parametrize(
    ("size", "static"),
    [(512, "off"), (MIB, "off"), (7 * MIB + 1536, "off"), (300 * MIB, "off"), (512, "on"), (7 * MIB + 1536, "on")],
)
def test_what_qemu_img_writes(size: int, static: str, tmp_path: Path) -> None:
    content = scattered(size)
    raw = tmp_path / "disk.raw"
    raw.write_bytes(content)
    image = images.convert(raw, tmp_path / "disk.vdi", "raw", "vdi", "-o", f"static={static}")
    assert_decodes(make, image.read_bytes(), content)


def test_a_file_of_a_living_machine(tmp_path: Path) -> None:
    """Blocks in the order in which they were written."""
    image, size = tmp_path / "disk.vdi", 20 * MIB
    images.run("qemu-img", "create", "-q", "-f", "vdi", image, size)
    for seed in range(3):
        images.scatter(image, size, seed=seed, form="vdi", count=16, zeros=False)
    expected = images.convert(image, tmp_path / "disk.raw", "vdi").read_bytes()
    assert_decodes(make, image.read_bytes(), expected)


def test_blocks_in_any_order_and_discarded_ones(tmp_path: Path) -> None:
    data = vdi.image([1, DISCARDED, 0, UNALLOCATED], [b"third", b"first"])
    content = b"first".ljust(2 * MIB, b"\0") + b"third".ljust(2 * MIB, b"\0")
    assert_decodes(make, data, content)
    path = tmp_path / "disk.vdi"
    path.write_bytes(data)
    assert_same(images.convert(path, tmp_path / "disk.raw", "vdi").read_bytes(), content)


def test_the_map_behind_its_blocks_is_refused() -> None:
    first = vdi.header(map_offset=5 * MIB)
    assert_refused(make, vdi.image([0, 1, 2], [b"a", b"b", b"c"], first), "its blocks begin at")


HOSTILE = {
    "no signature": (vdi.image([0], [b"a"], vdi.header(signature=1)), "signature"),
    "version 2": (vdi.image([0], [b"a"], vdi.header(version=0x20000)), "VDI version 2.0"),
    "undo": (vdi.image([0], [b"a"], vdi.header(kind=3)), "an undo image"),
    "differencing": (vdi.image([0], [b"a"], vdi.header(kind=4)), "a differencing image"),
    "of another type": (vdi.image([0], [b"a"], vdi.header(kind=9)), "based on another image"),
    "with a parent": (vdi.image([0], [b"a"], vdi.header(parent=b"p")), "based on another image"),
    "linked": (vdi.image([0], [b"a"], vdi.header(linked=b"p")), "based on another image"),
    "sectors of 4 KiB": (vdi.image([0], [b"a"], vdi.header(sector=4096)), "sectors of 4096"),
    "small blocks": (vdi.image([0], [b"a"], vdi.header(block=4096)), "blocks of 4096"),
    "extra bytes": (vdi.image([0], [b"a"], vdi.header(extra=512)), "+ 512 bytes"),
    "too many blocks": (vdi.image([0], [b"a"], vdi.header(blocks=1 << 31)), "more than 4194304"),
    "a disk larger than its blocks": (vdi.image([0], [b"a"], vdi.header(blocks=1, size=2 * MIB)), "in 1 blocks"),
    "an odd size": (vdi.image([0], [b"a"], vdi.header(size=1000)), "a disk of 1000 bytes"),
    "the map in the header": (vdi.image([0], [b"a"], vdi.header(map_offset=0)), "block map is at 0"),
    "the map not at a sector": (vdi.image([0], [b"a"], vdi.header(map_offset=700)), "block map is at 700"),
    "blocks in the map": (vdi.image([0], [b"a"], vdi.header(data_offset=512)), "inside the block map"),
    "a block twice": (vdi.image([0, 0, UNALLOCATED], [b"a"]), "shares bytes"),
    "a block behind the end": (vdi.image([0, 1, 2], [b"a", b"b"]), "behind the end"),
    "a block far behind the end": (vdi.image([1 << 31, 0], [b"a"]), "behind the end"),
    "cut inside a block": (vdi.image([0, 1], [b"a", b"b"])[:-512], "behind the end"),
    "cut inside the map": (vdi.image([0], [], vdi.header(blocks=1 << 20, size=1 << 40, data_offset=8 * MIB)), "end"),
    "cut inside the header": (vdi.header()[:300], "ends inside the VDI header"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str) -> None:
    data, message = HOSTILE[name]
    assert_refused(lambda: make(len(data)), data, message)
    assert_refused(make, data, "", every(100_000, len(data)))


def test_mutations() -> None:
    whole = vdi.image([1, DISCARDED, 0], [b"a" * 1000, b"b" * 1000])
    for data in mutations(whole, 200, seed=5, region=600):
        refusal(make(None), data, [100, 600])
        refusal(make(len(data)), data)
