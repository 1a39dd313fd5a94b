"""File handles that outlive caches and restarts: what a re-export by NFS stands on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.file_handles import FileHandle, handle_of, open_handle
from tests.support.mount import mounted
from tests.support.pools import chain_image, raw_image

if TYPE_CHECKING:
    from tests.support.pools import PoolBuilder

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may open files by handle")


def read_by_handle(mount_point: Path, handle: FileHandle) -> bytes:
    descriptor = open_handle(mount_point, handle)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def assert_stale(mount_point: Path, handle: FileHandle) -> None:
    with pytest.raises(OSError) as caught:
        read_by_handle(mount_point, handle)
    assert errno.errorcode[caught.value.errno or 0] == "ESTALE"


def drop_caches() -> None:
    """Let the kernel forget inodes that nobody uses, so that it must ask for them again."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def test_handles_survive_dropped_caches_and_restarts(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("disk", chain_image(pool.images, "disk"))
    pool.add("golden", raw_image(pool.images / "golden.raw"), kind="template")
    names = ("vms/disk.ova", "templates/golden.ova")
    with mounted(pool.path, tmp_path) as mount:
        handles = {name: handle_of(mount.path / name) for name in names}
        content = {name: (mount.path / name).read_bytes() for name in names}
        for name in names:
            assert handle_of(mount.path / name) == handles[name]
            assert read_by_handle(mount.path, handles[name]) == content[name]
        drop_caches()
        for name in names:
            assert read_by_handle(mount.path, handles[name]) == content[name]
    with mounted(pool.path, tmp_path) as mount:
        for name in names:
            assert read_by_handle(mount.path, handles[name]) == content[name]
            assert handle_of(mount.path / name) == handles[name]
        mount.kill()
    with mounted(pool.path, tmp_path) as mount:
        assert read_by_handle(mount.path, handles["vms/disk.ova"]) == content["vms/disk.ova"]


def test_handles_of_folders_survive_restarts(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("disk")
    with mounted(pool.path, tmp_path) as mount:
        handle = handle_of(mount.path / "vms")
    with mounted(pool.path, tmp_path) as mount:
        descriptor = open_handle(mount.path, handle)
        try:
            assert os.listdir(descriptor) == ["disk.ova"]
            assert Path(f"/proc/self/fd/{descriptor}").readlink() == mount.path / "vms"
        finally:
            os.close(descriptor)


def test_a_handle_is_stale_once_the_machine_has_changed(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("redefined", raw_image(pool.images / "redefined.raw"))
    pool.add("rewritten", raw_image(pool.images / "rewritten.raw"))
    pool.add("removed", raw_image(pool.images / "removed.raw"))
    with mounted(pool.path, tmp_path) as mount:
        handles = [handle_of(mount.path / "vms" / f"{name}.ova") for name in ("redefined", "rewritten", "removed")]
        pool.change("redefined", description="changed")
        with pool.disks["rewritten"][0].path.open("r+b") as image:
            image.write(b"changed")
        pool.pool.remove("removed")
        for handle in handles:
            assert_stale(mount.path, handle)
        drop_caches()
        for handle in handles:
            assert_stale(mount.path, handle)
        for name in ("redefined", "rewritten"):
            file = mount.path / "vms" / f"{name}.ova"
            assert read_by_handle(mount.path, handle_of(file)) == file.read_bytes()
    with mounted(pool.path, tmp_path) as mount:
        for handle in handles:
            assert_stale(mount.path, handle)


def test_a_handle_that_was_never_given_out_is_stale(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("disk")
    with mounted(pool.path, tmp_path) as mount:
        kind, data = handle_of(mount.path / "vms" / "disk.ova")
        for number in (0, 4, 1023, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
            assert_stale(mount.path, FileHandle(kind, number.to_bytes(8, "little") + data[8:]))
        assert (mount.path / "vms" / "disk.ova").read_bytes()


def test_a_file_that_is_open_by_handle_keeps_its_generation(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("disk", raw_image(pool.images / "disk.raw"))
    with mounted(pool.path, tmp_path) as mount:
        file = mount.path / "vms" / "disk.ova"
        content = file.read_bytes()
        with os.fdopen(open_handle(mount.path, handle_of(file)), "rb") as opened:
            pool.change("disk", description="changed")
            assert opened.read() == content
