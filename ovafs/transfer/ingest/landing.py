"""Where an import's disks land: new volumes of a destination, registered together with the machines on them, or gone.

The order that survives a crash at any moment: a volume is noted in the catalog, then written, completed and put on
stable storage; then all volumes get their names, then their directory is put on stable storage, and then one
transaction registers the machines, keeps the upload's receipt and takes the notes away. What is noted and no import
is at work on was never registered, and the next import removes it.

Every import holds a shared lock on the directory (flock(2)) from its beginning to its end, and removes leftovers only
while it holds that lock alone: a volume that is complete and waits for the other disks is locked by nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from typing import TYPE_CHECKING, Protocol

from ovafs.errors import NoSpace, SourceError
from ovafs.model import DiskFormat, Volume
from ovafs.storage.volume import FileIdentity
from ovafs.storage.writer.image import ImageWriter
from ovafs.storage.writer.new_file import write_error
from ovafs.storage.writer.new_volume import NewVolume, sweep, sync_directory
from ovafs.storage.writer.qcow2 import Qcow2Writer
from ovafs.storage.writer.raw import RawWriter
from ovafs.transfer.ingest.spool import Spool
from ovafs.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovafs.inventory.attachments import Attachments
    from ovafs.inventory.destination import Destination
    from ovafs.inventory.pending import PendingImport
    from ovafs.inventory.receipts import Receipt
    from ovafs.model import Machine
    from ovafs.storage.writer.volume_writer import VolumeWriter

_WRITERS: dict[DiskFormat, Callable[[str, int], VolumeWriter]] = {
    DiskFormat.RAW: RawWriter,
    DiskFormat.QCOW2: Qcow2Writer,
}


class Landing(Protocol):
    """What takes disks in."""

    is_dry: bool
    """Whether nothing that is written can be read again."""

    @property
    def allocated(self) -> int:
        """Bytes that the volumes take by now; another thread may be at work on them."""
        ...

    def check_space(self, needed: int) -> None:
        """Raise NoSpace if so many bytes clearly have no room."""
        ...

    def new_volume(self, virtual_size: int, disk_format: DiskFormat) -> VolumeWriter:
        """A writer for a disk of so many guest bytes, a multiple of 512."""
        ...

    def new_image(self) -> VolumeWriter:
        """A writer for a qcow2 file that stays as it is."""
        ...

    def new_spool(self) -> Spool:
        """Room for parts of a disk file that cannot be placed yet."""
        ...

    def volume_of(self, writer: VolumeWriter) -> Volume:
        """The volume that a writer of :meth:`new_volume` writes, as a machine's definition names it."""
        ...

    def publish(self) -> None:
        """All writers have finished: their volumes get their names, and are on stable storage."""
        ...

    def identity_of(self, writer: VolumeWriter) -> FileIdentity | None:
        """What the volume's file was when it was published; None if there is no such file."""
        ...

    def register(
        self, machines: Sequence[Machine], kept: Attachments, receipt: Receipt | None, archive: bytes | None
    ) -> None:
        """All volumes are published: the machines are there, and the receipt, with what it can be read from."""
        ...

    def postpone(self, pending: PendingImport, receipt: Receipt | None) -> None:
        """All volumes are published: their machines are registered later, the receipt is there."""
        ...

    def close(self) -> None:
        """Take away what was not committed; idempotent."""
        ...


class PoolLanding:
    """Lands in new volumes of a destination; :meth:`close` takes away what was not committed."""

    is_dry = False

    def __init__(self, destination: Destination) -> None:
        """Remove what interrupted imports left, too. Raises SourceError, NoSpace, WriteFailed."""
        self._destination = destination
        self._directory = destination.volumes_path
        self._volumes: dict[str, NewVolume] = {}  # by the path of the unfinished file
        self._identities: dict[str, FileIdentity] = {}  # likewise
        self._may_be_registered = False
        with contextlib.ExitStack() as undo:
            self._lock = open_directory(self._directory)
            undo.callback(os.close, self._lock)
            if lock_directory(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._remove_leftovers()
            lock_directory(self._lock, fcntl.LOCK_SH)
            undo.pop_all()

    @property
    def allocated(self) -> int:
        """Bytes that the unfinished volumes take in the pool by now; 0 for what has just gone. Blocks."""
        total = 0
        for path in list(self._volumes):
            with contextlib.suppress(OSError):
                total += os.stat(path, follow_symlinks=False).st_blocks * 512
        return total

    def check_space(self, needed: int) -> None:
        """Raise NoSpace if the pool has clearly less room than ``needed`` bytes."""
        try:
            status = os.statvfs(self._directory)
        except OSError as error:
            raise write_error(self._directory, "its free space is not known", error) from error
        free = status.f_bavail * status.f_frsize
        if needed > free:
            raise NoSpace(
                f"the import needs {format_size(needed)}, {format_size(free)} are free in {self._directory}",
                "make room there, or import into another pool",
            )

    def new_volume(self, virtual_size: int, disk_format: DiskFormat) -> VolumeWriter:
        """A writer for a new volume, which is noted in the catalog."""
        return _WRITERS[disk_format](self._note(disk_format), virtual_size)

    def new_image(self) -> VolumeWriter:
        """A writer for a new volume, whose image file comes as it is; noted in the catalog."""
        return ImageWriter(self._note(DiskFormat.QCOW2))

    def _note(self, disk_format: DiskFormat) -> str:
        volume = NewVolume.name(self._directory, disk_format)
        self._volumes[volume.part_path] = volume
        self._destination.note_volume(volume.uuid)
        return volume.part_path

    def new_spool(self) -> Spool:
        """A spool in the pool's file system."""
        return Spool(self._directory)

    def volume_of(self, writer: VolumeWriter) -> Volume:
        """The volume that one of these writers writes, as a machine's definition names it."""
        return definition(self._volumes[writer.path])

    def identity_of(self, writer: VolumeWriter) -> FileIdentity | None:
        """What the volume's file was when :meth:`publish` gave it its name."""
        return self._identities.get(writer.path)

    def publish(self) -> None:
        """Give all volumes, whose writers have finished, their names. Durable when this returns."""
        for volume in self._volumes.values():
            volume.publish()
        sync_directory(self._directory)
        self._destination.published([volume.path for volume in self._volumes.values()])
        self._identities = {path: _identity(volume.path) for path, volume in self._volumes.items()}

    def register(
        self, machines: Sequence[Machine], kept: Attachments, receipt: Receipt | None, archive: bytes | None
    ) -> None:
        """Register ``machines`` with what is ``kept`` of them, and the receipt. Durable when this returns.

        After NameTaken and InvalidDefinition, of a catalog that changed meanwhile, it can be called again.
        """
        self._may_be_registered = True
        self._destination.register(machines, [volume.uuid for volume in self._volumes.values()], kept, receipt, archive)
        self._volumes.clear()

    def postpone(self, pending: PendingImport, receipt: Receipt | None) -> None:
        """Keep the volumes for machines that are registered later. Durable when this returns."""
        self._may_be_registered = True
        self._destination.keep_pending(pending, receipt)
        self._volumes.clear()

    def close(self) -> None:
        """Take away what was not committed; idempotent. What cannot be taken away now, the next import removes."""
        with contextlib.suppress(SourceError):
            self._withdraw()
        self._volumes.clear()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _remove_leftovers(self) -> None:
        unfinished = self._destination.unfinished_volumes()
        sweep(self._directory, known=self._destination.registered_volumes(unfinished), unfinished=unfinished)
        if unfinished:
            self._destination.forget_volumes(list(unfinished))

    def _withdraw(self) -> None:
        # An error of the transaction need not mean that it did not happen: the catalog knows.
        noted = [volume.uuid for volume in self._volumes.values()]
        registered: set[str] = set()
        if self._may_be_registered:
            registered = self._destination.registered_volumes(noted)
            registered.update(volume for one in self._destination.pending_imports() for volume in one.volumes)
        left = [volume for volume in self._volumes.values() if volume.uuid not in registered]
        for volume in left:
            volume.withdraw()
        if left:
            self._destination.forget_volumes([volume.uuid for volume in left])


def definition(volume: NewVolume) -> Volume:
    """A volume under its final name, as a machine's definition names it."""
    path = os.path.join(os.path.realpath(volume.directory), os.path.basename(volume.path))
    return Volume(uuid=volume.uuid, path=path, format=volume.format)


def _identity(path: str) -> FileIdentity:
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError as error:
        raise write_error(path, "cannot be examined", error) from error
    return FileIdentity(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def open_directory(path: str) -> int:
    """A descriptor of the directory for volumes. Raises WriteFailed."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise write_error(path, "cannot be opened", error) from error


def lock_directory(descriptor: int, operation: int) -> bool:
    """Whether the lock is held now; also False where the file system has no such locks."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        return False
    return True


class DryLanding:
    """Takes everything and keeps nothing: for a look at whether a package would import.

    How much room the pool has is not looked at: it says nothing about the package.
    """

    is_dry = True
    allocated = 0

    def __init__(self, directory: str) -> None:
        """``directory`` is where the volumes would be; it need not be there."""
        self._directory = directory

    def check_space(self, needed: int) -> None:
        """Nothing is needed."""

    def new_volume(self, virtual_size: int, disk_format: DiskFormat) -> VolumeWriter:
        """A writer that forgets."""
        return _Nothing(NewVolume.name(self._directory, disk_format), virtual_size)

    def new_image(self) -> VolumeWriter:
        """A writer that forgets."""
        return _Nothing(NewVolume.name(self._directory, DiskFormat.QCOW2), 0)

    def new_spool(self) -> Spool:
        """A spool among the temporary files."""
        return Spool(tempfile.gettempdir())

    def volume_of(self, writer: VolumeWriter) -> Volume:
        """A volume as it would be."""
        if not isinstance(writer, _Nothing):
            raise TypeError("the writer is of another landing")
        return definition(writer.volume)

    def publish(self) -> None:
        """Nothing is there."""

    def identity_of(self, writer: VolumeWriter) -> FileIdentity | None:  # noqa: ARG002  # of Landing
        """Of nothing."""
        return None

    def register(
        self, machines: Sequence[Machine], kept: Attachments, receipt: Receipt | None, archive: bytes | None
    ) -> None:
        """Nothing is registered."""

    def postpone(self, pending: PendingImport, receipt: Receipt | None) -> None:
        """Nothing is going to be registered."""

    def close(self) -> None:
        """Nothing is there."""


class _Nothing:
    """A volume writer that forgets."""

    allocated = 0

    def __init__(self, volume: NewVolume, virtual_size: int) -> None:
        self.volume = volume
        self.path = volume.part_path
        self.virtual_size = virtual_size

    def write_at(self, guest_offset: int, data: memoryview) -> None:
        """Count nothing, keep nothing."""

    def zero_at(self, guest_offset: int, length: int) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Nothing to hand over."""

    def read_at(self, guest_offset: int, length: int) -> bytes:
        """Nothing is left."""
        raise RuntimeError(f"{length} bytes at {guest_offset} were not kept")

    def finish(self) -> None:
        """Nothing to complete."""

    def discard(self) -> None:
        """Nothing to remove."""
