"""Where bytes of a package wait that cannot be placed yet."""

from __future__ import annotations

import contextlib
import os

from ovafs.errors import InvalidPackage
from ovafs.model import DiskFormat
from ovafs.storage.writer.new_file import NewFile
from ovafs.storage.writer.new_volume import NewVolume
from ovafs.units import format_size


class SpoolRoom:
    """How many bytes of one package may wait at a time, in all of its spools."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes that wait now."""
        return self._used

    def take(self, size: int, member: str, hint: str) -> None:
        """Count ``size`` bytes more. Raises InvalidPackage, with ``hint``, if they are too many."""
        if self._used + size > self._limit:
            reason = f"what it needs comes behind it, and {format_size(self._limit)} at the most can wait for that"
            raise InvalidPackage(reason, member=member, hint=f"{hint}, or raise --spool-limit")
        self._used += size

    def give_back(self, size: int) -> None:
        """These bytes wait no more."""
        self._used -= size


class Spool:
    """A sparse file without a name, gone when it is closed. Raises NoSpace, WriteFailed."""

    def __init__(self, directory: str) -> None:
        # If the process is killed before the name is gone, the file is what any unfinished volume is.
        self._file = NewFile(NewVolume.name(directory, DiskFormat.RAW).part_path)
        with contextlib.suppress(OSError):
            os.unlink(self._file.path)
        self._end = 0

    def write(self, offset: int, data: memoryview) -> None:
        """Keep ``data`` for a later read at ``offset``."""
        self._file.queue(data, offset)
        self._file.flush()
        self._end = max(self._end, offset + len(data))

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; what was never kept reads as zeros."""
        stored = max(0, min(length, self._end - offset))
        data = self._file.read(stored, offset) if stored else b""
        return data.ljust(length, b"\0")

    def close(self) -> None:
        """Idempotent."""
        self._file.remove()
