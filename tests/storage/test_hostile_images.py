"""Crafted images give an OvafsError by name, or the bytes that QEMU reads; never anything else, and in bounded time."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovafs.errors import ImageUnavailable, InvalidImage, OvafsError, UnsupportedFeature
from ovafs.model import DiskFormat
from ovafs.storage import chain
from ovafs.storage.chain import open_chain
from tests.support.chains import opened, read, read_disk
from tests.support.images import COPIED, compressed_entry, convert, create, deflated, hand_made, make_chain, run

if TYPE_CHECKING:
    from collections.abc import Callable

L1, L2 = 0x30000, 0x40000
DATA = b"D" * 65536
HOST_FILE = "/etc/hostname"
EXTENDED: dict[str, Any] = {"incompatible": 16, "size": 1 << 20}
LONG_NAME = b"x" * 2000


def mapped(*entries: int, tail: bytes = b"", **fields: Any) -> bytes:
    """An image whose L2 table begins with ``entries``; ``tail`` is what lies at 0x50000."""
    return hand_made(l1=[COPIED | L2], l2=entries or (0,), tail=tail, **fields)


def data_file_extension(name: bytes) -> bytes:
    return struct.pack(">II", 0x44415441, len(name)) + name.ljust(-(-len(name) // 8) * 8, b"\0")


def with_cluster_bits(number: int) -> bytes:
    return hand_made()[:20] + struct.pack(">I", number) + hand_made()[24:]


# What each image must say; the bytes of the others must be QEMU's (the next table).
REFUSED = {
    "backing_absent": (hand_made(backing=b"/nonexistent/base"), "cannot be opened: No such file"),
    "backing_directory": (hand_made(backing=b"/"), "neither a file nor a block device"),
    "backing_device": (hand_made(backing=b"/dev/zero"), "neither a file nor a block device"),
    "backing_nbd": (hand_made(backing=b"nbd://127.0.0.1:1/x"), "protocol 'nbd'"),
    "backing_json": (hand_made(backing=b'json:{"driver":"raw","file":{"filename":"/etc/passwd"}}'), "protocol 'json'"),
    "backing_long": (hand_made(backing=LONG_NAME), "more than 1023"),
    "data_file": (hand_made(incompatible=4, extensions=data_file_extension(b"/etc/passwd")), "external data file"),
    "data_file_no_name": (hand_made(incompatible=4), "external data file"),
    "unknown_bit": (hand_made(incompatible=1 << 40), "incompatible feature bit 40"),
    "dirty": (hand_made(incompatible=1), "dirty bit"),
    "corrupt": (hand_made(incompatible=2), "corrupt bit"),
    "size_largest": (hand_made(size=2**64 - 1), "too small"),
    "size_huge": (hand_made(size=2**63 - 512), "too small"),
    "l1_huge": (hand_made(l1_size=0x7FFFFFFF), "more than 32 MiB"),
    "l1_short": (hand_made(size=1 << 50), "too small"),
    "l1_behind_the_end": (hand_made(l1_offset=1 << 40), "L1 table at 1099511627776 lies behind the end"),
    "l1_unaligned": (hand_made(l1_offset=0x30001), "not aligned"),
    "l1_is_header": (hand_made(l1_offset=0), "overlaps the header"),
    "aes": (hand_made(crypt=1), "encryption (AES)"),
    "luks_without_header": (hand_made(crypt=2), "encryption (LUKS)"),
    "header_length_huge": (hand_made(header_length=0x7FFFFFF8), "header_length"),
    "extension_lies": (hand_made(extensions=struct.pack(">II", 0x6803F857, 0xFFFFFFF0)), "claims"),
    "refcount_order_7": (hand_made(refcount_order=7), "refcount_order is 7"),
    "l2_behind_the_end": (hand_made(l1=[COPIED | 1 << 45]), "is not an L2 table"),
    "l2_unaligned": (hand_made(l1=[COPIED | L2 | 0x200]), "is not an L2 table"),
    "l2_cut": (mapped()[: L2 + 100], "is not an L2 table"),
    "data_behind_the_end": (mapped(COPIED | 1 << 44), "behind the end of the file"),
    "data_at_the_end": (mapped(COPIED | 0x50000), "behind the end of the file"),
    "data_unaligned": (mapped(COPIED | 0x50200, tail=DATA), "not a cluster's offset"),
    "data_reserved_bit": (mapped(COPIED | 0x50000 | 1 << 60, tail=DATA), "not a cluster's offset"),
    "zero_reserved_bit": (mapped(3), "not a cluster's offset"),
    "compressed_behind_the_end": (mapped(compressed_entry(0x50000, 100)), "behind the end"),
    "zero_in_version_2": (mapped(1, version=2), "version 2"),
    "subcluster_both": (mapped(COPIED | 0x50000, 1 << 32 | 1, **EXTENDED, tail=DATA), "contradicts itself"),
    "subcluster_nowhere": (mapped(0, 1, **EXTENDED), "contradicts itself"),
    "cut_in_header": (hand_made()[:60], "cut off after 60 bytes"),
    "version_1": (b"QFI\xfb" + struct.pack(">I", 1) + bytes(600), "qcow2 version 1"),
    "version_4": (hand_made(version=4), "qcow2 version 4"),
    **{f"cluster_bits_{n}": (with_cluster_bits(n), f"cluster_bits is {n}") for n in (8, 31, 63)},
    "nothing": (b"", "not a qcow2 image"),
    "text": (b"hello", "not a qcow2 image"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path: Path, name: str) -> None:
    data, reason = REFUSED[name]
    (path := tmp_path / "a.qcow2").write_bytes(data)
    with pytest.raises(OvafsError) as caught, opened(path):
        pass
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


BAD_DEFLATE = mapped(compressed_entry(0x50000, 512), tail=b"\xff" * 512)
SHORT_DEFLATE = mapped(compressed_entry(0x50000, 512), tail=deflated(b"x" * 65535).ljust(512, b"\0"))
LONG_DEFLATE = mapped(compressed_entry(0x50000, 512), tail=deflated(b"x" * 65537).ljust(512, b"\0"))
CUT_DEFLATE = mapped(compressed_entry(0x50000, 512), tail=deflated(bytes(range(256)) * 256)[:-20])
NO_ZSTD = mapped(
    compressed_entry(0x50000, 512), tail=b"\xff" * 512, incompatible=8, header_length=112, after_header=b"\1" + bytes(7)
)


@pytest.mark.parametrize("data", [BAD_DEFLATE, SHORT_DEFLATE, LONG_DEFLATE, CUT_DEFLATE, NO_ZSTD])
async def test_compressed_rubbish_fails_where_it_is_read(tmp_path: Path, data: bytes) -> None:
    (path := tmp_path / "a.qcow2").write_bytes(data)
    with opened(path) as disk:
        assert await read(disk, 65536, 65536) == bytes(65536)
        with pytest.raises(InvalidImage, match="compressed cluster"):
            await read(disk, 100, 100)


READABLE = {
    "ok": hand_made(),
    "backing_absolute": hand_made(size=1 << 20, backing=HOST_FILE.encode()),
    "snapshots_huge": hand_made(snapshots=2**32 - 1, snapshots_offset=0x10000),
    "refcount_table_behind_the_end": hand_made(refcount_offset=1 << 50),
    "l2_is_header": hand_made(l1=[COPIED]),
    "one_cluster_many_times": mapped(*[COPIED | 0x50000] * 64, tail=DATA),
    "data_is_refcount_table": mapped(COPIED | 0x10000),
    "data_is_l2": mapped(COPIED | L2, COPIED | L1),
    "copied_flag_only": mapped(COPIED, COPIED, 0, COPIED | 0x50000, tail=DATA),
    "zeros_with_place": mapped(COPIED | 0x50001, 1, 0x10001, tail=DATA),
    "compressed": mapped(compressed_entry(0x50000, 600), tail=deflated(DATA)),
    "compressed_unaligned": mapped(
        compressed_entry(0x50123, 600), tail=b"\xaa" * 0x123 + deflated(DATA) + b"\xbb" * 512
    ),
}


@pytest.mark.parametrize("name", READABLE)
async def test_readable_as_qemu_reads(tmp_path: Path, name: str) -> None:
    data = bytearray(READABLE[name])
    data[24:32] = (1 << 20).to_bytes(8, "big")
    (path := tmp_path / "a.qcow2").write_bytes(data)
    with opened(path) as disk:
        got = await read_disk(disk)
    if name in {"snapshots_huge", "refcount_table_behind_the_end"}:
        expected = bytes(1 << 20)  # QEMU refuses them, for what no reader of the disk needs
    elif name == "backing_absolute":
        expected = Path(HOST_FILE).read_bytes().ljust(1 << 20, b"\0")  # a pool's own images may name any file
    else:
        expected = convert(path, tmp_path / "expected").read_bytes()
    assert got == expected


async def test_bomb_is_read_a_cluster_at_a_time(tmp_path: Path) -> None:
    """512 GiB of data in 12 MiB of file: a map of 262,144 rows, and a read inflates no more than it needs."""
    cluster = 1 << 21
    packed = deflated(b"\xa5" * cluster)
    entry = compressed_entry(5 * cluster, len(packed), 21)
    image = hand_made(cluster_bits=21, size=cluster * (cluster // 8), l1=[COPIED | 4 * cluster],
                      l2=[entry] * (cluster // 8), tail=packed)  # fmt: skip
    (path := tmp_path / "a.qcow2").write_bytes(image)
    with opened(path) as disk:
        assert len(disk.extents) == 262_144
        assert await read(disk, 300 << 30, 5 << 20) == b"\xa5" * (5 << 20)


def test_extents_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "MAX_EXTENTS", 10)
    path = make_chain(tmp_path, 5)
    with pytest.raises(UnsupportedFeature, match="extents"), opened(path):
        pass


# -- chains ------------------------------------------------------------------------------------------------------


def test_loops(tmp_path: Path) -> None:
    one, two = tmp_path / "1.qcow2", tmp_path / "2.qcow2"
    for path, name in ((one, "2.qcow2"), (two, "link.qcow2")):
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", path, "1M")
    (tmp_path / "link.qcow2").symlink_to("1.qcow2")
    with pytest.raises(InvalidImage, match="leads back") as caught:
        open_chain(str(one), DiskFormat.QCOW2)
    assert f"(backing file of {two})" in str(caught.value)


def test_own_backing_file(tmp_path: Path) -> None:
    path = tmp_path / "1.qcow2"
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "1.qcow2", "-F", "qcow2", path, "1M")
    with pytest.raises(InvalidImage, match="leads back"):
        open_chain(str(path), DiskFormat.QCOW2)


@pytest.mark.parametrize(("files", "opens"), [(200, True), (201, False)])
def test_depth(tmp_path: Path, files: int, opens: bool) -> None:
    for number in range(files):
        backing = f"{number - 1}.qcow2".encode() if number else b""
        extension = struct.pack(">II5s3x", 0xE2792ACA, 5, b"qcow2")
        image = hand_made(cluster_bits=9, size=512, backing=backing, extensions=extension)
        (tmp_path / f"{number}.qcow2").write_bytes(image)
    top = tmp_path / f"{files - 1}.qcow2"
    if opens:
        with opened(top) as disk:
            assert len(disk.files) == 200
    else:
        with pytest.raises(UnsupportedFeature, match="more than 200 files"):
            open_chain(str(top), DiskFormat.QCOW2)


def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ImageUnavailable, match="neither a file nor a block device"):
            open_chain(str(path), DiskFormat.RAW)


def test_path_with_a_zero_byte() -> None:
    with pytest.raises(ImageUnavailable):
        open_chain("a\0b", DiskFormat.RAW)


def test_raw_is_never_looked_into(tmp_path: Path) -> None:
    (path := tmp_path / "a.raw").write_bytes(hand_made(backing=b"/nonexistent"))
    with opened(path, "raw") as disk:
        assert disk.virtual_size == path.stat().st_size


# -- mutations ---------------------------------------------------------------------------------------------------


def plain(folder: Path) -> Path:
    path = folder / "plain.qcow2"
    entries = [COPIED | 0x1C00, 1, 0, COPIED | 0x1E00, compressed_entry(0x2000, 40, 9)]
    image = bytearray(hand_made(cluster_bits=9, size=64 << 9, l1=[COPIED | 4 << 9], l2=entries))
    image += bytes(0x1C00 - len(image)) + b"a" * 512 + b"b" * 512 + deflated(b"c" * 512)
    path.write_bytes(image)
    return path


def extended(folder: Path) -> Path:
    path = create(folder / "extended.qcow2", 1 << 20, extended_l2="on", cluster_size="16k")
    run("qemu-io", "-c", "write -P 1 0 1k", "-c", "write -P 2 20k 512", "-c", "write -z 40k 1k", path)
    return path


def zstd(folder: Path) -> Path:
    (source := folder / "s.raw").write_bytes(b"text " * 20_000)
    return convert(source, folder / "zstd.qcow2", "raw", "qcow2", "-c", "-o", "compression_type=zstd,cluster_size=4k")


@pytest.fixture(scope="module", params=[plain, extended, zstd], ids=lambda build: build.__name__)
def valid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    build: Callable[[Path], Path] = request.param
    return build(tmp_path_factory.mktemp("valid")).read_bytes()


positions = st.one_of(st.integers(0, 120), st.integers(0, 1 << 18))
bytes_or_bits = st.one_of(
    st.binary(min_size=1, max_size=8), st.sampled_from([b"\0", b"\xff", b"\x80", b"\x40", b"\1", b"\2"])
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(positions, bytes_or_bits), min_size=1, max_size=4), cut=st.integers(0, 1 << 19))
def test_mutated_images_give_the_right_bytes_or_an_error(
    valid: bytes, tmp_path: Path, changes: list[tuple[int, bytes]], cut: int
) -> None:
    image = bytearray(valid)
    for position, new in changes:
        start = position % len(image)
        image[start : start + len(new)] = new[: len(image) - start]
    if cut % 4 == 0:
        del image[cut % len(image) :]
    (path := tmp_path / "a.qcow2").write_bytes(image)
    try:
        with opened(path) as disk:
            size = min(disk.virtual_size, 1 << 20)
            got = trio.run(read, disk, 0, size)
    except OvafsError:
        return
    assert got == qemu_reads(path, size) or not qemu_opens(path)


def qemu_reads(path: Path, size: int) -> bytes:
    target = path.with_suffix(".raw")
    target.unlink(missing_ok=True)
    command = [
        "qemu-img",
        "dd",
        "-f",
        "qcow2",
        "-O",
        "raw",
        "bs=64k",
        f"count={-(-size // 65536)}",
        f"if={path}",
        f"of={target}",
    ]
    subprocess.run(command, capture_output=True, check=False, timeout=60)
    return target.read_bytes()[:size] if target.exists() else b""


def qemu_opens(path: Path) -> bool:
    """False for images that QEMU refuses for something that no reader of the disk needs (snapshots, refcounts)."""
    done = subprocess.run(
        ["qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", str(path)], capture_output=True, check=False
    )
    return done.returncode == 0
