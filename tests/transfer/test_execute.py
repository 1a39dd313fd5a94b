"""The executor of plans: exact bytes for every kind of segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from ovafs.streams.segment import Literal, Segment, SourceRange, Zero
from ovafs.transfer.execute import execute

if TYPE_CHECKING:
    from ovafs.storage.volume import Volume


class MemoryVolume:
    """A disk whose byte at offset n is a function of n and of its number."""

    def __init__(self, number: int) -> None:
        self.content = bytes((offset * 7 + number) % 251 for offset in range(4096))

    async def read_into(self, guest_offset: int, buffer: memoryview) -> None:
        buffer[:] = self.content[guest_offset : guest_offset + len(buffer)]


VOLUMES = [MemoryVolume(number) for number in range(2)]


async def run(plan: list[Segment], size: int) -> bytes:
    buffer = bytearray(b"\xee" * size)
    await execute(plan, cast("list[Volume]", VOLUMES), memoryview(buffer))
    return bytes(buffer)


async def test_every_kind_of_segment() -> None:
    plan: list[Segment] = [
        Literal(b"head"),
        Zero(3),
        SourceRange(1, 100, 10),
        SourceRange(0, 0, 5),
        Zero(1),
        Literal(b"t"),
    ]
    expected = b"head" + bytes(3) + VOLUMES[1].content[100:110] + VOLUMES[0].content[:5] + b"\0t"
    assert await run(plan, len(expected)) == expected


async def test_an_empty_plan() -> None:
    assert await run([], 0) == b""


@pytest.mark.parametrize("size", [5, 7])
async def test_a_plan_of_another_length_is_a_bug(size: int) -> None:
    with pytest.raises(ValueError, match=rf"the plan is \d bytes long, {size} were asked for|assignment"):
        await run([Literal(b"abc"), Zero(3)], size)
