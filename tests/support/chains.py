"""Reading whole disks through ``storage.chain``, the way the mount does."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ovafs.model import DiskFormat
from ovafs.storage.chain import open_chain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.storage.chain import Chain


@contextmanager
def opened(path: Path, form: str = "qcow2", *, lock: bool = True) -> Iterator[Chain]:
    """The chain, with its extents read; closed at the end."""
    chain = open_chain(str(path), DiskFormat(form), lock=lock)
    try:
        chain.read_extents()
        yield chain
    finally:
        chain.close()


async def read(chain: Chain, offset: int, length: int) -> bytes:
    """Guest bytes, read into a buffer full of rubbish."""
    buffer = bytearray(b"\xee" * length)
    await chain.read_into(offset, memoryview(buffer))
    return bytes(buffer)


async def read_disk(chain: Chain, step: int = 1 << 20) -> bytes:
    """The whole disk in order."""
    size = chain.virtual_size
    return b"".join([await read(chain, start, min(step, size - start)) for start in range(0, size, step)])


async def check_reads(chain: Chain, expected: bytes, *, seed: int = 0, count: int = 30) -> None:
    """The whole disk, and random ranges of it, are what is expected."""
    assert chain.virtual_size == len(expected)
    assert await read_disk(chain) == expected
    rng = random.Random(seed)
    for _ in range(count if expected else 0):
        start = rng.randrange(len(expected))
        length = rng.randrange(1, min(200_000, len(expected) - start) + 1)
        assert await read(chain, start, length) == expected[start : start + length]
