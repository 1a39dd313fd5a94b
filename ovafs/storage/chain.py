"""A disk in local files: a raw image, or a qcow2 image with any number of backing files.

Opening reads headers only and takes QEMU's locks; the extents are read when they are asked for, or come from a
cache. Reading goes straight from the file that holds a range into the caller's buffer, without a thread as long as
the kernel has the bytes in memory.

Concurrency: `open_chain`, `read_extents` and `close` may run in any thread. ``read_into`` runs on the event loop;
what would block goes to one worker thread for each request, into a buffer of its own, since the caller may have been
cancelled and its buffer given away by the time the storage answers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from ovafs.errors import ReadFailed
from ovafs.storage.links import Links
from ovafs.storage.qcow2 import qcow2_extents, read_cluster
from ovafs.storage.raw import raw_extents
from ovafs.streams.extents import Kind, Layer, collapse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.model import DiskFormat
    from ovafs.storage.links import Link
    from ovafs.storage.volume import FileIdentity
    from ovafs.streams.extents import ExtentMap

MAX_EXTENTS = 16 << 20
"""Extents in all files of a chain: 432 MiB of map. A compressed disk of 1 TiB has as many clusters of 64 KiB."""

ANSWER_SECONDS = 60.0
"""A process that waits for a mount cannot be killed until it is answered, so storage that hangs becomes an error."""

THREADS = 16
"""Threads that wait for the storage of one chain. Each chain has its own limit: one whose storage hangs, and with it
all its threads, must leave the others theirs."""

INFLATED_BYTES = 8 << 20
"""Inflated clusters that a chain keeps, so that small reads do not inflate the same cluster again and again."""


def open_chain(
    path: str,
    format: DiskFormat,  # noqa: A002 - the word of qemu-img
    *,
    snapshot: str = "",
    lock: bool = True,
    is_live: bool = False,
) -> Chain:
    """Open and check the image at ``path`` and all its backing files. Blocks.

    ``snapshot`` is the name of an internal one, of a qcow2 image: the disk as it was then.
    With ``is_live`` it does not matter that somebody writes to them meanwhile: good for an estimate, not for data.

    Raises ImageUnavailable, VolumeBusy, InvalidImage (also for a chain that leads back to itself),
    UnsupportedFeature, ReadFailed. An error in a backing file names the overlay too.
    """
    with ExitStack() as undo:
        links = Links(undo, lock=lock, is_live=is_live).open(path, format, snapshot)
        undo.pop_all()
    return Chain(links, snapshot)


class Chain:
    """An open disk (``storage.volume.Volume``). Its extents are known after ``read_extents`` or ``use_extents``."""

    def __init__(self, links: Sequence[Link], snapshot: str = "") -> None:
        self._links = tuple(links)
        self.snapshot = snapshot
        self.files = tuple(link.file for link in links)
        self.path = links[0].file.path
        self.virtual_size = links[0].virtual_size
        self._extents: ExtentMap | None = None
        self._inflated: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._inflated_size = 0
        self._inflated_lock = threading.Lock()
        self._limiter = trio.CapacityLimiter(THREADS)

    @property
    def extents(self) -> ExtentMap:
        """What is stored, in guest coordinates; everything else reads as zeros."""
        if self._extents is None:
            raise ValueError("the extents have not been read yet")
        return self._extents

    def read_extents(self) -> ExtentMap:
        """Read the tables of all files and collapse them; the result is used from now on. Blocks, busy all the time.

        Raises InvalidImage, UnsupportedFeature, ReadFailed, VolumeChanged.
        """
        layers = []
        room = MAX_EXTENTS
        for link in self._links:
            file, header = link.file, link.header
            with file.in_use():
                extents = raw_extents(file, room) if header is None else qcow2_extents(file, header, room)
            room -= len(extents)
            layers.append(Layer(extents, link.virtual_size))
        self._extents = collapse(layers)
        return self._extents

    def use_extents(self, extents: ExtentMap) -> None:
        """Use a map that ``read_extents`` gave for the same files, with the same identities, before."""
        if max(extents.layers, default=0) >= len(self.files):
            raise ValueError("the extents are those of a longer chain")
        self._extents = extents

    def identities(self) -> tuple[tuple[str, FileIdentity], ...]:
        """Path and identity of each file, from the top."""
        return tuple((file.path, file.identity) for file in self.files)

    @property
    def formats(self) -> tuple[DiskFormat, ...]:
        """The format that each file was opened as, from the top."""
        return tuple(link.form for link in self._links)

    @property
    def is_volatile(self) -> bool:
        """True when a change of content may go unnoticed, so that nothing about it may be remembered."""
        return any(file.is_block_device for file in self.files)

    def clone(self) -> bool:
        """Read from clones of its files, as far as their file systems can make them; before the first read. Blocks.

        True if all of them could. Raises VolumeChanged.
        """
        cloned = [file.clone() for file in self.files]
        return all(cloned)

    def check_unchanged(self) -> None:
        """Raise VolumeChanged if any file changed since it was opened."""
        for file in self.files:
            file.check_unchanged()

    async def read_into(self, guest_offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the guest bytes from ``guest_offset``; behind the disk's end lie zeros.

        No checkpoint when the kernel has everything in memory: a thread costs more than such a read. After an error
        or cancellation the buffer's content means nothing.

        Raises VolumeChanged, ReadFailed, InvalidImage (a compressed cluster that does not inflate).
        """
        done = self._read_cached(guest_offset, buffer)
        if done == len(buffer):
            return
        with trio.move_on_after(ANSWER_SECONDS):
            buffer[done:] = await trio.to_thread.run_sync(
                self._read_blocking,
                guest_offset + done,
                len(buffer) - done,
                abandon_on_cancel=True,
                limiter=self._limiter,
            )
            return
        raise ReadFailed(self.path, f"the storage did not answer within {ANSWER_SECONDS:.0f} s")

    def _read_cached(self, guest_offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as no waiting and no inflating is needed; returns the number of bytes."""
        extents = self.extents
        index = extents.first_after(guest_offset)
        if index < len(extents.starts):
            inside = guest_offset - extents.starts[index]
            if inside >= 0 and inside + len(buffer) <= extents.lengths[index] and extents.kinds[index] == Kind.DATA:
                # Most reads, short: all of it in one extent.
                file = self.files[extents.layers[index]]
                if count := file.read_cached(buffer, extents.hosts[index] + inside):
                    file.check_unchanged()
                return count
        return self._gather_cached(extents, index, guest_offset, buffer)

    def _gather_cached(self, extents: ExtentMap, index: int, guest_offset: int, buffer: memoryview) -> int:
        """As :meth:`_read_cached`, from any number of extents; ``index`` is the first that ends behind the offset."""
        starts, lengths, hosts = extents.starts, extents.lengths, extents.hosts
        size = len(buffer)
        position = 0
        touched = set()
        while position < size:
            hole = (starts[index] - guest_offset if index < len(starts) else size) - position
            if hole > 0:
                end = min(position + hole, size)
                buffer[position:end] = bytes(end - position)
                position = end
                continue
            skipped = -hole
            length = min(lengths[index] - skipped, size - position)
            layer = extents.layers[index]
            if extents.kinds[index] == Kind.DATA:
                part = buffer if length == size else buffer[position : position + length]
                if count := self.files[layer].read_cached(part, hosts[index] + skipped):
                    position += count
                    touched.add(layer)  # not else: on a network file system a mere fstat may wait
                if count < length:
                    break
            else:
                cluster = self._inflated_cluster(layer, hosts[index])
                if cluster is None:
                    break
                inside = (guest_offset + position) % len(cluster)
                buffer[position : position + length] = cluster[inside : inside + length]
                position += length
            index += 1
        for layer in touched:
            self.files[layer].check_unchanged()
        return position

    def _read_blocking(self, guest_offset: int, length: int) -> bytearray:
        """The guest bytes of a range, in a worker thread."""
        result = bytearray(length)
        view = memoryview(result)
        end = guest_offset + length
        extents = self.extents
        touched = set()
        with ExitStack() as stack:
            for file in self.files:
                stack.enter_context(file.in_use())
            for index in range(extents.first_after(guest_offset), len(extents)):
                extent = extents[index]
                if extent.start >= end:
                    break
                first, last = max(extent.start, guest_offset), min(extent.start + extent.length, end)
                part = view[first - guest_offset : last - guest_offset]
                if extent.kind == Kind.DATA:
                    self.files[extent.layer].read_exact(part, extent.host + first - extent.start)
                else:
                    cluster = self._inflate(extent.layer, extent.host)
                    inside = first % len(cluster)
                    part[:] = cluster[inside : inside + len(part)]
                touched.add(extent.layer)
            for layer in touched:
                self.files[layer].check_unchanged()
        return result

    def _inflated_cluster(self, layer: int, descriptor: int) -> bytes | None:
        with self._inflated_lock:
            cluster = self._inflated.get((layer, descriptor))
            if cluster is not None:
                self._inflated.move_to_end((layer, descriptor))
            return cluster

    def _inflate(self, layer: int, descriptor: int) -> bytes:
        """An inflated cluster, from memory if a read before needed it. In a worker thread."""
        cluster = self._inflated_cluster(layer, descriptor)
        if cluster is not None:
            return cluster
        file, header = self._links[layer].file, self._links[layer].header
        if header is None:
            raise ValueError("a compressed extent in a raw image")  # not in any map that read_extents made
        cluster = read_cluster(file, descriptor, header)
        file.check_unchanged()  # before others may use it
        with self._inflated_lock:
            if (layer, descriptor) not in self._inflated:
                self._inflated[layer, descriptor] = cluster
                self._inflated_size += len(cluster)
            while self._inflated_size > INFLATED_BYTES:
                self._inflated_size -= len(self._inflated.popitem(last=False)[1])
        return cluster

    def close(self) -> None:
        """Release files and locks; idempotent. Threads that still read go on, and the last one closes their files."""
        for file in self.files:
            file.close()
