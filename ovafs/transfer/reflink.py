"""Sharing blocks between two files instead of copying them (ioctl_ficlonerange(2); XFS, btrfs and others).

``struct file_clone_range``, <linux/fs.h>:

| bytes | field |
|---|---|
| 0-7 | src_fd, signed |
| 8-15 | src_offset |
| 16-23 | src_length |
| 24-31 | dest_offset |

Offsets and length are multiples of the file system's block size. A shared block is copied by the kernel when either
file is written later, so the two files never see each other's changes.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct

log = logging.getLogger(__name__)

_FICLONERANGE = 0x4020940D  # _IOW(0x94, 13, struct file_clone_range), the same on x86, Arm, s390x and RISC-V
_RANGE = struct.Struct("qQQQ")

# What the kernel answers when these two files, or this range, cannot share blocks; everything else is a failure.
_CANNOT = {
    errno.EOPNOTSUPP,  # the file system has no reflinks
    errno.ENOTTY,  # it does not even know the request
    errno.EXDEV,  # two file systems
    errno.EINVAL,  # not aligned, or one of the files is not copied on write (btrfs)
    errno.EPERM,  # immutable
    errno.ETXTBSY,  # a swap file
}


def block_size(descriptor: int) -> int:
    """The alignment of clones on the file system of an open file, in bytes; at least 4096."""
    return max(os.fstatvfs(descriptor).f_bsize, 4096)


def clone_range(source: int, source_offset: int, length: int, target: int, target_offset: int) -> bool:
    """Let ``length`` bytes of the open file ``target`` share the blocks of ``source``.

    False when these files or this range cannot share; then ``target`` is as it was. Raises OSError when they could,
    but it failed (disk full, I/O error).
    """
    try:
        fcntl.ioctl(target, _FICLONERANGE, _RANGE.pack(source, source_offset, length, target_offset))
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def can_clone(source: int, target: int, scratch_offset: int) -> bool:
    """Whether blocks of ``source`` can be shared with ``target``: tried, since no file system says so.

    The block at ``scratch_offset`` of ``target``, behind everything in it, is used for the attempt and cut off again.
    """
    size = os.fstat(target).st_size
    length = block_size(target)
    try:
        shared = os.fstat(source).st_size >= length and clone_range(source, 0, length, target, scratch_offset)
    except OSError as error:
        log.debug("a reflink failed, copying instead: %s", error)
        shared = False
    finally:
        os.ftruncate(target, size)
    return shared
