"""Machines at the corners, through a real mount: very large, very sparse, many disks, block devices."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.images import create, io
from tests.support.mount import mounted
from tests.support.oracles import assert_same_disk, bsdtar_names, check_qcow2, in_place, tar_members
from tests.support.ovirt_walker import walk
from tests.support.pools import KIB, MIB, Image, pool_builder, raw_image
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.pools import PoolBuilder

GIB = 1 << 30
TIB = 1 << 40


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PoolBuilder]:
    with pool_builder(tmp_path) as builder:
        yield builder


def test_a_sparse_disk_of_16_tib(pool: PoolBuilder, tmp_path: Path) -> None:
    path = create(pool.images / "huge.qcow2", 16 * TIB)
    io(path, "write -P 1 0 64k", "write -P 2 9T 1M", f"write -P 3 {16 * TIB - 512} 512")
    pool.add("huge", Image(path, "qcow2"))
    with mounted(pool.path, tmp_path) as mount:
        ova = mount.path / "vms" / "huge.ova"
        pool.judge("huge", ova)
        assert ova.stat().st_size < 8 * MIB
        run("cp", ova, tmp_path / "copy.ova")
        pool.judge("huge", tmp_path / "copy.ova")


def test_a_machine_with_64_disks(pool: PoolBuilder, tmp_path: Path) -> None:
    images = [
        raw_image(pool.images / f"{number:02}.raw", 64 * KIB + number * 512, seed=number, hole=(4096, 8192))
        for number in range(64)
    ]
    machine = pool.add("many", *images)
    with mounted(pool.path, tmp_path) as mount:
        copy = tmp_path / "many.ova"
        run("cp", mount.path / "vms" / "many.ova", copy)
    members = tar_members(copy)
    volumes = [disk.volume.uuid for disk in machine.disks]
    assert [member.name for member in members] == bsdtar_names(copy) == ["vm.ovf", *volumes]
    assert [disk.name for disk in walk(copy, {name: name for name in volumes})] == volumes
    for number in (0, 1, 31, 63):
        disk = in_place(copy, members[number + 1])
        check_qcow2(disk)
        assert_same_disk(images[number].path, disk, "raw", "qcow2")


@pytest.mark.slow
def test_a_member_of_more_than_8_gib(pool: PoolBuilder, tmp_path: Path) -> None:
    """Its size needs base-256 in the tar header; every cluster of the disk holds something."""
    size = 9 * GIB
    path = pool.images / "large.raw"
    with path.open("wb") as file:
        for offset in range(0, size, 64 * KIB):
            os.pwrite(file.fileno(), offset.to_bytes(8), offset + offset // (64 * KIB) % 16 * 4096)
        file.truncate(size)
    pool.add("large", Image(path, "raw"))
    with mounted(pool.path, tmp_path) as mount:
        ova = mount.path / "vms" / "large.ova"
        assert tar_members(ova)[1].size > 8 * GIB
        pool.judge("large", ova)
        assert run("bsdtar", "-tvf", ova).stdout.splitlines()[1].split()[4] == str(tar_members(ova)[1].size)


@contextlib.contextmanager
def loop_device(image: Path) -> Iterator[Path]:
    """The image as a block device."""
    device = run("losetup", "--find", "--show", image).stdout.strip()
    try:
        yield image.__class__(device)
    finally:
        run("losetup", "--detach", device)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a block device")
def test_a_block_device_shows_what_is_on_it_at_every_open(pool: PoolBuilder, tmp_path: Path) -> None:
    """Nothing tells when a device's content changes, so nothing of it is remembered."""
    image = raw_image(pool.images / "device.raw")
    with loop_device(image.path) as device:
        pool.add("device", Image(device, "raw"))
        with mounted(pool.path, tmp_path) as mount:
            ova = mount.path / "vms" / "device.ova"
            pool.judge("device", ova)
            for pattern in (1, 2, 3):
                run("qemu-io", "-f", "raw", "-c", f"write -P {pattern} 3M 64k", device)
                pool.judge("device", ova)
                assert bytes([pattern]) * 65536 in ova.read_bytes()
