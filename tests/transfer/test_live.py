"""Packages of machines that run: announced by their images, read from a backup that qemu-nbd serves."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from ovafs.errors import ReadFailed, StaleHandle, VolumeBusy, VolumeChanged
from ovafs.storage.engine.engines import Engines
from ovafs.storage.map_cache import MapCache
from ovafs.storage.opener import AnyOpener
from ovafs.transfer import live as live_module
from ovafs.transfer.disk_plans import DiskPlan, read_plan
from ovafs.transfer.packager import Packager
from tests.support.engines import engines, foreign_image
from tests.support.fakes import MemoryInventory
from tests.support.images import compare, io, qemu_holds
from tests.support.nbd_servers import qemu_nbd
from tests.support.network_disks import nbd_tcp
from tests.support.oracles import assert_same_disk, check_qcow2, extract, tar_members
from tests.support.pools import Image, PoolBuilder, chain_image, pool_builder, raw_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovafs.formats.nbd import Export
    from ovafs.model import Machine
    from ovafs.storage.volume import Volume
    from ovafs.transfer.open_package import OpenPackage

MIB = 1 << 20


class QemuBackup:
    """A backup that a test may let fail."""

    def __init__(self, exports: tuple[Export, ...]) -> None:
        self.exports = exports
        self.failure = ""
        self.began = time.time()
        self.scratch_used = 0
        self.is_frozen = False
        self.is_ended = False

    def look(self) -> str:
        return self.failure

    def end(self) -> None:
        self.is_ended = True


class RunningInventory(MemoryInventory):
    """An inventory whose machines run; their backups are the images that a test serves."""

    def __init__(self) -> None:
        super().__init__()
        self.exports: tuple[Export, ...] = ()
        self.backups: list[QemuBackup] = []
        self.is_running = False

    def can_back_up(self, machine: Machine) -> bool:
        return self.is_running

    def begin_backup(self, machine: Machine) -> QemuBackup:
        self.backups.append(QemuBackup(self.exports))
        return self.backups[-1]


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[PoolBuilder]:
    with pool_builder(tmp_path) as made:
        yield made


@pytest.fixture
def inventory() -> RunningInventory:
    return RunningInventory()


@pytest.fixture
def packager(inventory: RunningInventory) -> Packager:
    return Packager(MapCache(None), inventory)


@contextlib.contextmanager
def running(inventory: RunningInventory, *images: Image) -> Iterator[None]:
    """The images are in use, and their present content is what backups have."""
    with contextlib.ExitStack() as stack:
        exports = []
        for image in images:
            copy = image.path.with_name(f"{image.path.name}.backup")
            shutil.copyfile(image.path, copy)
            exports.append(stack.enter_context(qemu_nbd(copy, image.format)))
            stack.enter_context(qemu_holds(image.path, "-f", image.format))
        inventory.exports = tuple(exports)
        inventory.is_running = True
        yield
        inventory.is_running = False


async def content(package: OpenPackage) -> bytes:
    found = bytearray()
    buffer = bytearray(1_000_003)
    while length := await package.read_into(len(found), memoryview(buffer)):
        found += buffer[:length]
    return bytes(found)


async def test_a_running_machine_on_disks_that_qemu_reads(
    builder: PoolBuilder, inventory: RunningInventory, tmp_path: Path
) -> None:
    """Its size is announced as that of a machine that stores all of its disks; looking at it starts little."""
    served = raw_image(builder.images / "b.raw")
    with engines() as pool, nbd_tcp(served.path) as location:
        packager = Packager(MapCache(None), inventory, opener=AnyOpener(pool))
        vdi = Image(foreign_image(builder.images, "vdi"), "vdi")
        machine = builder.add("web", vdi, Image(Path("/"), "raw"))
        volume = msgspec.structs.replace(machine.disks[1].volume, path=location)
        disks = (machine.disks[0], msgspec.structs.replace(machine.disks[1], volume=volume))
        machine = builder.change(machine.uuid, disks=disks)
        with running(inventory, vdi):
            copy = served.path.with_name("copy")
            shutil.copyfile(served.path, copy)
            with qemu_nbd(copy, "raw") as export:
                inventory.exports = (*inventory.exports, export)
                description = packager.describe(machine)
                assert (description.is_live, description.volatile) == (True, True)
                assert 12 * MIB < description.size < 13 * MIB
                assert pool.running() == []
                started = []
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr(Engines, "use", lambda _, served: started.append(served))
                    assert packager.describe(machine).size == description.size
                assert started == []
                with contextlib.closing(packager.open(machine, packager.describe(machine))) as package:
                    (tmp_path / "web.ova").write_bytes(await content(package))
        assert (tmp_path / "web.ova").stat().st_size == description.size
        _, *copies = extract(tmp_path / "web.ova", tmp_path / "out")
        for original, image in zip((vdi, served), copies, strict=True):
            check_qcow2(image)
            assert_same_disk(original.path, image, original.format, "qcow2")


async def test_a_running_machine_of_two_disks(
    builder: PoolBuilder, inventory: RunningInventory, packager: Packager, tmp_path: Path
) -> None:
    images = [chain_image(builder.images, "a"), raw_image(builder.images / "b.raw")]
    machine = builder.add("web", *images)
    with running(inventory, *images):
        description = packager.describe(machine)
        assert description.is_live
        assert description.volatile
        assert inventory.backups == [], "looking begins nothing"
        with contextlib.closing(packager.open(machine, description)) as package:
            assert package.size == description.size
            (tmp_path / "web.ova").write_bytes(await content(package))
            assert await content(package) == (tmp_path / "web.ova").read_bytes()
        (backup,) = inventory.backups
        assert backup.is_ended
        for image, disk in zip(images, extract(tmp_path / "web.ova", tmp_path / "x")[1:], strict=True):
            check_qcow2(disk)
            copy = image.path.with_name(f"{image.path.name}.backup")
            assert_same_disk(disk, copy, "qcow2", image.format)
    assert [member.offset % 4096 for member in tar_members(tmp_path / "web.ova")[1:]] == [0, 0]


async def test_what_the_guest_writes_until_the_backup_fits(
    builder: PoolBuilder, inventory: RunningInventory, packager: Packager, tmp_path: Path
) -> None:
    image = chain_image(builder.images, "a")
    machine = builder.add("web", image)
    with running(inventory, image):
        before = packager.describe(machine)
    io(image.path, "write -P 7 0 2M")
    with running(inventory, image):
        assert packager.describe(machine).size == before.size, "the announced size does not follow every write"
        assert packager.describe(machine).generation != before.generation
        with contextlib.closing(packager.open(machine, before)) as package:
            (tmp_path / "web.ova").write_bytes(await content(package))
        (disk,) = extract(tmp_path / "web.ova", tmp_path / "x")[1:]
        compare(disk, image.path.with_name(f"{image.path.name}.backup"))


def test_a_guest_that_outgrows_what_was_announced(
    builder: PoolBuilder, inventory: RunningInventory, packager: Packager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "LEAST_SLACK", 64 << 10)
    image = chain_image(builder.images, "a")
    machine = builder.add("web", image)
    with running(inventory, image):
        before = packager.describe(machine)
    io(image.path, "write -P 7 0 4M")
    with running(inventory, image):
        with pytest.raises(StaleHandle, match="web: it stores more than it did when it was looked up"):
            packager.open(machine, before)
        (backup,) = inventory.backups
        assert backup.is_ended
        after = packager.describe(machine)
        assert after.size > before.size
        packager.open(machine, after).close()


def test_no_more_is_announced_than_a_disk_can_store(
    builder: PoolBuilder, inventory: RunningInventory, packager: Packager
) -> None:
    image = chain_image(builder.images, "a")
    io(image.path, "write -P 7 0 8M")
    machine = builder.add("web", image)
    with running(inventory, image):
        description = packager.describe(machine)
        assert description.size < 9 * MIB
        packager.open(machine, description).close()


def test_stopped_and_started(builder: PoolBuilder, inventory: RunningInventory, packager: Packager) -> None:
    image = chain_image(builder.images, "a")
    machine = builder.add("web", image)
    at_rest = packager.describe(machine)
    assert not at_rest.is_live
    with running(inventory, image):
        with pytest.raises(StaleHandle, match="web: it was started since it was looked up"):
            packager.open(machine, at_rest)
        with contextlib.closing(packager.open_present(machine)) as package:
            assert package.description.is_live
    assert packager.describe(machine) == at_rest


def test_a_generation_is_of_one_backup(builder: PoolBuilder, inventory: RunningInventory, packager: Packager) -> None:
    image = chain_image(builder.images, "a")
    machine = builder.add("web", image)
    with running(inventory, image):
        first = packager.describe(machine)
        assert packager.describe(machine) == first
        packager.open(machine, first).close()
        second = packager.describe(machine)
        assert (second.size, second.mtime_ns, second.files) == (first.size, first.mtime_ns, first.files)
        assert second.generation != first.generation
        assert Packager(MapCache(None), inventory).describe(machine).generation not in {
            first.generation,
            second.generation,
        }


def test_an_image_that_has_become_a_backing_file_is_not_what_a_running_machine_is(
    builder: PoolBuilder, inventory: RunningInventory, packager: Packager
) -> None:
    image = chain_image(builder.images, "a")
    machine = builder.add("web", image)
    at_rest = packager.describe(machine)
    inventory.is_running = True  # on an overlay that nobody has told of yet: nothing locks the image itself
    assert packager.describe(machine).is_live
    with pytest.raises(StaleHandle, match="web: it was started since it was looked up"):
        packager.open(machine, at_rest)


def test_in_use_and_not_running(builder: PoolBuilder, packager: Packager) -> None:
    image = chain_image(builder.images, "a")
    machine = builder.add("web", image)
    with (
        qemu_holds(image.path, "-f", image.format),
        pytest.raises(VolumeBusy),
    ):
        packager.describe(machine)


async def test_a_backup_that_ends_says_why(
    builder: PoolBuilder, inventory: RunningInventory, packager: Packager
) -> None:
    image = raw_image(builder.images / "a.raw")
    machine = builder.add("web", image)
    with running(inventory, image):
        package = packager.open_present(machine)
    with contextlib.closing(package):
        package.check_unchanged()
        buffer = memoryview(bytearray(package.size))
        with pytest.raises(ReadFailed, match=r"the server closed the connection|reset by peer|Broken pipe"):
            await package.read_into(0, buffer)
        inventory.backups[-1].failure = "the scratch space is full"
        with pytest.raises(ReadFailed, match=r"the scratch space is full; read the \.ova again from its beginning"):
            await package.read_into(0, buffer)
        with pytest.raises(VolumeChanged, match="the scratch space is full"):
            package.check_unchanged()


def test_a_backup_whose_server_is_gone_is_ended(
    builder: PoolBuilder, inventory: RunningInventory, packager: Packager
) -> None:
    image = raw_image(builder.images / "a.raw")
    machine = builder.add("web", image)
    with running(inventory, image):
        description = packager.describe(machine)
        inventory.exports = tuple(export._replace(path="/nowhere") for export in inventory.exports)
        with pytest.raises(Exception, match="cannot be opened: No such file or directory"):
            packager.open(machine, description)
    assert [backup.is_ended for backup in inventory.backups] == [True]


def test_a_large_image_is_not_measured_at_every_look(
    builder: PoolBuilder, inventory: RunningInventory, packager: Packager, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = raw_image(builder.images / "a.raw")
    machine = builder.add("web", image)
    measured: list[str] = []

    def counted(volume: Volume) -> DiskPlan:
        measured.append(volume.path)
        return read_plan(volume)

    monkeypatch.setattr(live_module, "read_plan", counted)
    with running(inventory, image):
        for _ in range(3):
            packager.describe(machine)
            os.utime(image.path)
        assert len(measured) == 1
        with image.path.open("r+b") as file:
            file.truncate(512 * MIB)
            file.seek(256 * MIB)
            file.write(os.urandom(20 * MIB))
        packager.describe(machine)
        assert len(measured) == 2
