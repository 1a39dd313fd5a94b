"""The protocol adapter: pyfuse3's calls to the tree and back. No logic, only translation.

Every handler stands inside one boundary (:func:`answered`): what is foreseen becomes an errno, anything else is
logged with its traceback and becomes EIO, because an exception that leaves a handler would end the mount for
everybody (facts of pyfuse3: only FUSEError is answered).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import pyfuse3

from ovafs.errors import OvafsError, ReadOnly
from ovafs.fuse.errnos import errno_of
from ovafs.vfs.nodes import Attributes, Directory, entry_cookie
from ovafs.vfs.tree import ROOT, TEMPLATES, VMS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ReaddirToken, RequestContext

    from ovafs.vfs.handles import Handles
    from ovafs.vfs.tree import Entry, Node, Tree

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# The name of a machine may stand for a new generation at any time; the attributes of a generation never change.
ENTRY_SECONDS = 1.0
ATTRIBUTE_SECONDS = 300.0

# cp reads in pieces of st_blksize; the kernel asks for at most 1 MiB at a time.
LARGEST_READ = 1 << 20


class Ownership(NamedTuple):
    """Who owns the files that are shown, and their permission bits."""

    uid: int
    gid: int
    mode: int


def answered(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Let nothing but FUSEError out of a handler."""

    @functools.wraps(handler)
    async def boundary(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except OvafsError as error:
            log.debug("%s: %s", handler.__name__, error)
            raise pyfuse3.FUSEError(errno_of(error)) from None
        except Exception:
            log.exception("%s failed unexpectedly", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return boundary


def _refused(name: str) -> Any:  # noqa: ANN401 - stands in for handlers of many types, and returns from none
    """Make a handler for a change that is never possible under ``vms/`` and ``templates/``."""

    async def refuse(*_: object) -> None:
        raise pyfuse3.FUSEError(errno_of(ReadOnly(name)))

    refuse.__name__ = name
    return refuse


class Operations(pyfuse3.Operations):
    """Answers the kernel from a tree; one instance for a mount."""

    supports_dot_lookup = True  # NFS: handles are opened again by inode number
    enable_writeback_cache = False

    def __init__(self, tree: Tree, handles: Handles, ownership: Ownership) -> None:
        super().__init__()
        self._tree = tree
        self._handles = handles
        self._ownership = ownership
        self._directories: dict[int, Directory] = {}
        self._listings: dict[int, list[Entry]] = {}
        self._last_directory = 0
        self._buffers: list[bytearray] = []

    async def tend(self) -> None:
        """Do what is to be done beside the requests, as long as the mount lasts: nothing."""

    # -- names and attributes

    @answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        node = await self._tree.lookup(parent_inode, name)
        if not isinstance(node, Directory):
            node.lookups += 1
        return await self._present_attributes(node)

    async def _present_attributes(self, node: Node) -> pyfuse3.EntryAttributes:
        if isinstance(node, Directory):
            await self._tree.look_for_changes(node)
        return self._attributes(node)

    def _attributes(self, node: Node) -> pyfuse3.EntryAttributes:
        if isinstance(node, Directory):
            changed_ns = self._tree.changed_ns(node)
            return self._fill(Attributes(node.inode, 4096, 4096, changed_ns, is_directory=True), ENTRY_SECONDS)
        return self._fill(node.attributes, ATTRIBUTE_SECONDS)

    def _fill(self, known: Attributes, seconds: float) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        read = self._ownership.mode & 0o444
        if known.is_directory:
            entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | read | read >> 2)  # who may read may search
            entry.st_nlink = 4 if known.inode == ROOT.inode else 2  # its own two names, and those of its folders
        else:
            entry.st_mode = pyfuse3.ModeT(stat.S_IFREG | self._ownership.mode)
            entry.st_nlink = 1
        entry.st_ino = pyfuse3.InodeT(known.inode)
        entry.st_uid, entry.st_gid = self._ownership.uid, self._ownership.gid
        entry.st_size = known.size
        entry.st_blocks = -(-known.stored // 512)  # never 0: GNU tar -S would write only zeros
        entry.st_blksize = LARGEST_READ
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = known.mtime_ns
        entry.entry_timeout = ENTRY_SECONDS
        entry.attr_timeout = seconds
        return entry

    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        return await self._present_attributes(await self._tree.node(inode))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self._tree.forget(inode, count)

    @answered
    async def getxattr(self, inode: InodeT, name: pyfuse3.XAttrNameT, ctx: RequestContext) -> bytes:
        if not name.startswith(b"user."):
            # ls -l asks for a security context and an ACL of every file, until a file system says that it has none.
            raise pyfuse3.FUSEError(errno.EOPNOTSUPP)
        node = await self._tree.node(inode)
        if isinstance(node, Directory) or name not in node.xattrs:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return node.xattrs[name]

    @answered
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[pyfuse3.XAttrNameT]:
        node = await self._tree.node(inode)
        return [] if isinstance(node, Directory) else [pyfuse3.XAttrNameT(name) for name in node.xattrs]

    @answered
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        source = await self._tree.space()
        result = pyfuse3.StatvfsData()
        for field in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail"):
            setattr(result, f"f_{field}", getattr(source, f"f_{field}"))
        result.f_namemax = 255
        return result

    # -- directories

    @answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        node = await self._tree.node(inode)
        if not isinstance(node, Directory):
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        self._last_directory += 1
        self._directories[self._last_directory] = node
        return pyfuse3.FileHandleT(self._last_directory)

    @answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        directory = self._directories[fh]
        if directory is ROOT:
            for name, attributes in self._folders():
                cookie = attributes.st_ino + 1
                if cookie > start_id and not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), attributes, cookie):
                    return
            return
        if start_id == 0 or fh not in self._listings:
            self._listings[fh] = await self._tree.entries(directory)
        for entry in self._listings[fh]:
            if entry.cookie > start_id and not self._reply_entry(token, entry):
                return

    def _folders(self) -> list[tuple[bytes, pyfuse3.EntryAttributes]]:
        """What the root holds."""
        return [(child.name, self._attributes(child)) for child in (VMS, TEMPLATES)]

    def _reply_entry(self, token: ReaddirToken, entry: Entry) -> bool:
        node = entry.node
        if node is not None:
            attributes = self._attributes(node)
        else:
            # A broken machine is listed, so that a mirror does not delete its copy; timeouts of zero make the
            # kernel look the name up before it believes these attributes, and the lookup says what is wrong.
            attributes = self._fill(Attributes(entry_cookie(entry.machine.uuid), 0, 0, 0, is_directory=False), 0)
            attributes.entry_timeout = 0
        if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(entry.name), attributes, entry.cookie):
            return False
        if node is not None:
            node.lookups += 1
        return True

    @answered
    async def releasedir(self, fh: FileHandleT) -> None:
        self._directories.pop(fh, None)
        self._listings.pop(fh, None)

    # -- reading

    @answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            raise ReadOnly("virtual machines are changed in their own system, not through this mount")
        node = await self._tree.node_to_open(inode)
        if isinstance(node, Directory):
            raise pyfuse3.FUSEError(errno.EISDIR)
        handle = await self._handles.open(node)
        # The page cache stays good as long as the inode: both stand for one generation.
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle), keep_cache=not node.description.volatile)

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Read into a buffer of the pool.

        The buffer goes back to the pool before its bytes are sent: pyfuse3 replies in the same run of
        statements, before any other task can take it.
        """
        buffer = self._buffers.pop() if self._buffers else bytearray(LARGEST_READ)
        try:
            view = memoryview(buffer)[:size] if size <= LARGEST_READ else memoryview(bytearray(size))
            length = await self._handles.read_into(fh, off, view)
        finally:
            self._buffers.append(buffer)
        return view[:length]  # type: ignore[return-value]  # pyfuse3 takes any buffer

    @answered
    async def release(self, fh: FileHandleT) -> None:
        self._handles.release(fh)

    # -- what a read-only tree refuses

    create = _refused("create")
    link = _refused("link")
    mkdir = _refused("mkdir")
    mknod = _refused("mknod")
    removexattr = _refused("removexattr")
    rename = _refused("rename")
    rmdir = _refused("rmdir")
    setattr = _refused("setattr")
    setxattr = _refused("setxattr")
    symlink = _refused("symlink")
    unlink = _refused("unlink")
    write = _refused("write")
