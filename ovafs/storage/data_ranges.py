"""Which parts of a file the file system stores: FIEMAP, and where there is none SEEK_DATA and SEEK_HOLE.

FIEMAP is asked first because its answer depends on the file alone. Space that is reserved and never written
(fallocate(2), the zero writes of QEMU) reads as zeros, and FIEMAP says so always; SEEK_DATA of ext4 and XFS calls it
data as long as somebody's reads of it are in the page cache (Linux, mm/filemap.c, ``mapping_seek_hole_data``). The
layout of a disk that is derived from the answer must not change while the file does not.

struct fiemap and struct fiemap_extent (Linux, include/uapi/linux/fiemap.h):

| offset | size | field | offset | size | field of an extent |
|---|---|---|---|---|---|
| 0 | 8 | fm_start | 0 | 8 | fe_logical |
| 8 | 8 | fm_length | 8 | 8 | fe_physical |
| 16 | 4 | fm_flags | 16 | 8 | fe_length |
| 20 | 4 | fm_mapped_extents | 24 | 16 | reserved |
| 24 | 4 | fm_extent_count | 40 | 4 | fe_flags |
| 28 | 4 | reserved | 44 | 12 | reserved |
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import ReadFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovafs.storage.source_file import SourceFile

_FS_IOC_FIEMAP = 0xC020660B
_REQUEST = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=Q8xQ16xL12x")
_EXTENTS_PER_CALL = 512
_FLAG_SYNC = 0x1
_EXTENT_LAST = 0x1
_EXTENT_UNWRITTEN = 0x800


class _Extent(NamedTuple):
    """What is used of a struct fiemap_extent."""

    logical: int
    length: int
    flags: int


# ENOTTY: no such call in this file system; EBADR: it cannot do what the flags ask for.
_NO_FIEMAP = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EBADR}


def data_ranges(file: SourceFile) -> Iterator[tuple[int, int]]:
    """Start and end of each run of the file that is stored, up to its end; ascending, none touches the next.

    A block device, or a file system that knows no holes, gives one run. Blocks; raises ReadFailed.
    """
    if file.is_block_device:
        # Linux answers SEEK_HOLE on a device with its end, always.
        return iter([(0, file.size)] if file.size else [])
    try:
        first = _ask_fiemap(file, 0)
    except OSError as error:
        if error.errno not in _NO_FIEMAP:
            raise _failed(file, error) from error
        return _by_seeking(file)
    return _joined(_by_fiemap(file, first), file.size)


def _joined(ranges: Iterator[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Neighbours as one range, all of them cut at ``size``."""
    joined_start = joined_end = 0
    for start, end in ranges:
        if start != joined_end:
            if joined_start < joined_end:
                yield joined_start, joined_end
            joined_start = start
        joined_end = min(end, size)
    if joined_start < joined_end:
        yield joined_start, joined_end


def _by_fiemap(file: SourceFile, answer: list[_Extent]) -> Iterator[tuple[int, int]]:
    """Start and end of each extent that was written; ``answer`` is that of the first call."""
    while answer:
        for extent in answer:
            if not extent.flags & _EXTENT_UNWRITTEN:
                yield extent.logical, extent.logical + extent.length
        position = answer[-1].logical + answer[-1].length
        if answer[-1].flags & _EXTENT_LAST or position >= file.size:
            return
        try:
            answer = _ask_fiemap(file, position)
        except OSError as error:
            raise _failed(file, error) from error


def _ask_fiemap(file: SourceFile, position: int) -> list[_Extent]:
    """The next extents from ``position`` on, none when there are no more."""
    if position >= file.size:
        return []
    request = bytearray(_REQUEST.size + _EXTENTS_PER_CALL * _EXTENT.size)
    _REQUEST.pack_into(request, 0, position, file.size - position, _FLAG_SYNC, 0, _EXTENTS_PER_CALL, 0)
    fcntl.ioctl(file.fileno(), _FS_IOC_FIEMAP, request)
    count = _REQUEST.unpack_from(request)[3]
    extents = memoryview(request)[_REQUEST.size : _REQUEST.size + count * _EXTENT.size]
    return [_Extent._make(fields) for fields in _EXTENT.iter_unpack(extents)]


def _by_seeking(file: SourceFile) -> Iterator[tuple[int, int]]:
    end = 0
    while end < file.size:
        try:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind this offset
                return
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise _failed(file, error) from error
            yield end, file.size
            return
        try:
            end = min(os.lseek(file.fileno(), start, os.SEEK_HOLE), file.size)
        except OSError as error:
            file.check_unchanged()  # ENXIO: the file became shorter meanwhile
            raise _failed(file, error) from error
        if start < end:
            yield start, end


def _failed(file: SourceFile, error: OSError) -> ReadFailed:
    return ReadFailed(file.path, f"holes cannot be found: {error.strerror}")
