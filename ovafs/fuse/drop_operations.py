"""The protocol adapter of a mount with a drop directory: what concerns it goes there, all else to the tree.

No logic, only translation. Numbers tell who is asked: inodes by their range, handles by ``_FIRST_HANDLE``.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pyfuse3
import trio

from ovafs.errors import NameRefused
from ovafs.fuse import posix_acl
from ovafs.fuse.control_operations import ControlOperations
from ovafs.fuse.operations import LARGEST_READ, answered
from ovafs.vfs.drop.caretaker import Caretaker
from ovafs.vfs.drop.entries import ChoicesFile, DropDirectory, DropFile, Report, Status, is_drop_inode
from ovafs.vfs.nodes import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT, ReaddirToken, RequestContext, XAttrNameT

    from ovafs.fuse.operations import Ownership
    from ovafs.vfs.drop.entries import DropEntry
    from ovafs.vfs.drop.folder import DropFolder
    from ovafs.vfs.handles import Handles
    from ovafs.vfs.tree import Tree

_FIRST_HANDLE = 1 << 62

_RENAME_NOREPLACE = 1  # <linux/fs.h>


class DropOperations(ControlOperations):
    """Answers the kernel from a tree and a drop directory."""

    def __init__(
        self,
        tree: Tree,
        handles: Handles,
        ownership: Ownership,
        status: Callable[[], Awaitable[bytes]],
        drop: DropFolder,
    ) -> None:
        super().__init__(tree, handles, ownership, status)
        self._drop = drop
        self._open: dict[int, DropEntry] = {}
        self._children: dict[int, list[DropEntry]] = {}
        self._last_handle = _FIRST_HANDLE

    async def tend(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Caretaker(self._drop).tend)
            nursery.start_soon(self._drop.adaptations.work)

    # -- names and attributes

    @answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        if parent_inode == ROOT_INODE and name == self._drop.root.name:
            return _attributes(self._drop.root)
        if not is_drop_inode(parent_inode):
            return await super().lookup(parent_inode, name, ctx)
        if name == b"..":
            parent = self._drop.directory(parent_inode).parent
            if parent is None:
                return await super().getattr(pyfuse3.ROOT_INODE, ctx)
            return _attributes(parent)
        return _attributes(self._drop.lookup(parent_inode, name))

    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        if not is_drop_inode(inode):
            return await super().getattr(inode, ctx)
        return _attributes(self._drop.entry(inode))

    @answered
    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> pyfuse3.EntryAttributes:
        if not is_drop_inode(inode):
            refused: pyfuse3.EntryAttributes = await super().setattr(inode, attr, fields, fh, ctx)
            return refused
        entry = self._drop.entry(inode)
        if fields.update_size:
            if isinstance(entry, ChoicesFile):
                self._drop.choices.resize(entry, attr.st_size)
            elif isinstance(entry, DropFile):
                await self._drop.resize(entry, attr.st_size, fh)
            else:
                raise NameRefused("only uploads and choices have a size that can be set")
        status = entry.status
        if fields.update_mode:
            status.mode = stat.S_IMODE(attr.st_mode) & 0o777
        if fields.update_uid:
            status.uid = attr.st_uid
        if fields.update_gid:
            status.gid = attr.st_gid
        if fields.update_mtime:
            status.mtime_ns = attr.st_mtime_ns
        await self._drop.status_changed(entry)
        return _attributes(entry)

    @answered
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if is_drop_inode(inode):
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return await super().getxattr(inode, name, ctx)

    @answered
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [] if is_drop_inode(inode) else await super().listxattr(inode, ctx)

    @answered
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        if not is_drop_inode(inode):
            await super().setxattr(inode, name, value, ctx)
        elif name == posix_acl.ACCESS:
            await self._set_acl(self._drop.entry(inode), value, ctx)
        # All others are taken and dropped: tools that copy attributes must not fail.

    async def _set_acl(self, entry: DropEntry, value: bytes, ctx: RequestContext) -> None:
        if ctx.uid not in {0, entry.status.uid}:  # the kernel leaves it to file systems who may do this
            raise pyfuse3.FUSEError(errno.EPERM)
        try:
            entry.status.mode = posix_acl.mode_of_acl(value)
        except ValueError:
            raise pyfuse3.FUSEError(errno.EINVAL) from None
        await self._drop.status_changed(entry)

    @answered
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        if is_drop_inode(inode):  # cp -a takes default ACLs off directories, and takes "there are none" for success
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        await super().removexattr(inode, name, ctx)

    # -- directories

    def _folders(self) -> list[tuple[bytes, pyfuse3.EntryAttributes]]:
        return [*super()._folders(), (self._drop.root.name, _attributes(self._drop.root))]

    @answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        if not is_drop_inode(inode):
            return await super().opendir(inode, ctx)
        return self._new_handle(self._drop.directory(inode))

    @answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        if fh < _FIRST_HANDLE:
            await super().readdir(fh, start_id, token)
            return
        directory = self._open[fh]
        if isinstance(directory, DropDirectory) and (start_id == 0 or fh not in self._children):
            self._children[fh] = sorted(directory.children.values(), key=lambda entry: entry.inode)
        for entry in self._children[fh]:
            # Inodes begin far above the cookies that NFS keeps for itself.
            if entry.inode > start_id and not pyfuse3.readdir_reply(
                token, pyfuse3.FileNameT(entry.name), _attributes(entry), entry.inode
            ):
                return

    @answered
    async def releasedir(self, fh: FileHandleT) -> None:
        if fh < _FIRST_HANDLE:
            await super().releasedir(fh)
        self._open.pop(fh, None)
        self._children.pop(fh, None)

    @answered
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Names are in the catalog already, or need not survive."""

    @answered
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        if not is_drop_inode(parent_inode):
            refused: pyfuse3.EntryAttributes = await super().mkdir(parent_inode, name, mode, ctx)
            return refused
        return _attributes(await self._drop.make_directory(parent_inode, name, _status(mode, ctx)))

    @answered
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if not is_drop_inode(parent_inode):
            await super().rmdir(parent_inode, name, ctx)
        else:
            self._drop.remove_directory(parent_inode, name)

    @answered
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if not is_drop_inode(parent_inode):
            await super().unlink(parent_inode, name, ctx)
        else:
            await self._drop.unlink(parent_inode, name)

    @answered
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if not is_drop_inode(parent_inode_old) or not is_drop_inode(parent_inode_new):
            await super().rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx)
            return
        if flags & ~_RENAME_NOREPLACE:
            raise pyfuse3.FUSEError(errno.EINVAL)
        may_replace = not flags & _RENAME_NOREPLACE
        await self._drop.rename(parent_inode_old, name_old, parent_inode_new, name_new, may_replace=may_replace)

    # -- content

    @answered
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        if not is_drop_inode(parent_inode):
            refused: tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes] = await super().create(
                parent_inode, name, mode, flags, ctx
            )
            return refused
        file = await self._drop.create(parent_inode, name, _status(mode, ctx))
        handle = self._new_handle(file)
        if isinstance(file, ChoicesFile):
            self._drop.choices.open(file, handle, writes=bool(flags & os.O_ACCMODE))
        else:
            self._drop.open(file, handle, writes=bool(flags & os.O_ACCMODE))
        return pyfuse3.FileInfo(fh=handle, keep_cache=False), _attributes(file)

    @answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        if not is_drop_inode(inode):
            return await super().open(inode, flags, ctx)
        entry = self._drop.entry(inode)
        writes = bool(flags & (os.O_ACCMODE | os.O_TRUNC))
        if isinstance(entry, ChoicesFile):
            handle = self._new_handle(entry)
            self._drop.choices.open(entry, handle, writes=writes)
            if flags & os.O_TRUNC:
                self._drop.choices.resize(entry, 0)
            return pyfuse3.FileInfo(fh=handle, keep_cache=False)
        if isinstance(entry, DropFile):
            handle = self._new_handle(entry)
            try:
                self._drop.open(entry, handle, writes=writes)
                if flags & os.O_TRUNC:
                    await self._drop.truncate(entry, handle)
            except BaseException:
                self._release(handle)
                raise
            return pyfuse3.FileInfo(fh=handle, keep_cache=False)
        if writes or not isinstance(entry, Report):
            raise NameRefused("reports are written by ovafs alone")
        return pyfuse3.FileInfo(fh=self._new_handle(entry), keep_cache=False)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        if fh < _FIRST_HANDLE:
            return await super().read(fh, off, size)
        return await self._read_entry(fh, off, size)

    @answered
    async def _read_entry(self, fh: FileHandleT, off: int, size: int) -> bytes:
        entry = self._open[fh]
        if isinstance(entry, (Report, ChoicesFile)):
            return entry.text[off : off + size]
        if not isinstance(entry, DropFile):
            raise NameRefused("only files are read")
        return await self._drop.read(entry, off, size)

    @answered
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        entry = self._open[fh]
        if isinstance(entry, ChoicesFile):
            self._drop.choices.write(entry, off, buf)
        elif isinstance(entry, DropFile):
            await self._drop.write(entry, fh, off, buf)
        else:
            raise NameRefused("only uploads and choices are written")
        return len(buf)

    @answered
    async def flush(self, fh: FileHandleT) -> None:
        entry = self._open.get(fh)
        if isinstance(entry, ChoicesFile):
            await self._drop.choices.close(entry, fh)
        elif isinstance(entry, DropFile):
            await self._drop.flush(entry, fh)

    @answered
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        entry = self._open.get(fh)
        if isinstance(entry, ChoicesFile):
            await self._drop.choices.close(entry, fh)
        elif isinstance(entry, DropFile):
            await self._drop.sync(entry, fh)

    @answered
    async def release(self, fh: FileHandleT) -> None:
        if fh < _FIRST_HANDLE:
            await super().release(fh)
        else:
            self._release(fh)

    def _new_handle(self, entry: DropEntry) -> FileHandleT:
        self._last_handle += 1
        self._open[self._last_handle] = entry
        return pyfuse3.FileHandleT(self._last_handle)

    def _release(self, handle: int) -> None:
        entry = self._open.pop(handle)
        if isinstance(entry, ChoicesFile):
            self._drop.choices.release(entry, handle)
        elif isinstance(entry, DropFile):
            self._drop.release(entry, handle)


def _status(mode: ModeT, ctx: RequestContext) -> Status:
    return Status(stat.S_IMODE(mode) & 0o777, ctx.uid, ctx.gid)


def _attributes(known: DropEntry) -> pyfuse3.EntryAttributes:
    """As they are now; they change behind the kernel's back, so it keeps none of them."""
    entry = pyfuse3.EntryAttributes()
    is_directory = isinstance(known, DropDirectory)
    entry.st_mode = pyfuse3.ModeT((stat.S_IFDIR if is_directory else stat.S_IFREG) | known.status.mode)
    entry.st_nlink = 2 if is_directory else 1
    entry.st_ino = pyfuse3.InodeT(known.inode)
    entry.st_uid, entry.st_gid = known.status.uid, known.status.gid
    entry.st_size = known.size
    entry.st_blocks = -(-known.size // 512)
    entry.st_blksize = LARGEST_READ
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = known.status.mtime_ns
    entry.entry_timeout = entry.attr_timeout = 0
    return entry
