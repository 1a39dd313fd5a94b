"""The NBD protocol, from the client's side, read-only: what is sent and received, without a socket.

| phase | client | server |
|---|---|---|
| greeting | flags (u32) | ``NBDMAGIC``, ``IHAVEOPT``, flags (u16) |
| options | ``IHAVEOPT``, option (u32), length (u32), data | magic (u64), option (u32), type (u32), length (u32), data |
| transmission | magic (u32), flags, type (u16), cookie, offset (u64), length (u32) | chunks: see below |

A chunk of a structured reply: magic (u32), flags (u16), type (u16), cookie (u64), length (u32), and so many bytes.

| type of chunk | its bytes |
|---|---|
| 0 none | nothing |
| 1 data | offset (u64), data |
| 2 hole | offset (u64), length (u32) of zeros |
| 5 block status | context (u32), then length (u32) and flags (u32) of each run |
| 0x8001, 0x8002 error | errno (u32), length of the message (u16), message; an offset (u64) in the second |

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md: "fixed newstyle" negotiation, structured
replies, ``base:allocation``. A server that has not all of these is refused: without them there is no telling what a
disk stores, or an error in the middle of data.

Each exchange is a generator (:data:`Exchange`): it yields ``bytes`` that are to be sent, or a ``memoryview`` that is to
be filled with received bytes, and returns its result. What drives it owns the connection; an exchange that is not
driven to its end leaves the connection useless.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ovafs.printable import printable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from typing import TypeAlias

R = TypeVar("R")

Exchange: TypeAlias = "Generator[bytes | memoryview, None, R]"

LONGEST_READ = 32 << 20
"""Bytes of one read that every server takes (the protocol's advice, QEMU's limit)."""

_GREETING = b"NBDMAGICIHAVEOPT"
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_CHUNK = struct.Struct(">IHHQI")
_EXPORT = struct.Struct(">HQH")
_BLOCK_SIZES = struct.Struct(">HIII")

_OPTION_REPLY_MAGIC = 0x0003E889045565A9
_REQUEST_MAGIC = 0x25609513
_CHUNK_MAGIC = 0x668E33EF

_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2

_GO, _STRUCTURED_REPLY, _SET_META_CONTEXT = 7, 8, 10
_OPTION_NAMES = {_GO: "export", _STRUCTURED_REPLY: "structured replies", _SET_META_CONTEXT: "block status"}
_ACK, _INFO, _META_CONTEXT = 1, 3, 4
_OPTION_ERROR = 1 << 31
_OPTION_ERRORS = {
    1: "not supported",
    2: "forbidden by the server",
    3: "invalid",
    5: "only with TLS, which is not supported here",
    6: "there is no such export",
    7: "the server is shutting down",
}
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_ALLOCATION = b"base:allocation"

_READ, _DISCONNECT, _BLOCK_STATUS = 0, 2, 7
_DONE = 1
_NONE_CHUNK, _DATA_CHUNK, _HOLE_CHUNK, _STATUS_CHUNK = 0, 1, 2, 5
_ERROR_CHUNK = 1 << 15

_ZERO_FLAG = 2

# What no server needs; more is an attack or nonsense.
_MOST_REPLIES = 100
_MOST_OPTION_BYTES = 64 << 10
_MOST_STATUS_BYTES = 8 << 20
_MOST_CHUNKS = 1 << 16

_LARGEST_SIZE = (1 << 63) - 1


class NbdError(Exception):
    """The server breaks the protocol or refuses what is needed of it; the connection is of no more use."""


class NbdFailed(Exception):
    """The server answered a request with an error; the connection can go on.

    ``errno`` is the protocol's, whose numbers are Linux's.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


class Export(NamedTuple):
    """An export of a server that listens on the UNIX socket ``path``."""

    path: str
    name: str

    @property
    def uri(self) -> str:
        """For messages: as the protocol's doc/uri.md spells it."""
        return f"nbd+unix:///{self.name}?socket={self.path}"


class ExportInfo(NamedTuple):
    """What the server says of an export: its size in bytes; whether several connections see the same.

    Requests start and end at multiples of ``alignment`` bytes and are no longer than ``longest_read``.
    """

    size: int
    has_multi_conn: bool
    alignment: int
    longest_read: int
    allocation_context: int


class StatusRun(NamedTuple):
    """``length`` bytes that have one status; ``is_zero``: they are known to read as zeros."""

    length: int
    is_zero: bool


def negotiate(export: str) -> Exchange[ExportInfo]:
    """Greet the server and enter the export of this name. Raises NbdError."""
    greeting = yield from _receive(18)
    if greeting[:16] != _GREETING:
        raise NbdError("it is no NBD server of the newstyle negotiation")
    flags = int.from_bytes(greeting[16:])
    if not flags & _FIXED_NEWSTYLE:
        raise NbdError("its negotiation is not the fixed newstyle")
    yield struct.pack(">I", _FIXED_NEWSTYLE | flags & _NO_ZEROES)
    yield from _option(_STRUCTURED_REPLY, b"")
    name = export.encode("utf-8", "surrogateescape")
    named = struct.pack(">I", len(name)) + name
    contexts = yield from _option(
        _SET_META_CONTEXT, named + struct.pack(">II", 1, len(_ALLOCATION)) + _ALLOCATION, export
    )
    context = _allocation_context(contexts)
    infos = yield from _option(_GO, named + struct.pack(">HH", 1, _INFO_BLOCK_SIZE), export)
    return _export_info(infos, context)


def read(cookie: int, offset: int, buffer: memoryview) -> Exchange[None]:
    """Fill ``buffer`` from ``offset`` on. Raises NbdError, and NbdFailed after the whole reply was received."""
    yield _REQUEST.pack(_REQUEST_MAGIC, 0, _READ, cookie, offset, len(buffer))
    filled: list[tuple[int, int]] = []
    failed: NbdFailed | None = None
    for _ in range(_MOST_CHUNKS):
        flags, kind, length = yield from _chunk(cookie)
        if kind == _DATA_CHUNK and length > 8:
            start = int.from_bytes((yield from _receive(8)))
            yield _part(buffer, start - offset, length - 8)
            filled.append((start - offset, length - 8))
        elif kind == _HOLE_CHUNK and length == 12:
            start, size = struct.unpack(">QI", (yield from _receive(12)))
            _part(buffer, start - offset, size)[:] = bytes(size)
            filled.append((start - offset, size))
        else:
            failed = (yield from _other_chunk(kind, length)) or failed
        if flags & _DONE:
            break
    else:
        raise NbdError(f"the reply to a read has more than {_MOST_CHUNKS} chunks")
    if failed is not None:
        raise failed
    _check_filled(filled, len(buffer))


def block_status(cookie: int, offset: int, length: int, context: int) -> Exchange[list[StatusRun]]:
    """The status of the bytes from ``offset`` on, of ``length`` or less, at least 1. Raises NbdError, NbdFailed."""
    yield _REQUEST.pack(_REQUEST_MAGIC, 0, _BLOCK_STATUS, cookie, offset, length)
    runs: list[StatusRun] = []
    failed: NbdFailed | None = None
    for _ in range(_MOST_REPLIES):
        flags, kind, size = yield from _chunk(cookie)
        if kind == _STATUS_CHUNK and size % 8 == 4 and 12 <= size <= _MOST_STATUS_BYTES:
            data = yield from _receive(size)
            if int.from_bytes(data[:4]) == context:
                runs = list(_status_runs(data, length))
        else:
            failed = (yield from _other_chunk(kind, size)) or failed
        if flags & _DONE:
            break
    else:
        raise NbdError(f"the reply to a question for the block status has more than {_MOST_REPLIES} chunks")
    if failed is not None:
        raise failed
    if not runs:
        raise NbdError("the reply to a question for the block status says nothing")
    return runs


def disconnect() -> bytes:
    """What a client sends before it closes the connection."""
    return _REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0)


# -- parts of exchanges


def _receive(length: int) -> Exchange[bytes]:
    buffer = bytearray(length)
    if length:
        yield memoryview(buffer)
    return bytes(buffer)


def _option(option: int, data: bytes, export: str = "") -> Exchange[list[tuple[int, bytes]]]:
    """Ask for an option; returns type and data of the replies before the acknowledgement."""
    yield _OPTION.pack(b"IHAVEOPT", option, len(data)) + data
    replies: list[tuple[int, bytes]] = []
    for _ in range(_MOST_REPLIES):
        magic, answered, kind, length = _OPTION_REPLY.unpack((yield from _receive(_OPTION_REPLY.size)))
        if magic != _OPTION_REPLY_MAGIC or answered != option or length > _MOST_OPTION_BYTES:
            raise NbdError(f"its reply to option {option} is malformed")
        received = yield from _receive(length)
        if kind == _ACK:
            return replies
        if kind >= _OPTION_ERROR:
            reason = _OPTION_ERRORS.get(kind - _OPTION_ERROR, f"error {kind - _OPTION_ERROR}")
            said = printable(received.decode("utf-8", "replace"))[:200]
            what = f"{_OPTION_NAMES[option]} {printable(export)}".rstrip()
            raise NbdError(f"{what}: {reason}" + (f" ({said})" if said else ""))
        replies.append((kind, received))
    raise NbdError(f"more than {_MOST_REPLIES} replies to option {option}")


def _allocation_context(replies: list[tuple[int, bytes]]) -> int:
    for kind, data in replies:
        if kind == _META_CONTEXT and data[4:] == _ALLOCATION:
            return int.from_bytes(data[:4])
    raise NbdError("it does not tell what is allocated (base:allocation)")


def _export_info(replies: list[tuple[int, bytes]], context: int) -> ExportInfo:
    size, flags, alignment, longest = -1, 0, 1, LONGEST_READ
    for kind, data in replies:
        what = int.from_bytes(data[:2])
        if kind == _INFO and what == _INFO_EXPORT and len(data) == _EXPORT.size:
            _, size, flags = _EXPORT.unpack(data)
        elif kind == _INFO and what == _INFO_BLOCK_SIZE and len(data) == _BLOCK_SIZES.size:
            _, alignment, _, longest = _BLOCK_SIZES.unpack(data)
    if not 0 <= size <= _LARGEST_SIZE:
        raise NbdError("it does not tell the export's size")
    if alignment > 64 << 10 or alignment & (alignment - 1) or longest < max(alignment, 4096):
        raise NbdError(f"its block sizes ({alignment} to {longest} bytes) are none")
    return ExportInfo(size, bool(flags & 256), max(alignment, 1), min(longest, LONGEST_READ), context)


def _chunk(cookie: int) -> Exchange[tuple[int, int, int]]:
    """Flags, type and length of the next chunk, which has to belong to the request with this cookie."""
    magic, flags, kind, answered, length = _CHUNK.unpack((yield from _receive(_CHUNK.size)))
    if magic != _CHUNK_MAGIC or answered != cookie:
        raise NbdError("a reply is malformed or belongs to no request")
    return flags, kind, length


def _other_chunk(kind: int, length: int) -> Exchange[NbdFailed | None]:
    """An error, or an end without data; anything else raises NbdError."""
    if kind == _NONE_CHUNK and not length:
        return None
    if not kind & _ERROR_CHUNK or not 6 <= length <= _MOST_OPTION_BYTES:
        raise NbdError(f"a reply has a chunk of type {kind} with {length} bytes")
    data = yield from _receive(length)
    number, size = struct.unpack_from(">IH", data)
    message = printable(data[6 : 6 + size].decode("utf-8", "replace"))
    return NbdFailed(number, message or errno.errorcode.get(number, f"error {number}"))


def _part(buffer: memoryview, start: int, length: int) -> memoryview:
    if start < 0 or start + length > len(buffer) or not length:
        raise NbdError(f"the reply to a read of {len(buffer)} bytes has {length} bytes at {start}")
    return buffer[start : start + length]


def _check_filled(parts: Sequence[tuple[int, int]], length: int) -> None:
    """Chunks come in any order, but each byte once (proto.md): what nobody sent would be somebody else's bytes."""
    position = 0
    for start, size in sorted(parts):
        if start != position:
            raise NbdError(f"the reply to a read of {length} bytes has gaps or repeats itself")
        position += size
    if position != length:
        raise NbdError(f"the reply to a read of {length} bytes lacks the last {length - position}")


def _status_runs(data: bytes, length: int) -> Iterator[StatusRun]:
    """The runs of a chunk, up to ``length``: the last may reach further."""
    left = length
    for size, flags in struct.iter_unpack(">II", data[4:]):
        if not size:
            raise NbdError("the block status has a run of no length")
        if left > 0:
            yield StatusRun(min(size, left), bool(flags & _ZERO_FLAG))
            left -= size
