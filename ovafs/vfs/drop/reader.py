"""Reading uploads: before the import is committed from where their bytes went, afterwards from the volumes.

A receipt is opened at its first read and closed with its last handle; meanwhile its volumes are locked, as those of a
machine whose .ova is read. What cannot be read is said in the log, once for each reason.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from ovafs.errors import NotReadable, OvafsError
from ovafs.transfer.archive import open_archive
from ovafs.transfer.execute import execute
from ovafs.transfer.ingest.recorder import NOT_KEPT, ONLY_CHECKED
from ovafs.vfs.drop.entries import is_check
from ovafs.vfs.drop.names import show
from ovafs.vfs.nodes import FIRST_DROP_INODE
from ovafs.vfs.threads import close_later

if TYPE_CHECKING:
    from ovafs.inventory.destination import Destination
    from ovafs.transfer.archive import OpenArchive
    from ovafs.vfs.drop.entries import DropFile
    from ovafs.vfs.drop.upload import Upload
    from ovafs.vfs.threads import Threads

log = logging.getLogger(__name__)


class _Held:
    """A receipt that is read; the lock lets one task open it while others wait."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.archive: OpenArchive | None = None


class Reader:
    """Reads the files of one drop directory; used from its event loop only."""

    def __init__(self, destination: Destination, threads: Threads) -> None:
        self._destination = destination
        self._threads = threads
        self._held: dict[DropFile, _Held] = {}
        self._said: set[tuple[int, str]] = set()

    async def read(self, file: DropFile, offset: int, length: int) -> bytes:
        """Exactly the bytes that were written, fewer than asked only at the file's end.

        Raises NotReadable, or ReadFailed and others where storage fails, and says it in the log.
        """
        try:
            return await self.try_read(file, offset, length)
        except OvafsError as error:
            if (file.inode, str(error)) not in self._said:
                self._said.add((file.inode, str(error)))
                log.warning("drop/%s: cannot be read: %s", show(file.name), error)
            raise

    async def try_read(self, file: DropFile, offset: int, length: int) -> bytes:
        """The same, and nothing is said."""
        buffer = bytearray(max(0, min(length, file.size - offset)))
        if buffer:
            while (upload := file.upload) is not None and not file.is_imported:
                try:
                    await self._read_upload(upload, offset, memoryview(buffer))
                except OvafsError:
                    # While it is committed its volumes get other names; what comes next waits until that is over.
                    if not file.is_imported and not upload.is_committing:
                        raise
                else:
                    return bytes(buffer)
            await self._read_receipt(file, offset, memoryview(buffer))
        return bytes(buffer)

    def forget(self, file: DropFile) -> None:
        """Nobody reads the file any more, or it is another one now."""
        held = self._held.pop(file, None)
        if held is not None and held.archive is not None:
            close_later(held.archive)

    def close(self) -> None:
        """Release everything; the event loop has ended."""
        for held in self._held.values():
            if held.archive is not None:
                held.archive.close()
        self._held.clear()

    async def _read_upload(self, upload: Upload, offset: int, buffer: memoryview) -> None:
        segments, volumes = await self._threads.answer(upload, "the upload", upload.plan, offset, len(buffer))
        await execute(segments, volumes, buffer)

    async def _read_receipt(self, file: DropFile, offset: int, buffer: memoryview) -> None:
        if is_check(file):
            raise NotReadable(ONLY_CHECKED)
        held = self._held.setdefault(file, _Held())
        async with held.lock:
            if held.archive is None:
                archive = await self._threads.answer(file, f"drop/{show(file.name)}", self._open, file.inode)
                if self._held.get(file) is not held:
                    archive.close()
                    raise NotReadable(f"drop/{show(file.name)} was closed or truncated")
                held.archive = archive
        await held.archive.read_into(offset, buffer)

    def _open(self, inode: int) -> OpenArchive:
        blob = self._destination.receipt_archive(inode - FIRST_DROP_INODE)
        if blob is None:
            raise NotReadable(NOT_KEPT, "export the machine from vms/")
        return open_archive(blob, self._destination.volumes())
