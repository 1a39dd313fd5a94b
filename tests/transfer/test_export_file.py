"""Exports to a path, in this process: bytes, holes, room, interruptions, changes."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest
import trio

from ovafs.errors import ExportFailed, InvalidImage, NoSpace, ReadFailed, VolumeChanged
from ovafs.storage.map_cache import MapCache
from ovafs.storage.source_file import SourceFile
from ovafs.transfer import export_file as module
from ovafs.transfer.export_file import Exported, begin_export, export_file
from ovafs.transfer.packager import Packager
from tests.support.fakes import MemoryInventory
from tests.support.filesystems import in_memory, loop_device
from tests.support.images import create, io
from tests.support.images import run as run_tool
from tests.support.pools import Image, chain_image, judge_ova, pool_builder, raw_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ovafs.model import Machine
    from ovafs.transfer.open_package import OpenPackage
    from ovafs.transfer.partial_file import PartialFile
    from tests.support.pools import PoolBuilder

MIB = 1 << 20


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PoolBuilder]:
    with pool_builder(tmp_path) as builder:
        yield builder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where exports go; the folder is otherwise empty."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target" / "web.ova"


@contextlib.contextmanager
def opened(machine: Machine) -> Iterator[OpenPackage]:
    packager = Packager(MapCache(None), MemoryInventory())
    with contextlib.closing(packager.open(machine, packager.describe(machine))) as package:
        yield package


class Attempt(NamedTuple):
    """An export that did not finish."""

    partial: PartialFile
    error: BaseException | None


async def attempt(
    machine: Machine,
    path: Path,
    *,
    resume: bool = False,
    replace: bool = False,
    on_progress: Callable[[int], object] = lambda _: None,
    cancel_at: int | None = None,
) -> Exported | Attempt:
    """Export; ``cancel_at`` cancels once that offset has been reached."""
    error = None
    with opened(machine) as package, trio.CancelScope() as scope:
        partial = begin_export(package, str(path), resume=resume, replace=replace)

        def progress(offset: int) -> None:
            on_progress(offset)
            if cancel_at is not None and offset >= cancel_at:
                scope.cancel()

        try:
            return await export_file(package, partial, replace=replace, on_progress=progress)
        except Exception as problem:  # noqa: BLE001 - it is what the test looks at
            error = problem
    return Attempt(partial, error)


async def export(machine: Machine, path: Path, **options: Any) -> Exported:
    outcome = await attempt(machine, path, **options)
    if isinstance(outcome, Attempt):
        raise outcome.error or AssertionError("cancelled")
    return outcome


async def failed(machine: Machine, path: Path, **options: Any) -> Attempt:
    outcome = await attempt(machine, path, **options)
    assert isinstance(outcome, Attempt)
    return outcome


async def executed(machine: Machine) -> bytes:
    with opened(machine) as package:
        buffer = bytearray(package.size)
        await package.read_into(0, memoryview(buffer))
        return bytes(buffer)


@pytest.fixture
def big(pool: PoolBuilder) -> Machine:
    """A machine with 40 MiB of data, ten blocks."""
    return pool.add("web", raw_image(pool.images / "web.raw", 64 * MIB, hole=(20 * MIB, 44 * MIB)))


async def test_bytes_of_the_plan_twice(pool: PoolBuilder, target: Path) -> None:
    images = [chain_image(pool.images, "a"), raw_image(pool.images / "b.raw", 9 * MIB), chain_image(pool.images, "c")]
    machine = pool.add("web", *images)
    expected = await executed(machine)
    reached: list[int] = []
    done = await export(machine, target, on_progress=reached.append)
    assert target.read_bytes() == expected
    assert reached == sorted(reached)
    assert reached[-1] == len(expected)
    assert done == Exported(done.copied, 0, 0)
    assert done.copied <= len(expected)
    await export(machine, target.with_name("again.ova"))
    assert target.with_name("again.ova").read_bytes() == expected
    judge_ova(target, machine, images)
    assert sorted(os.listdir(target.parent)) == ["again.ova", "web.ova"]


async def test_compressed_and_tiny_disks(pool: PoolBuilder, target: Path) -> None:
    plain = raw_image(pool.images / "plain.raw", 4 * MIB)
    compressed = pool.images / "compressed.qcow2"
    run_tool("qemu-img", "convert", "-q", "-c", "-O", "qcow2", "-f", "raw", plain.path, compressed)
    images = [Image(compressed, "qcow2"), Image(create(pool.images / "empty.qcow2", 512), "qcow2")]
    machine = pool.add("web", *images)
    await export(machine, target)
    assert target.read_bytes() == await executed(machine)
    judge_ova(target, machine, images)


async def test_a_machine_without_disks(pool: PoolBuilder, target: Path) -> None:
    machine = pool.add("web")
    await export(machine, target)
    assert target.read_bytes() == await executed(machine)


async def test_time_of_the_generation(pool: PoolBuilder, target: Path) -> None:
    image = raw_image(pool.images / "web.raw")
    machine = pool.add("web", image)
    await export(machine, target)
    assert target.stat().st_mtime_ns == image.path.stat().st_ctime_ns


async def test_zeros_by_layout_are_holes_and_stored_zeros_are_not(pool: PoolBuilder, target: Path) -> None:
    """Two disks, so that the first one's member has a zero tail; data of zeros is data."""
    path = pool.images / "zeros.raw"
    path.write_bytes(bytes(8 * MIB))
    machine = pool.add("web", Image(path, "raw"), raw_image(pool.images / "b.raw"))
    with opened(machine) as package:
        stored, size = package.package.stored, package.size
    done = await export(machine, target)
    assert done.copied == stored < size
    blocks = target.stat().st_blocks * 512
    assert 11 * MIB < stored - 8192 < blocks <= stored + 16 * 4096
    with target.open("rb") as file:
        assert file.seek(0, os.SEEK_HOLE) < size


async def test_interrupted_and_resumed(big: Machine, target: Path) -> None:
    expected = await executed(big)
    attempt = await failed(big, target, cancel_at=9 * MIB)
    assert attempt.error is None
    assert attempt.partial.is_kept
    assert 9 * MIB <= attempt.partial.durable < 20 * MIB
    assert os.listdir(target.parent) == ["web.ova.tmp"]
    again = await failed(big, target, resume=True, cancel_at=25 * MIB)
    assert again.partial.durable >= 25 * MIB
    done = await export(big, target, resume=True)
    assert done.resumed_at == again.partial.durable
    assert done.copied < 18 * MIB
    assert target.read_bytes() == expected
    assert os.listdir(target.parent) == ["web.ova"]


async def test_interrupted_before_anything_was_written(big: Machine, target: Path) -> None:
    with trio.move_on_after(0), opened(big) as package:
        partial = begin_export(package, str(target), resume=False, replace=False)
        await export_file(package, partial, replace=False, on_progress=lambda _: None)
    assert not partial.is_kept
    assert os.listdir(target.parent) == []


async def test_checkpoints_on_the_way(big: Machine, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill -9 leaves: the mark of the last checkpoint, not of what was written."""
    monkeypatch.setattr(module, "CHECKPOINT_BYTES", 8 * MIB)
    seen: list[tuple[int, int]] = []
    with opened(big) as package:
        partial = begin_export(package, str(target), resume=False, replace=False)
        await export_file(
            package, partial, replace=False, on_progress=lambda offset: seen.append((offset, partial.durable))
        )
    assert all(durable <= offset for offset, durable in seen)
    assert partial.durable >= 8 * MIB


async def test_resume_of_another_generation(pool: PoolBuilder, big: Machine, target: Path) -> None:
    await failed(big, target, cancel_at=9 * MIB)
    changed = pool.change("web", description="another one")
    with pytest.raises(ExportFailed, match=r"holds another state .* export again without --resume"):
        await export(changed, target, resume=True)
    assert os.listdir(target.parent) == ["web.ova.tmp"]


def overwrite(image: Path, offset: int) -> Callable[[int], None]:
    """Progress that changes the image once, when the export has come to ``offset``."""
    left = [offset]

    def change(reached: int) -> None:
        if left and reached >= left[0]:
            left.clear()
            with image.open("r+b") as file:
                file.write(b"changed")

    return change


@pytest.mark.parametrize("at", [5 * MIB, 36 * MIB])
async def test_source_changed_on_the_way(pool: PoolBuilder, big: Machine, target: Path, at: int) -> None:
    """Also in the last blocks, when all that is read later comes from elsewhere."""
    attempt = await failed(big, target, on_progress=overwrite(pool.images / "web.raw", at))
    assert isinstance(attempt.error, VolumeChanged)
    assert not attempt.partial.is_kept
    assert os.listdir(target.parent) == []


async def test_source_changed_after_the_last_read(pool: PoolBuilder, target: Path) -> None:
    image = raw_image(pool.images / "web.raw")
    machine = pool.add("web", image)
    with opened(machine) as package:
        size = package.size
    attempt = await failed(machine, target, on_progress=overwrite(image.path, size))
    assert isinstance(attempt.error, VolumeChanged)
    assert os.listdir(target.parent) == []


async def test_bad_compressed_cluster(pool: PoolBuilder, target: Path) -> None:
    """It will not get better: nothing is kept, though the first disk was written."""
    good = raw_image(pool.images / "good.raw", 16 * MIB)
    plain = create(pool.images / "plain.qcow2", MIB)
    io(plain, "write -P 1 0 64k")
    bad = pool.images / "bad.qcow2"
    run_tool("qemu-img", "convert", "-q", "-c", "-O", "qcow2", "-f", "qcow2", plain, bad)
    with bad.open("r+b") as file:
        file.seek(5 << 16)  # behind the header, the refcounts and the tables
        file.write(b"\xff" * 200)
    attempt = await failed(pool.add("web", good, Image(bad, "qcow2")), target)
    assert isinstance(attempt.error, InvalidImage)
    assert os.listdir(target.parent) == []


async def test_storage_that_fails_for_a_while(big: Machine, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is kept, and the export goes on once the storage is well again."""
    expected = await executed(big)

    def fail(self: SourceFile, buffer: memoryview, offset: int) -> int:
        if offset > 10 * MIB:
            raise ReadFailed(self.path, "read failed: Input/output error")
        return really_read(self, buffer, offset)

    really_read = SourceFile.read_cached
    with monkeypatch.context() as patch:
        patch.setattr(SourceFile, "read_cached", fail)
        attempt = await failed(big, target)
    assert isinstance(attempt.error, ReadFailed)
    assert attempt.partial.is_kept
    assert attempt.partial.durable >= 4 * MIB
    await export(big, target, resume=True)
    assert target.read_bytes() == expected


async def test_target_that_fails(big: Machine, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fdatasync nothing that was written since the last good one is believed."""
    expected = await executed(big)
    monkeypatch.setattr(module, "CHECKPOINT_BYTES", 4 * MIB)
    calls = []
    really_sync = os.fdatasync

    def fail_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        really_sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fail_second)
        attempt = await failed(big, target)
    assert "cannot be written to the disk: Input/output error" in str(attempt.error)
    assert attempt.partial.is_kept
    assert attempt.partial.durable < 20 * MIB
    await export(big, target, resume=True)
    assert target.read_bytes() == expected


async def test_room_is_looked_at_first(big: Machine, tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=30M") as folder:
        attempt = await failed(big, folder / "web.ova", on_progress=lambda _: pytest.fail("it began to write"))
        assert isinstance(attempt.error, NoSpace)
        assert str(attempt.error) == (
            f"the export needs 40.3 MiB, 30.0 MiB are free on {folder}; make room there, or give another place"
        )
        assert os.listdir(folder) == []


async def test_room_that_is_needed_for_the_rest_only(big: Machine, tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=50M") as folder:
        await failed(big, folder / "web.ova", cancel_at=24 * MIB)
        (folder / "other").write_bytes(bytes(5 * MIB))
        await export(big, folder / "web.ova", resume=True)
        assert (folder / "web.ova").read_bytes() == await executed(big)


async def test_disk_full_on_the_way(big: Machine, tmp_path: Path) -> None:
    """Somebody else takes the room: what was written is kept, and goes on when there is room again."""
    with in_memory(tmp_path, "tmpfs", "size=50M") as folder:
        other = folder / "other"

        def take(reached: int) -> None:
            if reached >= 8 * MIB and not other.exists():
                other.write_bytes(bytes(20 * MIB))

        attempt = await failed(big, folder / "web.ova", on_progress=take)
        assert isinstance(attempt.error, NoSpace)
        assert "No space left on device" in str(attempt.error)
        assert attempt.partial.is_kept
        assert attempt.partial.durable >= 8 * MIB
        again = await failed(big, folder / "web.ova", resume=True)
        assert isinstance(again.error, NoSpace)
        assert "the export needs" in str(again.error)
        assert again.partial.is_kept
        other.unlink()
        await export(big, folder / "web.ova", resume=True)
        assert (folder / "web.ova").read_bytes() == await executed(big)


async def test_file_system_without_extended_attributes(big: Machine, tmp_path: Path) -> None:
    with in_memory(tmp_path, "ramfs") as folder:
        attempt = await failed(big, folder / "web.ova", cancel_at=9 * MIB)
        assert attempt.error is None
        assert not attempt.partial.can_resume
        assert os.listdir(folder) == []


async def test_block_device_is_exported_and_never_resumed(pool: PoolBuilder, target: Path) -> None:
    """Nothing shows whether its content is still that of the first attempt."""
    image = raw_image(pool.images / "a.raw", 16 * MIB, hole=(MIB, 2 * MIB))
    with loop_device(image.path) as device:
        machine = pool.add("web", Image(device, "raw"))
        attempt = await failed(machine, target, cancel_at=8 * MIB)
        assert attempt.error is None
        assert not attempt.partial.is_kept
        assert os.listdir(target.parent) == []
        with pytest.raises(ExportFailed, match=r"block device, whose content can change unnoticed"):
            await export(machine, target, resume=True)
        await export(machine, target)
        judge_ova(target, machine, [Image(device, "raw")])


async def test_an_image_of_the_machine_is_no_destination(pool: PoolBuilder, big: Machine) -> None:
    image = pool.images / "web.raw"
    before = image.stat()
    os.link(image, pool.images / "same.ova")
    machine = pool.add("other", Image(image, "raw"))
    for replace in (True, False):
        with pytest.raises(ExportFailed, match=r"exists|is an image of the machine itself"):
            await export(machine, pool.images / "same.ova", replace=replace)
    assert image.stat().st_size == before.st_size


async def test_existing_file(big: Machine, target: Path) -> None:
    target.write_bytes(b"old")
    with pytest.raises(ExportFailed, match=r"web\.ova exists; remove it, give another name, or say --force"):
        await export(big, target)
    await failed(big, target, replace=True, cancel_at=9 * MIB)
    assert target.read_bytes() == b"old"
    await export(big, target, replace=True, resume=True)
    assert target.read_bytes() == await executed(big)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("elsewhere", path)])
async def test_what_is_no_file_is_never_replaced(big: Machine, target: Path, make: Callable[[Path], None]) -> None:
    make(target)
    with pytest.raises(ExportFailed, match="is no regular file"):
        await export(big, target, replace=True)
    assert os.listdir(target.parent) == ["web.ova"]


async def test_two_at_once(big: Machine, target: Path) -> None:
    expected = await executed(big)
    second: list[BaseException] = []

    def start_another(_: int) -> None:
        for resume in (False, True):
            with opened(big) as package, pytest.raises(ExportFailed, match="by another export") as caught:
                begin_export(package, str(target), resume=resume, replace=False)
            second.append(caught.value)

    await export(big, target, on_progress=start_another)
    assert len(second) > 4
    assert target.read_bytes() == expected


async def test_unexpected_failure_leaves_nothing_open(big: Machine, target: Path) -> None:
    def fail(_: int) -> NoReturn:
        raise RuntimeError("a bug")

    attempt = await failed(big, target, on_progress=fail)
    assert isinstance(attempt.error, RuntimeError)
    assert attempt.partial.is_kept
