"""One disk file on its way from the archive to its volume."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ovafs.errors import InvalidPackage
from ovafs.streams.decode.chunks import ChunkSequence, chunk_number
from ovafs.streams.decode.decoder import Keep, nothing_kept
from ovafs.streams.decode.disk_file import DiskFileDecoder
from ovafs.streams.qcow2 import MAX_VIRTUAL_SIZE
from ovafs.units import SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovafs.formats.ovf.read_model import PackageDisk, PackageFile
    from ovafs.storage.writer.volume_writer import VolumeWriter
    from ovafs.streams.decode.decoder import Event, Write
    from ovafs.transfer.ingest.landing import Landing
    from ovafs.transfer.ingest.spool import Spool, SpoolRoom
    from ovafs.transfer.ingest.target import TargetFormat


# As Microsoft's documentation had it at two times, which is what producers write.
_VHD_URI = re.compile(r"fwlink/\?linkid=137171|bb676673\.aspx|\bvhd\b")
_VHD_NAME = re.compile(r"\.(?:vhd|vpc)(?:\.gz)?$")


class IncomingDisk:
    """Takes the members that hold a disk file, in order, and writes the disk's content to a new volume.

    Blocking. All that is kept in a spool counts in ``room``; ``close`` gives up what is not finished.
    """

    def __init__(
        self, disk: PackageDisk, file: PackageFile, landing: Landing, target: TargetFormat, room: SpoolRoom
    ) -> None:
        self.warnings: list[str] = []
        self._disk = disk
        self._file = file
        self._landing = landing
        self._target = target
        self._writer: VolumeWriter | None = None
        self._room = room
        self._spool: Spool | None = None
        self._kept = 0  # bytes of room that the spool takes
        self._chunks = ChunkSequence(file.href, file.chunk_size, file.size) if file.chunk_size else None
        self._decoder: DiskFileDecoder | None = None
        self._short_size: int | None = None  # if it is less than the descriptor says
        self._received = 0
        self._is_finished = False

    @property
    def received(self) -> int:
        """Bytes of the disk file that have come."""
        return self._received

    @property
    def verbatim(self) -> VolumeWriter | None:
        """What has the bytes of the disk file at their own offsets; None if nothing has, or as long as nobody knows."""
        is_verbatim = self._decoder is not None and self._decoder.is_verbatim and not self._landing.is_dry
        return self._writer if is_verbatim else None

    @property
    def has_begun(self) -> bool:
        """Whether the disk file, or its first chunk, has come."""
        return self._decoder is not None

    def takes(self, name: str) -> bool:
        """Whether the member of this name is the disk file, or a chunk of it."""
        return name == self._file.href if self._chunks is None else chunk_number(name, self._file.href) is not None

    def begin(self, name: str, size: int) -> None:
        """A member that this disk takes begins. Raises InvalidPackage when it is not the next part of the file."""
        if self._chunks is not None:
            self._chunks.begin(name, size)
        elif self._file.size not in {None, size}:
            self._short_size = size if size < (self._file.size or 0) else None
            self.warnings.append(f"{name}: the descriptor says {self._file.size} bytes, the archive {size}")
        if self._decoder is None:
            known = size if self._chunks is None else self._file.size
            self._decoder = DiskFileDecoder(
                self._file.href,
                known,
                _hint(self._disk.format, self._file.href),
                inflated_limit=self._inflated_limit(),
                keep_qcow2=self._target.keeps_qcow2,
            )
        elif self._chunks is None:
            raise InvalidPackage("comes twice", member=name)

    def receive_data(self, data: memoryview) -> None:
        """The next bytes of the member. Raises what decoding and writing raise."""
        if self._decoder is None:
            raise RuntimeError("data before begin")
        self._received += len(data)
        self._carry_out(self._decoder.receive_data(data))
        if self._decoder.is_verbatim:
            self._volume()  # also if nothing but zeros has come: they can be read

    def end(self) -> None:
        """The member is complete; if it is the whole file, so is the disk."""
        if self._chunks is None:
            self.finish()

    def finish(self) -> VolumeWriter:
        """No more of the file comes: the volume is complete and on disk, or an error says why it cannot be."""
        if self._is_finished:
            return self._volume()
        if self._decoder is None:
            raise InvalidPackage("the package does not have this file", member=self._file.href)
        if self._chunks is not None:
            self._chunks.finish()
        self._carry_out(self._decoder.finish(self._read_kept))
        self._compare_sizes()
        self._volume().finish()
        self._is_finished = True
        self._drop_spool()
        return self._volume()

    def close(self) -> None:
        """Take away what is not finished; idempotent."""
        self._drop_spool()
        if self._writer is not None:
            self._writer.discard()

    def _carry_out(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Keep):
                self._keep(event)
            else:
                self._write(event)

    @property
    def _is_image(self) -> bool:
        """Whether what is written is the disk file itself."""
        return self._decoder is not None and self._decoder.is_kept

    def _read_kept(self, disk_offset: int, length: int) -> bytes:
        """What the decoder asks for at the end; of an image that is kept, from the volume."""
        if self._is_image and not self._landing.is_dry:
            volume = self._volume()
            inside = max(0, min(length, volume.virtual_size - disk_offset))
            return volume.read_at(disk_offset, inside).ljust(length, b"\0") if inside else bytes(length)
        return nothing_kept(disk_offset, length) if self._spool is None else self._spool.read(disk_offset, length)

    def _keep(self, event: Keep) -> None:
        if self._is_image and not self._landing.is_dry:
            return  # it is in the volume
        hint = "copy the disk with 'qemu-img convert' and pack it again"
        self._room.take(len(event.data), self._file.href, hint)
        self._kept += len(event.data)
        if self._spool is None:
            self._spool = self._landing.new_spool()
        self._spool.write(event.disk_offset, event.data)

    def _write(self, event: Write) -> None:
        volume = self._volume()
        end = event.guest_offset + len(event.data)
        # Only of a raw disk in gzip, whose size nobody knows before; an image that is kept grows.
        if end > volume.virtual_size and not self._is_image:
            raise self._too_large(end)
        volume.write_at(event.guest_offset, event.data)

    def _volume(self) -> VolumeWriter:
        """The volume; made when it is first needed, because the size stands in the disk file, not in the descriptor."""
        if self._writer is None and self._is_image:
            self._writer = self._landing.new_image()
        if self._writer is None:
            size = self._decoder.virtual_size if self._decoder else None
            if size is None:  # a raw disk in gzip: only its end would tell
                size = self._disk.capacity
            if size is None:
                raise InvalidPackage(
                    "neither the file nor the descriptor says how large the disk is", member=self._file.href
                )
            self._writer = self._landing.new_volume(align_up(size, SECTOR), self._target.converted)
        return self._writer

    def _inflated_limit(self) -> int:
        """A compressed file may inflate to the disk and its tables, not to more."""
        return (
            MAX_VIRTUAL_SIZE
            if self._disk.capacity is None
            else self._disk.capacity + self._disk.capacity // 64 + (64 << 20)
        )

    def _compare_sizes(self) -> None:
        size = self._decoder.virtual_size if self._decoder else None
        if self._short_size is not None and size == align_up(self._short_size, SECTOR):
            # The file is the disk, and nothing in it tells that the rest is missing, as other formats do.
            reason = f"a raw disk of {self._short_size} bytes, where the descriptor says {self._file.size}"
            raise InvalidPackage(reason, member=self._file.href)
        if size is None or self._disk.capacity in {None, size}:
            return
        if not self._is_image and size > self._volume().virtual_size:
            raise self._too_large(size)
        self.warnings.append(f"{self._file.href}: the descriptor says {self._disk.capacity} bytes, the disk has {size}")

    def _too_large(self, size: int) -> InvalidPackage:
        capacity = self._disk.capacity
        reason = f"holds {size} bytes at least, more than the capacity of {capacity} in the descriptor"
        return InvalidPackage(reason, member=self._file.href)

    def _drop_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._room.give_back(self._kept)
        self._kept = 0


def _hint(uri: str, href: str) -> str | None:
    """The format that the descriptor names beyond doubt; oVirt says "vmdk.html#sparse" of raw disks.

    Of a fixed VHD the beginning does not tell, so the name of the file counts, too.
    """
    uri = uri.lower()
    if "streamoptimized" in uri:
        return "vmdk"
    if "qcow" in uri:
        return "qcow2"
    return "vhd" if _VHD_URI.search(uri) or _VHD_NAME.search(href.lower()) else None
