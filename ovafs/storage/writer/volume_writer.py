"""What the bytes of a new volume are written through, whatever its format."""

from __future__ import annotations

from typing import Protocol


class VolumeWriter(Protocol):
    """A volume that is being written. Everything blocks; calls from several threads take turns.

    What was never written reads as zeros. All methods that write raise NoSpace and WriteFailed; after that the
    volume is lost, every later call raises the same error, and only :meth:`discard` is left.
    """

    @property
    def path(self) -> str:
        """The unfinished file."""
        ...

    @property
    def virtual_size(self) -> int:
        """Guest bytes."""
        ...

    @property
    def allocated(self) -> int:
        """Bytes that the file takes in storage; 0 once it is discarded, and final once it is finished."""
        ...

    def write_at(self, guest_offset: int, data: memoryview) -> None:
        """Write ``data`` (format "B") at ``guest_offset``; zeros are not stored.

        Short writes are kept in memory, up to 1 MiB, until :meth:`flush`. Raises ValueError for a range that is not
        inside the disk.
        """
        ...

    def zero_at(self, guest_offset: int, length: int) -> None:
        """Let ``length`` bytes read as zeros; storage that they had is given back. Raises ValueError as write_at."""
        ...

    def flush(self) -> None:
        """Hand everything to the storage: what has no room there is reported now, not at a later write."""
        ...

    def read_at(self, guest_offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes that were written at ``guest_offset``, also after :meth:`finish`.

        Raises WriteFailed when they cannot be read, or when the volume was discarded; ValueError as write_at.
        """
        ...

    def finish(self) -> None:
        """Complete the file, put it on stable storage and close it; idempotent. From then on it is a valid image."""
        ...

    def discard(self) -> None:
        """Close the file and remove it, whatever happened before; idempotent. Not for a volume that has its name."""
        ...
