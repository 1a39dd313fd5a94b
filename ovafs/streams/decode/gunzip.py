"""A stage in front of a decoder: gzip (RFC 1952), as ``ovf:compression="gzip"`` and names in ``.gz`` announce it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import InvalidPackage
from ovafs.formats.inflate import INFLATE_ERRORS, gzip_member
from ovafs.units import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator

_INPUT = 64 * KIB  # of which what was not consumed is copied once for each piece of output
_OUTPUT = 256 * KIB


class GunzipStage:
    """Inflates a gzip file, of one or several members, piece by piece; holds one piece of 256 KiB.

    Deflate makes at most 1032 bytes of one, and more than ``limit`` bytes in all are refused. Whatever is not a gzip
    member behind the last one is refused too, zeros included. The CRC of each member is checked.
    """

    def __init__(self, member: str, limit: int) -> None:
        self._member = member
        self._limit = limit
        self._produced = 0
        self._stream = gzip_member()
        self._begun = False  # inside of a gzip member

    def receive_data(self, data: memoryview) -> Iterator[memoryview]:
        """The inflated pieces of the next bytes, each good until the next. Raises InvalidPackage."""
        for start in range(0, len(data), _INPUT):
            rest: bytes | memoryview = data[start : start + _INPUT]
            while rest:
                piece, rest = self._step(rest)
                if piece:
                    yield memoryview(piece)

    def finish(self) -> None:
        """The compressed file has ended. Raises InvalidPackage if that was inside a gzip member."""
        if self._begun or not self._produced:
            raise self._invalid("the file ends inside its gzip data")

    def _step(self, data: bytes | memoryview) -> tuple[bytes, bytes]:
        """One piece of output, and the input that was not consumed for it."""
        self._begun = True
        try:
            piece = self._stream.decompress(data, _OUTPUT)
        except INFLATE_ERRORS as error:
            raise self._invalid(f"the gzip data is damaged ({error})") from error
        self._produced += len(piece)
        if self._produced > self._limit:
            raise self._invalid(f"the gzip data inflates to more than {self._limit} bytes")
        if not self._stream.eof:
            return piece, self._stream.unconsumed_tail
        rest = self._stream.unused_data
        self._stream = gzip_member()
        self._begun = False
        return piece, rest

    def _invalid(self, reason: str) -> InvalidPackage:
        return InvalidPackage(reason, member=self._member)
