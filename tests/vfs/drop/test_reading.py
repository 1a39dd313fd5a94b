"""What is read of uploads and receipts: exactly what was written, or an error that says why not."""

from __future__ import annotations

import contextlib
import errno
import gzip
import itertools
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from ovafs.errors import NotReadable, ReadFailed, WrittenTwice
from ovafs.fuse.errnos import errno_of
from ovafs.transfer import archive as archive_module
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.transfer.ingest.target import TargetFormat
from ovafs.vfs.drop.entries import DROP_INODE, DropFile, Status
from ovafs.vfs.drop.folder import DropFolder
from tests.support.images import qemu_holds
from tests.support.packages import (
    MIB,
    QCOW2,
    RAW,
    STREAM,
    DiskText,
    archive,
    content,
    converted,
    descriptor,
    import_pool,
    manifest,
)
from tests.support.vmdk import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.packages import ImportPool

STATUS = Status(0o600, 0, 0)
STEP = 128 << 10
DISK = content(2 * MIB)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    with import_pool(tmp_path / "pool") as opened:
        yield opened


@contextlib.contextmanager
def folder(pool: ImportPool, target: str = "qcow2") -> Iterator[DropFolder]:
    """The drop directory of one mount."""
    choices = ImportChoices(format=TargetFormat(target))
    with contextlib.closing(DropFolder(pool.pool, choices, Status(0o700, 0, 0), 1 << 30)) as opened:
        yield opened


async def new_file(drop: DropFolder, name: bytes = b"web.ova") -> DropFile:
    file = await drop.create(DROP_INODE, name, STATUS)
    assert isinstance(file, DropFile)
    drop.open(file, 1, writes=True)
    return file


async def upload(drop: DropFolder, package: bytes, name: bytes = b"web.ova") -> DropFile:
    """A finished upload, with nobody who has it open."""
    file = await new_file(drop, name)
    await drop.write(file, 1, 0, package)
    await drop.flush(file, 1)
    drop.release(file, 1)
    return file


def receipt(drop: DropFolder, name: bytes = b"web.ova") -> DropFile:
    file = drop.lookup(DROP_INODE, name)
    assert isinstance(file, DropFile)
    drop.open(file, 9, writes=False)
    return file


async def assert_reads(drop: DropFolder, file: DropFile, expected: bytes, *, seed: int = 1, count: int = 12) -> None:
    """The whole and ranges of no meaning, up to the end and behind it."""
    rng = random.Random(seed)
    ranges = [(start, STEP) for start in range(0, len(expected), STEP)]
    ranges += [(rng.randrange(len(expected) + 1), rng.choice((1, 511, 4096, 70_000, MIB))) for _ in range(count)]
    for offset, length in [*ranges, (len(expected), 10), (len(expected) + 10_000, 10)]:
        found = await drop.read(file, offset, length)
        if found != expected[offset : offset + length]:  # rather than printing megabytes
            msg = f"{length} bytes at {offset} differ"
            raise AssertionError(msg)


def raw_package(tmp_path: Path) -> bytes:
    """Two raw disks, one of them ends inside a sector; small files of all kinds; zeros behind the end."""
    odd = content(300_000, 7)[:299_995]
    parts = {"web.ovf": descriptor(DiskText("a.raw", len(DISK)), DiskText("b.raw", None)), "a.raw": DISK, "b.raw": odd}
    del tmp_path
    return archive({**parts, "extra.txt": b"text" * 1000, "web.mf": manifest(parts)}) + bytes(50 * 512)


def kept_package(tmp_path: Path, *options: str) -> bytes:
    file = converted(tmp_path, DISK, "qcow2", *options)
    return archive({"web.ovf": descriptor(DiskText("disk", len(DISK), QCOW2)), "disk": file})


def chunked_package(tmp_path: Path) -> bytes:
    file = converted(tmp_path, DISK, "qcow2")
    chunks = {f"d.{n:09}": file[n * 300_000 : (n + 1) * 300_000] for n in range(-(-len(file) // 300_000))}
    return archive({"web.ovf": descriptor(DiskText("d", len(DISK), QCOW2, 'ovf:chunkSize="300000"')), **chunks})


def late_package(tmp_path: Path) -> bytes:
    """The descriptor last, behind a large disk, a small one and a small file."""
    del tmp_path
    small = content(8192, 5)
    text = descriptor(DiskText("a.raw", len(DISK)), DiskText("b.raw", len(small)))
    return archive({"readme": b"hello", "b.raw": small, "a.raw": DISK, "web.ovf": text})


def without_end(tmp_path: Path) -> bytes:
    del tmp_path
    return archive({"web.ovf": descriptor(DiskText("a.raw", len(DISK))), "a.raw": DISK}, end=False)


READABLE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "raw to qcow2": (raw_package, "qcow2"),
    "raw to raw": (raw_package, "raw"),
    "raw, kept": (raw_package, "keep"),
    "qcow2, kept": (kept_package, "keep"),
    "qcow2, compressed": (lambda path: kept_package(path, "-c"), "keep"),
    "qcow2, tables behind": (lambda path: kept_package(path, "-o", "preallocation=full"), "keep"),
    "chunks": (chunked_package, "keep"),
    "descriptor last": (late_package, "raw"),
    "no end": (without_end, "qcow2"),
}


@pytest.mark.parametrize("name", READABLE)
async def test_all_that_was_written_can_be_read(pool: ImportPool, tmp_path: Path, name: str) -> None:
    """While it arrives, after the import, and after a restart."""
    make, target = READABLE[name]
    package = make(tmp_path)
    with folder(pool, target) as drop:
        file = await new_file(drop)
        cuts = sorted({*range(0, len(package), 400_000), 100, 512, 1535, 1536, 1537, 3000, len(package)})
        for start, end in itertools.pairwise(cuts):
            await drop.write(file, 1, start, package[start:end])
            await assert_reads(drop, file, package[:end], seed=start, count=3)
        await drop.flush(file, 1)
        await assert_reads(drop, file, package)
        drop.release(file, 1)
        await assert_reads(drop, receipt(drop), package)
        pool.assert_whole(1)
    with folder(pool) as drop:
        await assert_reads(drop, receipt(drop), package, seed=3)


async def test_bytes_behind_a_gap_can_be_read(pool: ImportPool, tmp_path: Path) -> None:
    package = raw_package(tmp_path)
    with folder(pool) as drop:
        file = await new_file(drop)
        expected = bytearray(len(package))
        pieces = list(range(0, len(package), STEP))
        random.Random(4).shuffle(pieces)
        for start in pieces:
            await drop.write(file, 1, start, package[start : start + STEP])
            expected[start : start + STEP] = package[start : start + STEP]
            await assert_reads(drop, file, bytes(expected[: file.size]), count=2)
        await drop.flush(file, 1)
        await assert_reads(drop, file, package)


async def test_holes_and_a_size_that_was_set(pool: ImportPool, tmp_path: Path) -> None:
    """cp skips the holes of its source; syncthing sets the size first."""
    package = raw_package(tmp_path)
    hole = package.index(bytes(400_000))
    with folder(pool) as drop:
        file = await new_file(drop)
        await drop.resize(file, len(package) + 5000, 1)
        assert await drop.read(file, 100, 5000) == bytes(5000)
        await drop.write(file, 1, 0, package[:hole])
        await drop.write(file, 1, hole + 400_000, package[hole + 400_000 :])
        await assert_reads(drop, file, package + bytes(5000))
        await drop.flush(file, 1)
        await assert_reads(drop, file, package + bytes(5000))
    with folder(pool) as drop:
        await assert_reads(drop, receipt(drop), package + bytes(5000))


CONVERTED: dict[str, Callable[[Path], tuple[bytes, str, str]]] = {
    "vmdk": lambda _: (stream(DISK, "end").data, STREAM, ""),
    "qcow2": lambda path: (converted(path, DISK, "qcow2"), QCOW2, ""),
    "raw, gzip": lambda _: (gzip.compress(DISK, 1), RAW, 'ovf:compression="gzip"'),
}


@pytest.mark.parametrize("name", CONVERTED)
async def test_what_was_converted_cannot_be_read(
    pool: ImportPool, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture, expect_log: Callable[[str], None]
) -> None:
    expect_log("cannot be read: only raw disks, and qcow2")
    file, uri, attributes = CONVERTED[name](tmp_path)
    package = archive({"web.ovf": descriptor(DiskText("disk", len(DISK), uri, attributes)), "disk": file})
    with folder(pool) as drop:
        written = await new_file(drop)
        await drop.write(written, 1, 0, package[:500_000])
        start = package.index(file)
        assert await drop.read(written, 0, start) == package[:start]
        for _ in range(3):
            with pytest.raises(NotReadable, match="only raw disks"):
                await drop.read(written, 0, start + 5000)
        await drop.write(written, 1, 500_000, package[500_000:])
        await drop.flush(written, 1)
        for _ in range(3):
            with pytest.raises(NotReadable, match="only raw disks"):
                await drop.read(written, 0, 512)
        assert await drop.read(written, len(package), 512) == b""
    assert caplog.text.count("cannot be read") == 2, "once for each reason"
    pool.assert_whole(1)


async def test_a_large_file_that_is_no_disk_cannot_be_read(pool: ImportPool, expect_log: Callable[[str], None]) -> None:
    expect_log("cannot be read: only raw disks")
    package = archive({"web.ovf": descriptor(DiskText("a", len(DISK))), "a": DISK, "x.iso": content(2 * MIB, 9)})
    with folder(pool) as drop:
        file = await upload(drop, package)
        with pytest.raises(NotReadable):
            await drop.read(file, 0, 512)


async def test_an_upload_that_failed_cannot_be_read(pool: ImportPool, expect_log: Callable[[str], None]) -> None:
    expect_log("not imported|the upload failed")
    with folder(pool) as drop:
        file = await new_file(drop)
        with contextlib.suppress(Exception):
            await drop.write(file, 1, 0, b"rubbish" * 1000)
        file.upload.size = 7000  # type: ignore[union-attr]  # as if a part had been good
        with pytest.raises(NotReadable, match="the upload failed"):
            await drop.read(file, 0, 100)


def _touch(path: str, pool: ImportPool) -> None:
    del pool
    os.utime(path, (1, 1))


def _write(path: str, pool: ImportPool) -> None:
    del pool
    with open(path, "r+b") as file:  # whatever is locked
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def _replace(path: str, pool: ImportPool) -> None:
    del pool
    Path(f"{path}.new").write_bytes(Path(path).read_bytes())
    os.replace(f"{path}.new", path)


def _unlink(path: str, pool: ImportPool) -> None:
    del pool
    os.unlink(path)


def _remove_machine(path: str, pool: ImportPool) -> None:
    del path
    pool.pool.remove("web")


CHANGES: dict[str, tuple[Callable[[str, Any], None], str]] = {
    "times": (_touch, "has changed since it was imported"),
    "content": (_write, "has changed since it was imported"),
    "another file": (_replace, "has changed since it was imported"),
    "no file": (_unlink, "cannot be opened"),
    "no machine": (_remove_machine, "does not have the volume"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("target", ["qcow2", "keep"])
async def test_a_volume_that_is_not_what_it_was(
    pool: ImportPool, tmp_path: Path, name: str, target: str, expect_log: Callable[[str], None]
) -> None:
    """Never wrong bytes: not for those who open it later, nor (but for what needs no file) for those who read it."""
    change, message = CHANGES[name]
    expect_log(f"cannot be read: .*({message}|changed while it was in use)")
    package = kept_package(tmp_path) if target == "keep" else raw_package(tmp_path)
    with folder(pool, target) as drop:
        file = await upload(drop, package)
        read = receipt(drop)
        await assert_reads(drop, read, package, count=1)
        change(pool.pool.machines()[0].disks[0].volume.path, pool)
        if name in {"times", "content"}:
            with pytest.raises(NotReadable):
                await drop.read(file, package.index(DISK[:100]) + 5000, 100)
        drop.release(read, 9)
        drop.open(file, 10, writes=False)
        for _ in range(2):
            with pytest.raises(NotReadable, match=message):
                await drop.read(file, 0, 512)


async def test_a_volume_that_is_in_use(pool: ImportPool, tmp_path: Path, expect_log: Callable[[str], None]) -> None:
    expect_log("cannot be read: ")
    package = raw_package(tmp_path)
    with folder(pool, "raw") as drop:
        file = await upload(drop, package)
        path = pool.pool.machines()[0].disks[0].volume.path
        with qemu_holds(Path(path), "-f", "raw"), pytest.raises(NotReadable, match=r"writes to it|locked"):
            await drop.read(file, 0, 512)
        await assert_reads(drop, file, package, count=1)


async def test_damage_in_the_catalog_is_said(
    pool: ImportPool, tmp_path: Path, expect_log: Callable[[str], None]
) -> None:
    expect_log("is damaged|does not have")
    with folder(pool) as drop:
        file = await upload(drop, raw_package(tmp_path))
        good = _blob(pool)
        for cut in range(0, len(good), max(1, len(good) // 30)):
            _set_blob(pool, good[:cut] + bytes([good[cut] ^ 0x41]) + good[cut + 1 :])
            with pytest.raises(NotReadable):
                await drop.read(file, 0, 512)
            drop.release(file, 1)
        for cut in range(0, len(good), max(1, len(good) // 10)):
            _set_blob(pool, good[:cut])
            with pytest.raises(NotReadable):
                await drop.read(file, 0, 512)
    assert archive_module._MAX_BLOB < 64 << 20


async def test_storage_that_fails_is_an_error_of_its_own(
    pool: ImportPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_log: Callable[[str], None]
) -> None:
    """No reason to look for a converted disk."""
    expect_log("cannot be read: .*read at offset")
    package = raw_package(tmp_path)
    with folder(pool) as drop:
        file = await upload(drop, package)
        await assert_reads(drop, file, package, count=1)

        def fail(*_: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(ReadFailed):
            await drop.read(file, package.index(DISK[:100]) + 5000, 100)
    assert errno_of(NotReadable("x")) == errno.EOPNOTSUPP
    assert errno_of(ReadFailed("x", "y")) == errno.EIO


async def test_a_receipt_can_be_read_at_once_and_after_a_restart(pool: ImportPool, tmp_path: Path) -> None:
    package = raw_package(tmp_path)
    with folder(pool) as drop:
        file = await upload(drop, package)
        await assert_reads(drop, file, package, count=1)
        await drop.status_changed(file)
    with folder(pool) as drop:
        await assert_reads(drop, receipt(drop), package, count=1)


async def test_reads_beside_the_commit(pool: ImportPool, tmp_path: Path) -> None:
    """Whoever reads while the volumes get their names gets the same bytes."""
    package = raw_package(tmp_path)
    with folder(pool, "raw") as drop:
        file = await new_file(drop)
        await drop.write(file, 1, 0, package)
        done = trio.Event()

        async def read() -> None:
            while not done.is_set():
                await assert_reads(drop, file, package, count=1)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
            await drop.flush(file, 1)
            done.set()
        await assert_reads(drop, file, package, count=1)
    pool.assert_whole(1)


def _blob(pool: ImportPool) -> bytes:
    found = pool.pool.receipt_archive(pool.pool.receipts()[0].number)
    assert found is not None
    return found


def _set_blob(pool: ImportPool, blob: bytes) -> None:
    with pool.pool._change() as connection:
        connection.execute("UPDATE drop_entries SET archive = ?", (blob,))


async def test_equal_rewrites_are_taken_and_others_refused(
    pool: ImportPool, tmp_path: Path, expect_log: Callable[[str], None]
) -> None:
    expect_log("not imported: .* were taken in already")
    package = raw_package(tmp_path)
    with folder(pool) as drop:
        file = await new_file(drop)
        await drop.write(file, 1, 0, package[:MIB])
        await drop.write(file, 1, 0, package[:MIB])
        await drop.write(file, 1, 700_001, package[700_001 : MIB + 5000])
        assert file.size == MIB + 5000
        await drop.write(file, 1, MIB, package[MIB:])
        await drop.flush(file, 1)
        await drop.write(file, 1, 5, package[5:1000])
        with pytest.raises(WrittenTwice, match="the package was imported"):
            await drop.write(file, 1, 5, b"x" + package[6:1000])
        pool.assert_whole(1)
        await assert_reads(drop, file, package, count=2)
        other = await new_file(drop, b"other.ova")
        await drop.write(other, 1, 0, package[:MIB])
        with pytest.raises(WrittenTwice):
            await drop.write(other, 1, 600_000, b"x" * 10)
        pool.assert_whole(1)
    with folder(pool) as drop:
        file = receipt(drop)
        drop.open(file, 3, writes=True)
        await drop.write(file, 3, 1000, package[1000:200_000])
        with pytest.raises(WrittenTwice, match="was imported"):
            await drop.write(file, 3, 200_000, bytes([package[200_000] ^ 1]))
        await drop.flush(file, 3)
        await assert_reads(drop, file, package, count=2)
        pool.assert_whole(1)


async def test_another_upload_in_the_place_of_a_receipt_that_is_read(pool: ImportPool, tmp_path: Path) -> None:
    first, second = raw_package(tmp_path), late_package(tmp_path)
    with folder(pool) as drop:
        file = await upload(drop, first)
        drop.open(file, 2, writes=False)
        await assert_reads(drop, file, first, count=1)
        drop.open(file, 3, writes=True)
        await drop.truncate(file, 3)
        assert await drop.read(file, 0, 100) == b""
        await drop.write(file, 3, 0, second)
        await assert_reads(drop, file, second, count=1)
        await drop.flush(file, 3)
        await assert_reads(drop, file, second, count=1)
        pool.assert_whole(2)


async def test_a_receipt_that_is_renamed_and_touched_keeps_its_bytes(pool: ImportPool, tmp_path: Path) -> None:
    package = raw_package(tmp_path)
    with folder(pool) as drop:
        file = await upload(drop, package)
        await drop.rename(DROP_INODE, b"web.ova", DROP_INODE, b"other.ova", may_replace=True)
        file.status.mode = 0o644
        await drop.status_changed(file)
    with folder(pool) as drop:
        await assert_reads(drop, receipt(drop, b"other.ova"), package)
