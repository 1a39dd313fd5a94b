"""Imports that are killed, that run beside each other, and that meet a catalog which is locked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidPackage, SourceError
from ovafs.inventory import database
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.transfer.ingest.landing import PoolLanding
from ovafs.transfer.ingest.package import import_package
from tests.support.packages import DiskText, archive, content, descriptor, guest_bytes, import_pool, small_package
from tests.support.processes import ENVIRONMENT, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.packages import ImportPool

# Kills itself at a named function of a named module: before ("-") or after ("+") its call of that number.
KILLED = """
import importlib, os, signal, sys
from ovafs.inventory.pool import Pool
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.transfer.ingest.package import import_package

pool, package, module, name, moment, number = sys.argv[1:]
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
original = getattr(owner, name)
left = int(number)

def hooked(*arguments, **keywords):
    global left
    left -= 1
    if left == 0 and moment == "-":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **keywords)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, hooked)
with open(package, "rb") as file:
    pieces = iter(lambda: memoryview(file.read(10000)), memoryview(b""))
    import_package(Pool(pool), pieces, "package", ImportChoices())
print("not killed")
"""
LANDING, NEW_VOLUME = "ovafs.transfer.ingest.landing", "ovafs.storage.writer.new_volume"
CATALOG, SESSION = "ovafs.inventory.catalog", "ovafs.transfer.ingest.session"
MOMENTS = {
    "before the first volume": (LANDING, "PoolLanding.new_volume", "-", 1),
    "after the note of a volume": (CATALOG, "Catalog.note_volume", "+", 1),
    "with an empty volume": (LANDING, "PoolLanding.new_volume", "+", 1),
    "in the first disk": (SESSION, "Ingest.receive_data", "-", 5),
    "in the second disk": (SESSION, "Ingest.receive_data", "-", 12),
    "with two complete disks": (SESSION, "Ingest.finish", "+", 1),
    "before the first volume has its name": (NEW_VOLUME, "NewVolume.publish", "-", 1),
    "between the names": (NEW_VOLUME, "NewVolume.publish", "+", 1),
    "when all have names": (LANDING, "sync_directory", "-", 1),
    "before the transaction": (CATALOG, "Catalog.register", "-", 1),
    "in the transaction": (CATALOG, "_insert", "+", 1),
    "after the transaction": (CATALOG, "Catalog.register", "+", 1),
}


def killed_at(pool: Path, package: Path, *moment: object) -> None:
    command = [sys.executable, "-c", KILLED, pool, package, *moment]
    done = subprocess.run([str(word) for word in command], env=ENVIRONMENT, cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", MOMENTS)
def test_killed(pool: ImportPool, tmp_path: Path, name: str) -> None:
    package = tmp_path / "web.ova"
    package.write_bytes(archive(small_package()))
    killed_at(pool.path, package, *MOMENTS[name])
    registered = int(name == "after the transaction")
    assert len(pool.pool.machines()) == registered
    for machine in pool.pool.machines():
        assert [guest_bytes(disk.volume.path, "qcow2", tmp_path) for disk in machine.disks] == [
            small_package()["a.raw"],
            small_package()["b.raw"],
        ]
    with pytest.raises(InvalidPackage):  # even an import that is refused tidies up
        pool.take(b"no package")
    pool.assert_whole(registered)
    pool.take(package.read_bytes())
    pool.assert_whole(registered + 1)


def test_killed_with_a_spool(pool: ImportPool, tmp_path: Path) -> None:
    parts = small_package()
    package = tmp_path / "web.ova"
    package.write_bytes(archive({"a.raw": parts["a.raw"], "b.raw": parts["b.raw"], "web.ovf": parts["web.ovf"]}))
    killed_at(pool.path, package, SESSION, "Ingest.receive_data", "-", 5)
    assert pool.files == []
    killed_at(pool.path, package, "ovafs.transfer.ingest.spool", "NewFile", "+", 1)
    assert len(pool.files) == 1  # in the moment in which it has a name
    PoolLanding(pool.pool).close()
    pool.assert_whole()


def test_killed_while_it_tidies_up(pool: ImportPool, tmp_path: Path) -> None:
    package = tmp_path / "web.ova"
    parts = small_package()
    package.write_bytes(archive({**parts, "web.mf": b"nonsense"}))
    killed_at(pool.path, package, NEW_VOLUME, "NewVolume.withdraw", "+", 1)
    assert len(pool.notes) == 2
    killed_at(pool.path, package, LANDING, "sweep", "+", 1)
    assert pool.files == []
    assert len(pool.notes) == 2
    pool.take(archive(parts))
    pool.assert_whole(1)


# -- side by side ------------------------------------------------------------------------------------------------


def interrupted_by(data: bytes, where: int, what: Callable[[], object]) -> Iterator[memoryview]:
    """A package whose pieces do not come before something else has happened."""
    yield memoryview(data)[:where]
    what()
    yield memoryview(data)[where:]


def test_an_import_leaves_the_others_alone(pool: ImportPool, tmp_path: Path) -> None:
    """Of the first one a disk is complete, and nothing but the directory's lock says that it is needed."""
    first, second = small_package(), small_package(7)
    package = archive(first)
    in_the_second_disk = len(package) - 5000

    def other() -> None:
        assert len(pool.files) == 2
        with import_pool(pool.path) as beside:
            beside.take(archive(second))
            with pytest.raises(InvalidPackage):
                beside.take(archive(second)[:70_000])

    import_package(pool.pool, interrupted_by(package, in_the_second_disk, other), "package", ImportChoices())
    pool.assert_whole(2)
    names = {machine.name: machine for machine in pool.pool.machines()}
    for name, parts in (("web-2", first), ("web", second)):
        disks = [guest_bytes(disk.volume.path, "qcow2", tmp_path) for disk in names[name].disks]
        assert disks == [parts["a.raw"], parts["b.raw"]]


def test_leftovers_wait_until_no_import_runs(pool: ImportPool, tmp_path: Path) -> None:
    package = tmp_path / "web.ova"
    package.write_bytes(archive(small_package()))
    killed_at(pool.path, package, *MOMENTS["before the transaction"])
    left = pool.files
    assert len(left) == 2

    def other() -> None:
        with import_pool(pool.path) as beside:
            beside.take(package.read_bytes())

    import_package(pool.pool, interrupted_by(package.read_bytes(), 9000, other), "package", ImportChoices())
    pool.assert_whole(2)  # the first of both was alone when it began


def test_two_at_once(pool: ImportPool, tmp_path: Path) -> None:
    """As processes, of the same package: different names, UUIDs and MAC addresses."""
    package = tmp_path / "web.ova"
    package.write_bytes(archive(small_package(uuid="0f0e0d0c-0b0a-4908-8706-050403020100", macs=["52:54:00:00:00:01"])))
    command = [sys.executable, "-m", "ovafs", "import", "-q", str(pool.path), str(package)]
    running = [
        subprocess.Popen(command, env=ENVIRONMENT, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert sorted(machine.name for machine in pool.pool.machines()) == ["web", "web-2", "web-3", "web-4"]
    pool.assert_whole(4)


# -- the catalog -------------------------------------------------------------------------------------------------


def test_a_locked_catalog(pool: ImportPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.05)
    package = archive(small_package())
    with pool.locked(), pytest.raises(SourceError, match="is locked by another program"):
        pool.take(package)
    pool.assert_whole()
    with contextlib.ExitStack() as stack:
        pieces = interrupted_by(package, len(package) - 500, lambda: stack.enter_context(pool.locked()))
        with pytest.raises(SourceError, match="is locked by another program"):
            import_package(pool.pool, pieces, "package", ImportChoices())
        assert pool.files == []
        assert len(pool.notes) == 2  # they could not be taken away either
    pool.take(package)
    pool.assert_whole(1)


def test_an_error_of_a_transaction_that_took_place(pool: ImportPool, monkeypatch: pytest.MonkeyPatch) -> None:
    register = pool.pool.register

    def failing(*arguments: object) -> None:
        register(*arguments)  # type: ignore[arg-type]
        raise SourceError("the storage failed in the very last moment")

    monkeypatch.setattr(pool.pool, "register", failing)
    with pytest.raises(SourceError, match="in the very last moment"):
        pool.take(archive(small_package()))
    pool.assert_whole(1)


def test_a_pool_that_cannot_be_written(pool: ImportPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovafs.inventory.journal.is_writable", lambda _: False)
    with pytest.raises(SourceError, match="cannot be written"):
        pool.take(archive(small_package()))
    assert pool.files == []


def test_a_pool_without_its_directory(pool: ImportPool) -> None:
    os.rmdir(pool.path / "volumes")
    with pytest.raises(Exception, match="volumes: cannot be opened: No such file or directory"):
        pool.take(archive({"web.ovf": descriptor(DiskText("a", 512)), "a": content(512)}))
