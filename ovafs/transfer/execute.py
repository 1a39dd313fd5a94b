"""The one executor: turns a plan into bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ovafs.streams.segment import Literal, Segment, SourceRange

if TYPE_CHECKING:
    from collections.abc import Sequence


class GuestBytes(Protocol):
    """What an executor needs of a ``storage.volume.Volume``."""

    async def read_into(self, guest_offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``guest_offset``: all of them, exact, or raise."""
        ...


async def execute(segments: Sequence[Segment], volumes: Sequence[GuestBytes], buffer: memoryview) -> None:
    """Fill ``buffer`` with the bytes that ``segments`` stand for; ``SourceRange.disk`` indexes ``volumes``.

    The plan must be exactly as long as ``buffer``. What ``buffer`` held before is overwritten, zeros included.
    Raises what their ``read_into`` raises; then the content of ``buffer`` means nothing.
    """
    position = 0
    for segment in segments:
        if isinstance(segment, SourceRange):
            end = position + segment.length
            await volumes[segment.disk].read_into(segment.guest_offset, buffer[position:end])
        elif isinstance(segment, Literal):
            end = position + len(segment.data)
            buffer[position:end] = segment.data
        else:
            end = position + segment.length
            buffer[position:end] = bytes(segment.length)
        position = end
    if position != len(buffer):
        raise ValueError(f"the plan is {position} bytes long, {len(buffer)} were asked for")
