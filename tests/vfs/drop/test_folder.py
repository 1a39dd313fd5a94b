"""The drop directory without a mount: occasions to commit, and names that change meanwhile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

from ovafs.errors import InvalidPackage, NameRefused, NameTaken, NotEmpty, SourceError, StaleHandle, UploadBusy
from ovafs.inventory import database
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.vfs.drop import caretaker
from ovafs.vfs.drop.caretaker import Caretaker
from ovafs.vfs.drop.entries import DROP_INODE, DropFile, Report, Status
from ovafs.vfs.drop.folder import DropFolder
from tests.support.packages import archive, import_pool, small_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.packages import ImportPool

PACKAGE = archive(small_package())
STATUS = Status(0o600, 7, 8)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    with import_pool(tmp_path / "pool") as opened:
        yield opened


@pytest.fixture
def drop(pool: ImportPool) -> Iterator[DropFolder]:
    opened = DropFolder(pool.pool, ImportChoices(), Status(0o700, 0, 0), 1 << 30)
    yield opened
    opened.close()


async def new_file(drop: DropFolder, name: bytes, handle: int = 1) -> DropFile:
    file = await drop.create(DROP_INODE, name, STATUS)
    assert isinstance(file, DropFile)
    drop.open(file, handle, writes=True)
    return file


def hole_in(data: bytes) -> tuple[int, int]:
    """The longest run of zeros, in whole sectors, that is in the first disk."""
    start = data.index(bytes(1 << 14))
    return start, start + (1 << 14)


async def test_an_idle_upload_is_committed_once_it_has_no_gaps(
    drop: DropFolder, pool: ImportPool, monkeypatch: pytest.MonkeyPatch, expect_log: Callable[[str], None]
) -> None:
    """What has not come may be late data, also after a long time: zeros in its place would be a wrong disk."""
    expect_log("drop/web.ova: not imported: bytes from .* have not come yet")
    monkeypatch.setattr(caretaker, "IDLE_SECONDS", 0.0)
    file = await new_file(drop, b"web.ova")
    start, end = hole_in(PACKAGE)
    await drop.write(file, 1, 0, PACKAGE[:start])
    await drop.write(file, 1, end, PACKAGE[end:])
    await Caretaker(drop).commit_idle()
    assert pool.pool.machines() == []
    assert b"web.ova.report.txt" in drop.root.children
    await drop.write(file, 1, start, PACKAGE[start:end])
    await Caretaker(drop).commit_idle()
    pool.assert_whole(1)
    assert [receipt.name for receipt in pool.pool.receipts()] == [b"web.ova"]


async def test_a_rename_to_a_final_name_commits(drop: DropFolder, pool: ImportPool) -> None:
    file = await new_file(drop, b".web.ova.Ab12Cd")
    await drop.write(file, 1, 0, PACKAGE)
    await drop.flush(file, 1)
    assert pool.pool.machines() == []
    await drop.rename(DROP_INODE, b".web.ova.Ab12Cd", DROP_INODE, b"web.ova", may_replace=True)
    pool.assert_whole(1)
    assert [receipt.name for receipt in pool.pool.receipts()] == [b"web.ova"]
    assert list(drop.root.children)[0] == b"web.ova"  # noqa: RUF015 - a report may follow


async def test_an_import_is_announced_once_however_many_wait_for_it(drop: DropFolder, pool: ImportPool) -> None:
    file = await new_file(drop, b"web.ova")
    await drop.write(file, 1, 0, PACKAGE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drop.sync, file, 1)
        nursery.start_soon(drop.flush, file, 1)
        nursery.start_soon(Caretaker(drop).commit_idle)
    pool.assert_whole(1)
    assert [(ended.name, ended.result) for ended in drop.reporter.history] == [("web.ova", "imported")]


async def test_a_rename_that_cannot_import_changes_nothing(
    drop: DropFolder, pool: ImportPool, expect_log: Callable[[str], None]
) -> None:
    expect_log("not imported")
    first = await new_file(drop, b"web.ova")
    await drop.write(first, 1, 0, PACKAGE)
    await drop.flush(first, 1)
    second = await new_file(drop, b".x", 2)
    with pytest.raises(InvalidPackage):
        await drop.write(second, 2, 0, b"junk" * 1000)
    with pytest.raises(InvalidPackage):
        await drop.rename(DROP_INODE, b".x", DROP_INODE, b"web.ova", may_replace=True)
    assert drop.lookup(DROP_INODE, b"web.ova") is first
    assert drop.lookup(DROP_INODE, b".x") is second
    pool.assert_whole(1)


async def test_an_incomplete_upload_keeps_going_under_its_new_name(
    drop: DropFolder, pool: ImportPool, expect_log: Callable[[str], None]
) -> None:
    expect_log("is cut off")
    file = await new_file(drop, b".web.ova.Ab12Cd")
    await drop.write(file, 1, 0, PACKAGE[:5000])
    await drop.rename(DROP_INODE, b".web.ova.Ab12Cd", DROP_INODE, b"web.ova", may_replace=True)
    assert pool.pool.machines() == []
    await drop.write(file, 1, 5000, PACKAGE[5000:])
    await drop.flush(file, 1)
    pool.assert_whole(1)


async def test_names_that_are_taken_or_refused(drop: DropFolder, expect_log: Callable[[str], None]) -> None:
    expect_log("cannot become a machine")
    await new_file(drop, b"a.ova")
    await new_file(drop, b"b.ova", 2)
    with pytest.raises(NameTaken):
        await drop.create(DROP_INODE, b"a.ova", STATUS)
    with pytest.raises(NameTaken):
        await drop.rename(DROP_INODE, b"a.ova", DROP_INODE, b"b.ova", may_replace=False)
    with pytest.raises(NameRefused):
        await drop.rename(DROP_INODE, b"a.ova", DROP_INODE, b"a.iso", may_replace=True)
    made = await drop.make_directory(DROP_INODE, b".tmp", STATUS)
    await drop.rename(DROP_INODE, b"a.ova", made.inode, b"a.ova", may_replace=True)
    with pytest.raises(NotEmpty):
        drop.remove_directory(DROP_INODE, b".tmp")
    await drop.unlink(made.inode, b"a.ova")
    drop.remove_directory(DROP_INODE, b".tmp")
    assert list(drop.root.children) == [b"b.ova"]


async def test_one_writer_at_a_time(drop: DropFolder) -> None:
    file = await new_file(drop, b"web.ova")
    with pytest.raises(UploadBusy):
        drop.open(file, 2, writes=True)
    drop.open(file, 3, writes=False)
    drop.release(file, 1)
    drop.open(file, 2, writes=True)
    with pytest.raises(UploadBusy):
        await drop.write(file, 3, 0, b"x")


async def test_what_is_unlinked_while_it_is_written_leaves_nothing(drop: DropFolder, pool: ImportPool) -> None:
    file = await new_file(drop, b"web.ova")
    await drop.write(file, 1, 0, PACKAGE[:100_000])
    assert os.listdir(pool.pool.volumes_path) != []
    await drop.unlink(DROP_INODE, b"web.ova")
    pool.assert_whole(0)
    assert drop.entry(file.inode) is file, "an open file can be asked for its attributes"
    drop.release(file, 1)
    assert drop.root.children == {}


# -- uploads that nobody continues -----------------------------------------------------------------------------------


@pytest.fixture
def impatient(pool: ImportPool, monkeypatch: pytest.MonkeyPatch) -> Iterator[DropFolder]:
    """Keeps nothing at all that nobody has open, and for no time what somebody has."""
    monkeypatch.setattr(caretaker, "IDLE_SECONDS", 0.0)
    opened = DropFolder(pool.pool, ImportChoices(), Status(0o700, 0, 0), 1 << 30, 0.0)
    yield opened
    opened.close()


async def test_what_nobody_continues_goes_and_says_so(
    impatient: DropFolder, pool: ImportPool, expect_log: Callable[[str], None]
) -> None:
    expect_log("not imported: .*is cut off|removed: nothing was written for too long")
    file = await new_file(impatient, b"web.ova")
    await impatient.write(file, 1, 0, PACKAGE[:100_000])
    with pytest.raises(InvalidPackage):
        await impatient.flush(file, 1)
    assert b"is kept until 20" in report_of(impatient, b"web.ova")
    assert os.listdir(pool.pool.volumes_path) != []
    await Caretaker(impatient).remove_expired()
    pool.assert_whole(0)
    assert b"The upload was removed" in report_of(impatient, b"web.ova")
    await Caretaker(impatient).remove_expired()
    assert list(impatient.root.children) == []
    ended = impatient.reporter.history[-1]
    assert (ended.name, ended.result, ended.received) == ("web.ova", "given up", 100_000)
    with pytest.raises(StaleHandle):
        await impatient.write(file, 1, 100_000, b"late")


async def test_what_is_kept_in_time(drop: DropFolder, expect_log: Callable[[str], None]) -> None:
    """An upload in its time, a failed one too, and receipts for ever."""
    expect_log("junk.ova: not imported|cut.ova: removed: nothing was written for too long")
    whole, cut, junk = [await new_file(drop, name) for name in (b"whole.ova", b"cut.ova", b"junk.ova")]
    await drop.write(whole, 1, 0, PACKAGE)
    await drop.flush(whole, 1)
    await drop.write(cut, 1, 0, PACKAGE[:5000])
    with pytest.raises(InvalidPackage):
        await drop.write(junk, 1, 0, b"junk" * 1000)
    await Caretaker(drop).remove_expired()
    assert {b"whole.ova", b"cut.ova", b"junk.ova", b"junk.ova.report.txt"} <= set(drop.root.children)
    drop.keep = -1.0
    for file in (whole, cut, junk):
        drop.release(file, 1)
    await Caretaker(drop).remove_expired()
    assert [name for name in drop.root.children if name.endswith(b".ova")] == [b"whole.ova"]


async def test_an_open_file_is_given_more_time(drop: DropFolder, expect_log: Callable[[str], None]) -> None:
    expect_log("removed: nothing was written for too long")
    drop.keep = 0.0
    file = await new_file(drop, b"web.ova")
    await drop.write(file, 1, 0, PACKAGE[:5000])
    await Caretaker(drop).remove_expired()
    assert list(drop.root.children) == [b"web.ova"]
    drop.release(file, 1)
    await Caretaker(drop).remove_expired()
    assert b"web.ova" not in drop.root.children


async def test_there_is_a_report_also_while_the_catalog_is_locked(
    drop: DropFolder, pool: ImportPool, monkeypatch: pytest.MonkeyPatch, expect_log: Callable[[str], None]
) -> None:
    expect_log("not imported: .*is locked by another program")
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.05)
    file = await new_file(drop, b"web.ova")
    await drop.write(file, 1, 0, PACKAGE[:-20_000])
    with pool.locked():
        await drop.write(file, 1, len(PACKAGE) - 20_000, PACKAGE[-20_000:])
        with pytest.raises(SourceError, match="is locked by another program"):
            await drop.flush(file, 1)
        assert b"is locked by another program" in report_of(drop, b"web.ova")
    assert pool.pool.machines() == []


async def test_an_import_whose_change_is_not_remembered_stands(
    drop: DropFolder, pool: ImportPool, monkeypatch: pytest.MonkeyPatch, expect_log: Callable[[str], None]
) -> None:
    """Its writer must not send it again, so it is told of success."""
    expect_log("its change is not remembered: locked")
    register = pool.pool.register

    def touched_meanwhile(*arguments: Any) -> None:
        register(*arguments)
        file.status.mtime_ns += 1

    def locked(*_: object) -> None:
        raise SourceError("locked")

    file = await new_file(drop, b"web.ova")
    await drop.write(file, 1, 0, PACKAGE)
    monkeypatch.setattr(pool.pool, "register", touched_meanwhile)
    monkeypatch.setattr(pool.pool, "keep_receipt", locked)
    await drop.flush(file, 1)
    assert len(pool.pool.machines()) == 1


async def test_machine_and_receipt_are_one_transaction(
    drop: DropFolder, pool: ImportPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no moment at which one of them is on disk and the other is not."""

    def two_transactions(*_: object) -> None:
        raise AssertionError("a transaction of its own")

    file = await new_file(drop, b"web.ova")
    await drop.write(file, 1, 0, PACKAGE)
    monkeypatch.setattr(pool.pool, "keep_receipt", two_transactions)
    await drop.flush(file, 1)
    assert len(pool.pool.machines()) == 1
    (receipt,) = pool.pool.receipts()
    assert (receipt.name, receipt.size, receipt.mtime_ns) == (b"web.ova", len(PACKAGE), file.status.mtime_ns)
    assert pool.pool.receipt_archive(receipt.number) is not None


def report_of(drop: DropFolder, name: bytes) -> bytes:
    report = drop.root.children[name + b".report.txt"]
    assert isinstance(report, Report)
    return report.text
