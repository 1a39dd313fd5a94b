"""Going to the background without losing an error, and telling systemd."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
from typing import TYPE_CHECKING

from ovafs.errors import MountFailed, OvafsError

if TYPE_CHECKING:
    from collections.abc import Iterator

# <malloc.h> of glibc
_M_TRIM_THRESHOLD = -1
_M_ARENA_MAX = -8


class Daemon:
    """Forks; the parent waits until the child is ready, or has said why it cannot be.

    The child keeps stderr until it is ready, so that messages of libfuse are seen too. To be made before any
    thread or event loop exists.
    """

    _READY = b"ready"

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self.is_parent = os.fork() != 0
        if self.is_parent:
            os.close(self._write_end)
        else:
            os.close(self._read_end)
            os.setsid()

    def wait_until_ready(self) -> None:
        """In the parent: return when the child is ready; raises MountFailed with the child's reason."""
        with os.fdopen(self._read_end, "rb") as pipe:
            said = pipe.read()
        if said != self._READY:
            raise MountFailed(said.decode(errors="replace") or "the process of the mount died before it was ready")

    def ready(self) -> None:
        """In the child: let the parent return, and leave its terminal."""
        os.chdir("/")
        with open(os.devnull, "r+b", buffering=0) as null:
            for descriptor in (0, 1, 2):
                os.dup2(null.fileno(), descriptor)
        self._say(self._READY)

    @contextlib.contextmanager
    def reports_failure(self) -> Iterator[None]:
        """In the child: hand a failure to the parent, and end the process in every case."""
        status = 1
        try:
            yield
            status = 0
        except OvafsError as error:
            self._say(str(error).encode())
        except BaseException as error:
            self._say(f"unexpected failure: {error!r}".encode())
            raise
        finally:
            sys.exit(status)

    def _say(self, message: bytes) -> None:
        if self._write_end >= 0:
            os.write(self._write_end, message)
            os.close(self._write_end)
            self._write_end = -1


def notify_systemd() -> None:
    """Send READY=1 when started by systemd with Type=notify (protocol: sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address)
        sock.sendall(b"READY=1\nSTATUS=Serving")


def keep_memory_small() -> None:
    """Let the C library give back what is not used; elsewhere than with glibc nothing happens.

    Buffers of a megabyte, taken in many threads, would stay in an arena for each. Ten uploads of gzip at once took
    112 MiB, and take 95 MiB so, with the same time of the processors: Python runs one thread at a time anyway.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 * 1024)  # a fixed one keeps the limit for maps of their own fixed, too
