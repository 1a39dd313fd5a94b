"""Taking an OVA's tar apart while it arrives: bytes go in, typed events come out, nothing is kept.

The reader does no I/O. Call :meth:`TarReader.receive_data` with the next bytes of the archive, in order, in pieces
of any size, then :meth:`TarReader.next_event` until it returns ``NEED_DATA``, and so on. A member comes as
``MemberStart``, any number of ``MemberData`` and ``MemberEnd``. What is tolerated but no part of the package comes
as one ``Ignored``. After ``EndOfArchive`` zeros may follow, nothing else. An archive may also stop behind a member
(VirtualBox writes no end): :meth:`TarReader.ending` says at any time what would be missing if no more came.

Data are views of the bytes that were given, without a copy. At most one header block or one extension header
(``Limits.extension``) is held, beside the names of the members.

Once something is refused the reader stays refused: every later call raises the same error. InvalidPackage is the
archive's fault; any other exception is a fault of the caller or of this module.

============================  ===================================================================================
refused by name               links, devices, FIFOs, sparse members and all other types; names that are absolute or
                              hold ``..``, backslashes, control characters, or are not UTF-8; a name twice, letter
                              case and Unicode form aside; sizes and numbers of members beyond the limits; pax
                              headers that contradict the member's own; anything but zeros behind the end
ignored, and said so          directories; ``._*`` (macOS); ``pad`` (oVirt's alignment); global pax comments
read                          ustar and old GNU headers, octal and base-256 sizes, GNU long names, pax path and size
============================  ===================================================================================

oVirt up to 4.5.4 gave the size of the descriptor in characters instead of bytes, so a descriptor with letters beyond
ASCII goes on behind its declared end, and the next header follows later. The first member, if it has one of oVirt's
names, is therefore read on to the next header; ``MemberEnd.size`` then is its true size.
"""

from __future__ import annotations

import enum
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidPackage
from ovafs.formats.tar import BLOCK
from ovafs.formats.tar_events import (
    NEED_DATA,
    Ending,
    EndOfArchive,
    Event,
    Ignored,
    MemberData,
    MemberEnd,
    MemberStart,
)
from ovafs.formats.tar_header import (
    MAX_NAME,
    Header,
    Kind,
    check_pax_keys,
    is_header,
    member_name,
    parse_header,
    parse_pax,
    pax_size,
)
from ovafs.units import align_up

if TYPE_CHECKING:
    from collections.abc import Callable

_ZERO_BLOCK = bytes(BLOCK)
_EMPTY = memoryview(b"")
_NO_EXTENSION = Header(Kind.PAX, b"", 0)
_OVIRT_DESCRIPTORS = frozenset(("vm.ovf", "template.ovf"))
_MAX_UTF8 = 4  # bytes of a character: how much longer a descriptor can be than oVirt 4.5.4 says


class Limits(NamedTuple):
    """What an archive may ask for.

    ``members`` counts headers of every kind; a disk in chunks has thousands (vSphere's example: 2 GB each).
    ``member_size`` and ``extension`` (a pax header; file attributes are in it too) are in bytes.
    """

    members: int = 8192
    member_size: int = 1 << 50
    extension: int = 1 << 16


class _State(enum.Enum):
    HEADER = enum.auto()
    EXTENSION = enum.auto()
    DATA = enum.auto()
    DESCRIPTOR_PADDING = enum.auto()
    DESCRIPTOR_OVERRUN = enum.auto()
    SKIP = enum.auto()
    ONE_ZERO_BLOCK = enum.auto()
    TRAILER = enum.auto()


class TarReader:
    """A push parser of one archive; see the module for the protocol."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._state = _State.HEADER
        self._error: InvalidPackage | None = None
        self._input = _EMPTY
        self._held = bytearray()  # the start of a block or extension that did not come in one piece
        self._offset = 0  # in the archive: of the first byte that is not consumed
        self._members = 0
        self._names: set[str] = set()
        self._extension = _NO_EXTENSION
        self._new_name: bytes | None = None  # what extension headers say of the next member
        self._new_size: bytes | None = None
        self._name = ""  # the member that is being read
        self._position = 0
        self._remaining = 0
        self._overrun_limit = 0
        self._steps: dict[_State, Callable[[], Event | None]] = {
            _State.HEADER: self._read_header,
            _State.EXTENSION: self._read_extension,
            _State.DATA: self._read_data,
            _State.DESCRIPTOR_PADDING: self._read_descriptor_padding,
            _State.DESCRIPTOR_OVERRUN: self._read_descriptor_overrun,
            _State.SKIP: self._skip,
            _State.ONE_ZERO_BLOCK: self._read_second_zero_block,
            _State.TRAILER: self._read_trailer,
        }

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the archive; all events of the bytes before must have been fetched."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._input:
            raise RuntimeError("receive_data before next_event returned NEED_DATA")
        self._input = memoryview(data)

    def next_event(self) -> Event:
        """The next event, or NEED_DATA when all that was given is consumed. Raises InvalidPackage."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        try:
            while True:
                event = self._steps[self._state]()
                if event is not None:
                    return event
        except InvalidPackage as error:
            self._error = error
            self._input = _EMPTY
            raise

    def ending(self) -> Ending:
        """What an end of the archive right here would mean; changes nothing. Call it after NEED_DATA."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        nothing_but_zeros = not self._held.strip(b"\0")
        match self._state:
            case _State.TRAILER:
                return Ending(complete=True, end_blocks=True, member="", missing=0)
            case _State.HEADER | _State.ONE_ZERO_BLOCK if nothing_but_zeros and not self._has_extension():
                return Ending(complete=True, end_blocks=False, member="", missing=0)
            case _State.DATA | _State.DESCRIPTOR_PADDING | _State.SKIP:
                missing = self._remaining - len(self._held)
                if self._state is _State.DATA:
                    missing = align_up(self._position + self._remaining, BLOCK) - self._position
                return Ending(complete=False, end_blocks=False, member=self._name, missing=missing)
            case _State.EXTENSION:
                return Ending(complete=False, end_blocks=False, member="", missing=self._remaining - len(self._held))
            case _:
                return Ending(complete=False, end_blocks=False, member="", missing=BLOCK - len(self._held))

    # Each step consumes some input and returns an event, or NEED_DATA, or None when only the state has changed.

    def _read_header(self) -> Event | None:
        block = self._take(BLOCK)
        if block is None:
            return NEED_DATA
        offset = self._offset - BLOCK
        if block == _ZERO_BLOCK:
            if self._has_extension():
                raise InvalidPackage("an extension header without a member", offset=offset)
            self._state = _State.ONE_ZERO_BLOCK
            return None
        header = parse_header(block, offset)
        self._members += 1
        if self._members > self._limits.members:
            raise InvalidPackage(f"more than {self._limits.members} members", offset=offset)
        match header.kind:
            case Kind.PAX | Kind.PAX_GLOBAL | Kind.LONG_NAME:
                self._start_extension(header, offset)
                return None
            case Kind.DIRECTORY:
                return self._pass_directory(header, offset)
            case Kind.FILE | Kind.FILE_V7:
                return self._start_member(header, offset)

    def _start_extension(self, header: Header, offset: int) -> None:
        limit = MAX_NAME + 1 if header.kind is Kind.LONG_NAME else self._limits.extension
        if header.size > limit:
            raise InvalidPackage(f"an extension header of {header.size} bytes", offset=offset)
        if header.kind is not Kind.PAX_GLOBAL and self._has_extension():
            raise InvalidPackage("two extension headers before one member", offset=offset)
        self._extension = header
        self._remaining = align_up(header.size, BLOCK)
        self._state = _State.EXTENSION

    def _read_extension(self) -> Event | None:
        payload = self._take(self._remaining)
        if payload is None:
            return NEED_DATA
        header = self._extension
        offset = self._offset - len(payload) - BLOCK
        payload = payload[: header.size]
        self._state = _State.HEADER
        if header.kind is Kind.LONG_NAME:
            self._new_name = payload.removesuffix(b"\0")
            return None
        records = parse_pax(payload, offset)
        check_pax_keys(records, header.kind, offset)
        if header.kind is Kind.PAX_GLOBAL:
            return Ignored("", "comment", header.size, offset)
        self._new_name, self._new_size = records.get("path"), records.get("size")
        return None

    def _has_extension(self) -> bool:
        return self._new_name is not None or self._new_size is not None

    def _apply_extensions(self, header: Header, offset: int) -> Header:
        if self._new_name is not None:
            header = header._replace(name=self._new_name)
        if self._new_size is not None:
            header = header._replace(size=pax_size(self._new_size, header, offset))
        self._new_name = self._new_size = None
        return header

    def _pass_directory(self, header: Header, offset: int) -> Event:
        header = self._apply_extensions(header, offset)
        name = member_name(header.name, offset)
        if header.size:
            raise InvalidPackage("a directory with data", member=name, offset=offset)
        return Ignored(name, "directory", 0, offset)

    def _start_member(self, header: Header, offset: int) -> Event:
        header = self._apply_extensions(header, offset)
        name, size = member_name(header.name, offset), header.size
        if not name or header.name.endswith(b"/"):
            raise InvalidPackage("a file whose name is empty or ends with a slash", member=name, offset=offset)
        if size > self._limits.member_size:
            raise InvalidPackage(f"is {size} bytes long", member=name, offset=offset)
        self._name, self._position, self._remaining = name, 0, size
        if name == "pad" or name.rpartition("/")[2].startswith("._"):
            self._remaining = align_up(size, BLOCK)
            self._state = _State.SKIP
            return Ignored(name, "padding" if name == "pad" else "AppleDouble file", size, offset)
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in self._names:
            raise InvalidPackage("a second member of this name (letter case aside)", member=name, offset=offset)
        first = not self._names
        self._overrun_limit = size * (_MAX_UTF8 - 1) if first and name in _OVIRT_DESCRIPTORS else 0
        self._names.add(folded)
        self._state = _State.DATA
        return MemberStart(name, size, self._offset, offset)

    def _read_data(self) -> Event | None:
        if self._remaining:
            if not self._input:
                return NEED_DATA
            data = self._consume(self._remaining)
            self._remaining -= len(data)
            return self._deliver(data)
        self._remaining = -self._position % BLOCK
        if self._overrun_limit:
            self._state = _State.DESCRIPTOR_PADDING
            return None
        self._state = _State.SKIP
        return MemberEnd(self._name, self._position)

    def _deliver(self, data: memoryview) -> MemberData:
        event = MemberData(data, self._position)
        self._position += len(data)
        return event

    def _read_descriptor_padding(self) -> Event | None:
        padding = self._take(self._remaining)
        if padding is None:
            return NEED_DATA
        return self._read_on(padding)

    def _read_descriptor_overrun(self) -> Event | None:
        block = self._take(BLOCK)
        if block is None:
            return NEED_DATA
        if block == _ZERO_BLOCK or is_header(block):
            self._held += block
            self._offset -= BLOCK
            return self._end_descriptor()
        return self._read_on(block)

    def _read_on(self, block: bytes) -> Event | None:
        """Go on with a block in which the descriptor may go on; it ends where the first NULs are."""
        text = block.rstrip(b"\0")
        if block and not text:
            return self._end_descriptor()
        self._overrun_limit -= len(text)
        if self._overrun_limit < 0 or b"\0" in text:
            reason = "is followed by neither zeros nor the header of the next member"
            raise InvalidPackage(reason, member=self._name, offset=self._offset - len(block))
        self._state = _State.DESCRIPTOR_OVERRUN
        return self._deliver(memoryview(text)) if text else None

    def _end_descriptor(self) -> MemberEnd:
        self._remaining = 0
        self._state = _State.HEADER
        return MemberEnd(self._name, self._position)

    def _skip(self) -> Event | None:
        if self._remaining:
            if not self._input:
                return NEED_DATA
            self._remaining -= len(self._consume(self._remaining))
            return None
        self._state = _State.HEADER
        return None

    def _read_second_zero_block(self) -> Event | None:
        block = self._take(BLOCK)
        if block is None:
            return NEED_DATA
        if block != _ZERO_BLOCK:
            raise InvalidPackage("data behind a zero block: the archive is damaged", offset=self._offset - BLOCK)
        self._state = _State.TRAILER
        return EndOfArchive(self._offset)

    def _read_trailer(self) -> Event:
        data = bytes(self._consume(len(self._input))).lstrip(b"\0")
        if data:
            raise InvalidPackage("data behind the end of the archive", offset=self._offset - len(data))
        return NEED_DATA

    # The input.

    def _consume(self, limit: int) -> memoryview:
        """Up to ``limit`` bytes of the input, without a copy."""
        piece = self._input[:limit]
        self._input = self._input[limit:] or _EMPTY
        self._offset += len(piece)
        return piece

    def _take(self, count: int) -> bytes | None:
        """Exactly ``count`` bytes, or None after holding what there is of them."""
        missing = count - len(self._held)
        self._held += self._input[:missing]
        self._input = self._input[missing:] or _EMPTY
        if len(self._held) < count:
            return None
        piece = bytes(self._held)
        self._held.clear()
        self._offset += count
        return piece
