"""Write a file over NFS as a kernel client does: many requests under way, in no order, COMMIT at the end, no close.

Run as a program in the server's network, because libnfs uses the network of its process:
``nfs_writer.py URL-OF-DIRECTORY NAME SOURCE``. Exits with 1 and the error of the server.
"""

from __future__ import annotations

import ctypes
import random
import select
import sys
from pathlib import Path
from typing import Any, NoReturn

PIECE = 1 << 17
UNDER_WAY = 16

_DONE = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


class Client:
    """libnfs, as far as it is used here."""

    def __init__(self, url: str) -> None:
        self.lib: Any = ctypes.CDLL("libnfs.so.13")
        for name in ("nfs_init_context", "nfs_parse_url_dir", "nfs_get_error"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        self.context = ctypes.c_void_p(self.lib.nfs_init_context())
        parsed = self.lib.nfs_parse_url_dir(self.context, url.encode())
        server, path = ctypes.cast(ctypes.c_void_p(parsed), ctypes.POINTER(ctypes.c_char_p))[:2]
        self.check(self.lib.nfs_mount(self.context, server, path))

    def check(self, result: int) -> None:
        if result < 0:
            self.fail()

    def fail(self) -> NoReturn:
        sys.exit(ctypes.string_at(self.lib.nfs_get_error(self.context)).decode())

    def write(self, handle: ctypes.c_void_p, pieces: list[tuple[int, bytes]]) -> None:
        """All the pieces, up to UNDER_WAY at a time."""
        results: list[int] = []
        done = _DONE(lambda result, *_: results.append(result))
        sent = 0
        while len(results) < len(pieces):
            while sent < len(pieces) and sent - len(results) < UNDER_WAY:
                offset, data = pieces[sent]
                count = ctypes.c_uint64(len(data))
                at = ctypes.c_uint64(offset)
                self.check(self.lib.nfs_pwrite_async(self.context, handle, at, count, data, done, None))
                sent += 1
            poll = select.poll()
            poll.register(self.lib.nfs_get_fd(self.context), self.lib.nfs_which_events(self.context))
            for _, events in poll.poll():
                self.check(self.lib.nfs_service(self.context, events))
            if any(result < 0 for result in results):
                self.fail()


def main(url: str, name: str, source: str) -> None:
    """Write the pieces of the file, and commit them."""
    data = Path(source).read_bytes()
    client = Client(url)
    handle = ctypes.c_void_p()
    client.check(client.lib.nfs_creat(client.context, name.encode(), 0o644, ctypes.byref(handle)))
    pieces = [(start, data[start : start + PIECE]) for start in range(0, len(data), PIECE)]
    random.Random(1).shuffle(pieces)
    client.write(handle, pieces)
    client.check(client.lib.nfs_fsync(client.context, handle))


if __name__ == "__main__":
    main(*sys.argv[1:])
