"""Out of a pool and into another one, by every way: the disks and the definition are the same."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import msgspec
import pytest

from ovafs.model import CpuTopology, DiskInterface, Firmware, MachineKind, Nic, NicModel
from tests.support.oracles import assert_same_disk, check_qcow2
from tests.support.packages import import_pool
from tests.support.pools import Image, chain_image, judge_ova, pool_builder, raw_image
from tests.support.processes import ENVIRONMENT, ovafs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.model import Machine
    from tests.support.packages import ImportPool
    from tests.support.pools import PoolBuilder

MIB = 1 << 20
INTERFACES = (DiskInterface.VIRTIO_SCSI, DiskInterface.SATA, DiskInterface.VIRTIO)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[PoolBuilder]:
    """A machine on a raw disk, on a chain, and on an odd size, with every field another than by default."""
    with pool_builder(tmp_path) as builder:
        images = [
            raw_image(builder.images / "raw.raw", 8 * MIB),
            chain_image(builder.images, "chain"),
            raw_image(builder.images / "odd.raw", 3 * MIB + 512, seed=5, hole=(0, 100 * 1024)),
        ]
        machine = builder.add("ünïcode <&>", *images, description="two\nlines & more")
        builder.change(
            "ünïcode <&>",
            disks=tuple(
                msgspec.structs.replace(disk, boot=number == 1, interface=interface)
                for number, (disk, interface) in enumerate(zip(machine.disks, INTERFACES, strict=True))
            ),
            memory=3 << 30,
            cpu=CpuTopology(sockets=2, cores=3),
            firmware=Firmware.UEFI,
            os="rhel9.0",
            nics=(
                Nic(
                    uuid="0f0e0d0c-0b0a-4908-8706-050403020100",
                    name="nic1",
                    network="lan",
                    mac="52:54:00:00:00:01",
                    model=NicModel.E1000E,
                ),
            ),
        )
        yield builder


@pytest.fixture
def target(tmp_path: Path) -> Iterator[ImportPool]:
    with import_pool(tmp_path / "target") as pool:
        yield pool


def export(pool: Path, name: str, ova: Path) -> Path:
    ovafs("export", "-q", pool, name, ova)
    return ova


def assert_same_disks(machine: Machine, images: list[Image]) -> None:
    assert len(machine.disks) == len(images)
    for disk, image in zip(machine.disks, images, strict=True):
        if disk.volume.format == "qcow2":
            check_qcow2(disk.volume.path)
        assert_same_disk(disk.volume.path, image.path, disk.volume.format, image.format)


def essence(machine: Machine) -> Machine:
    """What a package keeps of a machine: all but the UUIDs, volumes and times of its parts."""
    disks = tuple(msgspec.structs.replace(disk, uuid="", volume=None) for disk in machine.disks)
    nics = tuple(msgspec.structs.replace(nic, uuid="") for nic in machine.nics)
    return msgspec.structs.replace(machine, disks=disks, nics=nics, created=0, modified=0)


@pytest.mark.parametrize("form", ["qcow2", "raw"])
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_round_trip(source: PoolBuilder, target: ImportPool, tmp_path: Path, form: str, way: str) -> None:
    name = "ünïcode <&>"
    first = export(source.path, name, tmp_path / "first.ova")
    if way == "file":
        result = ovafs("import", "--format", form, target.path, first)
        said = "no place in the pool, kept in the descriptor: Item 'Video card', Item 'VirtIO-SCSI controller'"
        assert re.fullmatch(rf"ovafs: warning: {said}(, [A-Za-z]+)+\n", result.stderr)
    else:
        command = [sys.executable, "-m", "ovafs", "import", "--format", form, str(target.path), "-"]
        with subprocess.Popen(["cat", str(first)], stdout=subprocess.PIPE) as cat:
            subprocess.run(command, stdin=cat.stdout, env=ENVIRONMENT, check=True, capture_output=True)
    machine = target.pool.find(name)
    with tarfile.open(first) as tar:
        member = tar.extractfile("vm.ovf")
        assert member is not None
        assert target.pool.read_descriptor(machine) == member.read()
    assert msgspec.to_builtins(essence(machine)) == msgspec.to_builtins(essence(source.pool.find(name)))
    assert machine.created == source.pool.find(name).created
    assert_same_disks(machine, source.disks[name])
    target.assert_whole(1)
    second = export(target.path, name, tmp_path / "second.ova")
    judge_ova(second, machine, source.disks[name])


def test_a_template_stays_one(source: PoolBuilder, target: ImportPool, tmp_path: Path) -> None:
    images = [raw_image(source.images / "t.raw")]
    source.add("golden", *images, kind="template")
    ovafs("export", "-q", "--template", source.path, "golden", tmp_path / "t.ova")
    ovafs("import", target.path, tmp_path / "t.ova")
    machine = target.pool.find("golden", MachineKind.TEMPLATE)
    assert_same_disks(machine, images)


def test_a_machine_without_disks(source: PoolBuilder, target: ImportPool, tmp_path: Path) -> None:
    source.add("bare")
    export(source.path, "bare", tmp_path / "bare.ova")
    ovafs("import", target.path, tmp_path / "bare.ova")
    assert target.pool.find("bare").disks == ()
    target.assert_whole(1)


def test_into_the_pool_that_it_came_from(source: PoolBuilder, tmp_path: Path) -> None:
    """A clone: another name, another UUID, other MAC addresses, the same disks."""
    name = "ünïcode <&>"
    export(source.path, name, tmp_path / "x.ova")
    ovafs("import", source.path, tmp_path / "x.ova")
    clone = source.pool.find(f"{name}-2")
    assert clone.uuid != source.pool.find(name).uuid
    assert clone.nics[0].mac != source.pool.find(name).nics[0].mac
    assert_same_disks(clone, source.disks[name])
