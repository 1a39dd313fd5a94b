"""Raw images: which parts of a file hold data (lseek(2), SEEK_DATA and SEEK_HOLE)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ovafs.errors import ReadFailed, UnsupportedFeature
from ovafs.streams.extents import ExtentMap, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovafs.storage.source_file import SourceFile


def data_ranges(file: SourceFile) -> Iterator[tuple[int, int]]:
    """Start and end of each run of the file that is not a hole, up to its end; ascending.

    A block device, or a file system that knows no holes, gives one run. Blocks; raises ReadFailed.
    """
    descriptor, size = file.fileno(), file.size
    if file.is_block_device:
        # Linux answers SEEK_HOLE on a device with its end, always.
        if size:
            yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind this offset
                return
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise ReadFailed(file.path, f"holes cannot be found: {error.strerror}") from error
            yield end, size
            return
        try:
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        except OSError as error:
            file.check_unchanged()  # ENXIO: the file became shorter meanwhile
            raise ReadFailed(file.path, f"holes cannot be found: {error.strerror}") from error
        if start < end:
            yield start, end


def raw_extents(file: SourceFile, max_extents: int) -> ExtentMap:
    """What a raw image stores; guest offsets are host offsets. Blocks.

    Raises UnsupportedFeature for more than ``max_extents`` extents, ReadFailed, VolumeChanged.
    """
    extents = ExtentMap()
    for start, end in data_ranges(file):
        extents.append(start, end - start, Kind.DATA, start)
        if len(extents) > max_extents:
            raise UnsupportedFeature(file.path, f"more than {max_extents} extents")
    file.check_unchanged()
    return extents
