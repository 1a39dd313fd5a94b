"""Feeding decoders of disk files, and the contract that every one of them keeps."""

from __future__ import annotations

import random
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidPackage, UnsupportedFeature
from ovafs.streams.decode.decoder import Keep, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ovafs.streams.decode.decoder import Decoder, Event

ZERO_BLOCK = bytes(4096)


class Disk:
    """What a decoder said: a disk in memory, born full of zeros, and a spool, both up to a few hundred MiB."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int]] = []
        self.content = bytearray()
        self.kept = 0
        self._spool = bytearray()

    def apply(self, events: Iterable[Event]) -> None:
        for event in events:
            assert len(event.data) > 0
            if isinstance(event, Write):
                self.writes.append((event.guest_offset, event.guest_offset + len(event.data)))
                self.put(self.content, event.guest_offset, event.data)
                first = -event.guest_offset % 4096
                for start in range(first, len(event.data) - 4095, 4096):
                    assert event.data[start : start + 4096] != ZERO_BLOCK, "a block of zeros was written"
            else:
                assert isinstance(event, Keep)
                self.kept += len(event.data)
                self.put(self._spool, event.disk_offset, event.data)

    @staticmethod
    def put(target: bytearray, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        assert end <= 1 << 30, "larger than any disk of the tests"
        if len(target) < end:
            target += bytes(end - len(target))
        target[offset:end] = data

    def read_kept(self, offset: int, length: int) -> bytes:
        assert length <= 4 << 20, "more at once than the bound on memory allows"
        return bytes(self._spool[offset : offset + length]).ljust(length, b"\0")

    def finished(self, virtual_size: int) -> bytes:
        """The guest's bytes, after a look at what was written."""
        self.writes.sort()
        assert all(first[1] <= second[0] for first, second in pairwise(self.writes)), "written twice"
        assert len(self.content) <= virtual_size
        return bytes(self.content).ljust(virtual_size, b"\0")


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytearray]:
    """``data`` cut at the given offsets. Each piece is spoiled when the next one is made, as a reader's buffer is."""
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
    for start, end in pairwise(edges):
        piece = bytearray(data[start:end])
        yield piece
        piece[:] = b"\xee" * len(piece)


def every(step: int, size: int) -> range:
    """Cuts at every multiple of ``step``."""
    return range(step, size, step)


def random_cuts(size: int, seed: int, count: int = 40) -> list[int]:
    """Cuts at places of no meaning, some of them close together."""
    rng = random.Random(seed)
    cuts = [rng.randrange(size + 1) for _ in range(count)]
    return cuts + [cut + rng.choice((1, 2, 511, 512)) for cut in cuts[: count // 2]]


def decode(decoder: Decoder, data: bytes, cuts: Iterable[int] = ()) -> tuple[bytes, Disk]:
    """The guest's bytes of a disk file, and the record of how they came. Raises what the decoder raises."""
    disk = Disk()
    for piece in pieces(data, cuts):
        disk.apply(decoder.receive_data(piece))
    disk.apply(decoder.finish(disk.read_kept))
    assert decoder.virtual_size is not None
    return disk.finished(decoder.virtual_size), disk


def assert_decodes(make: Callable[[int | None], Decoder], data: bytes, expected: bytes, *, tiny: bool = False) -> Disk:
    """A disk file gives ``expected`` whole, in small and in random pieces, its size known or not.

    ``make`` is called with the size. ``tiny``: byte by byte too. Returns the record of the first run.
    """
    found, first = decode(make(len(data)), data)
    assert_same(found, expected)
    cuttings: list[Sequence[int]] = [every(128 * 1024, len(data)), every(65_537, len(data)), every(1000, len(data))]
    cuttings += [random_cuts(len(data), seed) for seed in range(3)]
    if tiny:
        cuttings.append(every(1, len(data)))
    for number, cuts in enumerate(cuttings):
        found, _ = decode(make(len(data) if number % 2 else None), data, cuts)
        assert_same(found, expected)
    return first


def assert_same(found: bytes, expected: bytes) -> None:
    """Equal; a failure names the first difference rather than printing megabytes."""
    if found != expected:
        size = min(len(found), len(expected))
        first = next((at for at in range(0, size, 512) if found[at : at + 512] != expected[at : at + 512]), size)
        msg = f"{len(found)} and {len(expected)} bytes, different from sector {first // 512} on"
        raise AssertionError(msg)


def assert_refused(make: Callable[[], Decoder], data: bytes, message: str, cuts: Iterable[int] = ()) -> None:
    """The file is refused with ``message``, and stays refused."""
    decoder = make()
    error = refusal(decoder, data, cuts)
    assert error is not None, "was not refused"
    assert message in str(error), str(error)
    for again in (decoder.receive_data(b"more"), decoder.finish()):
        with pytest.raises(type(error)) as repeated:
            list(again)
        assert repeated.value is error


def refusal(decoder: Decoder, data: bytes, cuts: Iterable[int] = ()) -> InvalidPackage | UnsupportedFeature | None:
    """The error with which a file is refused, or None; anything else that is raised is a bug."""
    try:
        decode(decoder, data, cuts)
    except (InvalidPackage, UnsupportedFeature) as error:
        return error
    return None


def mutations(data: bytes, count: int, *, seed: int, region: int | None = None) -> Iterator[bytes]:
    """Copies of ``data`` with a few bytes changed, inserted, removed or cut off; in the first ``region`` bytes."""
    rng = random.Random(seed ^ zlib.crc32(data[:4096]))
    for _ in range(count):
        result = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(min(region or len(result), len(result)))
            kind = rng.randrange(8)
            if kind < 4:
                result[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            elif kind == 4:
                result[at : at + 8] = rng.choice((bytes(8), b"\xff" * 8, rng.randbytes(8), result[-8:]))
            elif kind == 5:
                result[at : at + 512] = result[(to := rng.randrange(len(result))) : to + 512]
            elif kind == 6:
                del result[at:]
                result = result or bytearray(1)
            else:
                result[at : at + 1] = bytes(rng.choice((1, 511, 512)))
        yield bytes(result)
