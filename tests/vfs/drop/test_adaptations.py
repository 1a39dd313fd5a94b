"""Uploads whose guests are adapted: their writers have their answer, and are told the rest."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio

from ovafs.errors import UploadBusy
from ovafs.model import DiskInterface
from ovafs.transfer.adapt.policy import Adapt
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.vfs.drop.entries import DROP_INODE, DropFile, Report, Status
from ovafs.vfs.drop.folder import DropFolder
from ovafs.vfs.drop.status import drop_status
from tests.support.converter import Converter, RunningPool
from tests.support.packages import ImportPool, archive, small_package

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

PACKAGE = archive(small_package())


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Converter(folder, monkeypatch)
    made.succeeds()
    return made


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    with contextlib.closing(ImportPool(tmp_path / "pool")) as opened:
        opened.pool.close()
        opened.pool = RunningPool(str(tmp_path / "pool"))
        yield opened


@contextlib.asynccontextmanager
async def working(pool: ImportPool, adapt: Adapt = Adapt.AUTO) -> AsyncIterator[DropFolder]:
    """A drop directory that is looked after, as a mount does it."""
    drop = DropFolder(pool.pool, ImportChoices(adapt=adapt), Status(0o700, 0, 0), 1 << 30)
    with contextlib.closing(drop):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop.adaptations.work)
            yield drop
            nursery.cancel_scope.cancel()


async def put(drop: DropFolder, name: bytes = b"web.ova") -> DropFile:
    file = await drop.create(DROP_INODE, name, Status(0o600, 7, 8))
    assert isinstance(file, DropFile)
    drop.open(file, 1, writes=True)
    await drop.write(file, 1, 0, PACKAGE)
    await drop.flush(file, 1)
    drop.release(file, 1)
    return file


async def until(condition: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(60):
        while not condition():  # noqa: ASYNC110 - what it waits for is in threads and files
            await trio.sleep(0.02)
        return
    pytest.fail(f"not within a minute: {what}")


def report(drop: DropFolder, name: bytes = b"web.ova.report.txt") -> str:
    found = drop.root.children[name]
    assert isinstance(found, Report)
    return found.text.decode()


@pytest.mark.usefixtures("converter")
async def test_the_machine_appears_and_the_report_tells_how(pool: ImportPool) -> None:
    async with working(pool) as drop:
        await put(drop)
        assert report(drop).startswith("web.ova: adapting, will be imported as vm web\n")
        await until(lambda: bool(drop.reporter.history), "an end")
        assert [(one.name, one.result, one.machines[0].name) for one in drop.reporter.history] == [
            ("web.ova", "imported", "web")
        ]
        assert (await drop_status(drop)).adapting == []
        lines = report(drop).splitlines()
    assert lines[0].startswith("web.ova: imported as vm web (")
    assert "  - web: its guest was adapted, its disks are on virtio" in lines
    assert "  virt-v2v-in-place: This guest has virtio drivers installed." in lines
    pool.assert_whole(1)


async def test_what_is_being_adapted_stays_where_it_is(pool: ImportPool, converter: Converter) -> None:
    converter.hangs()
    async with working(pool) as drop:
        file = await put(drop)
        await until(converter.pids.exists, "it runs")
        (one,) = (await drop_status(drop)).adapting
        assert (one.name, one.state, one.machines, one.error) == ("web.ova", "adapting", ["web"], "")
        (one,) = (await drop_status(drop)).adapting
        assert one.step == "Converting it"
        with pytest.raises(UploadBusy, match=r"drop/web\.ova: its guest is being adapted; wait until"):
            await drop.unlink(DROP_INODE, b"web.ova")
        with pytest.raises(UploadBusy):
            await drop.truncate(file, None)
        await drop.create(DROP_INODE, b".web.ova.Ab12Cd", Status(0o600, 7, 8))
        with pytest.raises(UploadBusy):
            await drop.rename(DROP_INODE, b".web.ova.Ab12Cd", DROP_INODE, b"web.ova", may_replace=True)
        await drop.rename(DROP_INODE, b"web.ova", DROP_INODE, b"other.ova", may_replace=True)
    assert pool.pool.machines() == []
    converter.succeeds()
    async with working(pool) as drop:  # the next mount goes on
        await until(lambda: bool(drop.reporter.history), "an end")
        assert drop.reporter.history[0].name == "other.ova"
        assert report(drop, b"other.ova.report.txt").startswith("other.ova: imported as vm web (")
    pool.assert_whole(1)


async def test_a_failure_is_told_and_can_be_given_up(
    pool: ImportPool, converter: Converter, expect_log: Callable[[str], None]
) -> None:
    expect_log("drop/web.ova: not registered: virt-v2v-in-place failed")
    expect_log("drop/web.ova: given up")
    converter.fails()
    async with working(pool, Adapt.V2V) as drop:
        await put(drop)
        await until(lambda: bool(drop.reporter.history), "an end")
        (one,) = (await drop_status(drop)).adapting
        assert (one.state, one.error[:25]) == ("failed", "virt-v2v-in-place failed:")
        assert drop.reporter.history[0].result == "failed"
        text = report(drop)
        assert "What was uploaded is kept, and its machine is not registered" in text
        assert "to do:    mount again to try once more, with adapt=never to have the machine as it came; remove" in text
        await drop.unlink(DROP_INODE, b"web.ova")
        assert (await drop_status(drop)).adapting == []
    pool.assert_whole(0)
    assert pool.pool.pending_imports() == []


async def test_the_next_mount_has_it_as_it_came(
    pool: ImportPool, converter: Converter, expect_log: Callable[[str], None]
) -> None:
    expect_log("drop/web.ova: not registered: virt-v2v-in-place failed")
    converter.fails()
    async with working(pool, Adapt.V2V) as drop:
        await put(drop)
        await until(lambda: bool(drop.reporter.history), "an end")
    async with working(pool, Adapt.NEVER) as drop:
        await until(lambda: bool(pool.pool.machines()), "the machine")
    assert {disk.interface for disk in pool.pool.machines()[0].disks} == {DiskInterface.SATA}
    pool.assert_whole(1)


async def test_what_a_command_left_that_was_killed_is_taken_away(pool: ImportPool, converter: Converter) -> None:
    assert pool.take(PACKAGE).pending is not None
    async with working(pool) as drop:
        await until(lambda: not pool.pool.pending_imports(), "nothing is pending")
        assert drop.adaptations.all() == []
    pool.assert_whole(0)
    assert not converter.pids.exists()
