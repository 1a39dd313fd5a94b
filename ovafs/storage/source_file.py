"""One file of a disk: opened read-only, never read unnoticed after somebody changed it.

Every read is followed by :meth:`SourceFile.check_unchanged`, so what a caller gets is the content that the file had
when it was opened, or an error; never a mixture.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import threading
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.errors import ImageUnavailable, ReadFailed, VolumeChanged
from ovafs.storage.volume import FileIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_FICLONE = 0x40049409  # _IOW(0x94, 9, int) of <linux/fs.h>, the same on x86, Arm, s390x and RISC-V


class SourceFile:
    """A regular file or block device, open for reading.

    ``identity`` is what the file was when it was opened; ``size`` is its length then. Reads may run in several
    threads; a file that is closed meanwhile stays open until the last of them is done (:meth:`in_use`), because
    its descriptor's number would otherwise go to another file and the thread would read that one.

    With ``is_live`` it may change: nothing is said about it, and what is read may be a mixture.

    Raises ImageUnavailable when the path cannot be opened or is something else (a directory, a pipe, a socket).
    """

    def __init__(self, path: str, *, is_live: bool = False) -> None:
        self.path = path
        self._is_live = is_live
        self._is_clone = False
        try:
            # O_NONBLOCK: opening a FIFO would wait for a writer for ever. Regular files and disks ignore it.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ImageUnavailable(path, f"cannot be opened: {reason}") from error
        self._guard = threading.Lock()
        self._users = 0
        self._closed = False
        try:
            status = os.fstat(self._fd)
            self.is_block_device = stat.S_ISBLK(status.st_mode)
            self.size = os.lseek(self._fd, 0, os.SEEK_END) if self.is_block_device else status.st_size
        except OSError as error:
            os.close(self._fd)
            raise ImageUnavailable(path, f"cannot be examined: {error.strerror}") from error
        if not self.is_block_device and not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise ImageUnavailable(path, "is neither a file nor a block device")
        self.device = status.st_dev
        self.identity = FileIdentity(status.st_ino, self.size, status.st_mtime_ns, status.st_ctime_ns)
        self._unchanged = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def allocated(self) -> int:
        """Bytes that the file system stores for it now. Raises OSError."""
        return os.fstat(self._fd).st_blocks * 512

    def fileno(self) -> int:
        """The descriptor, for locks and ioctls while the file is open (:meth:`in_use` in threads)."""
        return self._fd

    def check_unchanged(self) -> None:
        """Raise VolumeChanged if the content may differ from what it was when the file was opened."""
        if self._is_live or self._is_clone:
            return
        try:
            if self.is_block_device:
                # A device node's times say nothing about the device's content; only its size can be seen to change.
                if os.lseek(self._fd, 0, os.SEEK_END) != self.size:
                    raise VolumeChanged(self.path, "the device's size changed")
                return
            now = os.fstat(self._fd)
        except OSError as error:
            raise ReadFailed(self.path, f"cannot be examined: {error.strerror}") from error
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == self._unchanged:
            return
        # Unlinking sets ctime and nothing else. Nobody can open the file any more, so what is open stays as it was:
        # a machine removed while its .ova is copied must not break the copy.
        if now.st_nlink == 0 and (now.st_size, now.st_mtime_ns) == self._unchanged[:2]:
            return
        raise VolumeChanged(self.path, "the file changed while it was in use")

    def clone(self) -> bool:
        """Read from a file of our own from now on, which shares its blocks (FICLONE) and has no name; blocks.

        Afterwards the locks are gone, and whoever waited for the file may write to it. False where the file system
        cannot do that: then all is as it was. For a file that nobody reads yet. Raises VolumeChanged.
        """
        if self.is_block_device or self._is_live:
            return False
        folder = os.path.dirname(os.path.realpath(self.path))
        try:
            fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.debug("%s: no file can be made beside it: %s", self.path, error.strerror)
            return False
        try:
            fcntl.ioctl(fd, _FICLONE, self._fd)
            self.check_unchanged()
        except OSError as error:
            log.debug("%s: cannot be cloned: %s", self.path, error.strerror)
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        with self._guard:
            original, self._fd = self._fd, fd
            self._is_clone = True
        os.close(original)
        return True

    def read_cached(self, buffer: memoryview, offset: int) -> int:
        """Read what needs no waiting into ``buffer``; returns the number of bytes, 0 if the kernel would block.

        Safe on the event loop. The caller stays inside the file. Raises ReadFailed.
        """
        try:
            with self._guard:
                return os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            # tmpfs cannot promise not to wait, yet never does; with any other file system (NFS) a thread has to wait.
            if error.errno == errno.EOPNOTSUPP:
                return self._read_memory(buffer, offset) if _is_in_memory(self.device) else 0
            raise self._failed(error, offset) from error

    def _read_memory(self, buffer: memoryview, offset: int) -> int:
        try:
            with self._guard:
                return os.preadv(self._fd, [buffer], offset)
        except OSError as error:
            raise self._failed(error, offset) from error

    def read_exact(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``, waiting as long as it takes; what lies behind the file's end reads as zeros.

        The end is that of the moment of opening: a file that ends earlier now raises VolumeChanged. Raises ReadFailed
        when the storage fails.
        """
        inside = min(len(buffer), max(self.size - offset, 0))
        if inside < len(buffer):
            buffer[inside:] = bytes(len(buffer) - inside)
        done = 0
        while done < inside:
            try:
                count = os.preadv(self._fd, [buffer[done:inside]], offset + done)
            except OSError as error:
                raise self._failed(error, offset + done) from error
            if not count:
                self.check_unchanged()
                raise ReadFailed(self.path, f"no data at offset {offset + done}, before the end at {self.size}")
            done += count

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the file's end. Blocks; raises as read_exact does."""
        data = bytearray(max(0, min(length, self.size - offset)))
        self.read_exact(memoryview(data), offset)
        return bytes(data)

    def _failed(self, error: OSError, offset: int) -> ReadFailed:
        return ReadFailed(self.path, f"read at offset {offset} failed: {error.strerror}")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the descriptor open for the time of a ``with`` block in a thread. Raises ReadFailed once closed."""
        with self._guard:
            if self._closed:
                raise ReadFailed(self.path, "is closed")
            self._users += 1
        try:
            yield
        finally:
            with self._guard:
                self._users -= 1
                self._close_if_idle()

    def close(self) -> None:
        """Close now, or when the last thread that reads is done; idempotent. Releases the locks held on the file."""
        with self._guard:
            self._closed = True
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closed and not self._users and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1  # whoever uses it after all gets EBADF, not another file


@lru_cache(maxsize=64)
def _is_in_memory(device: int) -> bool:
    """Whether the file system with this st_dev is a tmpfs or ramfs, whose reads never wait for storage."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        fields, _, tail = line.partition(" - ")
        if fields.split()[2] == number:
            return tail.split()[0] in {"tmpfs", "ramfs"}
    return False
