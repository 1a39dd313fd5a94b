"""Sizes: alignment; sizes and durations as people write them."""

from __future__ import annotations

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

SECTOR = 512

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGTP]?)(I?B)?\s*", re.IGNORECASE)
_DURATION = re.compile(r"\s*([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*([smhdw])\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of ``alignment`` that is at least ``value``."""
    return -(-value // alignment) * alignment


def parse_size(text: str) -> int:
    """Bytes from "4GiB", "4G", "1.5 MiB" or "512". Prefixes are powers of 1024 in every spelling, as in qemu-img.

    Raises ValueError with a message for people.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write for example 4GiB, 512MiB or 1048576")
    number, prefix, _ = match.groups()
    value = float(number) * (1 << 10 * _POWERS[prefix.upper()])
    if not value.is_integer():
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(value)


def format_size(size: int) -> str:
    """The size for people, with three digits and a binary prefix: "1.21 GiB"."""
    value = float(size)
    for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
        if value < 1000 or prefix == "Ti":
            digits = 0 if prefix == "" else max(0, 3 - len(str(int(value))))
            return f"{value:.{digits}f} {prefix}B"
        value /= 1024
    raise AssertionError  # unreachable: the last prefix always returns


def parse_duration(text: str) -> float:
    """Seconds from "24h", "90m", "1.5d", "45s" or "2w". A number alone could mean anything, and is refused.

    Raises ValueError with a message for people.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write for example 24h, 90m, 45s or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def format_duration(seconds: float) -> str:
    """The duration for people, in its two largest units: "1 h 20 min", "3 d 4 h", "45 s"."""
    rest = max(0, int(seconds))
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if rest >= size:
            return f"{rest // size} {unit} {rest % size // lower_size} {lower}"
    return f"{rest} s"
