"""A disk that a running machine writes to, as far as it is looked at: its size. What it stores is not estimated.

QEMU may have written half of a table of such an image, so nothing but its header is read, and that rarely.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ovafs.storage.engine.sources import open_served
from ovafs.storage.engine.volume import connect
from ovafs.streams.extents import ExtentMap, Kind

if TYPE_CHECKING:
    from ovafs import model
    from ovafs.storage.engine.engines import Engines, Served
    from ovafs.storage.source_file import SourceFile
    from ovafs.storage.volume import FileIdentity

SIZE_SECONDS = 60.0
"""For which a size is remembered: ``stat`` starts no process each time, and a disk that was made larger shows soon."""


class LiveSizes:
    """The sizes of disks that running machines write to; safe to use from several threads."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._sizes: dict[model.Volume, tuple[int, float]] = {}

    def open(self, volume: model.Volume) -> LiveEngineVolume:
        """The disk, not locked. Blocks; raises as ``open_engine_volume`` does."""
        with ExitStack() as stack:
            served = open_served(volume, stack, is_live=True)
            size, known_at = self._sizes.get(volume, (0, float("-inf")))
            if time.monotonic() - known_at > SIZE_SECONDS:
                size = self._ask(served)
                self._sizes[volume] = size, time.monotonic()
            return LiveEngineVolume(served, size, stack.pop_all())

    def _ask(self, served: Served) -> int:
        engine = self._engines.use(served._replace(is_volatile=True))  # so nobody gets it later
        try:
            disk = connect(engine)
            disk.close()
        finally:
            engine.release()
        return disk.virtual_size


class LiveEngineVolume:
    """A disk that may store anything up to its size."""

    def __init__(self, served: Served, virtual_size: int, files: ExitStack) -> None:
        """``files`` closes them."""
        self.path = served.path
        self.virtual_size = virtual_size
        self.files: tuple[SourceFile, ...] = served.files
        self.is_volatile = served.is_volatile
        self._stack = files

    def identities(self) -> tuple[tuple[str, FileIdentity], ...]:
        """Path and identity of each file."""
        return tuple((file.path, file.identity) for file in self.files)

    def read_extents(self) -> ExtentMap:
        """All of it."""
        extents = ExtentMap()
        if self.virtual_size:
            extents.append(0, self.virtual_size, Kind.DATA, 0)
        return extents

    def use_extents(self, extents: ExtentMap) -> None:
        """Nothing: it is not read."""

    def close(self) -> None:
        """Close its files; idempotent."""
        self._stack.close()
