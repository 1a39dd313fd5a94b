"""Raw images: what a file stores is what the disk stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import UnsupportedFeature
from ovafs.storage.data_ranges import data_ranges
from ovafs.streams.extents import ExtentMap, Kind

if TYPE_CHECKING:
    from ovafs.storage.source_file import SourceFile


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
