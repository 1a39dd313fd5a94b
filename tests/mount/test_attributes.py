"""What ``stat``, ``ls``, ``df`` and ``getfattr`` show of a mount, and that the names stand where they belong."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.mount import mounted
from tests.support.pools import MIB, chain_image, pool_builder, raw_image
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.mount import Mount
    from tests.support.pools import PoolBuilder


class World(NamedTuple):
    """A mount with a chain, a sparse disk, an empty disk, no disk at all, and a template."""

    pool: PoolBuilder
    mount: Mount

    @property
    def vms(self) -> Path:
        return self.mount.path / "vms"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("attributes")
    with pool_builder(folder) as pool:
        pool.add("chain", chain_image(pool.images, "chain"))
        pool.add("sparse", raw_image(pool.images / "sparse.raw", 64 * MIB, hole=(MIB, 63 * MIB)))
        pool.add("empty", raw_image(pool.images / "empty.raw", 4 * MIB, hole=(0, 4 * MIB)))
        pool.add("diskless")
        pool.add("golden", raw_image(pool.images / "golden.raw"), kind="template")
        with mounted(pool.path, folder) as mount:
            yield World(pool, mount)


def all_files(world: World) -> list[Path]:
    return [world.vms / name for name in os.listdir(world.vms)] + [world.mount.path / "templates" / "golden.ova"]


def test_each_kind_has_its_folder(world: World) -> None:
    assert sorted(os.listdir(world.mount.path)) == ["drop", "templates", "vms"]
    assert sorted(os.listdir(world.vms)) == ["chain.ova", "diskless.ova", "empty.ova", "sparse.ova"]
    assert os.listdir(world.mount.path / "templates") == ["golden.ova"]


def test_the_size_is_exactly_what_can_be_read(world: World) -> None:
    for file in all_files(world):
        size = file.stat().st_size
        assert size > 0
        assert size % 512 == 0
        assert len(file.read_bytes()) == size, file


def test_blocks_are_what_a_sparse_copy_needs_and_never_zero(world: World, tmp_path: Path) -> None:
    for file in all_files(world):
        blocks = file.stat().st_blocks * 512
        assert blocks > 0
        copy = tmp_path / file.name
        run("cp", "--sparse=always", file, copy)
        stored = copy.stat().st_blocks * 512
        # The copy rounds each run of data to the blocks of its own file system, and drops zeros inside of clusters
        # too: in the tables in front of the data (header, refcounts, L1 and L2, a cluster each), and in the data.
        assert stored - 16 * 4096 <= blocks <= file.stat().st_size + 512
        if file.name != "chain.ova":
            assert blocks <= stored + 6 * 65536, file
    assert (world.vms / "sparse.ova").stat().st_blocks * 512 < 4 * MIB


def test_cp_is_told_to_read_in_large_pieces(world: World) -> None:
    assert (world.vms / "chain.ova").stat().st_blksize == MIB


def test_times_are_in_the_past_and_those_of_the_newest_part(world: World) -> None:
    for file in all_files(world):
        status = file.stat()
        assert status.st_mtime < time.time()
        assert status.st_mtime_ns == status.st_ctime_ns
    image = world.pool.disks["sparse"][0].path.stat()
    assert (world.vms / "sparse.ova").stat().st_mtime_ns == max(image.st_mtime_ns, image.st_ctime_ns)
    assert (world.vms / "diskless.ova").stat().st_mtime == 1_600_000_000


def test_inodes_are_those_that_listing_shows(world: World) -> None:
    for entry in os.scandir(world.vms):
        assert entry.inode() == entry.stat().st_ino
    numbers = [file.stat().st_ino for file in all_files(world)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 1 << 63 for number in numbers)


def test_files_are_readable_and_never_writable_by_default(world: World) -> None:
    status = (world.vms / "chain.ova").stat()
    assert stat.filemode(status.st_mode) == "-r--r-----"
    assert (status.st_uid, status.st_gid, status.st_nlink) == (os.getuid(), os.getgid(), 1)
    assert stat.filemode(world.vms.stat().st_mode) == "dr-xr-x---"
    assert stat.filemode(world.mount.path.stat().st_mode) == "dr-xr-x---"


def test_owner_group_and_mode_are_options(world: World, tmp_path: Path) -> None:
    with mounted(world.pool.path, tmp_path, "uid=1234", "gid=4321", "mode=0444") as mount:
        for path in (mount.path, mount.path / "vms", mount.path / "vms" / "chain.ova"):
            assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)
        assert stat.filemode((mount.path / "vms" / "chain.ova").stat().st_mode) == "-r--r--r--"
        assert stat.filemode((mount.path / "vms").stat().st_mode) == "dr-xr-xr-x"


def test_nothing_changes_over_a_restart(world: World, tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        with mounted(world.pool.path, tmp_path) as mount:
            seen.append([_visible(mount.path / "vms" / name) for name in sorted(os.listdir(mount.path / "vms"))])
    assert seen[0] == seen[1] == [_visible(world.vms / name) for name in sorted(os.listdir(world.vms))]


def _visible(path: Path) -> tuple[object, ...]:
    status = path.stat()
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return path.name, status.st_ino, status.st_size, status.st_blocks, status.st_mtime_ns, attributes


def test_extended_attributes_say_which_machine_and_generation(world: World) -> None:
    file = world.vms / "chain.ova"
    assert sorted(os.listxattr(file)) == ["user.ovafs.dialect", "user.ovafs.generation", "user.ovafs.id"]
    assert os.getxattr(file, "user.ovafs.id").decode() == world.pool.pool.find("chain").uuid
    assert os.getxattr(file, "user.ovafs.dialect") == b"ovirt"
    assert len(bytes.fromhex(os.getxattr(file, "user.ovafs.generation").decode())) == 32
    shown = run("getfattr", "--absolute-names", "-d", file).stdout
    assert 'user.ovafs.dialect="ovirt"' in shown
    with pytest.raises(OSError) as caught:
        os.getxattr(file, "user.other")
    assert caught.value.errno == errno.ENODATA
    assert os.listxattr(world.vms) == []


def test_df_shows_the_file_system_of_the_pool(world: World) -> None:
    columns = "--output=size,itotal"
    assert run("df", columns, world.mount.path).stdout == run("df", columns, world.pool.path).stdout
    assert os.statvfs(world.mount.path).f_namemax == 255


def test_du_shows_what_is_stored(world: World) -> None:
    file = world.vms / "sparse.ova"
    used = int(run("du", "--block-size=1", file).stdout.split()[0])
    apparent = int(run("du", "--block-size=1", "--apparent-size", file).stdout.split()[0])
    assert used == file.stat().st_blocks * 512
    assert apparent == file.stat().st_size


def test_missing_names_are_not_there(world: World) -> None:
    for name in (
        "vms/missing.ova",
        "vms/chain",
        "templates/chain.ova",
        "drop/missing.ova",
        "vms/" + "x" * 255,
    ):
        with pytest.raises(FileNotFoundError):
            (world.mount.path / name).stat()
    with pytest.raises(NotADirectoryError):
        (world.vms / "chain.ova" / "x").stat()
    with pytest.raises(NotADirectoryError):
        os.listdir(world.vms / "chain.ova")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may set the kernel's read-ahead")
@pytest.mark.parametrize(("options", "kib"), [((), 1024), (("read_ahead=256KiB",), 256)])
def test_the_kernel_reads_ahead_as_far_as_it_is_told(
    world: World, tmp_path: Path, options: tuple[str, ...], kib: int
) -> None:
    with mounted(world.pool.path, tmp_path, *options) as mount:
        device = mount.path.stat().st_dev
        control = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        assert int(control.read_text()) == kib


def test_parents_are_found(world: World) -> None:
    assert os.path.samestat((world.vms / "..").stat(), world.mount.path.stat())
    assert os.path.samestat((world.vms / ".").stat(), world.vms.stat())
    assert run("find", world.mount.path, "-type", "f").stdout.count(".ova\n") == 5
