"""A disk that QEMU reads (``storage.volume.Volume``): over NBD, from an engine that serves it.

The files are opened, locked and watched here, as those are that ovafs reads itself: the engine opens the same files
without locks of its own, and no read is believed before they were found unchanged after it.

Concurrency: :func:`open_engine_volume`, ``read_extents`` and ``close`` block, in any thread; ``read_into`` runs on the
event loop.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from ovafs.errors import ImageError, ImageUnavailable, ReadFailed, UnsupportedFeature
from ovafs.formats.nbd import NbdFailed
from ovafs.storage.chain import ANSWER_SECONDS, THREADS
from ovafs.storage.engine.command import PROGRAM
from ovafs.storage.engine.sources import open_served
from ovafs.storage.nbd.volume import open_nbd

if TYPE_CHECKING:
    from ovafs import model
    from ovafs.model import DiskFormat
    from ovafs.storage.engine.engines import Engine, Engines, Served
    from ovafs.storage.nbd.volume import NbdVolume
    from ovafs.storage.source_file import SourceFile
    from ovafs.storage.volume import FileIdentity
    from ovafs.streams.extents import ExtentMap


def open_engine_volume(engines: Engines, volume: model.Volume) -> EngineVolume:
    """Open, lock and check the images of a volume, and have them served. Blocks.

    Raises ImageUnavailable, VolumeBusy, InvalidImage, UnsupportedFeature, VolumeChanged, ReadFailed.
    """
    if volume.snapshot:
        raise UnsupportedFeature(volume.path, f"an internal snapshot of an image that {PROGRAM} reads")
    with ExitStack() as undo:
        served = open_served(volume, undo)
        engine = engines.use(served)
        undo.callback(engine.release)
        disk = connect(engine)
        if served.secret is not None:
            served.secret.close()  # the engine has it
        undo.pop_all()
    return EngineVolume(served, engine, disk)


def connect(engine: Engine) -> NbdVolume:
    """The disk that an engine serves; one that dies at this moment is started again. Raises ImageUnavailable."""
    export = engine.export
    try:
        try:
            return open_nbd(export)
        except ImageError:
            another = engine.after_failure(export)
            if another is None:
                raise
            return open_nbd(another)
    except ImageUnavailable as error:
        raise ImageUnavailable(engine.path, f"{PROGRAM}: {error.reason}", error.hint) from error


class EngineVolume:
    """An open disk. Its extents are known after ``read_extents`` or ``use_extents``."""

    files: tuple[SourceFile, ...] = ()
    """Its bytes lie in none of them as they are."""

    snapshot = ""

    def __init__(self, served: Served, engine: Engine, disk: NbdVolume) -> None:
        """``served`` are the files as this reader has opened them, which the engine may have from another."""
        self.path = served.path
        self.formats: tuple[DiskFormat, ...] = served.formats
        self.is_volatile = served.is_volatile
        self.virtual_size = disk.virtual_size
        self._sources = served.files
        self._engine = engine
        self._disk = disk
        self._extents: ExtentMap | None = None
        self._is_closed = False
        self._reopening = trio.Lock()
        self._limiter = trio.CapacityLimiter(THREADS)

    @property
    def extents(self) -> ExtentMap:
        """What is stored, in guest coordinates; everything else reads as zeros."""
        if self._extents is None:
            raise ValueError("the extents have not been read yet")
        return self._extents

    def read_extents(self) -> ExtentMap:
        """Ask QEMU what is stored; the result is used from now on. Blocks.

        Raises ReadFailed, VolumeChanged, UnsupportedFeature (too many extents).
        """
        try:
            extents = self._disk.read_extents()
        except ReadFailed as error:
            failed, self._disk = self._disk, self._after(error, self._disk)
            failed.close()
            extents = self._disk.read_extents()
        self.check_unchanged()
        self._extents = extents
        return extents

    def use_extents(self, extents: ExtentMap) -> None:
        """Use a map that ``read_extents`` gave for the same content before."""
        self._extents = extents

    def identities(self) -> tuple[tuple[str, FileIdentity], ...]:
        """Path and identity of each file, the image itself first."""
        return tuple((file.path, file.identity) for file in self._sources)

    def check_unchanged(self) -> None:
        """Raise VolumeChanged if any file changed since it was opened."""
        for file in self._sources:
            file.check_unchanged()

    def clone(self) -> bool:
        """Nothing: QEMU has opened the files themselves."""
        return False

    async def read_into(self, guest_offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the guest bytes from ``guest_offset``; behind the disk's end lie zeros.

        When the process that serves the disk dies, the read goes on with the next one. After an error or cancellation
        the buffer's content means nothing. Raises VolumeChanged, ReadFailed.
        """
        disk = self._disk
        try:
            await disk.read_into(guest_offset, buffer)
        except ReadFailed as error:
            await self._reopen(error, disk)
            try:
                await self._disk.read_into(guest_offset, buffer)
            except ReadFailed as again:
                raise self._failed(again) from again
        with trio.move_on_after(ANSWER_SECONDS):
            # In a thread: on a network file system a mere fstat may wait.
            await trio.to_thread.run_sync(self._check_in_use, abandon_on_cancel=True, limiter=self._limiter)
            return
        raise ReadFailed(self.path, f"the storage did not answer within {ANSWER_SECONDS:.0f} s")

    async def _reopen(self, error: ReadFailed, failed: NbdVolume) -> None:
        """Go on with the engine's next process, if its process is the reason for ``error``; raises if it is not."""
        async with self._reopening:
            if self._disk is not failed:  # another reader has done it
                return
            self._disk = await trio.to_thread.run_sync(self._after, error, failed, limiter=self._limiter)
            failed.close()
            if self._is_closed:
                self._disk.close()

    def _after(self, error: ReadFailed, failed: NbdVolume) -> NbdVolume:
        """The disk as the engine serves it now; raises ``error`` if that is as before, or why it is not. Blocks."""
        self._check_in_use()
        if isinstance(error.__cause__, NbdFailed):  # an answer: the process is alive
            raise self._failed(error) from error
        export = self._engine.after_failure(failed.export)
        if export is None:
            raise self._failed(error) from error
        try:
            disk = open_nbd(export)
        except ImageError as again:
            raise self._failed(again) from again
        if disk.virtual_size != self.virtual_size:
            disk.close()
            raise ReadFailed(self.path, "the disk has another size than before", "open the .ova again")
        return disk

    def _failed(self, error: ImageError) -> ReadFailed:
        """The error in terms of the image."""
        said = self._engine.messages
        return ReadFailed(self.path, f"{PROGRAM}: {error.reason}" + (f" ({said})" if said else ""))

    def _check_in_use(self) -> None:
        with ExitStack() as stack:
            for file in self._sources:
                stack.enter_context(file.in_use())
            self.check_unchanged()

    def close(self) -> None:
        """Release files, locks and the engine; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._disk.close()
        for file in self._sources:
            file.close()
        self._engine.release()
