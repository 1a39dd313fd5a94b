"""Damage: a few changes to bytes that were good, of the kinds that readers of formats fall over."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

_BLOCK = 512

# What sizes, counts and offsets must not be, and what lies next to a limit.
_NUMBERS = [
    *(0, 1, 2, 7, 8, 9, 21, 22, 63, 64, 255, 256, 511, 512, 513, 4096, 65535, 65536, 1 << 20, (1 << 31) - 1),
    *(1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 50, 1 << 56, (1 << 62) | 512, (1 << 63) - 1, 1 << 63),
    *((1 << 63) | 512, (1 << 64) - 512, (1 << 64) - 1),
]

# What descriptors, manifests and headers are made of.
_WORDS = [
    *(b"<", b">", b"&", b'"', b"=", b"\0", b"\n", b"\r\n", b"<!--", b"]]>", b"%s", b"../", b"/", b"\\", b"0", b"-1"),
    *(b"99999999999999999999", b"1e9", b"NaN", b"byte * 2^40", b"SHA1(", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80"),
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """``data`` after one to six changes; sometimes only within its first kilobytes, where headers and tables are."""
    result = bytearray(data)
    reach = max(1, rng.choice((len(data), len(data), 512, 4096)))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        result = result or bytearray(1)
        at = rng.randrange(min(reach, len(result)))
        rng.choice(_CHANGES)(result, at, rng)
    return bytes(result)


def _flip(data: bytearray, at: int, rng: random.Random) -> None:
    data[at : at + 1] = bytes([(data[at] if at < len(data) else 0) ^ 1 << rng.randrange(8)])


def _number(data: bytearray, at: int, rng: random.Random) -> None:
    code = rng.choice("BHIQ")
    width = struct.calcsize(code)
    start = at - at % width if rng.random() < 0.8 else at
    value = rng.choice((*_NUMBERS, rng.getrandbits(64), len(data), len(data) // 512)) & (1 << 8 * width) - 1
    data[start : start + width] = struct.pack(rng.choice("<>") + code, value)


def _word(data: bytearray, at: int, rng: random.Random) -> None:
    word = rng.choice(_WORDS)
    data[at : at + rng.choice((0, len(word)))] = word


def _copy(data: bytearray, at: int, rng: random.Random) -> None:
    size = rng.choice((8, 64, 512, 4096))
    source = rng.randrange(len(data)) // size * size
    data[at : at + size] = data[source : source + size]


def _insert(data: bytearray, at: int, rng: random.Random) -> None:
    data[at:at] = rng.choice((bytes(1), bytes(512), rng.randbytes(8), data[at : at + 512]))


def _remove(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at : at + rng.choice((1, 8, 512, 4096))]


def _cut(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at if rng.random() < 0.5 else at - at % _BLOCK :]


def _clear(data: bytearray, at: int, rng: random.Random) -> None:
    size = rng.choice((8, 512, 4096))
    data[at : at + size] = rng.choice((b"\0", b"\xff"))[:1] * len(data[at : at + size])


_CHANGES = (_flip, _number, _number, _number, _word, _word, _copy, _insert, _remove, _cut, _clear)


def with_right_checksums(package: bytes) -> bytes:
    """The same, with the checksum right in every block that looks like a header: damage behind it gets further."""
    result = bytearray(package)
    for at in range(0, len(result) - _BLOCK + 1, _BLOCK):
        if result[at + 257 : at + 262] == b"ustar":
            block = result[at : at + _BLOCK]
            block[148:156] = b" " * 8
            result[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(result)
