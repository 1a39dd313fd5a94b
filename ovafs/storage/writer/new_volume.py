"""Names of new volumes in the directory for them, and what an interrupted import leaves there.

    .UUID.part      being written, locked by whoever writes it (flock(2))
    UUID.qcow2      complete and on stable storage, so is its name after :func:`sync_directory`
    UUID.raw
    UUID.fd         variables of a firmware, which a hypervisor's domain has beside its volumes

What an import calls a disk never gets here. The order that survives a power cut (tried on ext4 and XFS: without the
first step every registered volume was too short): finish the writer (fsync of the file), publish, sync_directory, and
then register. Whoever publishes has noted the volume in the catalog before, so that a start in between finds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ovafs.model import NATIVE_FORMATS, DiskFormat
from ovafs.storage.writer.new_file import write_error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PART = re.compile(rf"\.({_UUID})\.part")
_COMPLETE = re.compile(rf"({_UUID})\.(?:{'|'.join(NATIVE_FORMATS)}|fd)")


@dataclass(frozen=True)
class NewVolume:
    """The two names of a volume in ``directory``.

    Raises ValueError for a UUID that :meth:`name` would not give, and for a format that no volume is written in.
    """

    directory: str
    uuid: str
    format: DiskFormat

    def __post_init__(self) -> None:
        if not re.fullmatch(_UUID, self.uuid):
            raise ValueError(f"{self.uuid!r} is not a volume's UUID")
        if self.format not in NATIVE_FORMATS:
            raise ValueError(f"no volume is written as {self.format}")

    @classmethod
    def name(cls, directory: str, disk_format: DiskFormat) -> Self:
        """A new name, which nothing has."""
        return cls(directory, str(uuid.uuid4()), disk_format)

    @property
    def part_path(self) -> str:
        """Where the volume is written."""
        return os.path.join(self.directory, f".{self.uuid}.part")

    @property
    def path(self) -> str:
        """Where it is from :meth:`publish` on."""
        return os.path.join(self.directory, f"{self.uuid}.{self.format}")

    def publish(self) -> None:
        """Give a finished volume its name; durable after :func:`sync_directory`. Idempotent.

        Raises NoSpace, WriteFailed: also when the name is taken.
        """
        try:
            if not os.path.lexists(self.part_path) and os.path.lexists(self.path):
                return
            if os.path.lexists(self.path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.rename(self.part_path, self.path)
        except OSError as error:
            raise write_error(self.path, "cannot get its name", error) from error

    def withdraw(self) -> None:
        """Remove the volume under both names, for an import that fails after :meth:`publish`; idempotent."""
        for path in (self.part_path, self.path):
            with contextlib.suppress(OSError):
                os.unlink(path)


def sync_directory(directory: str) -> None:
    """Put the names in ``directory`` on stable storage. Raises NoSpace, WriteFailed."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_error(directory, "cannot be put on stable storage", error) from error


def leftovers(directory: str, *, known: Collection[str], unfinished: Collection[str]) -> list[str]:
    """Paths in ``directory`` that interrupted imports left, sorted.

    ``known`` are UUIDs of volumes that are registered or wait for a resume: never among them. ``unfinished`` are
    those that the catalog noted and no import registered: theirs are the published files. A ``.UUID.part`` needs no
    note, but nobody may be writing it. All other files, whatever their names, are not ours. Raises WriteFailed.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise write_error(directory, "cannot be listed", error) from error
    return [path for path in _candidates(directory, names, known, unfinished) if _is_idle(path)]


def sweep(directory: str, *, known: Collection[str], unfinished: Collection[str]) -> list[str]:
    """Remove the :func:`leftovers`; returns those that are gone, durably. Raises NoSpace, WriteFailed."""
    removed = [path for path in leftovers(directory, known=known, unfinished=unfinished) if _remove_idle(path)]
    if removed:
        sync_directory(directory)
    return removed


def _candidates(directory: str, names: list[str], known: Collection[str], unfinished: Collection[str]) -> Iterator[str]:
    for name in names:
        part, complete = _PART.fullmatch(name), _COMPLETE.fullmatch(name)
        if (part and part[1] not in known) or (complete and complete[1] in unfinished and complete[1] not in known):
            yield os.path.join(directory, name)


def _is_idle(path: str) -> bool:
    with _locked(path) as is_ours:
        return is_ours


def _remove_idle(path: str) -> bool:
    # The file is locked until it is gone: who has just made it and waits to lock it will see that.
    with _locked(path) as is_ours:
        if not is_ours:
            return False
        try:
            os.unlink(path)
        except OSError as error:
            raise write_error(path, "cannot be removed", error) from error
        return True


@contextlib.contextmanager
def _locked(path: str) -> Iterator[bool]:
    """Whether ``path`` is a regular file that nobody has locked; if so it is locked in the ``with`` block."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        is_ours = stat.S_ISREG(os.fstat(descriptor).st_mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            is_ours = False
        yield is_ours
    finally:
        os.close(descriptor)
