"""What goes with a machine that is removed, and what stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import MachineNotFound, VolumeBusy
from ovafs.inventory.define import DiskChoice, define_machine
from ovafs.model import DiskFormat, MachineKind
from ovafs.storage.writer.new_volume import NewVolume
from ovafs.transfer.ingest.landing import PoolLanding
from ovafs.transfer.removal import remove_machine
from tests.support.images import create, qemu_holds
from tests.support.packages import archive, import_pool, small_package

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovafs.model import Machine
    from tests.support.packages import ImportPool


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    with import_pool(tmp_path / "pool") as opened:
        yield opened


def take(pool: ImportPool) -> Machine:
    (machine,) = pool.take(archive(small_package())).machines
    return machine


def test_the_volumes_of_an_import_go(pool: ImportPool) -> None:
    machine = take(pool)
    removed, volumes = remove_machine(pool.pool, machine.name)
    assert (removed.uuid, removed.images) == (machine.uuid, [])
    assert volumes == [disk.volume.path for disk in machine.disks]
    pool.assert_whole(machines=0)


def test_they_stay_when_they_shall(pool: ImportPool) -> None:
    machine = take(pool)
    removed, volumes = remove_machine(pool.pool, machine.name, keep_volumes=True)
    assert (removed.images, volumes) == ([disk.volume.path for disk in machine.disks], [])
    assert len(pool.files) == 2
    assert pool.notes == set()


def add(pool: ImportPool, name: str, image: Path) -> Machine:
    machine = define_machine(name, disks=[DiskChoice(str(image), DiskFormat.QCOW2)])
    pool.pool.add(machine)
    return machine


def test_an_image_that_was_registered_stays_wherever_it_lies(pool: ImportPool) -> None:
    image = create(pool.path / "volumes" / "own.qcow2", "1M")
    add(pool, "own", image)
    removed, volumes = remove_machine(pool.pool, "own")
    assert (removed.images, volumes) == ([str(image)], [])
    assert image.exists()


def test_what_another_machine_is_based_on_stays(pool: ImportPool, tmp_path: Path) -> None:
    machine = take(pool)
    base = machine.disks[0].volume.path
    add(pool, "clone", create(tmp_path / "clone.qcow2", "64K", backing=base))
    removed, volumes = remove_machine(pool.pool, machine.name)
    assert removed.images == [base]
    assert volumes == [machine.disks[1].volume.path]
    assert pool.files == [os.path.basename(base)]


def test_what_an_image_that_qemu_reads_is_based_on_stays(pool: ImportPool, tmp_path: Path) -> None:
    machine = take(pool)
    base = machine.disks[0].volume.path
    add(pool, "clone", create(tmp_path / "clone.qcow2", "64K", backing=base, data_file=str(tmp_path / "data")))
    removed, _ = remove_machine(pool.pool, machine.name)
    assert removed.images == [base]
    assert pool.files == [os.path.basename(base)]


def test_nothing_happens_while_somebody_writes(pool: ImportPool) -> None:
    machine = take(pool)
    with qemu_holds(Path(machine.disks[1].volume.path), "-f", "qcow2"), pytest.raises(VolumeBusy):
        remove_machine(pool.pool, machine.name)
    pool.assert_whole(machines=1)


def test_a_volume_that_is_gone_already(pool: ImportPool) -> None:
    machine = take(pool)
    os.unlink(machine.disks[0].volume.path)
    remove_machine(pool.pool, machine.name)
    pool.assert_whole(machines=0)


def test_a_crash_in_between_is_tidied_up(pool: ImportPool, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = take(pool)

    def crash(_: NewVolume) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(NewVolume, "withdraw", crash)
        with pytest.raises(KeyboardInterrupt):
            remove_machine(pool.pool, machine.name)
    assert pool.pool.machines() == []
    assert len(pool.files) == len(pool.notes) == 2
    PoolLanding(pool.pool).close()
    pool.assert_whole(machines=0)


def test_a_machine_that_is_not_there(pool: ImportPool) -> None:
    with pytest.raises(MachineNotFound):
        remove_machine(pool.pool, "nobody", MachineKind.VM)
