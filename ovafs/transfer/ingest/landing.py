"""Where an import's disks land: new volumes of a pool, registered together with the machines on them, or gone.

The order that survives a crash at any moment: a volume is noted in the catalog, then written, completed and put on
stable storage; then all volumes get their names, then their directory is put on stable storage, and then one
transaction registers the machines and takes the notes away. What is noted at the next start was never registered.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Protocol

from ovafs.errors import NoSpace
from ovafs.model import DiskFormat, Volume
from ovafs.storage.writer.new_volume import NewVolume, sweep, sync_directory
from ovafs.storage.writer.qcow2 import Qcow2Writer
from ovafs.storage.writer.raw import RawWriter
from ovafs.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovafs.inventory.pool import Pool
    from ovafs.model import Machine
    from ovafs.storage.writer.volume_writer import VolumeWriter

_WRITERS: dict[DiskFormat, Callable[[str, int], VolumeWriter]] = {
    DiskFormat.RAW: RawWriter,
    DiskFormat.QCOW2: Qcow2Writer,
}


class Spool:
    """Parts of a disk file that cannot be placed yet: a sparse file without a name, gone when it is closed."""

    def __init__(self, directory: str | None) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, prefix=".spool-")  # noqa: SIM115 - closed by close()
        self.kept = 0

    def write(self, offset: int, data: memoryview) -> None:
        """Keep ``data`` for a later read at ``offset``."""
        os.pwrite(self._file.fileno(), data, offset)
        self.kept += len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; what was never kept reads as zeros."""
        return os.pread(self._file.fileno(), length, offset).ljust(length, b"\0")

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


class Landing(Protocol):
    """What takes disks in."""

    def new_volume(self, virtual_size: int) -> VolumeWriter:
        """A writer for a disk of so many guest bytes, a multiple of 512."""
        ...

    def new_spool(self) -> Spool:
        """Room for parts of a disk file that cannot be placed yet."""
        ...


class PoolLanding:
    """Lands in a pool's own volumes, all of one format; :meth:`close` takes away what was not committed."""

    def __init__(self, pool: Pool, disk_format: DiskFormat) -> None:
        self._pool = pool
        self._format = disk_format
        self._directory = pool.volumes_path
        self._volumes: dict[str, NewVolume] = {}  # by the path of the unfinished file
        self._is_committed = False
        sweep(self._directory, known=pool.volume_uuids(), unfinished=pool.unfinished_volumes())

    def check_space(self, needed: int) -> None:
        """Raise NoSpace if the pool has clearly less room than ``needed`` bytes."""
        status = os.statvfs(self._directory)
        free = status.f_bavail * status.f_frsize
        if needed > free:
            raise NoSpace(
                f"the import needs {format_size(needed)}, {format_size(free)} are free in {self._directory}",
                "make room there, or import into another pool",
            )

    def new_volume(self, virtual_size: int) -> VolumeWriter:
        """A writer for a new volume, which is noted in the catalog."""
        volume = NewVolume.name(self._directory, self._format)
        self._pool.note_volume(volume.uuid)
        writer = _WRITERS[self._format](volume.part_path, virtual_size)
        self._volumes[writer.path] = volume
        return writer

    def new_spool(self) -> Spool:
        """A spool in the pool's file system."""
        return Spool(self._directory)

    def volume_of(self, writer: VolumeWriter) -> Volume:
        """The volume that a writer of :meth:`new_volume` writes, as a machine's definition names it."""
        new = self._volumes[writer.path]
        return Volume(
            uuid=new.uuid, path=os.path.realpath(new.directory) + "/" + os.path.basename(new.path), format=new.format
        )

    def commit(self, machines: Sequence[Machine]) -> None:
        """Publish all volumes, whose writers have finished, and register ``machines``: durable when this returns."""
        for volume in self._volumes.values():
            volume.publish()
        sync_directory(self._directory)
        self._pool.register(machines, [volume.uuid for volume in self._volumes.values()])
        self._is_committed = True

    def close(self) -> None:
        """Take away what was not committed; idempotent."""
        if not self._is_committed:
            for volume in self._volumes.values():
                volume.withdraw()
            self._pool.forget_volumes([volume.uuid for volume in self._volumes.values()])
            self._volumes.clear()


class DryLanding:
    """Takes everything and keeps nothing: for a look at whether a package would import."""

    def new_volume(self, virtual_size: int) -> VolumeWriter:
        """A writer that forgets."""
        return _Nothing(virtual_size)

    def new_spool(self) -> Spool:
        """A spool among the temporary files."""
        return Spool(None)


class _Nothing:
    """A volume writer that forgets."""

    path = ""
    allocated = 0

    def __init__(self, virtual_size: int) -> None:
        self.virtual_size = virtual_size

    def write_at(self, guest_offset: int, data: memoryview) -> None:
        """Count nothing, keep nothing."""

    def zero_at(self, guest_offset: int, length: int) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Nothing to hand over."""

    def finish(self) -> None:
        """Nothing to complete."""

    def discard(self) -> None:
        """Nothing to remove."""
