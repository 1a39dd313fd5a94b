"""The protocol adapter of ``.ovafs/``: found by lookup, never listed in the root; its files are made when opened.

They are shown with size 0, as files in /proc are, and read past the page cache to their end (direct_io).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyfuse3

from ovafs.errors import MachineNotFound, ReadOnly
from ovafs.fuse.operations import Operations, answered
from ovafs.vfs.nodes import CONTROL_INODE, ROOT_INODE, STATUS_INODE, Attributes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ReaddirToken, RequestContext, XAttrNameT

    from ovafs.fuse.operations import Ownership
    from ovafs.vfs.handles import Handles
    from ovafs.vfs.tree import Tree

_DIRECTORY = b".ovafs"
_STATUS = b"status.json"
_INODES = frozenset({CONTROL_INODE, STATUS_INODE})

# Those of machines are counted from 1, those of the drop directory begin behind.
_FIRST_HANDLE = 1 << 61
_END_OF_HANDLES = 1 << 62


class ControlOperations(Operations):
    """Answers the kernel from a tree, and about the mount itself."""

    def __init__(
        self, tree: Tree, handles: Handles, ownership: Ownership, status: Callable[[], Awaitable[bytes]]
    ) -> None:
        """``status`` makes the content of ``.ovafs/status.json``."""
        super().__init__(tree, handles, ownership)
        self._status = status
        self._documents: dict[int, bytes] = {}
        self._last_document = _FIRST_HANDLE

    @answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        if (parent_inode, name) == (ROOT_INODE, _DIRECTORY):
            return self._control_attributes(CONTROL_INODE)
        if parent_inode not in _INODES:
            return await super().lookup(parent_inode, name, ctx)
        if name == b".":
            return self._control_attributes(parent_inode)
        if name == b"..":
            return await super().getattr(pyfuse3.ROOT_INODE, ctx)
        if (parent_inode, name) == (CONTROL_INODE, _STATUS):
            return self._control_attributes(STATUS_INODE)
        raise MachineNotFound(f".ovafs: no entry {name!r}")

    def _control_attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        return self._fill(Attributes(inode, 0, 0, 0, is_directory=inode == CONTROL_INODE), 0)

    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        if inode not in _INODES:
            return await super().getattr(inode, ctx)
        return self._control_attributes(inode)

    @answered
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if inode in _INODES:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return await super().getxattr(inode, name, ctx)

    @answered
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [] if inode in _INODES else await super().listxattr(inode, ctx)

    @answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return self._new_document(b"") if inode == CONTROL_INODE else await super().opendir(inode, ctx)

    @answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        if not _is_ours(fh):
            await super().readdir(fh, start_id, token)
        elif start_id < STATUS_INODE:
            attributes = self._control_attributes(STATUS_INODE)
            pyfuse3.readdir_reply(token, pyfuse3.FileNameT(_STATUS), attributes, STATUS_INODE)

    @answered
    async def releasedir(self, fh: FileHandleT) -> None:
        self._documents.pop(fh, None)
        await super().releasedir(fh)

    @answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        if inode != STATUS_INODE:
            return await super().open(inode, flags, ctx)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            raise ReadOnly("what a mount says about itself cannot be changed")
        return pyfuse3.FileInfo(fh=self._new_document(await self._status()), direct_io=True, keep_cache=False)

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        if not _is_ours(fh):
            return await super().read(fh, off, size)
        return self._documents[fh][off : off + size]

    @answered
    async def release(self, fh: FileHandleT) -> None:
        if _is_ours(fh):
            self._documents.pop(fh, None)
        else:
            await super().release(fh)

    def _new_document(self, content: bytes) -> FileHandleT:
        self._last_document += 1
        self._documents[self._last_document] = content
        return pyfuse3.FileHandleT(self._last_document)


def _is_ours(handle: int) -> bool:
    return _FIRST_HANDLE < handle < _END_OF_HANDLES
