"""gzip in front of a decoder, judged by gzip."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidPackage
from ovafs.streams.decode.gunzip import GunzipStage
from tests.support.decoding import mutations, pieces, random_cuts

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTENT = b"text " * 200_000 + random.Random(1).randbytes(100_000)


def gunzip(data: bytes, cuts: Iterable[int] = (), limit: int = 1 << 30) -> bytes:
    stage = GunzipStage("disk.vmdk.gz", limit)
    result = bytearray()
    for piece in pieces(data, cuts):
        for plain in stage.receive_data(memoryview(piece)):
            assert 0 < len(plain) <= 256 * 1024
            result += plain
    stage.finish()
    return bytes(result)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_any_pieces(level: int) -> None:
    data = gzip.compress(CONTENT, level)
    assert gunzip(data) == CONTENT
    for seed in range(5):
        assert gunzip(data, random_cuts(len(data), seed)) == CONTENT
    small = gzip.compress(b"small" * 10)
    assert gunzip(small, range(len(small))) == b"small" * 10


def test_several_members() -> None:
    data = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(CONTENT)
    assert gunzip(data) == gunzip(data, range(1, 60)) == b"one" + CONTENT


WHOLE = gzip.compress(b"content" * 1000)
DAMAGED = {
    "empty": b"",
    "cut off": WHOLE[:-1],
    "cut in the header": WHOLE[:5],
    "wrong CRC": WHOLE[:-8] + b"\0\0\0\0" + WHOLE[-4:],
    "wrong length": WHOLE[:-4] + b"\0\0\0\0",
    "text behind": WHOLE + b"garbage and more",
    "zeros behind": WHOLE + bytes(512),
    "half a member behind": WHOLE + WHOLE[:30],
    "not gzip": b"KDMV" * 100,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(name: str) -> None:
    for cuts in ((), range(1, len(DAMAGED[name]))):
        with pytest.raises(InvalidPackage, match=r"disk\.vmdk\.gz.*gzip data"):
            gunzip(DAMAGED[name], cuts)


def test_the_limit() -> None:
    data = gzip.compress(CONTENT)
    assert gunzip(data, limit=len(CONTENT)) == CONTENT
    with pytest.raises(InvalidPackage, match=f"inflates to more than {len(CONTENT) - 1} bytes"):
        gunzip(data, limit=len(CONTENT) - 1)


def test_a_bomb_is_never_in_memory() -> None:
    data = memoryview(gzip.compress(bytes(64 << 20), 9))
    stage = GunzipStage("bomb.gz", 1 << 40)
    tracemalloc.start()
    size = sum(len(piece) for piece in stage.receive_data(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 64 << 20
    assert peak < 2 << 20


def test_mutations() -> None:
    for data in mutations(WHOLE, 500, seed=1):
        try:
            gunzip(data, [10, 20])
        except InvalidPackage:
            continue
