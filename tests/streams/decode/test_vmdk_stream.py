"""streamOptimized VMDKs: every layout and every writer, judged by qemu-img and by contents that are known."""

from __future__ import annotations

import gzip
import random
import struct
import tarfile
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.streams.decode.disk_file import DiskFileDecoder
from ovafs.streams.decode.vmdk_stream import VmdkStreamDecoder
from tests.support import images, vmdk
from tests.support.decoding import assert_decodes, assert_refused, assert_same, decode, every, mutations, refusal
from tests.support.shared import shared_path

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.vmdk import Stream

GRAIN = 65536


def disk(grains: dict[int, bytes], size: int, grain: int = GRAIN) -> bytes:
    """A disk of ``size`` bytes with the given first bytes of some grains."""
    content = bytearray(size)
    for number, data in grains.items():
        content[number * grain : number * grain + len(data)] = data
    return bytes(content[:size])


def make(size: int | None = None) -> VmdkStreamDecoder:
    return VmdkStreamDecoder("disk.vmdk", size)


# Two grain tables, grains (of 8 KiB) next to each other and apart, a last grain of three sectors.
SMALL_GRAIN = 16
CONTENT = disk(
    {0: b"first" * 1500, 1: random.Random(1).randbytes(8192), 5: b"x", 511: b"end of table", 512: b"A", 514: b"last"},
    514 * 8192 + 3 * 512,
    8192,
)


@pytest.mark.parametrize("layout", vmdk.LAYOUTS)
def test_every_layout(layout: str) -> None:
    made = vmdk.stream(CONTENT, layout, grain=SMALL_GRAIN)
    record = assert_decodes(make, made.data, CONTENT)
    assert record.kept == 0


@pytest.mark.parametrize("layout", vmdk.LAYOUTS)
def test_hand_made_streams_are_what_qemu_reads(layout: str, tmp_path: Path) -> None:
    """The samples that are made here are right: QEMU, which believes the tables, finds the same content."""
    path = tmp_path / "disk.vmdk"
    path.write_bytes(vmdk.stream(CONTENT, layout, grain=SMALL_GRAIN).data)
    assert_same(images.convert(path, tmp_path / "disk.raw", "vmdk").read_bytes(), CONTENT)


@pytest.mark.parametrize("layout", vmdk.LAYOUTS)
def test_byte_by_byte(layout: str) -> None:
    content = disk({0: b"a", 1: b"b" * 600}, 2 * GRAIN)
    assert_decodes(make, vmdk.stream(content, layout, level=9).data, content, tiny=True)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_stored_and_deflated_grains(level: int) -> None:
    assert_decodes(make, vmdk.stream(CONTENT, level=level, grain=SMALL_GRAIN).data, CONTENT)


@pytest.mark.parametrize("grain", [16, 64, 256, 2048])
def test_grain_sizes(grain: int) -> None:
    content = disk({0: b"a" * 5000, 20: b"b"}, 21 * GRAIN + 512)
    assert_decodes(make, vmdk.stream(content, grain=grain).data, content)


def test_grains_in_any_order() -> None:
    grains = vmdk.grains_of(CONTENT, SMALL_GRAIN)
    assert_decodes(make, vmdk.stream(CONTENT, grain=SMALL_GRAIN, grains=grains[::-1]).data, CONTENT)


def test_a_grain_of_zeros_is_a_hole() -> None:
    content = bytes(2 * GRAIN)
    record = assert_decodes(make, vmdk.stream(content, grains=[(0, bytes(GRAIN))]).data, content)
    assert record.writes == []


def test_a_short_last_grain() -> None:
    """QEMU compresses only what the disk has of it, others the whole grain."""
    content = disk({0: b"a", 1: b"b" * 1536}, GRAIN + 1536)
    made = vmdk.stream(content, grains=[(0, content[:GRAIN]), (128, content[GRAIN:])])
    assert_decodes(make, made.data, content)


def test_the_entry_of_a_zeroed_grain() -> None:
    """With flag 2, an entry of 1 is a grain of zeros that is not stored."""
    content = disk({0: b"a"}, 2 * GRAIN)
    made = vmdk.stream(content)
    parts = list(made.parts)
    table = bytearray(parts[5])
    struct.pack_into("<I", table, 4, 1)
    parts[5] = bytes(table)
    for index in (0, -2):
        head = bytearray(parts[index])
        head[8] |= 4
        parts[index] = bytes(head)
    assert_decodes(make, b"".join(parts), content)
    without_flag = b"".join([made.parts[0], *parts[1:-2], made.parts[-2], parts[-1]])
    assert_refused(make, without_flag, "grain inside the metadata")


@given(st.data())
def test_any_pieces(data: st.DataObject) -> None:
    made = vmdk.stream(SMALL, "between").data
    cuts = data.draw(st.lists(st.integers(1, len(made)), max_size=8))
    assert_same(decode(make(len(made)), made, cuts)[0], SMALL)


SMALL = disk({0: b"a" * 70, 1: b"b" * 700, 3: b"c"}, 4 * GRAIN)


# -- made by others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [GRAIN, 1000 * 512, 3 * GRAIN + 512, 40 << 20])
@pytest.mark.parametrize("last", [b"", b"text", random.Random(2).randbytes(GRAIN)], ids=["empty", "text", "random"])
def test_what_qemu_img_writes(size: int, last: bytes, tmp_path: Path) -> None:
    """No end of stream; the file ends with the last grain, or with zeros behind it."""
    content = disk({0: b"begin" * 3000, 15: b"middle"}, size)[: size - len(last)] + last
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.vmdk"
    raw.write_bytes(content)
    images.convert(raw, path, "raw", "vmdk", "-o", "subformat=streamOptimized")
    assert_decodes(make, path.read_bytes(), images.convert(path, tmp_path / "back.raw", "vmdk").read_bytes())


SAMPLES = ["even-end-stored2", "even-end-zl6", "even-front-stored2", "even-inter-stored2", "even-qemuso"]
SAMPLES += ["odd-end-stored2", "odd-qemuso"]


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_made_with_other_programs(name: str) -> None:
    folder = shared_path("samples/other/made-here-vmdk")
    expected = gzip.decompress((folder / f"{name.partition('-')[0]}.raw.gz").read_bytes())
    assert_decodes(make, (folder / f"{name}.vmdk").read_bytes(), expected)


VIRTUALBOX = {
    "ctl-virtio-ovf10.ova": ["d2"],
    "efi-scsi-ovf20-iso.ova": ["d2", "d3"],
    "linux-sata-nomf.ova": ["d1"],
    "linux-sata-ovf10.ova": ["d1"],
    "linux-sata-ovf20.ova": ["d1"],
    "two-vms-ovf10.ova": ["d1", "d2", "d3"],
}


@pytest.mark.parametrize("name", VIRTUALBOX)
def test_samples_of_virtualbox(name: str) -> None:
    folder = shared_path("samples/virtualbox")
    disks = vmdk_members(folder / name)
    assert len(disks) == len(VIRTUALBOX[name])
    for data, truth in zip(disks, VIRTUALBOX[name], strict=True):
        assert_decodes(make, data, gzip.decompress((folder / f"{truth}.raw.gz").read_bytes()))


EMPTY = {
    "ovftool/tdAppliance1-t2.ova": [2 << 30],
    "ovftool/tdAppliance1-t3-ovftool-4.1.0.ova": [1 << 30],
    "ovftool/tdAppliance1-t4.ova": [60 << 30, 20 << 30],
    "ovftool/tdAppliance1-t7-bad-instance.ova": [2 << 30],
    "other/harvester/test.ova": [8 << 30],
    "ovf-cot/blank.vmdk": [512 << 20],
    "ovf-cot/input.vmdk": [1 << 30],
    "ovf-cot/ubuntu.2.0-disk1.vmdk": [8 << 30],
    "other/open-ovf/py_tests_test_files_Ubuntu-0.vmdk": [1 << 30],
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_disks_of_many_writers(name: str) -> None:
    """ovftool (progress markers, gzip around), COT, open-ovf: all of them hold nothing."""
    path = shared_path(f"samples/{name}")
    disks = vmdk_members(path) if path.suffix == ".ova" else [path.read_bytes()]
    for data, size in zip(disks, EMPTY[name], strict=True):
        for step in (1000, len(data)):
            decoder = DiskFileDecoder(name, len(data))
            for start in range(0, len(data), step):
                assert list(decoder.receive_data(data[start : start + step])) == []
            assert list(decoder.finish()) == []
            assert decoder.virtual_size == size


def vmdk_members(path: Path) -> list[bytes]:
    with tarfile.open(path) as archive:
        members = [member for member in archive if ".vmdk" in member.name]
        return [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", vmdk.LAYOUTS)
def test_a_file_that_was_cut_off(layout: str) -> None:
    """At the edge of every part, and inside: refused, or nothing but what says nothing was lost."""
    made = vmdk.stream(CONTENT, layout, grain=SMALL_GRAIN)
    whole = made.data
    for edge in sorted({*made.edges, *(edge + 100 for edge in made.edges), len(whole) - 1}):
        assert_refused(lambda: make(len(whole)), whole[:edge], "ends after")
        if layout == "front" and edge == len(whole) - 512:
            continue  # the tables are in front, and all grains are there: what qemu-img writes
        assert refusal(make(edge), whole[:edge]) is not None, edge


def damaged(made: Stream, index: int, data: bytes) -> bytes:
    """The file with one part exchanged; parts: header, descriptor, padding, grains, tables …."""
    return b"".join([*made.parts[:index], data, *made.parts[index + 1 :]])


MADE = vmdk.stream(SMALL)
GRAINS = vmdk.grains_of(SMALL)
TEXT = MADE.parts[4]


def changed_header(**fields: int) -> bytes:
    sizes: dict[str, int] = {"capacity": len(SMALL) // 512, **fields}
    return damaged(MADE, 0, vmdk.header(**sizes))  # type: ignore[arg-type]


HOSTILE = {
    "grain twice": (vmdk.stream(SMALL, grains=[*GRAINS, GRAINS[0]]).data, "comes twice"),
    "grain behind the end": (vmdk.stream(SMALL, grains=[*GRAINS, (512, bytes(GRAIN))]).data, "not one of its grains"),
    "grain not aligned": (vmdk.stream(SMALL, grains=[*GRAINS, (3, bytes(GRAIN))]).data, "not one of its grains"),
    "grain far away": (damaged(MADE, 3, vmdk.raw_grain(1 << 60, b"x")), "not one of its grains"),
    "grain missing": (b"".join(MADE.parts[:3] + MADE.parts[4:]), "directory is missing"),
    "grain missing in the table": (vmdk.stream(SMALL, table_lies={0: 0}).data, "contradicts"),
    "grain elsewhere in the table": (vmdk.stream(SMALL, table_lies={0: 130, 128: 128}).data, "contradicts"),
    "one table for two": (damaged(MADE, 3, vmdk.grain_block(256, SMALL[:GRAIN])), "contradicts"),
    "no grain": (damaged(MADE, 3, vmdk.raw_grain(0, b"\xff" * 100)), "damaged"),
    "wrong checksum": (damaged(MADE, 3, vmdk.raw_grain(0, zlib.compress(SMALL[:GRAIN])[:-1] + b"!")), "damaged"),
    "short grain": (damaged(MADE, 3, vmdk.grain_block(0, SMALL[:512])), "does not hold 65536 bytes"),
    "long grain": (damaged(MADE, 3, vmdk.grain_block(0, bytes(GRAIN + 1))), "does not hold 65536 bytes"),
    "bomb": (damaged(MADE, 3, vmdk.grain_block(0, bytes(20 << 20))), "does not hold 65536 bytes"),
    "half a grain": (damaged(MADE, 3, vmdk.raw_grain(0, zlib.compress(SMALL[:GRAIN])[:40])), "does not hold"),
    "huge compressed size": (damaged(MADE, 3, vmdk.raw_grain(0, b"x", 0xFFFFFFFF)), "4294967295 compressed bytes"),
    "marker of another type": (damaged(MADE, 3, vmdk.marker(0, 5)), "marker of type 5"),
    "end of stream with a value": (damaged(MADE, 3, vmdk.marker(7, 0)), "end of stream with a value"),
    "too many tables": (damaged(MADE, 6, vmdk.marker(4 << 40, 1)), "too many"),
    "part of a table": (damaged(MADE, 6, vmdk.marker(3, 1)), "not whole"),
    "no directory": (b"".join(MADE.parts[:8] + MADE.parts[10:]), "directory is missing"),
    "no footer": (b"".join(MADE.parts[:10] + MADE.parts[-1:]), "without the end of the stream"),
    "no end of stream": (b"".join(MADE.parts[:-1]), "without the end of the stream"),
    "something behind the end": (MADE.data + b"x" * 512, "follows the end of the stream"),
    "grain behind the footer": (b"".join([*MADE.parts[:-1], TEXT, bytes(512)]), "follows the footer"),
    "directory three times": (b"".join([*MADE.parts[:8], *MADE.parts[8:10] * 3, *MADE.parts[10:]]), "more than 2"),
    "table elsewhere": (damaged(MADE, 9, struct.pack("<I", 5).ljust(512, b"\0")), "is not where the grain directory"),
    "footer of another disk": (damaged(MADE, -2, vmdk.header(1 << 20, gd=200)) + bytes(512), "contradicts the header"),
    "footer without a directory": (
        b"".join([*MADE.parts[:-2], vmdk.header(len(SMALL) // 512), bytes(512)]),
        "does not say where",
    ),
    "capacity of 2^60 sectors": (changed_header(capacity=1 << 60), "capacity of"),
    "capacity 0": (changed_header(capacity=0), "capacity of"),
    "descriptor at sector 2^50": (changed_header(descriptor_offset=1 << 50), "behind the first grain"),
    "descriptor of 2^50 sectors": (changed_header(descriptor_size=1 << 50), "more than 1 MiB"),
    "no overhead": (changed_header(overhead=0), "behind the first grain"),
    "overhead of 2^60 sectors": (changed_header(overhead=1 << 60), "ends before it"),
    "directory in the descriptor": (changed_header(gd=5), "shares bytes"),
    "directory over the first grain": (changed_header(gd=127, capacity=(1 << 25) + 1)[:65024] + bytes(5120), "overlap"),
    "descriptor of zeros": (damaged(MADE, 1, bytes(20 * 512)), "signature"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str) -> None:
    data, message = HOSTILE[name]
    assert_refused(make, data, message)
    assert_refused(lambda: make(len(data)), data, "", every(1000, len(data)))


def test_a_flat_extent_in_an_embedded_descriptor() -> None:
    text = vmdk.descriptor(extent='RW 2048 FLAT "/etc/passwd" 0')
    assert_refused(make, vmdk.stream(SMALL, text=text).data, "extent of type 'FLAT'")
    text = vmdk.descriptor("monolithicSparse")
    assert_refused(make, vmdk.stream(SMALL, text=text).data, "monolithicSparse with markers")


def test_mutations() -> None:
    """Whatever is done to a file: the content as it was, or the one error, or a grain that says something else."""
    for layout in vmdk.LAYOUTS:
        whole = vmdk.stream(SMALL, layout).data
        for data in mutations(whole, 150, seed=7):
            refusal(make(None), data)
            refusal(make(len(data)), data, [700, 9000])


def test_memory_is_bounded() -> None:
    """A stored disk of 64 MiB, in large pieces: a few grains at a time."""
    content = random.Random(5).randbytes(1 << 20) * 64
    data = vmdk.stream(content, level=0).data
    decoder = make(len(data))
    view = memoryview(data)
    tracemalloc.start()
    for start in range(0, len(view), 1 << 20):
        for event in decoder.receive_data(view[start : start + (1 << 20)]):
            del event
    list(decoder.finish())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
