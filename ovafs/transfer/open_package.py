"""A package that is held open: the plan of its bytes, and the volumes that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ovafs.errors import ReadFailed, VolumeChanged
from ovafs.transfer.execute import execute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.inventory.inventory import Backup
    from ovafs.storage.volume import Volume
    from ovafs.streams.ova import Package
    from ovafs.transfer.description import Description


class OpenPackage:
    """A pinned generation: the plan of its bytes, and the open volumes behind it, locked or of a backup."""

    def __init__(
        self, package: Package, volumes: Sequence[Volume], description: Description, backup: Backup | None = None
    ) -> None:
        self.package = package
        self.volumes = volumes
        self.description = description
        self.backup = backup

    @property
    def size(self) -> int:
        """Exact number of bytes of the .ova."""
        return self.package.size

    async def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` on; returns the number of bytes, less than asked only at the end.

        Raises VolumeChanged when an image changed since the package was opened, ReadFailed, InvalidImage.
        """
        length = min(len(buffer), self.package.size - offset)
        if length <= 0:
            return 0
        try:
            await execute(self.package.plan(offset, length), self.volumes, buffer[:length])
        except ReadFailed as error:
            reason = "" if self.backup is None else await trio.to_thread.run_sync(self.backup.look)
            if not reason:
                raise
            raise ReadFailed(error.path, reason, "read the .ova again from its beginning") from error
        return length

    def check_unchanged(self) -> None:
        """Raise VolumeChanged if an image changed since the package was opened, or the backup ended."""
        for volume in self.volumes:
            volume.check_unchanged()
            if self.backup is not None and self.backup.failure:
                raise VolumeChanged(volume.path, self.backup.failure)

    def close(self) -> None:
        """Release every file and lock, and end the backup; idempotent."""
        for volume in self.volumes:
            volume.close()
        if self.backup is not None:
            self.backup.end()
