"""Units of capacities and of memory, in every spelling that producers use.

==============================================  =====================================================
spelling                                        who
==============================================  =====================================================
``byte * 2^20``, ``byte*2^30``, ``byte*1024``   DSP0004, programmatic units; VMware, oVirt
``byte * 2 ^ 20``                               VMware's own tests; not legal, but real
``MegaBytes``, ``MB``, ``KiloBytes``, ``GiB``   VirtualBox, oVirt, OVF 0.9: powers of 1024, every one of them
none                                            a byte for disks, a MiB for memory (see ``memory_size``)
==============================================  =====================================================
"""

from __future__ import annotations

import re

from ovafs.errors import InvalidPackage
from ovafs.units import MIB

MAX_SIZE = 2**63 - 1
"""The largest number of bytes that a descriptor may state."""

_NAMED = re.compile(r"(?:(k|m|g|t)(?:ilo|ega|iga|era|i|ibi|ebi)?|)b(?:yte)?s?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_FACTOR = re.compile(r"([0-9]{1,19})(?:\s*\^\s*([0-9]{1,2}))?")
_NUMBER = re.compile(r"\+?([0-9]{1,25})")
_BYTES_FROM = 1 << 24  # as MiB this would be 16 TiB of memory


def whole_number(text: str, what: str, *, highest: int = MAX_SIZE, lowest: int = 0) -> int:
    """The number in ``text``; ``what`` says whose it is. Raises InvalidPackage when it is none or out of range."""
    match = _NUMBER.fullmatch(text.strip())
    number = int(match[1]) if match else -1
    if not lowest <= number <= highest:
        raise InvalidPackage(f"{what}: {text[:60]!r} is no whole number from {lowest} to {highest}")
    return number


def unit_size(unit: str, what: str) -> int:
    """Bytes of a unit. Raises InvalidPackage for what is none, or is beyond MAX_SIZE."""
    base, *factors = unit.strip().split("*")
    match = _NAMED.fullmatch(base.strip())
    if match is None or len(factors) > 4:
        raise _unknown(unit, what)
    size: int = 1024 ** _POWERS[(match[1] or "").lower()]
    for factor in factors:
        number = _FACTOR.fullmatch(factor.strip())
        if number is None:
            raise _unknown(unit, what)
        size *= int(number[1]) ** int(number[2] or 1)
    if not 1 <= size <= MAX_SIZE:
        raise _unknown(unit, what)
    return size


def _unknown(unit: str, what: str) -> InvalidPackage:
    return InvalidPackage(f"{what}: unknown unit {unit[:60]!r}", hint="units look like 'byte * 2^20'")


def size_in_bytes(number: str, unit: str, what: str) -> int:
    """``number`` of ``unit`` in bytes; no unit is bytes. Raises InvalidPackage, also beyond MAX_SIZE."""
    size = whole_number(number, what) * (unit_size(unit, what) if unit.strip() else 1)
    if size > MAX_SIZE:
        raise InvalidPackage(f"{what}: {number} * {unit[:60]} is beyond any limit")
    return size


def memory_size(number: str, unit: str) -> int:
    """Bytes of a machine's memory, rounded up to whole MiB.

    Without a unit DSP0243 counts bytes, but every producer that leaves it out means MiB, unless the number is
    absurd for that. Raises InvalidPackage when it is none, zero, or beyond MAX_SIZE.
    """
    what = "memory"
    if not unit.strip() and whole_number(number, what) < _BYTES_FROM:
        unit = "MB"
    size = size_in_bytes(number, unit, what)
    if size == 0:
        raise InvalidPackage("memory: the machine has none")
    return -(-size // MIB) * MIB
