"""Where the volumes of one import are changed: overlays, which are brought home when all is done, or thrown away.

    VOLUMES/.adapt-UUID/            of the pending import UUID, locked (flock(2)) by whoever works on it
    VOLUMES/.adapt-UUID/N.qcow2     on top of its N-th volume
    VOLUMES/.adapt-UUID/log         what virt-v2v-in-place said
    TMPDIR/ovafs-adapt-UUID/        its temporary files: sockets have no room for long paths

virt-v2v-in-place changes a guest in place, and does not say that it can do so twice; so what is on the volumes is not
touched before it has succeeded. Bringing an overlay home can be done again after a crash: as long as the overlay is
there, what the guest sees is what the overlay has, or else what the volume has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Self

import msgspec

from ovafs.errors import WriteFailed
from ovafs.model import DiskFormat, Volume
from ovafs.printable import printable
from ovafs.storage.writer.new_file import write_error
from ovafs.transfer.adapt.program import Program

if TYPE_CHECKING:
    from threading import Event

    from ovafs.inventory.pending import PendingImport
    from ovafs.model import Machine

_PREFIX = ".adapt-"

_QEMU_IMG_SECONDS = 24 * 3600.0
"""More than the slowest storage needs for all that a guest's adaptation changes."""


class Workplace:
    """The directory for one pending import, locked until it is closed; nothing else works in it."""

    def __init__(self, path: str, lock: int, temporary: str, stop: Event) -> None:
        self.path = path
        self.temporary = temporary
        """A directory for temporary files."""
        self.program = Program(path, stop)
        self._lock = lock

    @classmethod
    def enter(cls, directory: str, uuid: str, stop: Event) -> Self | None:
        """The one of a pending import below the directory of volumes, made if there is none.

        None while another process works there. ``stop``, once set, ends what runs. Raises NoSpace, WriteFailed.
        """
        path = os.path.join(os.path.realpath(directory), f"{_PREFIX}{uuid}")
        temporary = os.path.join(tempfile.gettempdir(), f"ovafs-adapt-{uuid}")
        with contextlib.ExitStack() as undo:
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o700)
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                undo.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(lock), os.stat(path)):
                    return None  # who had it has just finished
                place = cls(path, lock, temporary, stop)
                place.program.end_orphans()
                shutil.rmtree(temporary, ignore_errors=True)
                os.mkdir(temporary, 0o700)
            except (BlockingIOError, FileNotFoundError):
                return None
            except OSError as error:
                raise write_error(path, "cannot be worked in", error) from error
            undo.pop_all()
        return place

    @property
    def log(self) -> str:
        """Path of the file for what the converter says."""
        return os.path.join(self.path, "log")

    def overlaid(self, machine: Machine, first: int) -> Machine:
        """The machine on new overlays, of which the first has the number ``first``. Raises NoSpace, WriteFailed."""
        disks = []
        for number, disk in enumerate(machine.disks, first):
            overlay = self._overlay(number)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(overlay)
            below = disk.volume
            self._qemu_img(["create", "-q", "-f", "qcow2", "-F", below.format, "-b", below.path, overlay], overlay)
            volume = Volume(uuid=below.uuid, path=overlay, format=DiskFormat.QCOW2)
            disks.append(msgspec.structs.replace(disk, volume=volume))
        return msgspec.structs.replace(machine, disks=tuple(disks))

    def bring_home(self, pending: PendingImport) -> None:
        """Write what the overlays have to their volumes; durable when this returns. Can be done again.

        An overlay that is not there has nothing: it was brought home already, or its machine was left as it is.
        """
        for number, path in enumerate(pending.paths):
            overlay = self._overlay(number)
            if not os.path.lexists(overlay):
                continue
            self._qemu_img(["commit", "-q", "-d", "-f", "qcow2", overlay], path)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.unlink(overlay)
            except OSError as error:
                raise write_error(path, "cannot be put on stable storage", error) from error

    def drop_overlays(self, first: int, count: int) -> None:
        """Throw so many away."""
        for number in range(first, first + count):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._overlay(number))

    def sync(self) -> None:
        """Put overlays and their names on stable storage. Raises NoSpace, WriteFailed."""
        try:
            for name in os.listdir(self.path):
                descriptor = os.open(os.path.join(self.path, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            os.fsync(self._lock)
        except OSError as error:
            raise write_error(self.path, "cannot be put on stable storage", error) from error

    def remove(self) -> None:
        """Take it away, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Let others in; idempotent."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _overlay(self, number: int) -> str:
        return os.path.join(self.path, f"{number}.qcow2")

    def _qemu_img(self, words: list[str], path: str) -> None:
        output = os.path.join(self.path, "qemu-img.log")
        if self.program.run(["qemu-img", *words], output, _QEMU_IMG_SECONDS, {}):
            with open(output, encoding="utf-8", errors="replace") as file:
                said = printable(file.read(500).strip())
            raise WriteFailed(path, f"qemu-img {words[0]} failed: {said}")
