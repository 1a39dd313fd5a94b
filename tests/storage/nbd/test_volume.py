"""Disks behind real NBD servers: what they store, every byte, and what becomes of servers that fail."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from ovafs.errors import ImageUnavailable, ReadFailed, UnsupportedFeature
from ovafs.formats.nbd import Export
from ovafs.storage.nbd import connection as connection_module
from ovafs.storage.nbd import volume as volume_module
from ovafs.storage.nbd.volume import open_nbd
from tests.support.images import convert, make_chain, scatter
from tests.support.nbd_servers import nbdkit, qemu_nbd, storage_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.storage.nbd.volume import NbdVolume

MIB = 1 << 20


@contextlib.contextmanager
def opened(export: Export) -> Iterator[NbdVolume]:
    with contextlib.closing(open_nbd(export)) as volume:
        volume.read_extents()
        yield volume


async def read(volume: NbdVolume, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xee" * length)
    await volume.read_into(offset, memoryview(buffer))
    return bytes(buffer)


async def stored(volume: NbdVolume) -> bytes:
    """The whole disk, as its extents say: zeros elsewhere."""
    disk = bytearray(volume.virtual_size)
    for extent in volume.extents:
        disk[extent.start : extent.start + extent.length] = await read(volume, extent.start, extent.length)
    return bytes(disk)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return make_chain(tmp_path, 3)


async def test_a_chain_served_by_qemu(chain: Path, tmp_path: Path) -> None:
    expected = convert(chain, tmp_path / "raw").read_bytes()
    with qemu_nbd(chain, "qcow2") as export, opened(export) as volume:
        assert volume.virtual_size == len(expected)
        assert 0 < sum(volume.extents.lengths) < len(expected)
        assert await stored(volume) == expected
        assert await read(volume, 0, len(expected)) == expected


async def test_an_export_with_a_name(chain: Path, tmp_path: Path) -> None:
    expected = convert(chain, tmp_path / "raw").read_bytes()
    with storage_daemon(chain, "qcow2", "vda") as export:
        with opened(export) as volume:
            assert await stored(volume) == expected
        with pytest.raises(
            ImageUnavailable, match=r"nbd\+unix:///vdb\?socket=.*: block status vdb: there is no such export"
        ):
            open_nbd(export._replace(name="vdb"))


async def test_many_readers_at_once(chain: Path, tmp_path: Path) -> None:
    expected = convert(chain, tmp_path / "raw").read_bytes()
    found: dict[int, bytes] = {}

    async def one(volume: NbdVolume, offset: int) -> None:
        found[offset] = await read(volume, offset, 100_003)

    with qemu_nbd(chain, "qcow2") as export, opened(export) as volume:
        async with trio.open_nursery() as nursery:
            for offset in range(0, len(expected), 100_003):
                nursery.start_soon(one, volume, offset)
        assert len(volume._idle) == volume_module.MAX_CONNECTIONS
    assert b"".join(found[offset] for offset in sorted(found))[: len(expected)] == expected


async def test_a_reader_that_gives_up_harms_no_other(chain: Path, tmp_path: Path) -> None:
    expected = convert(chain, tmp_path / "raw").read_bytes()
    with (
        nbdkit("--filter=delay", "file", str(tmp_path / "raw"), "rdelay=300ms") as (export, _),
        opened(export) as volume,
    ):
        with trio.move_on_after(0.1) as scope:
            await read(volume, 0, MIB)
        assert scope.cancelled_caught
        assert await read(volume, 4096, 4096) == expected[4096:8192]


async def test_a_disk_that_ends_inside_a_sector(tmp_path: Path) -> None:
    content = os.urandom(5000)
    (tmp_path / "raw").write_bytes(content)
    with nbdkit("file", str(tmp_path / "raw")) as (export, _), opened(export) as volume:
        assert volume.virtual_size == 5120
        assert await read(volume, 0, 5120) == content + bytes(120)
        assert await read(volume, 4999, 3) == content[4999:] + bytes(2)
        assert await read(volume, 5000, 100) == bytes(100)


async def test_a_server_that_reads_whole_blocks_only(tmp_path: Path) -> None:
    content = os.urandom(64 << 10)
    (tmp_path / "raw").write_bytes(content)
    words = ("--filter=blocksize-policy", "file", str(tmp_path / "raw"), "blocksize-minimum=4096")
    with (
        nbdkit(*words, "blocksize-maximum=16384", "blocksize-error-policy=error") as (export, _),
        opened(export) as volume,
    ):
        assert await read(volume, 1, 40_000) == content[1:40_001]
        assert await read(volume, 4096, 8192) == content[4096 : 3 * 4096]
        assert await stored(volume) == content


async def test_a_large_disk_is_asked_in_parts(tmp_path: Path) -> None:
    with nbdkit("data", "@0x180000000 1 2 3 @0x280000000 4", "size=20G") as (export, _), opened(export) as volume:
        assert volume.virtual_size == 20 << 30
        assert [extent.start for extent in volume.extents] == [0x180000000, 0x280000000]
        assert await read(volume, 0x180000000 - 1, 5) == b"\0\1\2\3\0"


async def test_too_many_extents(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_module, "MAX_EXTENTS", 2)
    with (
        qemu_nbd(chain, "qcow2") as export,
        contextlib.closing(open_nbd(export)) as volume,
        pytest.raises(UnsupportedFeature, match="more than 2 extents"),
    ):
        volume.read_extents()


async def test_an_error_of_the_storage_is_one_of_the_read_only(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"x" * MIB)
    gate = tmp_path / "fail"
    words = (
        "--filter=error",
        "file",
        str(tmp_path / "raw"),
        "error-pread=ENOSPC",
        "error-pread-rate=100%",
        f"error-file={gate}",
    )
    with nbdkit(*words) as (export, _), opened(export) as volume:
        gate.touch()
        with pytest.raises(ReadFailed, match="the server says: ENOSPC; see the log of the program that serves"):
            await read(volume, 0, 4096)
        gate.unlink()
        assert await read(volume, 0, 4096) == b"x" * 4096
        assert len(volume._idle) == 1, "the connection is still good"


async def test_a_server_that_ends(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"x" * MIB)
    with nbdkit("file", str(tmp_path / "raw")) as (export, process), opened(export) as volume:
        process.kill()
        process.wait()
        with pytest.raises(ReadFailed, match=r"the server closed the connection|reset by peer|Broken pipe"):
            await read(volume, 0, 4096)
        with pytest.raises(ReadFailed, match="cannot be opened: Connection refused"):
            await read(volume, 0, 4096)


async def test_a_server_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").write_bytes(b"x" * MIB)
    with (
        nbdkit("--filter=delay", "file", str(tmp_path / "raw"), "rdelay=30") as (export, process),
        opened(export) as volume,
    ):
        monkeypatch.setattr(connection_module, "ANSWER_SECONDS", 0.2)
        with pytest.raises(ReadFailed, match="the server did not answer within 0 s"):
            await read(volume, 0, 4096)
        process.kill()


def test_nobody_serves(tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match=r"cannot be opened: No such file or directory; check the program"):
        open_nbd(Export(str(tmp_path / "none"), ""))


def _answer(listener: socket.socket, said: bytes) -> None:
    peer, _ = listener.accept()
    with peer, contextlib.suppress(OSError):  # the client is gone as soon as it knows
        peer.sendall(said)
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it is no NBD server"),
        (b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53" + bytes(200), "it is no NBD server"),
        (b"NBDMAGIC", "the server closed the connection|reset by peer"),
    ],
)
def test_somebody_else_serves(said: bytes, message: str) -> None:
    name = f"/tmp/nbd-{hashlib.sha256(said).hexdigest()[:8]}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        thread = threading.Thread(target=_answer, args=(listener, said))
        thread.start()
        try:
            with pytest.raises(ImageUnavailable, match=f"cannot be opened: .*({message})"):
                open_nbd(Export(name, ""))
        finally:
            os.unlink(name)
            thread.join()


async def test_a_closed_disk(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"x" * MIB)
    with nbdkit("file", str(tmp_path / "raw")) as (export, _):
        volume = open_nbd(export)
        volume.close()
        volume.close()
        with pytest.raises(ReadFailed, match="is closed"):
            await read(volume, 0, 512)


async def test_scattered_data(tmp_path: Path) -> None:
    image = make_chain(tmp_path, 1, 64 << 20, name="scattered")
    scatter(image, 64 << 20, seed=3, count=60)
    expected = convert(image, tmp_path / "raw").read_bytes()
    with qemu_nbd(image, "qcow2") as export, opened(export) as volume:
        assert await stored(volume) == expected
