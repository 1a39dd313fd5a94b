"""Chains that are read from clones: QEMU may write to the images, and what is read stays what it was."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import VolumeChanged
from ovafs.model import DiskFormat
from ovafs.storage.chain import open_chain
from tests.support.chains import read_disk
from tests.support.filesystems import in_memory, loop_device, on_loop
from tests.support.images import convert, make_chain
from tests.support.mount import mounted
from tests.support.pools import Image, judge_ova, pool_builder
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.storage.chain import Chain

MIB = 1 << 20


@pytest.fixture(params=["xfs", "btrfs"], scope="module")
def reflinks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with on_loop(tmp_path_factory.mktemp(request.param), request.param) as folder:
        yield folder


@contextlib.contextmanager
def opened(path: Path, form: DiskFormat = DiskFormat.QCOW2) -> Iterator[Chain]:
    with contextlib.closing(open_chain(str(path), form)) as chain:
        chain.read_extents()
        yield chain


def can_be_written(path: Path, form: str = "qcow2") -> bool:
    result = run("qemu-io", "-f", form, "-c", "write -P 9 0 4M", path, status=None)
    return "lock" not in result.stderr + result.stdout


async def test_what_is_written_meanwhile_is_not_read(reflinks: Path, tmp_path: Path) -> None:
    folder = reflinks / "chain"
    folder.mkdir()
    top = make_chain(folder, 3)
    expected = convert(top, tmp_path / "raw").read_bytes()
    names = sorted(os.listdir(folder))
    with opened(top) as chain:
        assert not can_be_written(top), "before it is cloned it is locked"
        assert chain.clone()
        assert sorted(os.listdir(folder)) == names, "clones have no name"
        assert can_be_written(top)
        chain.check_unchanged()
        assert await read_disk(chain) == expected
    assert convert(top, tmp_path / "raw").read_bytes() != expected
    shutil.rmtree(folder)


def test_a_change_before_the_clone_is_seen(reflinks: Path) -> None:
    path = reflinks / "raw"
    path.write_bytes(b"x" * MIB)
    with opened(path, DiskFormat.RAW) as chain:
        path.write_bytes(b"y" * MIB)
        with pytest.raises(VolumeChanged):
            chain.clone()
    path.unlink()


def test_where_nothing_can_be_cloned_the_lock_stays(tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=16M") as folder:
        top = make_chain(folder, 2)
        with opened(top) as chain:
            assert not chain.clone()
            assert not can_be_written(top)
            chain.check_unchanged()


def test_a_block_device_is_not_cloned(tmp_path: Path) -> None:
    image = tmp_path / "raw"
    image.write_bytes(b"x" * MIB)
    with loop_device(image) as device, opened(device, DiskFormat.RAW) as chain:
        assert not chain.clone()


def test_a_directory_that_cannot_be_written(reflinks: Path) -> None:
    """Nothing can be made beside the image: it stays locked."""
    folder = reflinks / "immutable"
    folder.mkdir()
    path = make_chain(folder, 1)
    run("mount", "--bind", folder, folder)
    try:
        run("mount", "-o", "remount,bind,ro", folder)
        with opened(path) as chain:
            assert not chain.clone()
    finally:
        run("umount", folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("pin", ["lock", "reflink"])
def test_a_machine_written_to_while_its_file_is_open(reflinks: Path, tmp_path: Path, pin: str) -> None:
    folder = reflinks / "pin"
    folder.mkdir()
    before = make_chain(tmp_path, 2)
    image = Image(make_chain(folder, 2), "qcow2")
    with pool_builder(tmp_path) as builder:
        machine = builder.add("web", image)
        with mounted(builder.path, tmp_path, f"pin={pin}") as mount:
            path = mount.path / "vms" / "web.ova"
            with path.open("rb") as file:
                assert can_be_written(image.path) is (pin == "reflink")
                (tmp_path / "copy.ova").write_bytes(file.read())
            judge_ova(tmp_path / "copy.ova", machine, [Image(before, "qcow2")])
    shutil.rmtree(folder)
