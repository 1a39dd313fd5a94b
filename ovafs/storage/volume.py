"""What a machine's disk is read through, wherever its bytes lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from ovafs.streams.extents import ExtentMap


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


class Volume(Protocol):
    """An open disk: the collapsed guest view of an image or a chain of images.

    Opened by a backend's own function (``ovafs.storage.chain.open_chain`` for local files), closed by the owner.
    """

    @property
    def virtual_size(self) -> int:
        """Guest bytes, a multiple of 512."""
        ...

    @property
    def extents(self) -> ExtentMap:
        """What is stored, in guest coordinates; everything else reads as zeros."""
        ...

    async def read_into(self, guest_offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the guest bytes from ``guest_offset``: all of them, exact, or raise.

        Raises VolumeChanged, ReadFailed or InvalidImage (a compressed cluster that does not inflate).
        """
        ...

    def close(self) -> None:
        """Release files and locks; idempotent."""
        ...
