"""The directory for what backup jobs need on the host: sockets, and files that take what guests overwrite.

``BASE/jobs-SOURCE-XXXXXXXX/`` belongs to one process, which holds a lock (flock) on it as long as it lives. One that
nobody holds is left over from a process that was killed. ``BASE`` is locked while one is made or removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from ovafs.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

# sun_path of a UNIX socket has 108 bytes, the last of them zero; mkdtemp adds eight to its prefix.
_LONGEST_PATH = 107
_LONGEST_REST = len("XXXXXXXX/123456")


class ScratchDirectory:
    """This process's directory below ``base``, where QEMU, running as ``owner`` (user and group), can make files."""

    def __init__(self, base: str, prefix: str, owner: tuple[int, int]) -> None:
        """Raises SourceError when it cannot be made."""
        most = _LONGEST_PATH - _LONGEST_REST - len(f"/{prefix}")
        if len(os.fsencode(base)) > most:
            raise SourceError(
                f"{base}: the path is too long for the sockets of backup jobs", f"scratch= may have {most} bytes"
            )
        self._numbers = itertools.count(1)
        try:
            if not os.path.isdir(base):
                os.makedirs(base, exist_ok=True)
                os.chmod(base, 0o711)  # noqa: S103 - whatever the umask: QEMU has to come through
            with _locked(base):
                self.path = tempfile.mkdtemp(prefix=prefix, dir=base)
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.getuid() == 0:  # else QEMU runs as this user, too
                os.fchown(self._fd, *owner)
        except OSError as error:
            raise SourceError(
                f"{base}: no place for backup jobs can be made: {error.strerror}", "give another one: scratch=DIRECTORY"
            ) from error

    def new_path(self) -> str:
        """A path that nothing has, nor anything that begins with it."""
        return os.path.join(self.path, str(next(self._numbers)))

    def free(self) -> int:
        """Bytes that are free in its file system. Raises OSError."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def close(self, *, keep: bool = False) -> None:
        """Remove it with all that is in it, or ``keep`` it for the next process to look at; idempotent."""
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def abandoned(base: str, prefix: str) -> Iterator[list[str]]:
    """The directories ``base/prefix…`` whose processes are gone; those that are left in the list are removed then.

    Raises OSError when ``base`` cannot be read.
    """
    with contextlib.ExitStack() as stack:
        if os.path.isdir(base):
            stack.enter_context(_locked(base))
        found = [path for path in _directories(base, prefix) if _is_abandoned(path)]
        yield found
        for path in found:  # not when their jobs could not be ended: then somebody else will
            shutil.rmtree(path, ignore_errors=True)


def _directories(base: str, prefix: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(base) if entry.name.startswith(prefix) and not entry.is_symlink()]
    except FileNotFoundError:
        return []


def _is_abandoned(path: str) -> bool:
    try:
        with _locked(path, fcntl.LOCK_NB):
            return True
    except OSError:  # held, or removed by its owner at this moment
        return False


@contextlib.contextmanager
def _locked(path: str, flags: int = 0) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(fd)
