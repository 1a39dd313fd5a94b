"""Export to a path: the bytes of a package in a file, without FUSE.

Two buffers: while one block is written by a thread, the next one is read. A second thread puts what has been written
on the disk from time to time, so that little is lost when the export is interrupted.

Concurrency: ``_Copier`` belongs to one task. ``position`` moves only when a block's job is done, so a checkpoint that
runs beside later writes promises no more than what was complete when it began.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NamedTuple

import trio

from ovafs.errors import ExportFailed, InvalidImage, NoSpace, VolumeChanged
from ovafs.transfer.execute import execute
from ovafs.transfer.export_plan import BLOCK, Sharing, blocks
from ovafs.transfer.partial_file import PartialFile, check_destination
from ovafs.transfer.reflink import block_size, can_clone
from ovafs.transfer.worker import Worker
from ovafs.units import align_up, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.transfer.export_plan import Block, Clone
    from ovafs.transfer.open_package import OpenPackage

log = logging.getLogger(__name__)

# How much may be lost by a power cut. Measured on ext4 over a virtual disk, 2 GiB: a checkpoint each 256 MiB or more
# costs nothing in the end, because the last fsync has less to do; one each 64 MiB doubles the time.
CHECKPOINT_BYTES = 512 << 20
CHECKPOINT_SECONDS = 10.0


class Exported(NamedTuple):
    """What an export did: bytes that were copied, bytes that share their blocks with an image, where it began."""

    copied: int
    cloned: int
    resumed_at: int


def begin_export(package: OpenPackage, destination: str, *, resume: bool, replace: bool) -> PartialFile:
    """Begin, or with ``resume`` go on with, an export of ``package`` to the path ``destination``. Blocks.

    Raises ExportFailed when the destination exists (unless ``replace``), is one of the images of the package, or when
    there is an unfinished export that cannot be used.
    """
    check_destination(destination, replace=replace)
    if any(_is_same_file(destination, path) for path, _ in package.description.files):
        raise ExportFailed(f"{destination} is an image of the machine itself", "give another name")
    if resume and package.description.volatile:
        why = (
            "the machine runs"
            if package.description.is_live
            else "a disk of the machine is a block device, whose content can change unnoticed"
        )
        raise ExportFailed(
            f"{why}: no export of it is resumed",
            f"remove {destination}.tmp if it exists, and export again without --resume",
        )
    start = PartialFile.resume if resume else PartialFile.create
    return start(destination, package.description.generation, package.size)


async def export_file(
    package: OpenPackage, partial: PartialFile, *, replace: bool, on_progress: Callable[[int], object]
) -> Exported:
    """Write the rest of ``package`` to ``partial`` and finish it; ``on_progress`` is told the offsets reached.

    Raises NoSpace, ExportFailed, and what reading raises. Then, and when it is cancelled, the file is left for a
    resume if that can be (``partial.is_kept``): not when the images changed, may change unnoticed, or are broken.
    """
    useful = not package.description.volatile
    copier = _Copier(package, partial, on_progress)
    try:
        await copier.run()
        await trio.to_thread.run_sync(package.check_unchanged)
        await trio.to_thread.run_sync(lambda: partial.finish(package.description.mtime_ns, replace=replace))
    except (VolumeChanged, InvalidImage):
        useful = False
        raise
    finally:
        with trio.CancelScope(shield=True):
            await copier.close(checkpoint=useful)
            await trio.to_thread.run_sync(lambda: partial.abandon(useful=useful))
    return Exported(copier.copied, copier.cloned, copier.start)


class _Copier:
    def __init__(self, package: OpenPackage, partial: PartialFile, on_progress: Callable[[int], object]) -> None:
        self.start = self.position = partial.durable
        self.copied = self.cloned = 0
        self._package = package
        self._partial = partial
        self._on_progress = on_progress
        self._buffers = [memoryview(bytearray(BLOCK)) for _ in range(2)]
        self._writer: Worker[list[Clone]] = Worker("ovafs-write")
        self._syncer: Worker[None] = Worker("ovafs-sync")
        self._synced_at = (self.position, trio.current_time())

    async def run(self) -> None:
        """Write everything; raises what goes wrong first."""
        sharing = await trio.to_thread.run_sync(self._prepare)
        volumes = self._package.volumes
        writing: Block | None = None
        for block in blocks(self._package.package, volumes, self.start, sharing):
            await trio.lowlevel.checkpoint()  # reading what is in memory has none
            buffer = self._buffers[0]
            for copy in block.copies:
                await execute(copy.segments, volumes, _part(buffer, block, copy.offset, copy.length))
            await self._written(writing)
            self._writer.start(self._write, block, buffer)
            self._buffers.reverse()
            writing = block
            await self._sync_sometimes()
        await self._written(writing)
        await self._syncer.result()

    async def close(self, *, checkpoint: bool) -> None:
        """Wait for what the threads are doing; with ``checkpoint``, make what is complete durable if that can be."""
        for worker in (self._writer, self._syncer):
            await worker.close()
        if checkpoint:
            try:
                await trio.to_thread.run_sync(self._partial.checkpoint, self.position)
            except ExportFailed as error:
                log.debug("no last checkpoint: %s", error)

    def _prepare(self) -> Sharing:
        """Find out which files can share blocks with the target, and whether there is room for the others."""
        target = self._partial.fd
        alignment = block_size(target)
        scratch = align_up(self._package.size, alignment)
        files = {file for volume in self._package.volumes for file in volume.files}
        sharing = Sharing({file for file in files if can_clone(file.fileno(), target, scratch)}, alignment)
        log.debug("blocks of %d of %d files can be shared", len(sharing.files), len(files))
        self._check_space(sharing)
        return sharing

    def _check_space(self, sharing: Sharing) -> None:
        folder = os.path.dirname(self._partial.path) or "."
        status = os.fstatvfs(self._partial.fd)
        free = status.f_bavail * status.f_frsize
        needed = self._package.package.stored - self._partial.allocated
        if not status.f_blocks:  # as ramfs and some network file systems say: it does not know
            return
        if needed > free and sharing.files:
            rest = blocks(self._package.package, self._package.volumes, self.start, sharing)
            needed = sum(copy.length for block in rest for copy in block.copies)
        if needed > free:
            raise NoSpace(
                f"the export needs {format_size(needed)}, {format_size(free)} are free on {folder}",
                "make room there, or give another place",
            )

    def _write(self, block: Block, buffer: memoryview) -> list[Clone]:
        """In the writer's thread: write a block; returns the clones that could not be made."""
        for copy in block.copies:
            self._partial.write(_part(buffer, block, copy.offset, copy.length), copy.offset)
        return [clone for clone in block.clones if not self._clone(clone)]

    def _clone(self, clone: Clone) -> bool:
        with clone.file.in_use():
            return self._partial.clone(clone.file.fileno(), clone.host_offset, clone.length, clone.offset)

    async def _written(self, block: Block | None) -> None:
        """Wait until ``block``, which the writer has, is in the file."""
        if block is None:
            return
        refused = await self._writer.result() or []
        for clone in refused:
            data = memoryview(bytearray(clone.length))
            await execute([clone.source], self._package.volumes, data)
            await trio.to_thread.run_sync(self._partial.write, data, clone.offset)
        moved = sum(clone.length for clone in refused)
        self.copied += sum(copy.length for copy in block.copies) + moved
        self.cloned += sum(clone.length for clone in block.clones) - moved
        self.position = block.end
        self._on_progress(block.end)

    async def _sync_sometimes(self) -> None:
        position, time = self._synced_at
        if not self._syncer.is_idle:
            return
        if self.position - position >= CHECKPOINT_BYTES or trio.current_time() - time >= CHECKPOINT_SECONDS:
            await self._syncer.result()
            self._syncer.start(self._partial.checkpoint, self.position)
            self._synced_at = (self.position, trio.current_time())


def _part(buffer: memoryview, block: Block, offset: int, length: int) -> memoryview:
    """The place in the block's buffer of what lies at ``offset`` of the package."""
    return buffer[offset - block.offset : offset - block.offset + length]


def _is_same_file(left: str, right: str) -> bool:
    try:
        return os.path.samefile(left, right)
    except OSError:
        return False
