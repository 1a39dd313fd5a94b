"""Pools with machines on real images for tests of mounts, and the judgement of an .ova by the images behind it."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from ovafs.inventory.pool import Pool, create_pool
from ovafs.model import Disk, DiskFormat, Machine, MachineKind, Volume
from tests.support.images import make_chain
from tests.support.oracles import assert_same_disk, bsdtar_names, check_qcow2, in_place, tar_members
from tests.support.ovirt_walker import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


KIB = 1 << 10
MIB = 1 << 20

# Definitions are made in the past, so that a change of one is a change of whole seconds.
LONG_AGO = 1_600_000_000


class Image(NamedTuple):
    """A disk image with the format that it is registered with."""

    path: Path
    format: str


class PoolBuilder:
    """A pool, its images, and which machine stands on which; every change is made as another process would."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pool"
        self.images = folder / "images"
        self.images.mkdir()
        create_pool(str(self.path))
        self.pool = Pool(str(self.path))
        self.disks: dict[str, list[Image]] = {}
        self.pool.remove(self.add("first").uuid)  # opens all that the catalog needs, so that tests open nothing

    def add(self, name: str, *images: Image, kind: str = "vm", description: str = "") -> Machine:
        """Register a machine on ``images``, whatever is wrong with them."""
        number = uuid.uuid5(uuid.NAMESPACE_OID, f"{kind} {name}")
        disks = tuple(_disk(uuid.uuid5(number, str(position)), image) for position, image in enumerate(images))
        machine = Machine(
            uuid=str(number),
            name=name,
            kind=MachineKind(kind),
            description=description,
            memory=1 << 30,
            created=LONG_AGO,
            modified=LONG_AGO,
            disks=disks,
        )
        self.pool.add(machine)
        self.disks[name] = list(images)
        return machine

    def change(self, machine: str, /, **fields: Any) -> Machine:
        """Give a machine another definition."""
        return self.pool.replace(msgspec.structs.replace(self.pool.find(machine), **fields))

    def judge(self, name: str, ova: Path) -> None:
        """Every judge agrees that ``ova`` is the machine ``name`` as its images are now."""
        judge_ova(ova, self.pool.find(name), self.disks[name])

    def close(self) -> None:
        self.pool.close()


def _disk(number: uuid.UUID, image: Image) -> Disk:
    volume = Volume(uuid=str(uuid.uuid5(number, "volume")), path=str(image.path), format=DiskFormat(image.format))
    return Disk(uuid=str(number), alias=image.path.stem, volume=volume)


@contextlib.contextmanager
def pool_builder(folder: Path) -> Iterator[PoolBuilder]:
    """An empty pool in ``folder/pool``, with room for images beside it."""
    with contextlib.closing(PoolBuilder(folder)) as builder:
        yield builder


def judge_ova(ova: Path, machine: Machine, images: list[Image]) -> None:
    """Names and order by GNU tar, bsdtar and oVirt's walk; each disk by ``qemu-img check`` and ``compare``."""
    members = tar_members(ova)
    volumes = [disk.volume.uuid for disk in machine.disks]
    states = [f"{kind}.dat" for kind in machine.states]
    assert [member.name for member in members] == [f"{machine.kind}.ovf", *states, *volumes]
    assert bsdtar_names(ova) == [member.name for member in members]
    assert [disk.name for disk in walk(ova, {name: f"/images/{name}" for name in volumes})] == volumes
    for member, image in zip(members[1 + len(states) :], images, strict=True):
        assert member.offset % 4096 == 0
        disk = in_place(ova, member)
        check_qcow2(disk)
        assert_same_disk(image.path, disk, image.format, "qcow2")


def raw_image(path: Path, size: int = 4 * MIB, *, seed: int = 1, hole: tuple[int, int] | None = None) -> Image:
    """A raw image of random bytes with one ``hole`` (start, end); by default its second quarter."""
    start, end = hole or (size // 4, size // 2)
    with path.open("wb") as file:
        file.write(random.Random(seed).randbytes(start))
        file.seek(end)
        file.write(random.Random(seed + 1).randbytes(size - end))
        file.truncate(size)
    return Image(path, "raw")


def chain_image(folder: Path, name: str, size: int = 8 * MIB, *, depth: int = 3) -> Image:
    """A qcow2 overlay on overlays on a raw image, with data, zeros and holes in every layer."""
    return Image(make_chain(folder, depth, size, raw_base=True, name=name), "qcow2")


def answers(file: Path) -> bool:
    """Whether ``stat`` works at this moment."""
    try:
        file.stat()
    except OSError:
        return False
    return True


def eventually(condition: Callable[[], bool], what: str, *, patience: float = 20.0) -> None:
    """Fail unless ``condition`` becomes true; to wait for what ovafs promises to show soon."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {patience:.0f} s: {what}")
        time.sleep(0.05)
