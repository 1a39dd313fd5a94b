"""What every decoder of disk files has in common: bytes in by one method, guest data out as events.

A decoder does no I/O. It gets the bytes of one disk file in order, in pieces of any size, and says where they go:

    for event in decoder.receive_data(piece):   # as often as there are bytes
        ...
    for event in decoder.finish(read_kept):     # at the end of the file: whether it was complete
        ...

* ``Write``: these bytes belong at this guest offset. Nothing is ever written twice. What is never written reads as
  zeros; blocks of 4 KiB that hold nothing but zeros are left out. Order is that of the file, not of the guest.
* ``Keep``: what these bytes are for is not known yet, because the tables that say so come later in the file. The
  caller puts them into a spool at ``disk_offset`` and gives them back when ``finish`` asks by ``read_kept``. What was
  never kept must read as zeros there, so the spool is a sparse file. A file whose tables come first keeps nothing.

The iterators must be exhausted before the next call (RuntimeError otherwise): events are made one at a time, so
that a few bytes that inflate to many never exist at once. The data of an event are views, of the caller's bytes
where nothing was compressed, and good until the next event. Calls may block for as long as inflating takes.

An error is latched: once refused, the file stays refused, and every later call raises the same error.
``InvalidPackage`` (the file breaks its format) and ``UnsupportedFeature`` (it needs what is refused by name) are the
file's fault; any other exception is a fault of the caller or of this package. A decoder that has not finished
without an error has decoded nothing: what was written so far is no disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import ImageError, InvalidImage, InvalidPackage
from ovafs.streams.decode.zeros import data_runs
from ovafs.streams.qcow2 import MAX_VIRTUAL_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

_NOTHING = memoryview(b"")


class Write(NamedTuple):
    """``data``, never empty, belongs at ``guest_offset`` of the disk."""

    guest_offset: int
    data: memoryview


class Keep(NamedTuple):
    """``data``, never empty, from ``disk_offset`` of the disk file may be asked for at the end."""

    disk_offset: int
    data: memoryview


Event = Write | Keep

if TYPE_CHECKING:
    ReadKept = Callable[[int, int], bytes]  # disk offset and length to exactly that many bytes


def nothing_kept(disk_offset: int, length: int) -> bytes:
    """A ``read_kept`` for callers that have no spool and refuse every Keep."""
    raise RuntimeError(f"{length} bytes at {disk_offset} were not kept")


class Decoder(ABC):
    """One disk file that arrives; see the module for the protocol.

    A subclass is a program, :meth:`_decode`, that reads the file from front to end and is suspended while bytes are
    missing. It consumes whatever there is before it waits, so nothing of a piece is left when the next one comes.
    """

    def __init__(self, member: str, size: int | None = None) -> None:
        """``member`` is for messages; ``size`` is the exact size of the disk file in bytes, if it is known."""
        self.virtual_size: int | None = None
        """Size of the disk in bytes, as soon as it is known."""
        self._member = member
        self._size = size
        self._guest_end = 1 << 64  # the virtual size, as soon as it is known
        self._arrived = 0
        self._chunk = _NOTHING  # what has arrived and is not consumed
        self._offset = 0  # in the disk file: of the first byte that is not consumed
        self._ended = False
        self._busy = False
        self._error: ImageError | InvalidPackage | None = None
        self._read_kept: ReadKept = nothing_kept
        self._program = self._decode()

    def receive_data(self, data: bytes | bytearray | memoryview) -> Iterator[Event]:
        """The events of the next bytes of the file. Raises InvalidPackage, UnsupportedFeature."""
        if self._ended and self._error is None:
            raise RuntimeError("receive_data after finish")
        self._arrived += len(data)
        self._chunk = memoryview(data)
        yield from self._run()

    def finish(self, read_kept: ReadKept = nothing_kept) -> Iterator[Event]:
        """The last events; the file has ended. Raises InvalidPackage, UnsupportedFeature.

        When the iterator is exhausted the file was complete and consistent, and ``virtual_size`` is known.
        """
        self._ended = True
        self._read_kept = read_kept
        yield from self._run()

    def _run(self) -> Iterator[Event]:
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._busy:
            raise RuntimeError("the events of the call before were not exhausted")
        self._busy = True
        try:
            self._check_size()
            for event in self._program:
                if event is None:
                    break
                yield event
        except InvalidImage as error:
            self._error = InvalidPackage(error.reason, member=self._member)
            raise self._error from error
        except (ImageError, InvalidPackage) as error:
            self._error = error
            raise
        self._busy = False

    def _check_size(self) -> None:
        if self._size is None or self._arrived == self._size:
            return
        if self._arrived > self._size:
            raise self._invalid(f"more than the {self._size} bytes that the file has")
        if self._ended:
            raise self._invalid(f"ends after {self._arrived} of {self._size} bytes")

    @abstractmethod
    def _decode(self) -> Generator[Event | None, None, None]:
        """The program; runs to its end only when the file has ended."""

    # -- what programs are made of -----------------------------------------------------------------------------
    # Views that these return are good until the program waits again: the caller may use its buffer for the next bytes.

    def _more(self) -> Generator[None, None, bool]:
        """Wait for bytes: True when there are some, False when the file has ended."""
        while not self._chunk:
            if self._ended:
                return False
            yield None
        return True

    def _cut(self, most: int) -> memoryview:
        """Consume up to ``most`` bytes of what is there, without a copy."""
        data = self._chunk[:most]
        self._chunk = self._chunk[len(data) :]
        self._offset += len(data)
        return data

    def _take_up_to(self, length: int) -> Generator[None, None, memoryview]:
        """Consume ``length`` bytes, or those that are left at the end of the file; copied only if in pieces."""
        if len(self._chunk) >= length:
            return self._cut(length)
        data = bytearray()
        while len(data) < length and (yield from self._more()):
            data += self._cut(length - len(data))
        return memoryview(data)

    def _take(self, length: int, what: str) -> Generator[None, None, memoryview]:
        """Consume exactly ``length`` bytes, or fail, for the file ends inside ``what``."""
        start = self._offset
        data = yield from self._take_up_to(length)
        if len(data) < length:
            raise self._invalid(f"the file ends inside {what} at {start}")
        return data

    def _set_virtual_size(self, size: int) -> None:
        if size > MAX_VIRTUAL_SIZE:
            raise self._invalid(f"a virtual size of {size} bytes, more than {MAX_VIRTUAL_SIZE}")
        self.virtual_size = self._guest_end = size

    def _write(self, guest_offset: int, data: memoryview) -> Iterator[Write]:
        """Guest data, without what lies behind the end of the disk, and without zeros."""
        data = data[: max(0, self._guest_end - guest_offset)]
        for start, end in data_runs(data, guest_offset):
            yield Write(guest_offset + start, data[start:end])

    def _invalid(self, reason: str) -> InvalidPackage:
        return InvalidPackage(reason, member=self._member)
