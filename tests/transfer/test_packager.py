"""Packages of real images: described and opened, judged by tar and qemu-img, and what changes a generation."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import time
from typing import TYPE_CHECKING
from unittest.mock import Mock

import msgspec
import pytest

from ovafs.errors import ImageUnavailable, StaleHandle, VolumeBusy, VolumeChanged
from ovafs.formats.ovf.ovirt import write_ovf
from ovafs.inventory.rules import MAX_TIME, check_machine
from ovafs.storage.map_cache import MapCache
from ovafs.storage.opener import NativeOpener
from ovafs.storage.volume import TIMESTAMP_GRANULARITY_NS
from ovafs.streams.qcow2 import l2_tables
from ovafs.transfer import assembly, disk_plans
from ovafs.transfer import packager as packager_module
from ovafs.transfer.packager import Packager
from tests.support.fakes import MemoryInventory
from tests.support.filesystems import in_memory, on_loop
from tests.support.pools import Image, PoolBuilder, chain_image, judge_ova, pool_builder, raw_image
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.model import Machine
    from ovafs.transfer.open_package import OpenPackage


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[PoolBuilder]:
    with pool_builder(tmp_path) as made:
        yield made


@pytest.fixture
def packager(tmp_path: Path) -> Iterator[Packager]:
    with contextlib.closing(MapCache(str(tmp_path / "maps.sqlite"))) as cache:
        yield Packager(cache, MemoryInventory())


async def read_all(package: OpenPackage, piece: int = 100_003) -> bytes:
    content = bytearray()
    buffer = bytearray(piece)
    while length := await package.read_into(len(content), memoryview(buffer)):
        content += buffer[:length]
    return bytes(content)


async def write_ova(packager: Packager, machine: Machine, path: Path) -> bytes:
    description = packager.describe(machine)
    with contextlib.closing(packager.open(machine, description)) as package:
        content = await read_all(package)
    path.write_bytes(content)
    assert len(content) == description.size
    return content


async def test_a_package_of_several_disks(builder: PoolBuilder, packager: Packager, tmp_path: Path) -> None:
    images = [raw_image(builder.images / "a.raw"), chain_image(builder.images, "b")]
    machine = builder.add("web", *images)
    await write_ova(packager, machine, tmp_path / "web.ova")
    judge_ova(tmp_path / "web.ova", machine, images)


async def test_a_machine_without_disks(builder: PoolBuilder, packager: Packager, tmp_path: Path) -> None:
    machine = builder.add("bare")
    content = await write_ova(packager, machine, tmp_path / "bare.ova")
    judge_ova(tmp_path / "bare.ova", machine, [])
    assert content.endswith(bytes(1024))


async def test_bytes_do_not_depend_on_where_the_images_lie(
    builder: PoolBuilder, packager: Packager, tmp_path: Path
) -> None:
    machine = builder.add("web", raw_image(builder.images / "a.raw"))
    first = await write_ova(packager, machine, tmp_path / "1.ova")
    other = tmp_path / "elsewhere.raw"
    subprocess.run(["cp", "--sparse=always", builder.images / "a.raw", other], check=True)
    (disk,) = machine.disks
    moved_disk = msgspec.structs.replace(disk, volume=msgspec.structs.replace(disk.volume, path=str(other)))
    moved = msgspec.structs.replace(machine, disks=(moved_disk,))
    assert await write_ova(packager, moved, tmp_path / "2.ova") == first


def test_description_is_found_again_without_opening_an_image(builder: PoolBuilder, tmp_path: Path) -> None:
    machine = builder.add("web", chain_image(builder.images, "b"))
    cache_path = str(tmp_path / "maps.sqlite")
    with contextlib.closing(MapCache(cache_path)) as cache:
        first = Packager(cache, MemoryInventory()).describe(machine)
    opener = Mock()
    with contextlib.closing(MapCache(cache_path)) as cache:
        again = Packager(cache, MemoryInventory(), opener=opener)
        again.preload([machine])
        assert again.describe(machine) == first
        assert again.describe(machine) is again.describe(machine)
    opener.open.assert_not_called()


def test_a_damaged_cache_is_only_slower(builder: PoolBuilder, tmp_path: Path) -> None:
    machine = builder.add("web", chain_image(builder.images, "b"))
    with contextlib.closing(MapCache(None)) as cache:
        first = Packager(cache, MemoryInventory()).describe(machine)
        assert Packager(cache, MemoryInventory()).describe(machine) == first


@pytest.mark.parametrize("change", ["content", "size", "times", "permissions", "replaced"])
def test_every_change_of_an_image_is_another_generation(builder: PoolBuilder, packager: Packager, change: str) -> None:
    image = raw_image(builder.images / "a.raw")
    machine = builder.add("web", image)
    before = packager.describe(machine)
    status = os.stat(image.path)
    if change == "content":
        with image.path.open("r+b") as file:
            file.write(b"x")
        os.utime(image.path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as rsync -a --inplace leaves it
    elif change == "size":
        os.truncate(image.path, status.st_size + 512)
    elif change == "times":
        os.utime(image.path)
    elif change == "permissions":
        image.path.chmod(0o600 if status.st_mode & 0o777 != 0o600 else 0o640)
    else:
        other = image.path.with_suffix(".new")
        subprocess.run(["cp", "-p", image.path, other], check=True)
        other.rename(image.path)
    after = packager.describe(machine)
    assert after.generation != before.generation
    assert after.mtime_ns > before.mtime_ns  # what rsync looks at
    assert after.mtime_ns <= time.time_ns()


def test_every_change_of_the_definition_is_another_generation(builder: PoolBuilder, packager: Packager) -> None:
    machine = builder.add("web", raw_image(builder.images / "a.raw"))
    before = packager.describe(machine)
    changed = builder.change("web", description="new")
    after = packager.describe(changed)
    assert after.generation != before.generation


def test_backing_file_is_part_of_the_generation(builder: PoolBuilder, packager: Packager) -> None:
    image = chain_image(builder.images, "b")
    machine = builder.add("web", image)
    before = packager.describe(machine)
    base = before.files[-1][0]
    assert base != str(image.path)
    os.utime(base)
    assert packager.describe(machine).generation != before.generation


def test_opening_another_generation_is_stale(builder: PoolBuilder, packager: Packager) -> None:
    image = raw_image(builder.images / "a.raw")
    machine = builder.add("web", image)
    before = packager.describe(machine)
    os.utime(image.path)
    with pytest.raises(StaleHandle, match="web: its definition or an image changed since it was looked up"):
        packager.open(machine, before)


async def test_a_change_under_an_open_package_is_an_error(builder: PoolBuilder, packager: Packager) -> None:
    image = raw_image(builder.images / "a.raw")
    machine = builder.add("web", image)
    with contextlib.closing(packager.open(machine, packager.describe(machine))) as package:
        with image.path.open("r+b") as file:
            file.write(b"x")
        with pytest.raises(VolumeChanged, match="the file changed while it was in use"):
            await read_all(package)


def test_an_image_in_use_is_busy(builder: PoolBuilder, packager: Packager) -> None:
    image = chain_image(builder.images, "b")
    machine = builder.add("web", image)
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", image.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write("length\n")
        writer.stdin.flush()
        assert "8 MiB" in writer.stdout.readline()
        with pytest.raises(VolumeBusy, match="another process writes to it"):
            packager.describe(machine)
        writer.stdin.write("quit\n")
    packager.describe(machine)


def test_a_missing_image(builder: PoolBuilder, packager: Packager) -> None:
    image = raw_image(builder.images / "a.raw")
    machine = builder.add("web", image)
    packager.describe(machine)
    image.path.unlink()
    with pytest.raises(ImageUnavailable, match="No such file"):
        packager.describe(machine)


def test_an_identity_within_one_tick_of_the_clock_is_not_believed(builder: PoolBuilder, packager: Packager) -> None:
    image = raw_image(builder.images / "a.raw")
    machine = builder.add("web", image)
    os.utime(image.path)
    written = time.monotonic()
    packager.describe(machine)
    assert time.monotonic() - written >= TIMESTAMP_GRANULARITY_NS / 1e9


async def test_one_file_as_a_raw_disk_and_as_a_qcow2_image(
    builder: PoolBuilder, packager: Packager, tmp_path: Path
) -> None:
    """Equal in path, identity and virtual size, and yet two disks: what is kept of one must not serve the other."""
    path = builder.images / "a.img"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "16M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 1M", path)
    os.truncate(path, 16 << 20)
    images = [Image(path, "raw"), Image(path, "qcow2")]
    for image in (*images, *images):
        name = f"{image.format}-{len(builder.disks)}"
        machine = builder.add(name, image)
        await write_ova(packager, machine, tmp_path / f"{name}.ova")
        judge_ova(tmp_path / f"{name}.ova", machine, [image])


def fill_holes_by_mapping(path: Path) -> None:
    """On tmpfs a mapped read of a hole makes data of it, and no timestamp changes."""
    before = os.stat(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert not any(mapped[1 << 20 : 2 << 20])
    after = os.stat(path)
    assert after.st_blocks > before.st_blocks
    assert after.st_ctime_ns == before.st_ctime_ns


def test_another_layout_of_the_same_files_is_another_generation(builder: PoolBuilder, tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=8M") as folder:
        image = raw_image(folder / "a.raw")
        machine = builder.add("web", image)
        before = Packager(MapCache(None), MemoryInventory()).describe(machine)
        fill_holes_by_mapping(image.path)
        restarted = Packager(MapCache(None), MemoryInventory())
        after = restarted.describe(machine)
        assert after.files == before.files
        assert after.size > before.size
        with pytest.raises(StaleHandle):
            restarted.open(machine, before)
        restarted.open(machine, after).close()


def test_a_description_that_an_open_disproves_is_replaced(
    builder: PoolBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_plans, "DISK_PLANS_BYTES", 0)
    with in_memory(tmp_path, "tmpfs", "size=8M") as folder:
        image = raw_image(folder / "a.raw")
        machine = builder.add("web", image)
        packager = Packager(MapCache(None), MemoryInventory())
        before = packager.describe(machine)
        fill_holes_by_mapping(image.path)
        packager.describe(builder.add("other", raw_image(builder.images / "b.raw")))  # the plan of "web" makes room
        with pytest.raises(StaleHandle):
            packager.open(machine, before)
        packager.open(machine, packager.describe(machine)).close()


def test_what_another_version_of_ovafs_kept_is_not_used(
    builder: PoolBuilder, packager: Packager, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = builder.add("web", chain_image(builder.images, "b"))
    before = packager.describe(machine)
    for module in (packager_module, disk_plans):
        monkeypatch.setattr(module, "__version__", "another")
    monkeypatch.setattr(disk_plans, "l2_tables", count := Mock(wraps=l2_tables))
    assert packager.describe(machine) == before, "the same bytes all the same"
    count.assert_called_once()


def test_descriptions_of_machines_that_are_gone_are_forgotten(
    builder: PoolBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    packager = Packager(MapCache(None), MemoryInventory())
    here, gone = builder.add("here"), builder.add("gone")
    packager.describe(here)
    packager.describe(gone)
    packager.preload([here])
    monkeypatch.setattr(assembly, "write_ovf", planned := Mock(wraps=write_ovf))
    packager.describe(here)
    planned.assert_not_called()
    packager.describe(gone)
    planned.assert_called_once()


def test_a_time_in_the_future_is_not_shown(builder: PoolBuilder, packager: Packager) -> None:
    image = raw_image(builder.images / "a.raw")
    os.utime(image.path, (4_000_000_000, 4_000_000_000))
    assert packager.describe(builder.add("web", image)).mtime_ns <= time.time_ns()


def test_the_latest_time_that_a_definition_can_have(builder: PoolBuilder, packager: Packager) -> None:
    machine = msgspec.structs.replace(builder.add("web"), modified=MAX_TIME)
    check_machine(machine)
    packager.describe(machine)


def test_times_of_whole_seconds_are_believed_later(
    builder: PoolBuilder, packager: Packager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        real_sleep(seconds)

    real_sleep = time.sleep
    monkeypatch.setattr(time, "sleep", sleep)
    with on_loop(tmp_path, "ext4", "-I", "128") as folder:
        image = raw_image(folder / "a.raw")
        machine = builder.add("web", image)
        packager.describe(machine)
        assert max(waits) * 1e9 > TIMESTAMP_GRANULARITY_NS


def test_headers_are_read_when_times_can_be_believed(builder: PoolBuilder) -> None:
    machine = builder.add("web", raw_image(builder.images / "a.raw"))
    opened = Mock(wraps=NativeOpener())
    packager = Packager(MapCache(None), MemoryInventory(), opener=opened)
    os.utime(builder.images / "a.raw")
    packager.describe(machine)
    assert opened.open.call_count == 2
