"""VHDs: those that QEMU writes, and those that nobody should."""

from __future__ import annotations

import random
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.formats.vhd import written_runs
from ovafs.streams.decode.vhd import VhdDynamicDecoder, VhdFixedDecoder
from tests.support import images, vhd
from tests.support.decoding import assert_decodes, assert_refused, assert_same, every, mutations, refusal
from tests.support.vhd import UNALLOCATED, block, dynamic_header, footer

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
BLOCK = 65536
AFTER = 4 + 1 + BLOCK // 512  # the sector behind the first block


def make(size: int | None = None) -> VhdDynamicDecoder:
    return VhdDynamicDecoder("disk.vhd", size)


def make_fixed(size: int | None = None) -> VhdFixedDecoder:
    return VhdFixedDecoder("disk.vhd", size)


def converted(content: bytes, folder: Path, subformat: str) -> bytes:
    raw = folder / "disk.raw"
    raw.write_bytes(content)
    options = ("-o", f"subformat={subformat},force_size=on")
    return images.convert(raw, folder / "disk.vhd", "raw", "vpc", *options).read_bytes()


@pytest.mark.parametrize("subformat", ["fixed", "dynamic"])
@pytest.mark.parametrize("size", [512, 2 * MIB, 9 * MIB + 1536])
def test_what_qemu_img_writes(size: int, subformat: str, tmp_path: Path) -> None:
    rng = random.Random(size)
    content = bytearray(size)
    for _ in range(12):
        start = rng.randrange(0, size, 512)
        content[start : start + 5000] = rng.randbytes(5000)
    del content[size:]
    data = converted(bytes(content), tmp_path, subformat)
    assert_decodes(make_fixed if subformat == "fixed" else make, data, bytes(content))


def test_a_file_of_a_living_machine(tmp_path: Path) -> None:
    """Blocks in the order in which they were written."""
    image, size = tmp_path / "disk.vhd", 20 * MIB
    images.run("qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size=on", image, size)
    for seed in range(3):
        images.scatter(image, size, seed=seed, form="vpc", count=16, zeros=False)
    expected = images.convert(image, tmp_path / "disk.raw", "vpc").read_bytes()
    assert_decodes(make, image.read_bytes(), expected)


@pytest.mark.parametrize("size", [0, 512, 5120])
def test_a_fixed_disk_byte_by_byte(size: int) -> None:
    content = random.Random(1).randbytes(size)
    assert_decodes(make_fixed, content + footer(size, kind=2), content, tiny=True)


def test_blocks_in_any_order(tmp_path: Path) -> None:
    data = vhd.image([AFTER, UNALLOCATED, 4, UNALLOCATED], [block(b"third"), block(b"first")])
    content = b"first".ljust(2 * BLOCK, b"\0") + b"third".ljust(2 * BLOCK, b"\0")
    assert_decodes(make, data, content)
    path = tmp_path / "disk.vhd"
    path.write_bytes(data)
    assert_same(images.convert(path, tmp_path / "disk.raw", "vpc").read_bytes(), content)


def test_sectors_that_were_never_written_are_zeros() -> None:
    """As Microsoft's document and VirtualBox have it; QEMU looks at no bitmap, and writes none but full ones."""
    data = vhd.image([4], [block(b"x" * BLOCK, range(3, 9))], size=BLOCK)
    content = bytes(3 * 512) + b"x" * (6 * 512) + bytes(BLOCK - 9 * 512)
    assert_decodes(make, data, content)


def test_a_table_behind_its_blocks() -> None:
    """Everything is kept until it comes."""
    blocks = block(b"first") + block(b"second", range(2))
    where = 1536 + len(blocks)
    head = dynamic_header(entries=2, table=where)
    table = struct.pack(">2I", 3, 3 + len(blocks) // 1024).ljust(512, b"\xff")
    copy = footer(2 * BLOCK)
    content = b"first".ljust(BLOCK, b"\0") + b"second".ljust(BLOCK, b"\0")
    record = assert_decodes(make, copy + head + blocks + table + copy, content)
    assert record.kept > 0


@given(st.sets(st.integers(0, 127)))
def test_runs_of_a_bitmap(sectors: set[int]) -> None:
    bits = sum(1 << 4095 - sector for sector in sectors)
    runs = list(written_runs(bits.to_bytes(512, "big"), 128))
    assert [sector for first, end in runs for sector in range(first, end)] == sorted(sectors)
    assert all(end < first for (_, end), (first, _) in pairwise(runs))


GOOD = vhd.image([AFTER, UNALLOCATED, 4, UNALLOCATED], [block(b"third"), block(b"first")])


def with_first(first: bytes) -> bytes:
    return vhd.image([4, UNALLOCATED, UNALLOCATED, UNALLOCATED], [block(b"a")], first=first)


def with_second(second: bytes) -> bytes:
    return vhd.image([4, UNALLOCATED, UNALLOCATED, UNALLOCATED], [block(b"a")], second=second)


SIZE = 4 * BLOCK
HOSTILE = {
    "no cookie": (with_first(footer(SIZE, cookie=b"x")), "cookie of its footer"),
    "wrong checksum": (with_first(footer(SIZE, checksum=False)), "checksum of its footer"),
    "version 2": (with_first(footer(SIZE, version=0x20000)), "VHD version 2.0"),
    "differencing": (with_first(footer(SIZE, kind=4)), "differencing VHD"),
    "of another type": (with_first(footer(SIZE, kind=5)), "VHD of the type 5"),
    "a fixed one in front": (with_first(footer(SIZE, kind=2)), "footer of a fixed VHD"),
    "saved state": (with_first(footer(SIZE, saved=1)), "in saved state"),
    "an odd size": (with_first(footer(1000)), "a disk of 1000 bytes"),
    "a header somewhere else": (with_first(footer(SIZE, data_offset=4096)), "its data offset is 4096"),
    "no second cookie": (with_second(dynamic_header(cookie=b"x")), "cookie of its dynamic header"),
    "second checksum": (with_second(dynamic_header(checksum=False)), "checksum of its dynamic header"),
    "second version": (with_second(dynamic_header(version=0x20000)), "dynamic VHD version 2.0"),
    "blocks of 1000": (with_second(dynamic_header(block=1000)), "blocks of 1000 bytes"),
    "blocks of 512": (with_second(dynamic_header(block=512)), "blocks of 512 bytes"),
    "too many blocks": (with_second(dynamic_header(entries=1 << 30)), "more than 1048576"),
    "too few blocks": (with_second(dynamic_header(entries=3)), "in 3 blocks of 65536"),
    "the table in the header": (with_second(dynamic_header(table=512)), "table is at 512"),
    "the table not at a sector": (with_second(dynamic_header(table=2000)), "table is at 2000"),
    "the table behind the end": (with_second(dynamic_header(table=1 << 40)), "behind the end"),
    "a block is the footer": (vhd.image([0] * 4, [block(b"a")]), "in the place of the footer"),
    "a block is the header": (vhd.image([1] + [UNALLOCATED] * 3, [block(b"a")]), "shares bytes"),
    "a block twice": (vhd.image([4, 4] + [UNALLOCATED] * 2, [block(b"a")]), "blocks that overlap"),
    "blocks that overlap": (vhd.image([4, 5] + [UNALLOCATED] * 2, [block(b"a")] * 2), "blocks that overlap"),
    "a block behind the end": (vhd.image([4, 1 << 31] + [UNALLOCATED] * 2, [block(b"a")]), "behind the end"),
    "a block over the footer": (
        vhd.image([4, AFTER] + [UNALLOCATED] * 2, [block(b"a"), block(b"b")[:-512]]),
        "does not end with the footer",
    ),
    "cut off": (GOOD[:-512], "does not end with the footer"),
    "another footer": (vhd.image([4] + [UNALLOCATED] * 3, [block(b"a")], last=footer(BLOCK)), "does not end with"),
    "cut inside a block": (GOOD[:-4096], "behind the end"),
    "cut inside the header": (GOOD[:700], "ends inside the header"),
    "cut inside the copy": (GOOD[:300], "ends inside the copy"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str) -> None:
    data, message = HOSTILE[name]
    assert_refused(lambda: make(len(data)), data, message)
    assert_refused(make, data, "", every(1000, len(data)))


FIXED_HOSTILE = {
    "no footer": (bytes(4096), "cookie"),
    "too short": (b"conectix", "too short"),
    "nothing": (b"", "too short"),
    "wrong checksum": (bytes(4096) + footer(4096, kind=2, checksum=False), "checksum"),
    "of another size": (bytes(4096) + footer(8192, kind=2), "its footer is of a disk of 8192 bytes"),
    "of a dynamic one": (bytes(4096) + footer(4096), "or of another kind"),
    "differencing": (bytes(4096) + footer(4096, kind=4), "differencing VHD"),
    "something behind it": (bytes(4096) + footer(4096, kind=2) + bytes(512), "cookie"),
}


@pytest.mark.parametrize("name", FIXED_HOSTILE)
def test_hostile_fixed_disks(name: str) -> None:
    data, message = FIXED_HOSTILE[name]
    for cuts in ((), every(100, len(data))):
        assert_refused(make_fixed, data, message, cuts)


def test_mutations() -> None:
    for data in mutations(GOOD, 300, seed=5, region=2600):
        refusal(make(None), data, [100, 600, 2000])
        refusal(make(len(data)), data)
