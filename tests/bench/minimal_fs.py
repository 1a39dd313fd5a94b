"""The least a pyfuse3 file system can do: one read-only file, each read answered by one ``os.pread``.

Its rate is the limit of this stack (kernel, libfuse, pyfuse3, Python) for any file system that runs on it.
Run as ``python -m tests.bench.minimal_fs PLAIN_FILE MOUNT_POINT``; the file shows under its own name.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pyfuse3
import trio

FILE_INODE = pyfuse3.InodeT(2)
PREFERRED_READ = 1 << 20  # st_blksize, as ovafs reports it: cp then reads 1 MiB at a time
TIMEOUT = 1.0  # seconds that the kernel may keep names and attributes; as ovafs
READ_AHEAD_KIB = 1024


class MinimalOperations(pyfuse3.Operations):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = os.fsencode(path.name)
        self.fd = os.open(path, os.O_RDONLY)
        self.status = os.fstat(self.fd)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext | None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_nlink = 1
        entry.entry_timeout = entry.attr_timeout = TIMEOUT
        entry.st_mode = stat.S_IFDIR | 0o555
        if inode == FILE_INODE:
            entry.st_mode = stat.S_IFREG | 0o444
            entry.st_size, entry.st_blocks = self.status.st_size, self.status.st_blocks
            entry.st_mtime_ns = self.status.st_mtime_ns
            entry.st_blksize = PREFERRED_READ
        return entry

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name != self.name:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(FILE_INODE, ctx)

    async def open(self, inode: pyfuse3.InodeT, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(0), keep_cache=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return os.pread(self.fd, size, off)


def main(plain_file: str, mount_point: str) -> None:
    pyfuse3.init(MinimalOperations(Path(plain_file)), mount_point, {"fsname=minimal", "ro", "default_permissions"})
    trio.run(serve, mount_point)
    pyfuse3.close(unmount=True)


async def serve(mount_point: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        await trio.to_thread.run_sync(set_read_ahead, mount_point, READ_AHEAD_KIB)


def set_read_ahead(mount_point: str | os.PathLike[str], kibibytes: int) -> None:
    device = os.stat(mount_point).st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    bdi.write_text(str(kibibytes), encoding="ascii")


if __name__ == "__main__":
    main(*sys.argv[1:])
