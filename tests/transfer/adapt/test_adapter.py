"""Pending imports: adapted, registered, never lost, never half; judged by qemu-img."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from ovafs.errors import AdaptationFailed, InvalidChoices, NameTaken
from ovafs.inventory import attachments
from ovafs.inventory.pool import Pool
from ovafs.model import DiskInterface, NicModel
from ovafs.transfer.adapt import program
from ovafs.transfer.adapt.adapter import Adapter
from ovafs.transfer.adapt.policy import Adapt
from ovafs.transfer.adapt.program import Stopped
from ovafs.transfer.adapt.workplace import Workplace
from ovafs.transfer.ingest.choices import DiskChoices
from ovafs.transfer.ingest.landing import PoolLanding
from tests.support.converter import RunningPool
from tests.support.packages import archive, content, guest_bytes, small_package
from tests.support.pools import eventually

if TYPE_CHECKING:
    from ovafs.inventory.pending import PendingImport
    from ovafs.model import Machine
    from ovafs.transfer.ingest.package import Imported
    from tests.support.converter import Converter
    from tests.support.packages import ImportPool

PACKAGE = archive(small_package(macs=["52:54:00:11:22:33"]))
AS_THEY_CAME = [content(1 << 16, 1), content(1 << 16, 2)]
ADAPTED = [data[:4096] + b"\x77" * 512 + data[4608:] for data in AS_THEY_CAME]


def take(pool: ImportPool, adapt: Adapt = Adapt.AUTO, form: str = "qcow2") -> PendingImport:
    """Import the package up to its adaptation."""
    imported = pool.take(PACKAGE, adapt=adapt, format=form)
    assert imported.pending is not None
    assert pool.pool.machines() == []
    assert pool.notes == set()
    return imported.pending


def disks(pool: ImportPool, pending: PendingImport, tmp_path: Path, form: str = "qcow2") -> list[bytes]:
    return [guest_bytes(path, form, tmp_path) for path in pending.paths]


def assert_nothing_is_left(pool: ImportPool, pending: PendingImport) -> None:
    """Neither of the import nor of the work on it, but its machine."""
    pool.assert_whole(1)
    assert pool.pool.pending_imports() == []
    assert not Path(tempfile.gettempdir(), f"ovafs-adapt-{pending.uuid}").exists()


@pytest.mark.parametrize("form", ["qcow2", "raw"])
@pytest.mark.usefixtures("converter")
def test_a_guest_is_adapted_before_its_machine_is_there(pool: ImportPool, tmp_path: Path, form: str) -> None:
    pending = take(pool, form=form)
    adapted = Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    assert adapted is not None
    assert adapted.output.splitlines()[0] == "[   0.0] Opening the source"
    (machine,) = pool.pool.machines()
    assert machine == adapted.machines[0]
    assert [(disk.interface, disk.volume) for disk in machine.disks] == [
        (DiskInterface.VIRTIO, disk.volume) for disk in pending.machines[0].disks
    ]
    assert [nic.model for nic in machine.nics] == [NicModel.VIRTIO]
    assert "web: its guest was adapted, its disks are on virtio" in adapted.warnings
    assert disks(pool, pending, tmp_path, form) == ADAPTED
    assert pool.pool.read_descriptor(machine) == small_package(macs=["52:54:00:11:22:33"])["web.ovf"]
    assert_nothing_is_left(pool, pending)


def test_a_failure_leaves_the_guest_as_it_came(pool: ImportPool, converter: Converter, tmp_path: Path) -> None:
    converter.fails()
    pending = take(pool)
    adapted = Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    assert adapted is not None
    assert adapted.warnings[-1] == (
        "web: its guest was not adapted, its hardware stays: virt-v2v-in-place failed: inspection could not detect "
        "the source guest"
    )
    assert {disk.interface for disk in pool.pool.machines()[0].disks} == {DiskInterface.SATA}
    assert disks(pool, pending, tmp_path) == AS_THEY_CAME
    assert_nothing_is_left(pool, pending)


def test_what_must_be_adapted_waits_for_another_try(pool: ImportPool, converter: Converter, tmp_path: Path) -> None:
    converter.fails()
    pending = take(pool, Adapt.V2V)
    with pytest.raises(AdaptationFailed, match="could not detect"):
        Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    assert pool.pool.machines() == []
    (kept,) = pool.pool.pending_imports()
    assert kept.failure == "virt-v2v-in-place failed: inspection could not detect the source guest"
    PoolLanding(pool.pool).close()  # what another import takes for leftovers
    assert disks(pool, pending, tmp_path) == AS_THEY_CAME
    converter.succeeds()
    assert Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    assert disks(pool, pending, tmp_path) == ADAPTED
    assert_nothing_is_left(pool, pending)


def test_it_can_be_had_as_it_came(pool: ImportPool, converter: Converter, tmp_path: Path) -> None:
    converter.fails()
    pending = take(pool, Adapt.V2V)
    with contextlib.suppress(AdaptationFailed):
        Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    assert Adapter(pool.pool).carry_out(pending.uuid, threading.Event(), adapts=False)
    assert disks(pool, pending, tmp_path) == AS_THEY_CAME
    assert_nothing_is_left(pool, pending)


def test_it_can_be_given_up(pool: ImportPool, converter: Converter) -> None:
    converter.fails()
    pending = take(pool)
    assert Adapter(pool.pool).discard(pending.uuid)
    pool.assert_whole(0)
    assert pool.pool.pending_imports() == []


def processes_of(converter: Converter) -> list[int]:
    """Those of a converter that hangs, once they are there."""
    eventually(converter.pids.exists, "the converter runs")
    return [int(pid) for pid in converter.pids.read_text().split()]


def _elsewhere(pending: PendingImport) -> list[Machine]:
    """Another machine of the same name."""
    return [msgspec.structs.replace(one, uuid=str(uuid.uuid4()), disks=(), nics=()) for one in pending.machines]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_one_that_takes_too_long_is_ended(pool: ImportPool, converter: Converter, tmp_path: Path) -> None:
    converter.hangs()
    pending = take(pool)
    adapted = Adapter(pool.pool, limit=1.0).carry_out(pending.uuid, threading.Event())
    assert adapted is not None
    assert adapted.warnings[-1].endswith("virt-v2v-in-place was ended: it took more than 1 s")
    assert not any(map(is_alive, processes_of(converter)))
    assert disks(pool, pending, tmp_path) == AS_THEY_CAME


def test_one_that_says_too_much_is_ended(
    pool: ImportPool, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MAX_OUTPUT", 1 << 20)
    converter.talks()
    pending = take(pool, Adapt.V2V)
    with pytest.raises(AdaptationFailed, match=r"it said more than 1.00 MiB"):
        Adapter(pool.pool).carry_out(pending.uuid, threading.Event())


def test_it_is_stopped_with_all_that_it_started(pool: ImportPool, converter: Converter, tmp_path: Path) -> None:
    converter.hangs()
    pending = take(pool)
    adapter, stop = Adapter(pool.pool), threading.Event()
    ended: list[str] = []

    def work() -> None:
        try:
            adapter.carry_out(pending.uuid, stop)
        except Stopped:
            ended.append("stopped")

    thread = threading.Thread(target=work)
    thread.start()
    pids = processes_of(converter)
    eventually(lambda: adapter.step == "Converting it", "what it is at is known")
    with contextlib.closing(RunningPool(str(pool.path))) as other:  # as another process sees it
        assert Adapter(other).carry_out(pending.uuid, threading.Event()) is None
        assert not Adapter(other).discard(pending.uuid)
    stop.set()
    thread.join()
    assert ended == ["stopped"]
    assert not any(map(is_alive, pids))
    assert pool.pool.pending_imports() == [pending]
    converter.succeeds()
    assert Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    assert disks(pool, pending, tmp_path) == ADAPTED


def test_a_process_that_is_killed_leaves_nothing_running_and_nothing_half(
    pool: ImportPool, converter: Converter, tmp_path: Path
) -> None:
    converter.hangs()
    pending = take(pool)

    def work() -> None:
        with contextlib.closing(RunningPool(str(pool.path))) as own:
            Adapter(own).carry_out(pending.uuid, threading.Event())

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    pids = processes_of(converter)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert all(map(is_alive, pids)), "nobody has ended them yet"
    assert pool.pool.machines() == []
    converter.succeeds()
    assert Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    eventually(lambda: not any(map(is_alive, pids)), "what was left is ended")
    assert disks(pool, pending, tmp_path) == ADAPTED
    assert_nothing_is_left(pool, pending)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_changes_that_are_complete_are_brought_home_by_the_next(
    pool: ImportPool, converter: Converter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, done: int
) -> None:
    """As after a crash in the middle: so many of the two overlays are home, and the next is half home."""
    pending = take(pool)

    def interrupted(place: Workplace, pending: PendingImport) -> None:
        for number in range(done):
            place._qemu_img(["commit", "-q", "-d", "-f", "qcow2", f"{place.path}/{number}.qcow2"], "")
            os.unlink(f"{place.path}/{number}.qcow2")
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Workplace, "bring_home", interrupted)
        with pytest.raises(Stopped):
            Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    assert [one.is_adapted for one in pool.pool.pending_imports()] == [True]
    converter.fails()  # it is not asked again
    assert Adapter(pool.pool).carry_out(pending.uuid, threading.Event(), adapts=False)
    assert disks(pool, pending, tmp_path) == ADAPTED
    assert {disk.interface for disk in pool.pool.machines()[0].disks} == {DiskInterface.VIRTIO}
    assert_nothing_is_left(pool, pending)


def registered_and_pending(pool: ImportPool) -> PendingImport:
    """As libvirt's machines are when a crash comes between their definition and the journal's change."""
    pending = take(pool)
    assert Adapter(pool.pool).carry_out(pending.uuid, threading.Event(), adapts=False)
    for volume in pending.volumes:
        pool.pool.note_volume(volume)
    pool.pool.keep_pending(pending)
    return pending


@pytest.mark.usefixtures("converter")
def test_machines_that_are_there_are_neither_adapted_nor_registered_again(pool: ImportPool, tmp_path: Path) -> None:
    """They may run by now."""
    pending = registered_and_pending(pool)
    adapted = Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    assert adapted is not None
    assert adapted.output == ""
    assert disks(pool, pending, tmp_path) == AS_THEY_CAME
    assert_nothing_is_left(pool, pending)


@pytest.mark.usefixtures("converter")
def test_machines_that_are_there_are_not_given_up(pool: ImportPool, tmp_path: Path) -> None:
    pending = registered_and_pending(pool)
    assert Adapter(pool.pool).discard(pending.uuid)
    assert [machine.name for machine in pool.pool.machines()] == ["web"]
    assert disks(pool, pending, tmp_path) == AS_THEY_CAME
    assert_nothing_is_left(pool, pending)


@pytest.mark.usefixtures("converter")
def test_a_name_that_is_taken_meanwhile_is_said_and_nothing_is_lost(pool: ImportPool, tmp_path: Path) -> None:
    pending = take(pool)
    with contextlib.closing(Pool(str(pool.path))) as other:  # it does not ask what is pending
        other.register(_elsewhere(pending), [], attachments.NONE)
        with pytest.raises(NameTaken, match="'web' already"):
            Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
        assert [one.failure for one in pool.pool.pending_imports()] != [""]
        other.remove("web")
    assert Adapter(pool.pool).carry_out(pending.uuid, threading.Event())
    assert disks(pool, pending, tmp_path) == ADAPTED


@pytest.mark.parametrize(
    ("adapt", "is_installed", "is_pending"),
    [(Adapt.NEVER, True, False), (Adapt.AUTO, False, False), (Adapt.AUTO, True, True), (Adapt.V2V, True, True)],
)
def test_what_is_adapted(
    pool: ImportPool, converter: Converter, adapt: Adapt, *, is_installed: bool, is_pending: bool
) -> None:
    if not is_installed:
        converter.is_missing()
    imported = pool.take(PACKAGE, adapt=adapt)
    assert (imported.pending is not None) == is_pending
    assert len(pool.pool.machines()) == (0 if is_pending else 1)


@pytest.mark.usefixtures("converter")
def test_what_kvm_runs_already_is_not_adapted(pool: ImportPool) -> None:
    package = small_package()
    package["web.ovf"] = package["web.ovf"].replace(b"<Envelope ", b'<Envelope xmlns:ovirt="http://ovirt/" ')
    of_ovirt = pool.take(archive(package))
    on_virtio = pool.take(
        archive(small_package(3)), disks={"1": DiskChoices(interface=DiskInterface.VIRTIO)}, name="other"
    )
    assert (of_ovirt.pending, on_virtio.pending) == (None, None)


def test_what_cannot_be_adapted_is_refused_before_a_disk_is_written(pool: ImportPool, converter: Converter) -> None:
    converter.is_missing()
    with pytest.raises(AdaptationFailed, match="is not installed; install the package virt-v2v"):
        pool.take(PACKAGE, adapt=Adapt.V2V)
    pool.pool.close()
    pool.pool = Pool(str(pool.path))
    with pytest.raises(InvalidChoices, match="no guest runs in a pool"):
        pool.take(PACKAGE, adapt=Adapt.V2V)
    pool.assert_whole(0)


@pytest.mark.usefixtures("converter")
def test_a_look_says_what_would_be_done(pool: ImportPool) -> None:
    looked: Imported = pool.take(PACKAGE, dry=True)
    assert looked.warnings[-1] == "its guest would be adapted first (virt-v2v-in-place)"
    assert looked.pending is None
    assert pool.pool.pending_imports() == []
