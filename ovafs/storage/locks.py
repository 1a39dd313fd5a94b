"""The advisory locks with which QEMU protects images, taken so that a running machine's image is never read.

QEMU locks single bytes of the image file, shared, by open file description (``F_OFD_SETLK``), and then looks whether
anybody else holds a byte that contradicts (QEMU block/file-posix.c, ``raw_apply_lock_bytes``):

| byte | held means: "I use the permission" | byte | held means: "I do not share it" |
|---|---|---|---|
| 100 | consistent read | 200 | consistent read |
| 101 | write | 201 | write |
| 103 | resize | 203 | resize |

A running machine holds 101 on its own disk and not on the backing files, which can therefore be read. While we hold
201 and 203, nobody can start a machine that would write here. First lock, then look, as QEMU does: in the other
order two parties could both see nothing and both go on.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from typing import TYPE_CHECKING

from ovafs.errors import ReadFailed, VolumeBusy

if TYPE_CHECKING:
    from ovafs.storage.source_file import SourceFile

_log = logging.getLogger(__name__)

_FLOCK = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid (must be 0)

_OURS = (100, 201, 203)
_CONTRADICTING = ((101, "writes to it"), (103, "resizes it"), (200, "wants it for itself"))
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

_warned: set[str] = set()


def lock_for_reading(file: SourceFile) -> None:
    """Lock ``file`` against writers until it is closed.

    Raises VolumeBusy when another process writes to it or has locked it in another way. A file system without
    locks is reported in the log, once for each path; there a running machine cannot be noticed.
    """
    try:
        for byte in _OURS:
            fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, _lock_of(fcntl.F_RDLCK, byte))
        for byte, what in _CONTRADICTING:
            if _is_held(file.fileno(), byte):
                raise VolumeBusy(file.path, f"another process {what}")
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            raise VolumeBusy(file.path, "another process has locked it") from error
        if error.errno not in _NO_LOCKS:
            raise ReadFailed(file.path, f"cannot be locked: {error.strerror}") from error
        if file.path not in _warned:
            _warned.add(file.path)
            _log.warning("%s: the file system has no locks (%s); keep its machine stopped", file.path, error.strerror)


def _lock_of(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


def _is_held(descriptor: int, byte: int) -> bool:
    """Whether anybody else holds a lock, even a shared one, on ``byte``."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _lock_of(fcntl.F_WRLCK, byte))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
