"""The adapter, without a mount: every cause becomes its errno, and nothing else leaves a handler."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any, cast

import pyfuse3
import pytest

from ovafs import errors
from ovafs.fuse.errnos import ERRNOS, errno_of
from ovafs.fuse.operations import Operations, Ownership
from ovafs.vfs.handles import Handles
from ovafs.vfs.tree import VMS, Tree
from tests.support.fakes import FakePackager, MemoryInventory, machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.transfer.packager import Packager

CTX = cast("pyfuse3.RequestContext", None)
OWNERSHIP = Ownership(uid=7, gid=8, mode=0o440)


def make_operations(packager: FakePackager | None = None) -> Operations:
    fake = cast("Packager", packager or FakePackager())
    tree = Tree(MemoryInventory([machine(1)]), fake)
    return Operations(tree, Handles(tree, fake), OWNERSHIP)


async def lookup(operations: Operations) -> pyfuse3.EntryAttributes:
    return await operations.lookup(pyfuse3.InodeT(VMS.inode), pyfuse3.FileNameT(b"vm1.ova"), CTX)


def errno_raised(info: pytest.ExceptionInfo[pyfuse3.FUSEError]) -> str:
    return errno.errorcode[info.value.errno]


async def test_attributes_of_a_machine() -> None:
    entry = await lookup(make_operations())
    assert stat.S_ISREG(entry.st_mode)
    assert stat.S_IMODE(entry.st_mode) == 0o440
    assert (entry.st_uid, entry.st_gid, entry.st_nlink) == (7, 8, 1)
    assert (entry.st_size, entry.st_blocks, entry.st_blksize) == (10_000, 16, 1 << 20)
    assert entry.st_mtime_ns == 1_700_000_000 * 10**9


async def test_attributes_of_directories_add_search_to_read() -> None:
    entry = await make_operations().getattr(pyfuse3.InodeT(VMS.inode), CTX)
    assert stat.S_ISDIR(entry.st_mode)
    assert stat.S_IMODE(entry.st_mode) == 0o550


@pytest.mark.parametrize(
    "error", [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.OvafsError)]
)
async def test_every_cause_has_its_errno(error: type[errors.OvafsError], expect_log: Callable[[str], None]) -> None:
    expect_log("vm1: ")
    packager = FakePackager()
    failure = error("path", "reason") if issubclass(error, errors.ImageError) else error("summary")
    packager.failures["vm1"] = failure
    with pytest.raises(pyfuse3.FUSEError) as info:
        await lookup(make_operations(packager))
    assert info.value.errno == errno_of(failure)
    assert any(base in ERRNOS for base in error.__mro__)


def test_errnos_that_tools_rely_on() -> None:
    expected = {
        errors.VolumeChanged: errno.ESTALE,
        errors.StaleHandle: errno.ESTALE,
        errors.ReadOnly: errno.EROFS,
        errors.VolumeBusy: errno.EBUSY,
        errors.MachineNotFound: errno.ENOENT,
        errors.ImageUnavailable: errno.EIO,
        errors.InvalidImage: errno.EIO,
        errors.UnsupportedFeature: errno.EOPNOTSUPP,
    }
    assert {cls: ERRNOS[cls] for cls in expected} == expected


async def test_an_unexpected_exception_is_logged_and_becomes_eio(
    caplog: pytest.LogCaptureFixture, expect_log: Callable[[str], None]
) -> None:
    expect_log("lookup failed unexpectedly")
    operations = make_operations()
    operations._tree = cast("Any", None)
    with pytest.raises(pyfuse3.FUSEError) as info:
        await lookup(operations)
    assert errno_raised(info) == "EIO"
    assert "AttributeError" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "create",
        "link",
        "mkdir",
        "mknod",
        "removexattr",
        "rename",
        "rmdir",
        "setattr",
        "setxattr",
        "symlink",
        "unlink",
        "write",
    ],
)
async def test_changes_are_refused(name: str) -> None:
    with pytest.raises(pyfuse3.FUSEError) as info:
        await getattr(make_operations(), name)()
    assert errno_raised(info) == "EROFS"


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
async def test_open_for_writing_is_refused(flags: int) -> None:
    operations = make_operations()
    entry = await lookup(operations)
    with pytest.raises(pyfuse3.FUSEError) as info:
        await operations.open(entry.st_ino, pyfuse3.FlagT(flags), CTX)
    assert errno_raised(info) == "EROFS"


async def test_read_and_release() -> None:
    packager = FakePackager()
    operations = make_operations(packager)
    entry = await lookup(operations)
    info = await operations.open(entry.st_ino, pyfuse3.FlagT(os.O_RDONLY), CTX)
    assert info.keep_cache
    content = packager.opened[0].content
    assert bytes(await operations.read(info.fh, 5, 20)) == content[5:25]
    assert bytes(await operations.read(info.fh, 9_999, 1 << 20)) == content[9_999:]
    assert bytes(await operations.read(info.fh, 10_000, 4096)) == b""
    assert bytes(await operations.read(info.fh, 0, 2 << 20)) == content
    await operations.release(info.fh)
    await packager.opened[0].closed()


async def test_pages_of_volatile_volumes_are_not_kept() -> None:
    packager = FakePackager()
    packager.volatile = True
    operations = make_operations(packager)
    entry = await lookup(operations)
    info = await operations.open(entry.st_ino, pyfuse3.FlagT(os.O_RDONLY), CTX)
    assert not info.keep_cache
    await operations.release(info.fh)


async def test_xattrs() -> None:
    operations = make_operations()
    entry = await lookup(operations)
    names = await operations.listxattr(entry.st_ino, CTX)
    values = {bytes(name): bytes(await operations.getxattr(entry.st_ino, name, CTX)) for name in names}
    assert values[b"user.ovafs.id"] == machine(1).uuid.encode()
    assert values[b"user.ovafs.dialect"] == b"ovirt"
    assert set(values) == {b"user.ovafs.id", b"user.ovafs.generation", b"user.ovafs.dialect"}
    with pytest.raises(pyfuse3.FUSEError) as info:
        await operations.getxattr(entry.st_ino, pyfuse3.XAttrNameT(b"user.other"), CTX)
    assert info.value.errno == pyfuse3.ENOATTR


@pytest.mark.parametrize("name", [b"security.selinux", b"system.posix_acl_access", b"trusted.x"])
async def test_other_namespaces_of_xattrs_are_not_supported(name: bytes) -> None:
    operations = make_operations()
    entry = await lookup(operations)
    with pytest.raises(pyfuse3.FUSEError) as info:
        await operations.getxattr(entry.st_ino, pyfuse3.XAttrNameT(name), CTX)
    assert info.value.errno == errno.EOPNOTSUPP


async def test_forget_lets_an_old_inode_go() -> None:
    operations = make_operations()
    entry = await lookup(operations)
    await operations.forget([(entry.st_ino, 1)])
    assert (await operations.getattr(entry.st_ino, CTX)).st_size == 10_000  # still the present generation


async def test_statfs_is_the_source_file_system() -> None:
    result = await make_operations().statfs(CTX)
    assert result.f_blocks == os.statvfs("/").f_blocks
    assert result.f_namemax == 255
