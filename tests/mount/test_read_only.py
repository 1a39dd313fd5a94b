"""Nothing can be changed through a mount, not even by root: every way to try gives EROFS."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.mount import mounted
from tests.support.pools import pool_builder, raw_image
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Target(NamedTuple):
    """A file that is shown, another one in the other folder, and a name that is not shown."""

    file: Path
    other: Path
    new: Path


@pytest.fixture(scope="module", params=["", "ro"], ids=["rw", "ro"])
def mount_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("read-only")
    with pool_builder(folder) as pool:
        for kind in ("vm", "template"):
            pool.add("disk", raw_image(pool.images / f"{kind}.raw"), kind=kind)
        with mounted(pool.path, folder, *filter(None, [request.param])) as mount:
            yield mount.path


def _open(path: Path, flags: int) -> None:
    os.close(os.open(path, flags))


ATTEMPTS: dict[str, Callable[[Target], object]] = {
    "create": lambda at: _open(at.new, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "create over": lambda at: _open(at.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    "open to write": lambda at: _open(at.file, os.O_WRONLY),
    "open to read and write": lambda at: _open(at.file, os.O_RDWR),
    "open to append": lambda at: _open(at.file, os.O_WRONLY | os.O_APPEND),
    "truncate": lambda at: os.truncate(at.file, 0),
    "extend": lambda at: os.truncate(at.file, 1 << 30),
    "rename": lambda at: os.rename(at.file, at.new),
    "rename over": lambda at: os.replace(at.file, at.other),
    "rename the folder": lambda at: os.rename(at.file.parent, at.file.parent.with_name("else")),
    "unlink": lambda at: os.unlink(at.file),
    "link": lambda at: os.link(at.file, at.new),
    "symlink": lambda at: os.symlink("disk.ova", at.new),
    "mkdir": lambda at: os.mkdir(at.new),
    "rmdir": lambda at: os.rmdir(at.file.parent),
    "mkfifo": lambda at: os.mkfifo(at.new),
    "chmod": lambda at: os.chmod(at.file, 0o600),
    "chown": lambda at: os.chown(at.file, 1, 1),
    "utime": lambda at: os.utime(at.file, (1, 1)),
    "utime of the folder": lambda at: os.utime(at.file.parent, (1, 1)),
    "setxattr": lambda at: os.setxattr(at.file, "user.ovafs.id", b"x"),
    "removexattr": lambda at: os.removexattr(at.file, "user.ovafs.id"),
}


@pytest.mark.parametrize("folder", ["vms", "templates"])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_every_change_is_refused(mount_path: Path, attempt: str, folder: str) -> None:
    other = {"vms": "templates", "templates": "vms"}[folder]
    target = Target(*(mount_path / name for name in (f"{folder}/disk.ova", f"{other}/disk.ova", f"{folder}/new.ova")))
    before = target.file.stat()
    with pytest.raises(OSError) as caught:
        ATTEMPTS[attempt](target)
    assert errno.errorcode[caught.value.errno or 0] == "EROFS"
    assert os.listdir(mount_path / folder) == ["disk.ova"]
    after = target.file.stat()
    assert (after.st_ino, after.st_size, after.st_mode, after.st_mtime) == (
        *(before.st_ino, before.st_size, before.st_mode, before.st_mtime),
    )


def test_the_root_is_read_only_too(mount_path: Path) -> None:
    for attempt, name in ((os.mkdir, "new"), (os.rmdir, "vms")):
        with pytest.raises(OSError) as caught:
            attempt(mount_path / name)
        assert caught.value.errno == errno.EROFS


def test_tools_say_what_is_wrong(mount_path: Path) -> None:
    for command in (["rm", "-f", "vms/disk.ova"], ["touch", "vms/disk.ova"], ["cp", "/etc/hostname", "vms/x"]):
        result = run(*command, cwd=mount_path, status=1)
        assert "Read-only file system" in result.stderr


def test_mmap_for_writing_is_refused_and_private_changes_stay_private(mount_path: Path) -> None:
    file = mount_path / "vms" / "disk.ova"
    with file.open("rb") as stream:
        with pytest.raises(PermissionError):
            mmap.mmap(stream.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_WRITE)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            private[:6] = b"change"
    assert file.read_bytes()[:6] == b"vm.ovf"
