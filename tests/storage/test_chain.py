"""An open chain: reads that wait and reads that do not, changes underneath, cancelled readers, ranges for clones."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from ovafs.errors import ReadFailed, VolumeChanged
from ovafs.model import DiskFormat
from ovafs.storage import chain as chain_module
from ovafs.storage import qcow2
from ovafs.storage.backing import choose_format
from ovafs.storage.chain import open_chain
from ovafs.storage.source_file import SourceFile
from ovafs.streams.extents import ExtentMap
from tests.support.chains import check_reads, opened, read, read_disk
from tests.support.images import convert, create, io, make_chain, run

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 2 << 20


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    (path := tmp_path / "noise.raw").write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read of a file that must not wait finds nothing in memory."""
    real = os.preadv

    def preadv(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError(errno.EAGAIN, "would block")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr("ovafs.storage.source_file.os.preadv", preadv)


@pytest.fixture
def partly_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that must not wait give a part, or nothing; those that may wait come in pieces."""
    real = os.preadv
    rng = random.Random(1)

    def preadv(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags and rng.random() < 0.3:
            raise BlockingIOError(errno.EAGAIN, "would block")
        return real(descriptor, [buffers[0][: rng.randrange(1, len(buffers[0]) + 1)]], offset, flags)

    monkeypatch.setattr("ovafs.storage.source_file.os.preadv", preadv)


@pytest.mark.parametrize("speed", ["nothing_cached", "partly_cached"])
@pytest.mark.parametrize("kind", ["chain", "deflate", "raw"])
async def test_reads_that_wait(
    tmp_path: Path, noise: Path, kind: str, speed: str, request: pytest.FixtureRequest
) -> None:
    if kind == "chain":
        path = make_chain(tmp_path, 4, SIZE, raw_base=True)
    elif kind == "deflate":
        (tmp_path / "t.raw").write_bytes(b"some text " * (SIZE // 10))
        path = convert(tmp_path / "t.raw", tmp_path / "c.qcow2", "raw", "qcow2", "-c")
    else:
        path = noise
    form = "raw" if path.suffix == ".raw" else "qcow2"
    expected = convert(path, tmp_path / "expected", form).read_bytes()
    request.getfixturevalue(speed)
    with opened(path, form) as disk:
        await check_reads(disk, expected, count=10)


async def test_many_readers_at_once(tmp_path: Path, partly_cached: None) -> None:
    path = make_chain(tmp_path, 3, SIZE)
    expected = convert(path, tmp_path / "expected").read_bytes()
    with opened(path) as disk:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(check_reads, disk, expected)


async def test_cached_reads_take_no_thread(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a thread for a read from memory")

    expected = noise.read_bytes()
    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    with opened(noise, "raw") as disk:
        await check_reads(disk, expected)


async def test_read_behind_the_end_is_zeros(noise: Path) -> None:
    with opened(noise, "raw") as disk:
        assert await read(disk, SIZE - 100, 1000) == noise.read_bytes()[-100:] + bytes(900)


async def test_inflated_clusters_are_kept_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.raw").write_bytes(b"".join(b"%07d\n" % n for n in range(SIZE // 8)))
    path = convert(tmp_path / "t.raw", tmp_path / "c.qcow2", "raw", "qcow2", "-c")
    inflated = []
    real = qcow2.read_cluster

    def count(file: object, descriptor: int, header: object) -> bytes:
        inflated.append(descriptor)
        return real(file, descriptor, header)  # type: ignore[arg-type]

    monkeypatch.setattr(chain_module, "read_cluster", count)
    monkeypatch.setattr(chain_module, "INFLATED_BYTES", 4 << 16)
    with opened(path) as disk:
        for start in range(0, 3 << 16, 4096):
            assert await read(disk, start, 8) == b"%07d\n" % (start // 8)
        assert len(inflated) == 3
        await read_disk(disk)
        assert disk._inflated_size == sum(map(len, disk._inflated.values())) == 4 << 16


# -- what happens underneath -----------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", ["everything cached", "nothing_cached"])
@pytest.mark.parametrize("layer", [1, 2])
async def test_change_of_a_file_that_a_read_touched(
    tmp_path: Path, noise: Path, layer: int, speed: str, request: pytest.FixtureRequest
) -> None:
    """Only that file: a change of another file of the chain does not concern the read."""
    create(tmp_path / "2.qcow2", SIZE, backing=noise.name, backing_format="raw")
    io(tmp_path / "2.qcow2", "write -P 2 0 64k")
    if speed == "nothing_cached":
        request.getfixturevalue(speed)
    with opened(tmp_path / "2.qcow2") as disk:
        changed = noise if layer == 1 else tmp_path / "2.qcow2"
        with changed.open("r+b") as file:
            file.seek(SIZE - 1 if layer == 1 else 24 + 80)
            file.write(b"!")
        offset, other = (SIZE // 2, 0) if layer == 1 else (0, SIZE // 2)
        with pytest.raises(VolumeChanged) as caught:
            await read(disk, offset, 100)
        assert caught.value.path == str(changed)
        with pytest.raises(VolumeChanged):
            await read(disk, 60_000, 10_000)
        assert len(await read(disk, other, 100)) == 100
        with pytest.raises(VolumeChanged):
            disk.check_unchanged()


async def test_truncation_while_reading(noise: Path) -> None:
    with opened(noise, "raw") as disk:
        await read(disk, 0, 4096)
        os.truncate(noise, SIZE // 2)
        for offset in (0, SIZE // 2 - 100, SIZE - 4096):
            with pytest.raises(VolumeChanged):
                await read(disk, offset, 4096)


async def test_files_removed_while_reading(tmp_path: Path) -> None:
    path = make_chain(tmp_path, 3, SIZE)
    expected = convert(path, tmp_path / "expected").read_bytes()
    with opened(path) as disk:
        for number in (1, 2, 3):
            (tmp_path / f"disk-{number}.qcow2").unlink()
        await check_reads(disk, expected)


async def test_change_between_opening_and_mapping(tmp_path: Path) -> None:
    path = make_chain(tmp_path, 2, SIZE)
    disk = open_chain(str(path), DiskFormat.QCOW2)
    with (tmp_path / "disk-1.qcow2").open("ab") as file:
        file.write(b"!")
    with pytest.raises(VolumeChanged, match=r"disk-1\.qcow2"):
        disk.read_extents()
    disk.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Reads that wait for an event; the first event says that one has begun."""
    begun, go_on = threading.Event(), threading.Event()
    real = os.preadv

    def preadv(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError(errno.EAGAIN, "would block")
        begun.set()
        go_on.wait(20)
        return real(descriptor, buffers, offset)

    with monkeypatch.context() as patch:
        patch.setattr("ovafs.storage.source_file.os.preadv", preadv)
        yield begun, go_on
        go_on.set()


async def test_cancelled_reader(noise: Path, slow: tuple[threading.Event, threading.Event]) -> None:
    """It leaves at once; its thread writes into no buffer, and the file stays open until the thread is done."""
    begun, go_on = slow
    go_on.set()
    disk = open_chain(str(noise), DiskFormat.RAW)
    disk.read_extents()
    go_on.clear()
    begun.clear()
    buffer = bytearray(b"\xee" * 4096)
    with trio.move_on_after(0.05) as scope:
        await disk.read_into(0, memoryview(buffer))
    assert scope.cancelled_caught
    assert begun.is_set()
    descriptor = disk.files[0].fileno()
    disk.close()
    os.fstat(descriptor)
    go_on.set()
    for _ in range(500):
        if disk.files[0].fileno() < 0:
            break
        await trio.sleep(0.01)
    assert disk.files[0].fileno() < 0
    assert buffer == b"\xee" * 4096


async def test_a_chain_whose_storage_hangs_takes_no_threads_from_others(
    tmp_path: Path, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other := tmp_path / "other.raw").write_bytes(noise.read_bytes())
    real = os.preadv
    go_on = threading.Event()
    with opened(noise, "raw") as hanging, opened(other, "raw") as healthy:

        def preadv(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
            if flags:
                raise BlockingIOError(errno.EAGAIN, "would block")
            if descriptor == hanging.files[0].fileno():
                go_on.wait(20)
            return real(descriptor, buffers, offset)

        monkeypatch.setattr("ovafs.storage.source_file.os.preadv", preadv)
        async with trio.open_nursery() as nursery:
            for _ in range(60):  # more than the threads that trio gives to all
                nursery.start_soon(read, hanging, 0, 4096)
            await trio.sleep(0.1)
            with trio.fail_after(10):
                assert await read(healthy, 0, 4096) == noise.read_bytes()[:4096]
            assert not go_on.is_set()
            go_on.set()


async def test_no_look_at_a_file_of_which_nothing_was_in_memory(
    noise: Path, nothing_cached: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system that look would wait, on the event loop."""
    with opened(noise, "raw") as disk:
        loop = threading.get_ident()
        looked: list[int] = []
        real = type(disk.files[0]).check_unchanged

        def check_unchanged(file: SourceFile) -> None:
            looked.append(threading.get_ident())
            real(file)

        monkeypatch.setattr(SourceFile, "check_unchanged", check_unchanged)
        await read(disk, 0, 4096)
        assert looked
        assert loop not in looked


async def test_closed_chain_reads_nothing(noise: Path) -> None:
    with opened(noise, "raw") as disk:
        pass
    disk.close()
    with pytest.raises(ReadFailed):
        await read(disk, 0, 100)
    with pytest.raises(ReadFailed):
        disk.check_unchanged()


# -- what a chain says about itself ------------------------------------------------------------------------------


def test_identities(tmp_path: Path) -> None:
    path = make_chain(tmp_path, 2, SIZE)
    with opened(path) as disk:
        assert [name for name, _ in disk.identities()] == [str(path), str(tmp_path / "disk-1.qcow2")]
        assert [identity.inode for _, identity in disk.identities()] == [
            path.stat().st_ino,
            (tmp_path / "disk-1.qcow2").stat().st_ino,
        ]
        assert not disk.is_volatile


async def test_cached_extents(tmp_path: Path) -> None:
    path = make_chain(tmp_path, 3, SIZE)
    with opened(path) as disk:
        stored = disk.extents.to_bytes()
        expected = await read_disk(disk)
    disk = open_chain(str(path), DiskFormat.QCOW2)
    with pytest.raises(ValueError, match="not been read"):
        _ = disk.extents
    disk.use_extents(ExtentMap.from_bytes(stored))
    assert await read_disk(disk) == expected
    disk.close()
    with opened(tmp_path / "disk-1.qcow2") as base, pytest.raises(ValueError, match="longer chain"):
        base.use_extents(ExtentMap.from_bytes(stored))


# -- block devices -------------------------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A loop device and the file behind it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    (path := tmp_path / "device.img").write_bytes(bytes(1 << 20) + random.Random(1).randbytes(1 << 20))
    name = run("losetup", "--find", "--show", path).strip()
    yield name, path
    run("losetup", "--detach", name)


async def test_block_device(device: tuple[str, Path]) -> None:
    name, path = device
    disk = open_chain(name, DiskFormat.RAW)
    disk.read_extents()
    assert disk.is_volatile
    assert [(e.start, e.length) for e in disk.extents] == [(0, 2 << 20)]
    await check_reads(disk, path.read_bytes())
    disk.check_unchanged()
    disk.close()


async def test_block_device_under_an_overlay_and_as_qcow2(tmp_path: Path, device: tuple[str, Path]) -> None:
    name, _ = device
    top = create(tmp_path / "top.qcow2", 3 << 20, backing=name, backing_format="raw")
    io(top, "write -P 1 1M 64k")
    expected = convert(top, tmp_path / "expected").read_bytes()
    with opened(top) as disk:
        assert disk.is_volatile
        await check_reads(disk, expected)
    run("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
    with opened(Path(name)) as disk:
        assert await read(disk, 0, 4096) == bytes(4096)
        assert choose_format(name, None) == DiskFormat.QCOW2
