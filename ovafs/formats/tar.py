"""tar as an OVA needs it: one header block per member in the old GNU format, and the end of the archive.

| offset | length | field | value here |
|---|---|---|---|
| 0 | 100 | name | ASCII, NUL-padded |
| 100 | 8 | mode | 0000644 NUL |
| 108, 116 | 8, 8 | uid, gid | 0000000 NUL |
| 124 | 12 | size | 11 octal digits NUL; from 8 GiB up 0x80 and 11 bytes, big-endian ("base-256") |
| 136 | 12 | mtime | 11 octal digits NUL, seconds since the epoch |
| 148 | 8 | chksum | 6 octal digits NUL space: sum of all bytes, this field taken as spaces |
| 156 | 1 | typeflag | "0", a regular file |
| 157 | 100 | linkname | NUL |
| 257 | 8 | magic, version | "ustar", two spaces, NUL |
| 265 | 247 | uname, gname, device numbers, rest | NUL |

Source: GNU tar manual, "Basic Tar Format", and the bytes of oVirt's packer (Python's tarfile, GNU_FORMAT, name,
size and mtime set). oVirt's importer reads nothing but name and size, refuses pax and long-name headers, and
takes every name that it does not know for a disk, so there is one kind of header only.
"""

from __future__ import annotations

import struct

BLOCK = 512
"""Headers are blocks of this size, and members begin at multiples of it."""

END_OF_ARCHIVE = bytes(2 * BLOCK)
"""What follows the last member. Nothing follows it: archives are not rounded up to 10240 here."""

_OCTAL_LIMIT = 8**11
_HEADER = struct.Struct("100s 8s 8s 8s 12s 12s 8s c 100s 8s 247x")
_BLANK_CHECKSUM = b" " * 8


def member_header(name: str, size: int, mtime: int) -> bytes:
    """The 512 bytes before a member's data.

    ``name`` is 1 to 100 ASCII characters without NUL, ``size`` in bytes is 0 to 2**88 - 1, ``mtime`` in whole
    seconds is 0 to 8**11 - 1 (the year 2242). Raises ValueError for anything else.
    """
    if not (name.isascii() and 0 < len(name) <= 100 and "\0" not in name):
        raise ValueError(f"{name!r} cannot be the name of a tar member; it takes 1 to 100 ASCII characters")
    if not 0 <= size < 1 << 88:
        raise ValueError(f"tar member {name!r}: a size of {size} bytes cannot be written")
    if not 0 <= mtime < _OCTAL_LIMIT:
        raise ValueError(f"tar member {name!r}: the time {mtime} cannot be written")
    checksum = sum(_pack(name, size, mtime, _BLANK_CHECKSUM))
    return _pack(name, size, mtime, b"%06o\0 " % checksum)


def _pack(name: str, size: int, mtime: int, checksum: bytes) -> bytes:
    octal_size = b"%011o\0" % size if size < _OCTAL_LIMIT else b"\x80" + size.to_bytes(11, "big")
    return _HEADER.pack(
        name.encode("ascii"),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        octal_size,
        b"%011o\0" % mtime,
        checksum,
        b"0",
        b"",
        b"ustar  \0",
    )
