"""What a machine's disk is read through, wherever its bytes lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from ovafs.model import DiskFormat
    from ovafs.storage.source_file import SourceFile
    from ovafs.streams.extents import ExtentMap


# A file that was changed within one tick of the kernel's clock can be changed again without a new timestamp
# (up to 10 ms with HZ=100 before kernel 6.13). Identities younger than this are not believed yet.
TIMESTAMP_GRANULARITY_NS = 20_000_000

# The same where times are whole seconds, or every second one.
COARSE_GRANULARITY_NS = 2_000_000_000


class FileIdentity(NamedTuple):
    """What changes when a file's content may have changed.

    ``ctime_ns`` is part of it because ``mtime`` can be set back (``rsync -a --inplace``, ``touch -d``). The
    device number is not: it differs between hosts and boots that see the same file system.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def is_coarse(self) -> bool:
        """Whether the file system seems to keep whole seconds (ext4 with inodes of 128 bytes) or less (FAT).

        Told by a time without a fraction, which elsewhere is one time in a hundred million.
        """
        return not self.ctime_ns % 1_000_000_000

    @property
    def granularity_ns(self) -> int:
        """Nanoseconds after ``ctime_ns`` from which on a further change is certain to show in the identity."""
        return COARSE_GRANULARITY_NS if self.is_coarse else TIMESTAMP_GRANULARITY_NS


class Volume(Protocol):
    """An open disk: the collapsed guest view of an image or a chain of images, or what a server shows of one.

    Opened by a backend's own function (``ovafs.storage.chain.open_chain`` for local files,
    ``ovafs.storage.nbd.volume.open_nbd`` for servers, ``ovafs.storage.engine.volume.open_engine_volume`` for what QEMU
    has to read), closed by the owner.
    """

    @property
    def path(self) -> str:
        """What people know it by: the path of its file, or a URI."""
        ...

    @property
    def virtual_size(self) -> int:
        """Guest bytes, a multiple of 512."""
        ...

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files that its extents lie in, by layer; none if they are not local."""
        ...

    @property
    def formats(self) -> tuple[DiskFormat, ...]:
        """The format that each of them was opened as."""
        ...

    @property
    def snapshot(self) -> str:
        """The internal snapshot that is read; "" for the present content."""
        ...

    @property
    def is_volatile(self) -> bool:
        """True when a change of content may go unnoticed, so that nothing about it may be remembered."""
        ...

    @property
    def extents(self) -> ExtentMap:
        """What is stored, in guest coordinates, after ``read_extents`` or ``use_extents``; all else reads as zeros."""
        ...

    def read_extents(self) -> ExtentMap:
        """Find out what is stored; the result is used from now on. Blocks.

        Raises InvalidImage, UnsupportedFeature, ReadFailed, VolumeChanged.
        """
        ...

    def use_extents(self, extents: ExtentMap) -> None:
        """Use a map that ``read_extents`` gave for the same content before."""
        ...

    def identities(self) -> tuple[tuple[str, FileIdentity], ...]:
        """Path and identity of each file, from the top."""
        ...

    def check_unchanged(self) -> None:
        """Raise VolumeChanged if any file changed since it was opened."""
        ...

    def clone(self) -> bool:
        """Read from clones of its files, as far as their file systems can make them; before the first read. Blocks.

        True if all of them could. Raises VolumeChanged.
        """
        ...

    async def read_into(self, guest_offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the guest bytes from ``guest_offset``: all of them, exact, or raise.

        Raises VolumeChanged, ReadFailed or InvalidImage (a compressed cluster that does not inflate).
        """
        ...

    def close(self) -> None:
        """Release files and locks; idempotent."""
        ...
