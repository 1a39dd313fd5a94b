"""One connection to an NBD server: exchanges of ``ovafs.formats.nbd``, one after the other.

Concurrency: one user at a time. :meth:`Connection.open` and :meth:`Connection.ask` block, in any thread; the event loop
awaits :meth:`Connection.exchange`. After an error or a cancellation the connection is broken: what is still on its way
would be taken for the next reply.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, TypeVar

import trio

from ovafs.errors import ImageUnavailable, ReadFailed
from ovafs.formats.nbd import Export, ExportInfo, NbdError, NbdFailed, disconnect, negotiate
from ovafs.storage.chain import ANSWER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovafs.formats.nbd import Exchange

R = TypeVar("R")


class Connection:
    """An open connection, in the transmission phase."""

    def __init__(self, export: Export, peer: socket.socket, info: ExportInfo) -> None:
        self.export = export
        self.info = info
        self.is_broken = False
        self._socket = peer
        self._cookie = 0

    @classmethod
    def open(cls, export: Export) -> Connection:
        """Connect and negotiate. Blocks; raises ImageUnavailable."""
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.settimeout(ANSWER_SECONDS)
            peer.connect(export.path)
            info = _drive(peer, negotiate(export.name))
        except (OSError, NbdError) as error:
            peer.close()
            raise ImageUnavailable(
                export.uri, f"cannot be opened: {_reason(error)}", "check the program that serves it"
            ) from error
        except BaseException:
            peer.close()
            raise
        return cls(export, peer, info)

    def next_cookie(self) -> int:
        """The number of the next request."""
        self._cookie += 1
        return self._cookie

    def ask(self, exchange: Exchange[R]) -> R:
        """The result of an exchange. Blocks, for as long as the server takes for any part; raises ReadFailed."""
        with self._errors():
            self._socket.settimeout(ANSWER_SECONDS)
            return _drive(self._socket, exchange)

    async def exchange(self, exchange: Exchange[R]) -> R:
        """The result of an exchange, awaited. Raises ReadFailed."""
        with self._errors(), trio.move_on_after(ANSWER_SECONDS):
            self._socket.settimeout(0)
            return await _drive_async(trio.socket.from_stdlib_socket(self._socket), exchange)
        self.is_broken = True
        raise ReadFailed(self.export.uri, f"the server did not answer within {ANSWER_SECONDS:.0f} s")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except NbdFailed as error:
            raise ReadFailed(self.export.uri, f"the server says: {error}", _HINT) from error
        except (OSError, NbdError) as error:
            self.is_broken = True
            raise ReadFailed(self.export.uri, _reason(error), _HINT) from error
        except BaseException:
            self.is_broken = True
            raise

    def close(self) -> None:
        """Say good-bye if that is possible, and close; idempotent."""
        with contextlib.suppress(OSError):
            if not self.is_broken:
                self._socket.settimeout(0)
                self._socket.send(disconnect())
        self.is_broken = True
        self._socket.close()


_HINT = "see the log of the program that serves the disk"


def _drive(peer: socket.socket, exchange: Exchange[R]) -> R:
    try:
        while True:
            step = next(exchange)
            if isinstance(step, bytes):
                peer.sendall(step)
                continue
            while step:
                count = peer.recv_into(step)
                if not count:
                    raise NbdError("the server closed the connection")
                step = step[count:]
    except StopIteration as done:
        result: R = done.value
        return result


async def _drive_async(peer: trio.socket.SocketType, exchange: Exchange[R]) -> R:
    try:
        while True:
            step = next(exchange)
            if isinstance(step, bytes):
                while step:
                    step = step[await peer.send(step) :]
                continue
            while step:
                count = await peer.recv_into(step)
                if not count:
                    raise NbdError("the server closed the connection")
                step = step[count:]
    except StopIteration as done:
        result: R = done.value
        return result


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"the server did not answer within {ANSWER_SECONDS:.0f} s"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
