"""Clones on real file systems: blocks are shared, and where that cannot be the answer is no."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from ovafs.model import DiskFormat
from ovafs.storage.map_cache import MapCache
from ovafs.transfer.export_file import Exported, begin_export, export_file
from ovafs.transfer.packager import Packager
from ovafs.transfer.reflink import block_size, can_clone, clone_range
from tests.support.fakes import MemoryInventory
from tests.support.filesystems import in_memory, on_loop
from tests.support.images import create, io
from tests.support.pools import Image, judge_ova, pool_builder
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.model import Machine
    from ovafs.transfer.open_package import OpenPackage

MIB = 1 << 20


@pytest.fixture(params=["xfs", "btrfs"], scope="module")
def reflinks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that can share blocks."""
    with on_loop(tmp_path_factory.mktemp(request.param), request.param) as folder:
        yield folder


@pytest.fixture
def folder(reflinks: Path) -> Iterator[Path]:
    """A folder on it, gone with its blocks after the test."""
    path = reflinks / "test"
    path.mkdir()
    yield path
    shutil.rmtree(path)
    run("sync", "-f", reflinks)


def test_clone_shares_blocks_and_stays_apart(folder: Path) -> None:
    data = os.urandom(MIB)
    (folder / "source").write_bytes(data)
    with open(folder / "source", "r+b") as source, open(folder / "target", "w+b") as target:
        target.truncate(4 * MIB)
        assert clone_range(source.fileno(), 4096, MIB - 4096, target.fileno(), 65536)
        source.write(bytes(MIB))
        source.flush()
        assert os.pread(target.fileno(), MIB - 4096, 65536) == data[4096:]
        assert not clone_range(source.fileno(), 0, 1000, target.fileno(), 0)
        assert not clone_range(source.fileno(), 512, 4096, target.fileno(), 0)


def test_can_clone_leaves_the_target_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "source").write_bytes(os.urandom(MIB))
    (folder / "small").write_bytes(b"x")
    (tmp_path / "elsewhere").write_bytes(os.urandom(MIB))
    (folder / "target").write_bytes(b"t" * 5000)
    with open(folder / "target", "r+b") as target:
        for name, expected in ((folder / "source", True), (folder / "small", False), (tmp_path / "elsewhere", False)):
            with open(name, "rb") as source:
                assert can_clone(source.fileno(), target.fileno(), 8192) is expected
    assert (folder / "target").read_bytes() == b"t" * 5000


def test_no_reflinks(tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=4M") as folder:
        (folder / "source").write_bytes(os.urandom(MIB))
        with open(folder / "source", "rb") as source, open(folder / "target", "w+b") as target:
            assert block_size(target.fileno()) == 4096
            assert not can_clone(source.fileno(), target.fileno(), 0)
            assert os.fstat(target.fileno()).st_size == 0


def export(machine: Machine, destination: Path) -> Exported:
    packager = Packager(MapCache(None), MemoryInventory())
    package = packager.open(machine, packager.describe(machine))
    try:
        partial = begin_export(package, str(destination), resume=False, replace=False)
        return trio.run(lambda: export_file(package, partial, replace=False, on_progress=lambda _: None))
    finally:
        package.close()


def executed(package: OpenPackage) -> bytes:
    buffer = bytearray(package.size)
    trio.run(package.read_into, 0, memoryview(buffer))
    return bytes(buffer)


def make_chain(folder: Path) -> Image:
    """A raw base of 32 MiB of data with an overlay of both kinds of cluster."""
    with open(folder / "base.raw", "wb") as base:
        base.truncate(128 * MIB)
        for number in range(32):
            base.seek((number + number // 8 * 7) * MIB)
            base.write(os.urandom(MIB))
    top = create(folder / "top.qcow2", 128 * MIB, backing="base.raw", backing_format="raw")
    io(top, "write -P 7 3M 5M", "write -z 20M 1M", "write -P 8 100M 64k")
    return Image(top, "qcow2")


def test_export_shares_what_is_aligned(folder: Path, tmp_path: Path) -> None:
    image = make_chain(folder)
    os.sync()
    before = os.statvfs(folder)
    with pool_builder(tmp_path) as pool:
        machine = pool.add("web", image)
        ova = folder / "web.ova"
        done = export(machine, ova)
        judge_ova(ova, machine, [image])
    os.sync()
    after = os.statvfs(folder)
    assert done.cloned > 30 * MIB
    assert done.copied < MIB
    assert (before.f_bfree - after.f_bfree) * after.f_frsize < 8 * MIB
    assert "shared" in run("filefrag", "-v", ova).stdout
    # The images may change and go: the file keeps what it shares.
    content = ova.read_bytes()
    io(image.path, "write -P 9 0 100M")
    (folder / "base.raw").write_bytes(os.urandom(32 * MIB))
    run("sync", folder / "base.raw")
    assert ova.read_bytes() == content


def test_the_bytes_are_those_of_the_plan(folder: Path, tmp_path: Path) -> None:
    image = make_chain(folder)
    with pool_builder(tmp_path) as pool:
        machine = pool.add("web", image)
        packager = Packager(MapCache(None), MemoryInventory())
        package = packager.open(machine, packager.describe(machine))
        try:
            expected = executed(package)
        finally:
            package.close()
        export(machine, folder / "web.ova")
        assert (folder / "web.ova").read_bytes() == expected


def test_small_clusters_are_copied_where_they_are_not_aligned(folder: Path, tmp_path: Path) -> None:
    path = create(folder / "small.qcow2", 8 * MIB, cluster_size="512")
    io(path, *(f"write -P {number + 1} {number * 70000 // 512 * 512} 3k" for number in range(100)))
    image = Image(path, "qcow2")
    with pool_builder(tmp_path) as pool:
        machine = pool.add("web", image)
        done = export(machine, folder / "web.ova")
        assert done.copied > 100 * 3 * 1024
        judge_ova(folder / "web.ova", machine, [image])


def test_shared_data_needs_no_room(folder: Path, tmp_path: Path) -> None:
    """The image takes more than half of the file system, and the export fits beside it."""
    status = os.statvfs(folder)
    size = status.f_bavail * status.f_frsize // MIB * 6 // 10
    with open(folder / "big.raw", "wb") as file:
        file.writelines(os.urandom(MIB) for _ in range(size))
        os.fsync(file.fileno())
    with pool_builder(tmp_path) as pool:
        machine = pool.add("big", Image(folder / "big.raw", DiskFormat.RAW))
        done = export(machine, folder / "big.ova")
    assert done.cloned == size * MIB


def test_a_clone_that_is_refused_later_is_copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_chain(folder)
    calls = []

    def sometimes(source: int, source_offset: int, length: int, target: int, target_offset: int) -> bool:
        calls.append(length)
        return len(calls) % 2 == 0 and clone_range(source, source_offset, length, target, target_offset)

    monkeypatch.setattr("ovafs.transfer.partial_file.clone_range", sometimes)
    with pool_builder(tmp_path) as pool:
        machine = pool.add("web", image)
        done = export(machine, folder / "web.ova")
        judge_ova(folder / "web.ova", machine, [image])
    assert done.cloned == sum(calls[1::2])
    assert done.copied > sum(calls[::2])
