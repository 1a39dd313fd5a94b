"""The file that an export is written to: ``DEST.tmp``, until it is complete and gets its name.

It carries a mark, the extended attribute ``user.ovafs.export``: whose bytes it holds, and up to which offset they are
known to be on the disk. So an export that was interrupted, also by a power cut, goes on from there. On a file system
without extended attributes everything works but that.

Two exports to one name exclude each other by a lock on the file (flock(2)), which ends with the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Self

import msgspec

from ovafs.errors import ExportFailed, NoSpace
from ovafs.transfer.reflink import clone_range

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".tmp"
MARK = "user.ovafs.export"

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


class Mark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The value of the attribute, as JSON: the bytes ``[0, durable)`` of a generation of ``size`` bytes are there."""

    generation: str
    size: int
    durable: int


class PartialFile:
    """An unfinished export: open, locked, marked. Everything blocks; ``checkpoint`` may run beside writes.

    ``durable`` is the offset up to which the content is on the disk; ``can_resume`` says whether the file system
    holds the mark that ``--resume`` needs; ``is_kept`` that the file was left for it.
    """

    def __init__(self, descriptor: int, destination: str, mark: Mark) -> None:
        self.fd = descriptor
        self.destination = destination
        self.path = destination + SUFFIX
        self.can_resume = True
        self._mark = mark
        self.is_kept = False
        self._is_trusted = True
        self._is_open = True

    @classmethod
    def create(cls, destination: str, generation: str, size: int) -> Self:
        """Begin an export of ``size`` bytes to ``destination``. Mode 0666 without the umask's bits.

        Raises ExportFailed when there is an unfinished export already, or when the file cannot be made.
        """
        path = destination + SUFFIX
        with _failures(path, "cannot be made"), contextlib.ExitStack() as undo:
            try:
                descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                raise _exists_already(path) from None
            undo.callback(os.close, descriptor)
            _lock(descriptor, path)
            undo.callback(os.unlink, path)
            os.ftruncate(descriptor, size)
            partial = cls(descriptor, destination, Mark(generation=generation, size=size, durable=0))
            partial._write_mark(partial._mark)
            undo.pop_all()
        return partial

    @classmethod
    def resume(cls, destination: str, generation: str, size: int) -> Self:
        """Go on with an unfinished export, or begin it if there is none.

        Raises ExportFailed when another export is writing to the file, or when it does not hold this generation.
        """
        path = destination + SUFFIX
        with _failures(path, "cannot be continued"), contextlib.ExitStack() as undo:
            try:
                descriptor = os.open(path, _FLAGS)
            except FileNotFoundError:
                return cls.create(destination, generation, size)
            undo.callback(os.close, descriptor)
            if not _lock(descriptor, path):
                raise ExportFailed(
                    f"{path}: the file system has no locks, so another export may be writing to it",
                    "remove it and export again without --resume",
                )
            mark = _read_mark(descriptor, path)
            if (mark.generation, mark.size) != (generation, size):
                raise ExportFailed(
                    f"{path} holds another state of the machine, or another machine",
                    "remove it and export again without --resume",
                )
            os.ftruncate(descriptor, mark.durable)
            os.ftruncate(descriptor, size)
            undo.pop_all()
        return cls(descriptor, destination, mark)

    @property
    def durable(self) -> int:
        """Offset up to which the content is known to be on the disk."""
        return self._mark.durable

    @property
    def allocated(self) -> int:
        """Bytes that the file takes on the disk now."""
        return os.fstat(self.fd).st_blocks * 512

    def write(self, buffer: memoryview, offset: int) -> None:
        """Write all of ``buffer`` at ``offset``. Raises NoSpace, ExportFailed."""
        with _failures(self.path, "cannot be written"):
            while buffer:
                count = os.pwrite(self.fd, buffer, offset)
                buffer = buffer[count:]
                offset += count

    def clone(self, source: int, source_offset: int, length: int, offset: int) -> bool:
        """Let ``length`` bytes at ``offset`` share the blocks of the open file ``source``, if that can be.

        Raises NoSpace, ExportFailed.
        """
        with _failures(self.path, "cannot share blocks"):
            return clone_range(source, source_offset, length, self.fd, offset)

    def checkpoint(self, offset: int) -> None:
        """Put everything before ``offset``, which must have been written, on the disk, and mark it so.

        Raises NoSpace, ExportFailed. After that no offset is believed any more: the kernel reports a write that
        failed once, and then forgets it.
        """
        if not self._is_trusted or offset <= self.durable:
            return
        with _failures(self.path, "cannot be written to the disk"):
            try:
                os.fdatasync(self.fd)
            except OSError:
                self._is_trusted = False
                raise
            self._write_mark(msgspec.structs.replace(self._mark, durable=offset))

    def finish(self, mtime_ns: int, *, replace: bool) -> None:
        """Everything is written: give the file its time and its name, durably, and close it.

        Raises NoSpace, ExportFailed, also when the name is taken and ``replace`` is False.
        """
        self.checkpoint(self._mark.size)
        with _failures(self.path, "cannot be finished"):
            os.utime(self.fd, ns=(mtime_ns, mtime_ns))
            os.fsync(self.fd)
            check_destination(self.destination, replace=replace)
            os.rename(self.path, self.destination)
            self._is_open = False
            with contextlib.suppress(OSError):
                os.removexattr(self.fd, MARK)
            os.close(self.fd)
            _sync_directory(os.path.dirname(self.destination) or ".")

    def abandon(self, *, useful: bool) -> None:
        """Close an export that did not finish; idempotent.

        The file is kept if it is ``useful`` and can be resumed with something in it, and removed otherwise.
        """
        if not self._is_open:
            return
        self._is_open = False
        self.is_kept = useful and self.can_resume and self.durable > 0
        if not self.is_kept:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        os.close(self.fd)

    def _write_mark(self, mark: Mark) -> None:
        if not self.can_resume:
            return
        try:
            os.setxattr(self.fd, MARK, msgspec.json.encode(mark))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self.can_resume = False
        self._mark = mark


def check_destination(path: str, *, replace: bool) -> None:
    """Raise ExportFailed unless a file can get the name ``path``."""
    with _failures(path, "cannot be examined"):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
    if not stat.S_ISREG(status.st_mode):
        raise ExportFailed(f"{path} exists and is no regular file", "give another name")
    if not replace:
        raise ExportFailed(f"{path} exists", "remove it, give another name, or say --force to replace it")


def _lock(descriptor: int, path: str) -> bool:
    """Lock the file that has the name ``path`` for this process; False if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _is_live(path) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    # The other export may have finished between the open and the lock: then this file is its result by now.
    if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
        raise _is_live(path)
    return True


def _read_mark(descriptor: int, path: str) -> Mark:
    try:
        mark = msgspec.json.decode(os.getxattr(descriptor, MARK), type=Mark)
        is_sound = 0 <= mark.durable <= min(mark.size, os.fstat(descriptor).st_size)
    except (OSError, msgspec.DecodeError):
        is_sound = False
    if not is_sound:
        raise ExportFailed(
            f"{path} is no unfinished export that can be continued", "remove it and export again without --resume"
        )
    return mark


def _exists_already(path: str) -> ExportFailed:
    """Why ``path`` cannot be begun: an export that runs, or one that was interrupted."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _is_live(path)
        finally:
            os.close(descriptor)
    return ExportFailed(f"{path} exists: an export was interrupted", "go on with --resume, or remove it to begin again")


def _is_live(path: str) -> ExportFailed:
    return ExportFailed(f"{path} is being written by another export", "wait until it has finished")


@contextlib.contextmanager
def _failures(path: str, what: str) -> Iterator[None]:
    """Name the file and the cause of what the operating system refuses."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpace(f"{path} {what}: {error.strerror}", "make room on its file system") from error
        raise ExportFailed(f"{path} {what}: {error.strerror}") from error


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
