"""Disks in formats that QEMU reads: every byte, and what becomes of processes and files that fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from ovafs.errors import ImageUnavailable, InvalidImage, ReadFailed, UnsupportedFeature, VolumeBusy, VolumeChanged
from ovafs.storage.engine import process as process_module
from ovafs.storage.engine.volume import open_engine_volume
from ovafs.storage.nbd import connection as connection_module
from tests.support import vmdk
from tests.support.engines import FORMATS, engines, foreign_image, is_running, model_volume, settle, wait_until
from tests.support.filesystems import loop_device
from tests.support.images import convert, create, encrypted, make_chain, qemu_holds, run, scatter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ovafs.storage.engine.engines import Engines
    from ovafs.storage.engine.volume import EngineVolume

MIB = 1 << 20


@pytest.fixture
def pool() -> Iterator[Engines]:
    with engines() as made:
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = foreign_image(tmp_path, "vmdk")
    settle(path)
    return path


@contextlib.contextmanager
def opened(pool: Engines, path: Path | str, form: str = "vmdk", secret: Path | str = "") -> Iterator[EngineVolume]:
    with contextlib.closing(open_engine_volume(pool, model_volume(path, form, str(secret)))) as volume:
        volume.read_extents()
        yield volume


async def read(volume: EngineVolume, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xee" * length)
    await volume.read_into(offset, memoryview(buffer))
    return bytes(buffer)


async def stored(volume: EngineVolume) -> bytes:
    """The whole disk, as its extents say: zeros elsewhere."""
    disk = bytearray(volume.virtual_size)
    for extent in volume.extents:
        disk[extent.start : extent.start + extent.length] = await read(volume, extent.start, extent.length)
    return bytes(disk)


def only_pid(pool: Engines) -> int:
    (one,) = pool.running()
    return one.pid


# -- bytes


@pytest.mark.parametrize("form", FORMATS)
async def test_every_byte_is_what_qemu_reads(pool: Engines, tmp_path: Path, form: str) -> None:
    path = foreign_image(tmp_path, form)
    expected = convert(path, tmp_path / "raw", form).read_bytes()
    with opened(pool, path, form) as volume:
        assert volume.virtual_size == len(expected)
        assert await stored(volume) == expected
        assert await read(volume, 0, len(expected)) == expected
        assert await read(volume, 12_345, 700_001) == expected[12_345:712_346]
        assert volume.formats == (form,)
        assert [path for path, _ in volume.identities()] == [str(path)]


@pytest.mark.parametrize(
    ("form", "option"),
    [
        ("vmdk", "subformat=streamOptimized"),
        ("vdi", "static=on"),
        ("vpc", "subformat=fixed"),
        ("vhdx", "block_size=1M"),
    ],
)
async def test_other_kinds_of_a_format(pool: Engines, tmp_path: Path, form: str, option: str) -> None:
    content = foreign_image(tmp_path, "raw")
    path = convert(content, tmp_path / f"other.{form}", "raw", form, "-o", option)
    expected = convert(path, tmp_path / "raw", form).read_bytes()
    with opened(pool, path, form) as volume:
        assert await read(volume, 0, volume.virtual_size) == expected


async def test_what_the_path_leads_to_later_is_not_read(
    pool: Engines, tmp_path: Path, image: Path, expect_log: Callable[[str], None]
) -> None:
    """A rename over the image, as rsync does it, while the .ova is open."""
    expected = convert(image, tmp_path / "raw", "vmdk").read_bytes()
    with opened(pool, image) as volume:
        os.rename(foreign_image(tmp_path, "vmdk", seed=7), image)
        os.kill(only_pid(pool), signal.SIGKILL)  # also the next process has the old one
        assert await read(volume, 0, volume.virtual_size) == expected
        expect_log("it is started again")


# -- several files, keys


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key, with a comma"
    path.write_text("secret")
    return path


def fill_encrypted(path: Path, form: str) -> bytes:
    """Write all over an encrypted image of 4 MiB; returns what a guest sees."""
    options = {"driver": form, "file.driver": "file", "file.filename": str(path)}
    options |= {"key-secret": "key"} if form == "luks" else {"encrypt.format": "luks", "encrypt.key-secret": "key"}
    words = ",".join(f"{name}={value}" for name, value in options.items())
    script = [word for number in range(8) for word in ("-c", f"write -P {number + 1} {number * 512}k 100k")]
    run("qemu-io", "--object", "secret,id=key,data=secret", "--image-opts", words, *script)
    content = bytearray(4 * MIB)
    for number in range(8):
        content[number * 512 * 1024 : number * 512 * 1024 + 100 * 1024] = bytes([number + 1]) * 100 * 1024
    return bytes(content)


@pytest.mark.parametrize("form", ["luks", "qcow2"])
async def test_an_encrypted_image(pool: Engines, tmp_path: Path, key: Path, form: str) -> None:
    path = encrypted(tmp_path / "image", "4M", form)
    expected = fill_encrypted(path, form)
    with opened(pool, path, form, key) as volume:
        assert volume.virtual_size == 4 * MIB
        if form == "qcow2":
            assert await read(volume, 0, 4 * MIB) == expected
        else:  # what was never written is random there
            assert (await read(volume, 512 * 1024, 100 * 1024)) == b"\2" * 100 * 1024
            judge = f"driver=luks,key-secret=key,file.filename={path}"
            converting = ["qemu-img", "convert", "--object", "secret,id=key,data=secret", "--image-opts", "-O", "raw"]
            run(*converting, "-U", judge, tmp_path / "raw")
            assert await read(volume, 0, 4 * MIB) == (tmp_path / "raw").read_bytes()
        words = Path(f"/proc/{only_pid(pool)}/cmdline").read_bytes()
        assert b"=secret,id=key,file=/proc/self/fd/" in words
        assert words.count(b"secret") == 1 + words.count(b"key-secret")


@pytest.mark.parametrize("form", ["luks", "qcow2"])
def test_a_key_that_is_missing_or_wrong(pool: Engines, tmp_path: Path, key: Path, form: str) -> None:
    path = encrypted(tmp_path / "image", "1M", form)
    with pytest.raises(UnsupportedFeature, match="a disk whose passphrase is not known; say in which file it is"):
        open_engine_volume(pool, model_volume(path, form))
    key.write_text("secret\n")
    with pytest.raises(InvalidImage, match="QEMU cannot read it: Invalid password, cannot unlock any keyslot"):
        open_engine_volume(pool, model_volume(path, form, str(key)))
    with pytest.raises(ImageUnavailable, match="nowhere: cannot be opened"):
        open_engine_volume(pool, model_volume(path, form, str(tmp_path / "nowhere")))


@pytest.mark.parametrize("raw", ["on", "off"])
async def test_an_external_data_file(pool: Engines, tmp_path: Path, raw: str) -> None:
    base = make_chain(tmp_path, 2, raw_base=True)
    data = tmp_path / "data 'raw'"
    backing = None if raw == "on" else base.name
    path = create(tmp_path / "top.qcow2", 8 * MIB, backing=backing, data_file=str(data), data_file_raw=raw)
    scatter(path, 8 * MIB, seed=5)
    expected = convert(path, tmp_path / "raw").read_bytes()
    with opened(pool, path, "qcow2") as volume:
        assert await stored(volume) == expected
        assert await read(volume, 0, 8 * MIB) == expected
        files = [str(path), str(data)] + ([] if raw == "on" else [str(base), str(tmp_path / "disk-1.raw")])
        assert [name for name, _ in volume.identities()] == files
        with data.open("r+b") as file:
            file.write(b"x")
        with pytest.raises(VolumeChanged, match="data 'raw': the file changed"):
            await read(volume, 0, 512)


async def test_an_overlay_on_an_image_of_another_format(pool: Engines, tmp_path: Path, image: Path) -> None:
    path = create(tmp_path / "top.qcow2", 8 * MIB, backing=image.name, backing_format="vmdk")
    scatter(path, 8 * MIB, seed=5, count=4)
    expected = convert(path, tmp_path / "raw").read_bytes()
    with opened(pool, path, "qcow2") as volume:
        assert volume.formats == ("qcow2", "vmdk")
        assert await read(volume, 0, 8 * MIB) == expected
    image.unlink()
    with pytest.raises(ImageUnavailable, match=rf"{image}: .* \(backing file of {path}\)"):
        open_engine_volume(pool, model_volume(path, "qcow2"))


def test_a_data_file_that_is_in_use_or_missing(pool: Engines, tmp_path: Path) -> None:
    path = create(tmp_path / "top.qcow2", MIB, data_file=str(tmp_path / "data"))
    with qemu_holds(path), pytest.raises(VolumeBusy):
        open_engine_volume(pool, model_volume(path, "qcow2"))
    (tmp_path / "data").unlink()
    with pytest.raises(ImageUnavailable, match=rf"{tmp_path}/data: cannot be opened: .* \(data file of {path}\)"):
        open_engine_volume(pool, model_volume(path, "qcow2"))
    (tmp_path / "data").symlink_to(path)
    with pytest.raises(InvalidImage, match="leads back"):
        open_engine_volume(pool, model_volume(path, "qcow2"))


@pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
async def test_a_vmdk_of_several_files(pool: Engines, tmp_path: Path, kind: str) -> None:
    size = 8 * MIB if kind == "monolithicFlat" else (2 << 30) + 8 * MIB
    content = tmp_path / "content"
    content.touch()
    os.truncate(content, size)
    with content.open("r+b") as file:
        for offset in (0, MIB + 512, size - 100_000):
            file.seek(offset)
            file.write(os.urandom(100_000))
    path = convert(content, tmp_path / "disk.vmdk", "raw", "vmdk", "-o", f"subformat={kind}")
    with opened(pool, path) as volume:
        assert volume.virtual_size == size
        assert len(volume.identities()) == (2 if kind == "monolithicFlat" else 3)
        for offset in (0, MIB, size - MIB):
            with content.open("rb") as file:
                file.seek(offset)
                assert await read(volume, offset, MIB) == file.read(MIB)
        assert sum(volume.extents.lengths) < 4 * MIB
        (*_, (extent, _)) = volume.identities()
        os.utime(extent)
        with pytest.raises(VolumeChanged, match=f"{extent}: the file changed"):
            await read(volume, 0, MIB)
    with qemu_holds(path, "-f", "vmdk"), pytest.raises(VolumeBusy):
        open_engine_volume(pool, model_volume(path, "vmdk"))
    os.truncate(extent, 4096 if kind == "twoGbMaxExtentSparse" else 4 * MIB)
    with pytest.raises(InvalidImage):
        open_engine_volume(pool, model_volume(path, "vmdk"))
    os.unlink(extent)
    with pytest.raises(ImageUnavailable, match=rf"{extent}: cannot be opened: .* \(extent of {path}\)"):
        open_engine_volume(pool, model_volume(path, "vmdk"))


async def test_a_vmdk_of_a_parts_of_one_file(pool: Engines, tmp_path: Path) -> None:
    """As VMware may write it: extents in any order, read-only ones, and a descriptor from Windows."""
    content = os.urandom(3 * MIB)
    (tmp_path / "disk-flat.vmdk").write_bytes(content)
    lines = 'RW 2048 FLAT "disk-flat.vmdk" 4096\r\nRDONLY 2048 FLAT "disk-flat.vmdk" 0\r'
    (tmp_path / "disk.vmdk").write_bytes(vmdk.descriptor("twoGbMaxExtentFlat", lines))
    with opened(pool, tmp_path / "disk.vmdk") as volume:
        assert volume.virtual_size == 2 * MIB
        assert await read(volume, 0, 2 * MIB) == content[2 * MIB :] + content[:MIB]


def test_an_extent_that_names_files_of_the_host(pool: Engines, tmp_path: Path) -> None:
    """A sparse extent with a descriptor in it, into which QEMU looks when the header says no capacity."""
    text = vmdk.descriptor("monolithicFlat", 'RW 2 FLAT "/etc/shadow" 0').ljust(20 * 512, b"\0")
    (tmp_path / "a-s001.vmdk").write_bytes(vmdk.header(0, version=1, flags=3, gd=21, algorithm=0) + text.ljust(MIB))
    for sectors, message in ((2, "is no sparse extent of 2 sectors"), (0, "or of empty ones")):
        lines = f'RW {sectors} SPARSE "a-s001.vmdk"'
        (tmp_path / "a.vmdk").write_bytes(vmdk.descriptor("twoGbMaxExtentSparse", lines))
        with pytest.raises((InvalidImage, UnsupportedFeature), match=message):
            open_engine_volume(pool, model_volume(tmp_path / "a.vmdk", "vmdk"))


async def test_a_block_device(pool: Engines, tmp_path: Path, image: Path) -> None:
    expected = convert(image, tmp_path / "raw", "vmdk").read_bytes()
    os.truncate(image, -(-image.stat().st_size // 4096) * 4096)
    with loop_device(image) as device:
        with opened(pool, device) as volume:
            assert await read(volume, 0, len(expected)) == expected
            assert volume.is_volatile
        assert pool.running() == []


# -- refused


def test_an_image_of_another_format(pool: Engines, tmp_path: Path) -> None:
    path = foreign_image(tmp_path, "vdi")
    for form, message in (
        ("vmdk", "not a VMDK"),
        ("qcow", "is not a qcow image of version 1"),
        ("vhdx", "is not a VHDX image"),
        ("vpc", "not a VHD"),
    ):
        with pytest.raises(InvalidImage, match=message):
            open_engine_volume(pool, model_volume(path, form))
    with pytest.raises(InvalidImage, match="not a VDI"):
        open_engine_volume(pool, model_volume(foreign_image(tmp_path, "vmdk"), "vdi"))
    assert pool.running() == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_nothing(pool: Engines, tmp_path: Path, form: str) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidImage):
        open_engine_volume(pool, model_volume(tmp_path / "empty", form))
    with pytest.raises(ImageUnavailable, match="cannot be opened: No such file"):
        open_engine_volume(pool, model_volume(tmp_path / "missing", form))


def test_a_descriptor_that_names_files_of_the_host(pool: Engines, tmp_path: Path) -> None:
    path = tmp_path / "evil.vmdk"
    path.write_bytes(vmdk.descriptor("monolithicFlat", 'RW 2 FLAT "/etc/shadow" 0'))
    with pytest.raises(UnsupportedFeature):
        open_engine_volume(pool, model_volume(path, "vmdk"))
    # A sparse header of no capacity makes QEMU look into the descriptor that is embedded, for files.
    text = vmdk.descriptor("monolithicFlat", 'RW 2 FLAT "/etc/shadow" 0').ljust(20 * 512, b"\0")
    for capacity in (0, 2048):
        path.write_bytes((vmdk.header(capacity, version=1, flags=3, gd=21, algorithm=0) + text).ljust(MIB, b"\0"))
        with pytest.raises(UnsupportedFeature):
            open_engine_volume(pool, model_volume(path, "vmdk"))
    assert pool.running() == []


def test_an_image_that_is_a_difference_to_another(pool: Engines, tmp_path: Path, image: Path) -> None:
    child = tmp_path / "child.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", "-b", image, "-F", "vmdk", child)
    with pytest.raises(UnsupportedFeature, match="with a parent"):
        open_engine_volume(pool, model_volume(child, "vmdk"))


def test_a_qcow_image_with_a_backing_file(pool: Engines, tmp_path: Path) -> None:
    base = foreign_image(tmp_path, "qcow")
    run("qemu-img", "create", "-q", "-f", "qcow", "-b", base, "-F", "qcow", tmp_path / "child.qcow")
    with pytest.raises(UnsupportedFeature, match="qcow image with a backing file"):
        open_engine_volume(pool, model_volume(tmp_path / "child.qcow", "qcow"))
    with pytest.raises(InvalidImage, match="is not a qcow image"):
        open_engine_volume(pool, model_volume(create(tmp_path / "two.qcow2", MIB), "qcow"))


def test_what_qemu_says_is_in_the_message(pool: Engines, tmp_path: Path) -> None:
    path = foreign_image(tmp_path, "vhdx")
    data = bytearray(path.read_bytes())
    data[0x10000:0x30000] = bytes(0x20000)
    path.write_bytes(data)
    with pytest.raises(InvalidImage, match=rf"{path}: QEMU cannot read it: No valid VHDX header found; check it"):
        open_engine_volume(pool, model_volume(path, "vhdx"))
    assert pool.running() == []


def test_without_qemu(pool: Engines, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageUnavailable, match="is read by qemu-nbd, which is not installed; install qemu-utils"):
        open_engine_volume(pool, model_volume(image, "vmdk"))


def test_a_process_that_does_not_come_up(
    pool: Engines, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "qemu-nbd"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho waiting for godot >&2\nexec sleep 1000\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(process_module, "START_SECONDS", 0.3)
    with pytest.raises(ImageUnavailable, match="qemu-nbd did not open it within 0 s: waiting for godot"):
        open_engine_volume(pool, model_volume(image, "vmdk"))
    fake.write_text("#!/bin/sh\necho no mood for it >&2\nexit 7\n")
    with pytest.raises(InvalidImage, match="QEMU cannot read it: no mood for it"):
        open_engine_volume(pool, model_volume(image, "vmdk"))
    fake.write_text("#!/bin/sh\nexit 7\n")
    with pytest.raises(InvalidImage, match="qemu-nbd ended with exit code 7"):
        open_engine_volume(pool, model_volume(image, "vmdk"))


# -- locks and changes


@pytest.mark.parametrize("form", FORMATS)
def test_an_image_that_another_process_writes(pool: Engines, tmp_path: Path, form: str) -> None:
    path = foreign_image(tmp_path, form)
    with qemu_holds(path, "-f", form), pytest.raises(VolumeBusy):
        open_engine_volume(pool, model_volume(path, form))


def test_nobody_writes_to_an_open_image_and_everybody_to_one_that_waits(tmp_path: Path, image: Path) -> None:
    write = ["qemu-io", "-f", "vmdk", "-c", "write 0 512", str(image)]
    with engines(grace=60) as pool:
        with opened(pool, image):
            pid = only_pid(pool)
            refused = subprocess.run(write, capture_output=True, text=True, check=False)
            assert 'Failed to get "write" lock' in refused.stderr
        assert is_running(pid)
        run(*write)
        with opened(pool, image):  # another content, so another process
            assert sorted(one.readers for one in pool.running()) == [0, 1]


async def test_an_image_that_changes_while_it_is_read(pool: Engines, image: Path) -> None:
    with opened(pool, image) as volume:
        assert len(await read(volume, 0, MIB)) == MIB
        with image.open("r+b") as file:
            file.seek(-512, os.SEEK_END)
            file.write(bytes(512))
        with pytest.raises(VolumeChanged, match="the file changed while it was in use"):
            await read(volume, 0, MIB)
        with pytest.raises(VolumeChanged):
            volume.check_unchanged()


# -- processes that fail


async def test_a_killed_process_is_started_again_once(
    pool: Engines, tmp_path: Path, image: Path, expect_log: Callable[[str], None]
) -> None:
    expected = convert(image, tmp_path / "raw", "vmdk").read_bytes()
    with opened(pool, image) as volume:
        first = only_pid(pool)
        os.kill(first, signal.SIGKILL)
        assert await read(volume, 0, len(expected)) == expected
        second = only_pid(pool)
        assert second != first
        os.kill(second, signal.SIGKILL)
        with pytest.raises(ReadFailed, match=rf"{image}: qemu-nbd was ended by SIGKILL, and so it did before"):
            await read(volume, 0, len(expected))
        expect_log(f"WARNING .*{image}: qemu-nbd was ended by SIGKILL; it is started again")
    with opened(pool, image) as volume:  # a new open is a new chance
        assert await read(volume, 0, len(expected)) == expected


async def test_killed_under_many_readers(
    pool: Engines, tmp_path: Path, image: Path, expect_log: Callable[[str], None]
) -> None:
    expected = convert(image, tmp_path / "raw", "vmdk").read_bytes()
    expect_log("it is started again")

    async def reader(volume: EngineVolume, offset: int) -> None:
        for _ in range(10):
            assert await read(volume, offset, 300_001) == expected[offset : offset + 300_001]

    with opened(pool, image) as one, opened(pool, image) as other:
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(reader, one if number % 2 else other, number * 300_001)
            await trio.sleep(0.01)
            os.kill(only_pid(pool), signal.SIGKILL)
        assert len(pool.running()) == 1


def test_killed_before_its_extents_are_read(pool: Engines, image: Path, expect_log: Callable[[str], None]) -> None:
    expect_log("it is started again")
    with contextlib.closing(open_engine_volume(pool, model_volume(image, "vmdk"))) as volume:
        os.kill(only_pid(pool), signal.SIGKILL)
        assert sum(volume.read_extents().lengths) > 0


def test_killed_while_nobody_reads(image: Path, expect_log: Callable[[str], None]) -> None:
    expect_log("qemu-nbd was ended by SIGKILL")
    with engines(grace=60) as pool:
        with opened(pool, image):
            pid = only_pid(pool)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid))
        with opened(pool, image):
            assert only_pid(pool) != pid


async def test_a_process_that_hangs(pool: Engines, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "ANSWER_SECONDS", 0.5)
    with opened(pool, image) as volume:
        pid = only_pid(pool)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ReadFailed, match=rf"{image}: qemu-nbd: the server did not answer within 0 s"):
            await read(volume, 0, MIB)
        os.kill(pid, signal.SIGCONT)
        assert len(await read(volume, 0, MIB)) == MIB
        os.kill(pid, signal.SIGSTOP)
    assert not is_running(pid)
    began = time.monotonic()
    with opened(pool, image) as volume:
        assert len(await read(volume, 0, MIB)) == MIB
    assert time.monotonic() - began < 60
