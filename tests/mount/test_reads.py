"""Reads of every kind give the same bytes: any offset and size, many at once, past every cache, again, elsewhere."""

from __future__ import annotations

import mmap
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from ovafs.model import DiskFormat
from tests.support.images import create, io
from tests.support.mount import mounted
from tests.support.oracles import sha256
from tests.support.pools import MIB, Image, PoolBuilder, chain_image, pool_builder, raw_image
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.model import Machine

PAGE = 4096


class World(NamedTuple):
    pool: PoolBuilder
    mount: Path
    content: bytes

    @property
    def ova(self) -> Path:
        return self.mount / "vms" / "disk.ova"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A machine with two disks; ``content`` was read through another mount, so that this one's caches are empty."""
    folder = tmp_path_factory.mktemp("reads")
    with pool_builder(folder) as pool:
        large = raw_image(pool.images / "large.raw", 24 * MIB, hole=(5 * MIB + 512, 9 * MIB))
        pool.add("disk", chain_image(pool.images, "chain"), large)
        other = folder / "other"
        other.mkdir()
        with mounted(pool.path, other) as mount:
            run("cp", mount.path / "vms" / "disk.ova", folder / "copy.ova")
        pool.judge("disk", folder / "copy.ova")
        with mounted(pool.path, folder) as mount:
            yield World(pool, mount.path, (folder / "copy.ova").read_bytes())


def read_direct(file: int, offset: int, length: int) -> bytes:
    """A read that the kernel passes on as it is, into page-aligned memory."""
    with mmap.mmap(-1, length) as buffer:
        count = os.preadv(file, [buffer], offset)
        return buffer[:count]


def random_reads(world: World, seed: int, *, direct: bool) -> None:
    rng = random.Random(seed)
    size = len(world.content)
    unit = PAGE if direct else 1
    file = os.open(world.ova, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    try:
        for _ in range(150):
            offset = rng.randrange(0, size // unit + 2) * unit
            length = max(1, rng.choice([1, 511, PAGE, 70_000, 300_000]) // unit) * unit
            read = read_direct(file, offset, length) if direct else os.pread(file, length, offset)
            expected = world.content[offset : offset + length]
            assert read == expected[: len(read)], (offset, length)
            assert read or not expected, (offset, length)
            assert len(read) == len(expected) or direct, (offset, length)
    finally:
        os.close(file)


def test_eight_random_readers_at_once_past_all_caches(world: World) -> None:
    with ThreadPoolExecutor(8) as readers:
        for reader in [readers.submit(random_reads, world, seed, direct=True) for seed in range(8)]:
            reader.result()


def test_eight_random_readers_at_once(world: World) -> None:
    with ThreadPoolExecutor(8) as readers:
        for reader in [readers.submit(random_reads, world, seed, direct=False) for seed in range(8)]:
            reader.result()


def test_reads_at_the_end_are_cut_there(world: World) -> None:
    size = len(world.content)
    for flags in (0, os.O_DIRECT):
        file = os.open(world.ova, os.O_RDONLY | flags)
        try:
            last = size // PAGE * PAGE
            assert read_direct(file, last - PAGE, 4 * PAGE) == world.content[last - PAGE :]
            assert read_direct(file, last + PAGE, PAGE) == b""
            assert read_direct(file, last + (1 << 40), PAGE) == b""
        finally:
            os.close(file)


def test_a_memory_map_shows_the_file(world: World) -> None:
    with world.ova.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        assert len(memory) == len(world.content)
        assert memory[-1536:] == world.content[-1536:]
        for offset in range(len(world.content) - 1, 0, -777_777):
            assert memory[offset] == world.content[offset]
        assert memory[:] == world.content


def test_backwards_in_odd_pieces(world: World) -> None:
    pieces = []
    with world.ova.open("rb", buffering=0) as file:
        end = len(world.content)
        while end > 0:
            start = max(0, end - 99_991)
            pieces.append(os.pread(file.fileno(), end - start, start))
            end = start
    assert b"".join(reversed(pieces)) == world.content


def test_seek_hole_is_answered_safely(world: World) -> None:
    with world.ova.open("rb") as file:
        assert os.lseek(file.fileno(), 1000, os.SEEK_DATA) == 1000
        assert os.lseek(file.fileno(), 1000, os.SEEK_HOLE) == len(world.content)


def test_two_mounts_and_a_restart_give_the_same_file(world: World, tmp_path: Path) -> None:
    digest = run("sha256sum", world.ova).stdout.split()[0]
    status = world.ova.stat()
    for _ in range(2):
        with mounted(world.pool.path, tmp_path) as mount:
            other = mount.path / "vms" / "disk.ova"
            assert run("sha256sum", other).stdout.split()[0] == digest
            assert (other.stat().st_ino, other.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert sha256(world.ova) == digest


def test_without_its_cache_a_mount_gives_the_same_file(world: World, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    run("cp", "-a", world.pool.path, pool)
    shutil.rmtree(pool / "cache")
    with mounted(pool, tmp_path) as mount:
        other = mount.path / "vms" / "disk.ova"
        assert sha256(other) == sha256(world.ova)
        assert other.stat().st_ino == world.ova.stat().st_ino


def on_other_images(machine: Machine, images: list[Image]) -> Machine:
    disks = [
        msgspec.structs.replace(
            disk, volume=msgspec.structs.replace(disk.volume, path=str(image.path), format=DiskFormat(image.format))
        )
        for disk, image in zip(machine.disks, images, strict=True)
    ]
    return msgspec.structs.replace(machine, disks=tuple(disks))


def test_a_copied_pool_with_copied_images_gives_the_same_bytes(pool: PoolBuilder, tmp_path: Path) -> None:
    """On another host: other inodes, other times of the images, other paths."""
    base = raw_image(pool.images / "base.raw")
    top = create(pool.images / "top.qcow2", 4 * MIB, backing="base.raw", backing_format="raw")
    # Whole clusters: cp makes holes of blocks that are zeros, and a hole is stored nowhere.
    io(top, "write -P 1 64k 128k", "write -z 3M 64k")
    images = [Image(top, "qcow2"), raw_image(pool.images / "second.raw", seed=5)]
    machine = pool.add("disk", *images)
    run("cp", "-a", pool.images, tmp_path / "elsewhere")
    copies = [Image(tmp_path / "elsewhere" / image.path.name, image.format) for image in images]
    (tmp_path / "other").mkdir()
    with pool_builder(tmp_path / "other") as other:
        other.pool.add(on_other_images(machine, copies))
        with mounted(pool.path, tmp_path) as here, mounted(other.path, tmp_path / "other") as there:
            assert sha256(here.path / "vms" / "disk.ova") == sha256(there.path / "vms" / "disk.ova")
    assert base.path.exists()


def test_reserved_space_is_laid_out_the_same_whatever_the_kernel_caches(pool: PoolBuilder, tmp_path: Path) -> None:
    image = raw_image(pool.images / "reserved.raw", 8 * MIB, hole=(2 * MIB, 6 * MIB))
    run("fallocate", "--offset", "2MiB", "--length", "4MiB", image.path)
    run("sync", image.path)
    pool.add("disk", image)
    seen = set()
    for _ in range(2):
        with mounted(pool.path, tmp_path) as mount:
            ova = mount.path / "vms" / "disk.ova"
            seen.add((ova.stat().st_ino, ova.stat().st_size, sha256(ova)))
        shutil.rmtree(pool.path / "cache")  # so that the next mount looks for itself,
        assert len(image.path.read_bytes()) == 8 * MIB  # when the reserved space is in the page cache
    assert len(seen) == 1


def test_a_disk_in_another_format_has_the_same_bytes(world: World, tmp_path: Path) -> None:
    """The guest's bytes decide, not where and how they are stored."""
    folder = tmp_path / "pools"
    folder.mkdir()
    machine = world.pool.pool.find("disk")
    with pool_builder(folder) as pool:
        volumes = []
        for number, image in enumerate(world.pool.disks["disk"]):
            target = "raw" if image.format == "qcow2" else "qcow2"
            converted = Image(pool.images / f"{number}.{target}", target)
            run("qemu-img", "convert", "-f", image.format, "-O", target, image.path, converted.path)
            volumes.append(converted)
        pool.pool.add(on_other_images(machine, volumes))
        pool.disks["disk"] = volumes
        with mounted(pool.path, tmp_path) as mount:
            pool.judge("disk", mount.path / "vms" / "disk.ova")
