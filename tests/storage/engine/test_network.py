"""Raw disks on the network, from servers of other projects: every byte, and what becomes of servers that fail."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import ImageUnavailable, ReadFailed, UnsupportedFeature
from ovafs.storage.engine import process as process_module
from ovafs.storage.engine.volume import open_engine_volume
from tests.support.engines import engines, model_volume
from tests.support.nbd_servers import nbdkit
from tests.support.network_disks import free_port, http, iscsi, nbd_tcp
from tests.support.pools import raw_image
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ovafs.storage.engine.engines import Engines
    from ovafs.storage.engine.volume import EngineVolume

MIB = 1 << 20


@pytest.fixture
def pool() -> Iterator[Engines]:
    with engines() as made:
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return raw_image(tmp_path / "disk.raw").path


async def read(volume: EngineVolume, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xee" * length)
    await volume.read_into(offset, memoryview(buffer))
    return bytes(buffer)


@contextlib.contextmanager
def nbd_unix(image: Path) -> Iterator[str]:
    with nbdkit("file", str(image)) as (export, _):
        yield f"nbd+unix:///?socket={export.path}"


@pytest.mark.parametrize("serve", [nbd_unix, nbd_tcp, http, iscsi])
async def test_every_byte(pool: Engines, image: Path, serve: Callable[[Path], AbstractContextManager[str]]) -> None:
    content = image.read_bytes()
    with serve(image) as location:
        with contextlib.closing(open_engine_volume(pool, model_volume(location, "raw"))) as volume:
            assert volume.virtual_size == len(content)
            assert volume.is_volatile
            assert (volume.path, volume.identities()) == (location, ())
            extents = volume.read_extents()
            assert 0 < sum(extents.lengths) <= len(content)
            assert await read(volume, 0, len(content)) == content
            assert await read(volume, 12_345, 700_001) == content[12_345:712_346]
            with contextlib.closing(open_engine_volume(pool, model_volume(location, "raw"))):
                assert [one.readers for one in pool.running()] == [2]
        assert pool.running() == []


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "luks"])
def test_only_raw(pool: Engines, image: Path, form: str) -> None:
    with nbd_tcp(image) as location, pytest.raises(UnsupportedFeature, match=f"format {form} on the network"):
        open_engine_volume(pool, model_volume(location, form))


def test_a_certificate_that_nobody_vouches_for(pool: Engines, tmp_path: Path, image: Path) -> None:
    pem = tmp_path / "pem"
    words = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1")
    run(*words, "-keyout", tmp_path / "key", "-out", tmp_path / "certificate")
    pem.write_bytes((tmp_path / "key").read_bytes() + (tmp_path / "certificate").read_bytes())
    with (
        http(image, pem) as location,
        pytest.raises(ImageUnavailable, match=r"QEMU cannot read it: CURL: .*certificate"),
    ):
        open_engine_volume(pool, model_volume(location, "raw"))


@pytest.mark.parametrize("protocol", ["nbd", "http", "iscsi"])
def test_nobody_there(pool: Engines, protocol: str) -> None:
    location = f"{protocol}://127.0.0.1:{free_port()}/iqn.2024-01.org.example:disk/1"
    with pytest.raises(ImageUnavailable, match=rf"{location}: QEMU cannot .*([Cc]onnect|refused).*; check the server"):
        open_engine_volume(pool, model_volume(location, "raw"))


def test_a_server_that_says_nothing(pool: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(process_module, "START_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        location = f"nbd://127.0.0.1:{server.getsockname()[1]}/x"
        with pytest.raises(ImageUnavailable, match=rf"{location}: qemu-nbd did not open it within"):
            open_engine_volume(pool, model_volume(location, "raw"))
    assert pool.running() == []


async def test_a_server_that_dies(pool: Engines, image: Path) -> None:
    with nbdkit("file", str(image)) as (export, process):
        location = f"nbd+unix:///?socket={export.path}"
        with contextlib.closing(open_engine_volume(pool, model_volume(location, "raw"))) as volume:
            volume.read_extents()
            process.kill()
            process.wait()
            with pytest.raises(ReadFailed, match=r"nbd\+unix:///\?socket=.*: qemu-nbd: the server says: "):
                await read(volume, 0, MIB)
            assert len(pool.running()) == 1  # that QEMU's server fails is no failure of QEMU


async def test_a_disk_with_a_bad_place(pool: Engines, tmp_path: Path, image: Path) -> None:
    content = image.read_bytes()
    with (
        nbdkit("--filter=error", "file", str(image), "error-pread-rate=100%", f"error-file={tmp_path}/bad") as (
            export,
            _,
        ),
        contextlib.closing(
            open_engine_volume(pool, model_volume(f"nbd+unix:///?socket={export.path}", "raw"))
        ) as volume,
    ):
        volume.read_extents()
        assert await read(volume, 0, 4096) == content[:4096]
        (tmp_path / "bad").touch()
        # QEMU's server ends the connection, and takes the next one.
        with pytest.raises(ReadFailed, match=r"qemu-nbd: .*Input/output error"):
            await read(volume, MIB * 3, 4096)
        os.unlink(tmp_path / "bad")
        assert await read(volume, MIB * 3, 4096) == content[MIB * 3 :][:4096]
