"""A broken machine fails alone: it is listed, has the right errno and one line in the log; others copy."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support import images
from tests.support.images import create, hand_made, io
from tests.support.mount import mounted
from tests.support.pools import MIB, Image, answers, chain_image, eventually, judge_ova, pool_builder, raw_image
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.pools import PoolBuilder


def missing(folder: Path) -> Image:
    return Image(folder / "missing.qcow2", "qcow2")


def missing_backing(folder: Path) -> Image:
    image = chain_image(folder, "orphan")
    (folder / "orphan-1.raw").unlink()
    return image


def a_folder(folder: Path) -> Image:
    (folder / "folder").mkdir()
    return Image(folder / "folder", "raw")


def truncated(folder: Path) -> Image:
    path = create(folder / "truncated.qcow2", 4 * MIB)
    io(path, "write -P 1 0 4M")
    os.truncate(path, path.stat().st_size - 2 * MIB)
    return Image(path, "qcow2")


def cut_in_the_header(folder: Path) -> Image:
    path = create(folder / "cut.qcow2", 4 * MIB)
    os.truncate(path, 40)
    return Image(path, "qcow2")


def corrupt_l1(folder: Path) -> Image:
    path = create(folder / "l1.qcow2", 4 * MIB)
    io(path, "write -P 1 0 64k")
    with path.open("r+b") as file:
        file.seek(40)
        (l1_offset,) = struct.unpack(">Q", file.read(8))
        file.seek(l1_offset)
        file.write(struct.pack(">Q", 1 << 63 | 1 << 40))
    return Image(path, "qcow2")


def not_a_qcow2(folder: Path) -> Image:
    return Image(raw_image(folder / "not.qcow2").path, "qcow2")


def backing_loop(folder: Path) -> Image:
    first = create(folder / "loop-1.qcow2", 4 * MIB)
    second = create(folder / "loop-2.qcow2", 4 * MIB, backing="loop-1.qcow2")
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", second.name, first)
    return Image(second, "qcow2")


def encrypted(folder: Path) -> Image:
    return Image(images.encrypted(folder / "luks.qcow2", "4M"), "qcow2")


def missing_data_file(folder: Path) -> Image:
    data = folder / "external.data"
    image = create(folder / "external.qcow2", 4 * MIB, data_file=str(data), data_file_raw="on")
    data.unlink()
    return Image(image, "qcow2")


def dirty(folder: Path) -> Image:
    path = folder / "dirty.qcow2"
    path.write_bytes(hand_made(incompatible=1, l1=[0]))
    return Image(path, "qcow2")


def unknown_feature(folder: Path) -> Image:
    path = folder / "future.qcow2"
    path.write_bytes(hand_made(incompatible=1 << 40, l1=[0]))
    return Image(path, "qcow2")


BROKEN: dict[Callable[[Path], Image], tuple[int, str]] = {
    missing: (errno.EIO, "missing.qcow2: cannot be opened: No such file or directory"),
    missing_backing: (errno.EIO, r"orphan-1.raw: cannot be opened: .* \(backing file of .*orphan-2.qcow2\)"),
    a_folder: (errno.EIO, "neither a file nor a block device"),
    truncated: (errno.EIO, "truncated.qcow2"),
    cut_in_the_header: (errno.EIO, "cut.qcow2"),
    corrupt_l1: (errno.EIO, "l1.qcow2"),
    not_a_qcow2: (errno.EIO, "not.qcow2"),
    backing_loop: (errno.EIO, "leads back to this file"),
    encrypted: (errno.EOPNOTSUPP, "unsupported: .*encryption"),
    missing_data_file: (errno.EIO, r"external.data: cannot be opened: .* \(data file of .*external.qcow2\)"),
    dirty: (errno.EOPNOTSUPP, "dirty"),
    unknown_feature: (errno.EOPNOTSUPP, "unsupported: "),
}


class World(NamedTuple):
    pool: PoolBuilder
    mount: Mount

    @property
    def vms(self) -> Path:
        return self.mount.path / "vms"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Every kind of broken machine, and two good ones among them."""
    folder = tmp_path_factory.mktemp("broken")
    with pool_builder(folder) as pool:
        pool.add("a good one", chain_image(pool.images, "good"))
        for make in BROKEN:
            pool.add(make.__name__, make(pool.images))
        pool.add("z good one", raw_image(pool.images / "good.raw"))
        with mounted(pool.path, folder) as mount:
            for make, (_, reason) in BROKEN.items():
                mount.expect_log(f"WARNING {make.__name__}: .*{reason}")
            yield World(pool, mount)


def test_every_name_is_listed(world: World) -> None:
    names = {f"{make.__name__}.ova" for make in BROKEN} | {"a good one.ova", "z good one.ova"}
    assert set(os.listdir(world.vms)) == names
    assert set(run("ls", world.vms).stdout.splitlines()) == names


def test_a_long_listing_complains_about_the_broken_ones_only(world: World) -> None:
    result = run("ls", "-l", world.vms, status=None)
    assert result.returncode == 1
    complained = {line.split("vms/")[1].split(".ova")[0] for line in result.stderr.splitlines()}
    assert complained == {make.__name__ for make in BROKEN}
    assert result.stdout.count("-r--r-----") == 2


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_each_kind_has_its_errno(world: World, make: Callable[[Path], Image]) -> None:
    file = world.vms / f"{make.__name__}.ova"
    expected, _ = BROKEN[make]
    for attempt in (file.stat, file.read_bytes, lambda: os.getxattr(file, "user.ovafs.id")):
        with pytest.raises(OSError) as caught:
            attempt()
        assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[expected]


def test_the_others_copy(world: World, tmp_path: Path) -> None:
    for name in ("a good one", "z good one"):
        copy = tmp_path / f"{name}.ova"
        run("cp", world.vms / f"{name}.ova", copy)
        world.pool.judge(name, copy)


def test_a_copy_of_everything_fails_for_the_broken_ones_only(world: World, tmp_path: Path) -> None:
    result = run("cp", "-r", world.vms, tmp_path / "copy", status=1)
    assert len(result.stderr.splitlines()) == len(BROKEN)
    good = {"a good one.ova", "z good one.ova"}
    assert {entry.name for entry in os.scandir(tmp_path / "copy") if entry.stat().st_size} == good


def test_a_mirror_keeps_its_copy_of_what_is_broken_now(pool: PoolBuilder, tmp_path: Path) -> None:
    image = raw_image(pool.images / "disk.raw")
    pool.add("disk", image)
    with mounted(pool.path, tmp_path) as mount:
        mirror = tmp_path / "mirror"
        run("rsync", "-a", "--delete", f"{mount.path}/", mirror)
        mount.expect_log("WARNING disk: .*cannot be opened")
        os.rename(image.path, pool.images / "away")
        eventually(lambda: not answers(mount.path / "vms" / "disk.ova"), "the loss of the image shows")
        result = run("rsync", "-a", "--delete", f"{mount.path}/", mirror, status=23)
        assert "Input/output error" in result.stderr
        judge_ova(mirror / "vms" / "disk.ova", pool.pool.find("disk"), [Image(pool.images / "away", "raw")])

        os.rename(pool.images / "away", image.path)
        eventually(lambda: answers(mount.path / "vms" / "disk.ova"), "the image's return shows")
        assert (mount.path / "vms" / "disk.ova").read_bytes()


def test_one_line_in_the_log_for_each(world: World) -> None:
    for _ in range(3):
        os.listdir(world.vms)
        for make in BROKEN:
            assert not answers(world.vms / f"{make.__name__}.ova")
    lines = world.mount.log().splitlines()
    for make in BROKEN:
        assert sum(f" {make.__name__}: " in line for line in lines) == 1, make
