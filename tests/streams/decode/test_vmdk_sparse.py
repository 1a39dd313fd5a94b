"""monolithicSparse VMDKs."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from ovafs.streams.decode.vmdk_sparse import VmdkSparseDecoder
from tests.support import images, vmdk
from tests.support.decoding import assert_decodes, assert_refused, assert_same, every, mutations, refusal

if TYPE_CHECKING:
    from pathlib import Path

GRAIN = 65536


def make(size: int | None = None) -> VmdkSparseDecoder:
    return VmdkSparseDecoder("disk.vmdk", size)


@pytest.mark.parametrize("size", [512, GRAIN, 3 * GRAIN + 1536, 70 << 20])
def test_what_qemu_img_writes(size: int, tmp_path: Path) -> None:
    rng = random.Random(size)
    content = bytearray(size)
    for _ in range(12):
        start = rng.randrange(0, size, 512)
        content[start : start + 5000] = rng.randbytes(5000)
    del content[size:]
    raw = tmp_path / "disk.raw"
    raw.write_bytes(content)
    image = images.convert(raw, tmp_path / "disk.vmdk", "raw", "vmdk", "-o", "subformat=monolithicSparse")
    assert_decodes(make, image.read_bytes(), bytes(content))


def test_a_file_of_a_living_machine(tmp_path: Path) -> None:
    """Grains in the order in which they were written."""
    image, size = tmp_path / "disk.vmdk", 20 << 20
    images.run("qemu-img", "create", "-q", "-f", "vmdk", image, size)
    for seed in range(3):
        images.scatter(image, size, seed=seed, form="vmdk", count=16)
    expected = images.convert(image, tmp_path / "disk.raw", "vmdk").read_bytes()
    assert_decodes(make, image.read_bytes(), expected)


GRAINS = {2: b"two" * 100, 0: b"zero", 1: b"one" * 20000, 4: b"end"}
CAPACITY = 4 * 128 + 1
CONTENT = b"".join(GRAINS.get(number, b"").ljust(GRAIN, b"\0") for number in range(5))[: CAPACITY * 512]


@pytest.mark.parametrize("tables_last", [False, True])
def test_grains_in_any_order_and_tables_at_either_end(tables_last: bool, tmp_path: Path) -> None:
    data = vmdk.sparse(CAPACITY, GRAINS, tables_last=tables_last)
    record = assert_decodes(make, data, CONTENT)
    assert bool(record.kept) == tables_last
    path = tmp_path / "disk.vmdk"
    path.write_bytes(data)
    assert_same(images.convert(path, tmp_path / "disk.raw", "vmdk").read_bytes(), CONTENT)


@pytest.mark.parametrize("grain", [16, 2048])
def test_grain_sizes(grain: int) -> None:
    grains = {0: b"a" * 100, 3: b"b" * grain * 512}
    content = b"".join(grains.get(number, b"").ljust(grain * 512, b"\0") for number in range(4))
    assert_decodes(make, vmdk.sparse(grain * 4, grains, grain=grain), content)


def test_the_entry_of_a_zeroed_grain() -> None:
    content = b"a".ljust(2 * GRAIN, b"\0")
    assert_decodes(make, vmdk.sparse(256, {0: b"a"}, flags=7, entries={1: 1}), content)
    assert_refused(make, vmdk.sparse(256, {0: b"a"}, flags=3, entries={1: 1}), "grain inside the metadata")


def test_byte_by_byte() -> None:
    content = b"a".ljust(512, b"\0")
    assert_decodes(make, vmdk.sparse(1, {0: b"a"}, grain=16), content, tiny=True)


GOOD = vmdk.sparse(CAPACITY, GRAINS)


def with_text(text: bytes) -> bytes:
    return vmdk.sparse(CAPACITY, GRAINS, text=text)


HOSTILE = {
    "grain twice": (vmdk.sparse(CAPACITY, GRAINS, entries={3: 128}), "shares bytes"),
    "grains that overlap": (vmdk.sparse(CAPACITY, GRAINS, entries={3: 129}), "shares bytes"),
    "grain behind the end": (vmdk.sparse(CAPACITY, GRAINS, entries={3: 1 << 31}), "behind the end"),
    "grain in the tables": (vmdk.sparse(CAPACITY, GRAINS, entries={3: 22}), "grain inside the metadata"),
    "table over the directory": (GOOD[: 21 * 512] + struct.pack("<I", 21) + GOOD[21 * 512 + 4 :], "shares bytes"),
    "table behind the end": (GOOD[: 21 * 512] + b"\xff" * 4 + GOOD[21 * 512 + 4 :], "behind the end"),
    "directory over the descriptor": (vmdk.header(1, flags=3, gd=5, algorithm=0) + GOOD[512:], "shares bytes"),
    "directory behind the end": (vmdk.header(1, flags=3, gd=1 << 50, algorithm=0) + GOOD[512:], "behind the end"),
    "no directory": (vmdk.header(1, flags=3, algorithm=0) + GOOD[512:], "no footer"),
    "stream without markers": (with_text(vmdk.descriptor()), "createType streamOptimized without markers"),
    "flat extent": (with_text(vmdk.descriptor("monolithicSparse", 'RW 1 FLAT "/etc/passwd" 0')), "type 'FLAT'"),
    "cut off": (GOOD[:-GRAIN], "behind the end"),
    "cut inside the header": (GOOD[:500], "ends inside the VMDK header"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str) -> None:
    data, message = HOSTILE[name]
    assert_refused(lambda: make(len(data)), data, message)
    assert_refused(make, data, "", every(1000, len(data)))


def test_a_grain_that_was_cut_off() -> None:
    """Of the last grain only what the disk has of it may be there, but that must be."""
    needed = len(GOOD) - GRAIN + 512
    assert_decodes(make, GOOD[:needed], CONTENT)
    for size in (None, needed - 1):
        assert refusal(make(size), GOOD[: needed - 1]) is not None


def test_mutations() -> None:
    for tables_last in (False, True):
        whole = vmdk.sparse(40, {0: b"a", 1: b"b"}, grain=16, tables_last=tables_last)
        for data in mutations(whole, 300, seed=5):
            refusal(make(None), data)
            refusal(make(len(data)), data, [100, 600, 12000])
