"""The one executor: turns a plan into bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.streams.segment import Literal, Segment, SourceRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.storage.volume import Volume


async def execute(segments: Sequence[Segment], volumes: Sequence[Volume], buffer: memoryview) -> None:
    """Fill ``buffer`` with the bytes that ``segments`` stand for; ``SourceRange.disk`` indexes ``volumes``.

    The plan must be exactly as long as ``buffer``. What ``buffer`` held before is overwritten, zeros included.
    Raises what ``Volume.read_into`` raises; then the content of ``buffer`` means nothing.
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
