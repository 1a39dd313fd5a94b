"""The directory of sockets and pid files, and the end of processes that a killed ovafs has left.

``BASE/XXXXXXXX/`` belongs to one process of ovafs, which holds a lock (flock) on it as long as it lives. In it are, for
the engine number N, its socket ``N``, ``N.ready`` once it serves, and its pid file ``N.pid``: the line of
``/proc/PID/stat`` (proc(5)) of the process. Where nobody holds the lock, ovafs was killed. A process named by a pid
file is only believed to be the engine if it began when the pid file says, and has the path of its socket on its command
line.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.errors import SourceError
from ovafs.storage.engine.command import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

# sun_path of a UNIX socket has 108 bytes, the last of them zero; mkdtemp has names of eight.
_LONGEST_BASE = 107 - len("/XXXXXXXX/123456")

_FIRST_FIELD_BEHIND_NAME = 3
_START_TIME = 22


def usual_base() -> str:
    """Where engines of this user have their directories: gone after a restart of the host, as they are."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_ours(runtime):
        return os.path.join(runtime, "ovafs")
    if os.getuid() == 0:
        return "/run/ovafs"
    return os.path.join(tempfile.gettempdir(), f"ovafs-{os.getuid()}")


def _is_ours(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.getuid()
    except OSError:
        return False


class Place:
    """This process's directory below ``base``; nobody else comes in."""

    def __init__(self, base: str) -> None:
        """End what others left there, too. Raises SourceError."""
        if len(os.fsencode(base)) > _LONGEST_BASE:
            raise SourceError(f"{base}: the path is too long for sockets", "set XDG_RUNTIME_DIR to a shorter one")
        self._numbers = itertools.count(1)
        try:
            os.makedirs(base, mode=0o700, exist_ok=True)
            if not _is_ours(base) or os.lstat(base).st_mode & 0o022:
                raise SourceError(f"{base} can be written by others", "remove it, or set XDG_RUNTIME_DIR")
            end_abandoned(base)
            with _locked(base):
                self.path = tempfile.mkdtemp(prefix="", dir=base)
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            raise SourceError(
                f"{base}: no place for the sockets of {PROGRAM} can be made: {error.strerror}",
                "check its permissions, or set XDG_RUNTIME_DIR",
            ) from error

    def new_socket(self) -> str:
        """A path for a socket, which nothing has."""
        return os.path.join(self.path, str(next(self._numbers)))

    def close(self) -> None:
        """Remove the directory; idempotent. No engine runs any more."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def pid_file(socket: str) -> str:
    """The pid file of the engine with this socket."""
    return f"{socket}.pid"


def ready_file(socket: str) -> str:
    """What the engine with this socket makes when it serves."""
    return f"{socket}.ready"


def end_abandoned(base: str) -> None:
    """End the engines of processes that are gone, and remove their directories. Raises OSError."""
    if not os.path.isdir(base):
        return
    with _locked(base):
        for entry in list(os.scandir(base)):
            if entry.is_dir(follow_symlinks=False) and _is_abandoned(entry.path):
                for path in Path(entry.path).glob("*.pid"):
                    _end(path)
                shutil.rmtree(entry.path, ignore_errors=True)


def _end(pid_path: Path) -> None:
    """End the process that a pid file tells of, if it is still that process."""
    with contextlib.suppress(OSError, ValueError, IndexError, OverflowError):
        stat = pid_path.read_text(encoding="utf-8", errors="replace")
        pid = int(stat.split()[0])
        handle = os.pidfd_open(pid)
        try:
            # Looked at through what the handle keeps from being another process meanwhile.
            if start_time(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")) != start_time(stat):
                return
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if f"--socket={pid_path.with_suffix('')}".encode() not in words:
                return
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            log.warning("ended the %s of an ovafs that was killed (process %d)", PROGRAM, pid)
        finally:
            os.close(handle)


def start_time(stat: str) -> int:
    """The moment when a process began, from its line in ``/proc/PID/stat``; its name there may have spaces."""
    return int(stat.rpartition(")")[2].split()[_START_TIME - _FIRST_FIELD_BEHIND_NAME])


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
