"""What ``TarReader`` says while an archive goes through it."""

from __future__ import annotations

import enum
from typing import Final, Literal, NamedTuple


class Signal(enum.Enum):
    """The answer that is no event."""

    NEED_DATA = "need data"


NEED_DATA: Final = Signal.NEED_DATA


class MemberStart(NamedTuple):
    """A file begins: its declared size in bytes, and where its data and its header lie in the archive."""

    name: str
    size: int
    offset: int
    header_offset: int


class MemberData(NamedTuple):
    """The next bytes of the member, from ``offset`` in it; a view that holds until the next ``receive_data``."""

    data: memoryview
    offset: int


class MemberEnd(NamedTuple):
    """The member is complete; ``size`` is what came of it."""

    name: str
    size: int


class Ignored(NamedTuple):
    """Something tolerated that is no member of the package; its ``size`` bytes of data are skipped."""

    name: str
    what: Literal["directory", "AppleDouble file", "padding", "comment"]
    size: int
    header_offset: int


class EndOfArchive(NamedTuple):
    """Both zero blocks came; ``offset`` is behind them."""

    offset: int


Event = MemberStart | MemberData | MemberEnd | Ignored | EndOfArchive | Literal[Signal.NEED_DATA]


class Ending(NamedTuple):
    """How the archive would end here.

    ``complete`` says that nothing is missing, ``end_blocks`` that the end of the archive was written. Else
    ``missing`` bytes at least are missing, of ``member`` ("" for a header).
    """

    complete: bool
    end_blocks: bool
    member: str
    missing: int
