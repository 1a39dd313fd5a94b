"""VHDs made by hand: in ways that no program makes them."""

from __future__ import annotations

import struct

NOWHERE = (1 << 64) - 1
UNALLOCATED = 0xFFFFFFFF


def with_checksum(block: bytes, at: int) -> bytes:
    """The same with a right checksum."""
    total = sum(block) - sum(block[at : at + 4])
    return block[:at] + struct.pack(">I", ~total & 0xFFFFFFFF) + block[at + 4 :]


def footer(
    size: int,
    *,
    kind: int = 3,
    cookie: bytes = b"conectix",
    version: int = 0x10000,
    data_offset: int | None = None,
    saved: int = 0,
    checksum: bool = True,
) -> bytes:
    """A footer, or its copy."""
    offset = (NOWHERE if kind == 2 else 512) if data_offset is None else data_offset
    # Of disks that "win " made QEMU believes the size, of others the geometry.
    head = struct.pack(">8sIIQI4sII", cookie, 2, version, offset, 0, b"win ", 0, 0)
    block = head + struct.pack(">QQIII", size, size, 0, kind, 0) + bytes(16) + bytes([saved])
    block = block.ljust(512, b"\0")
    return with_checksum(block, 64) if checksum else block


def dynamic_header(
    *,
    cookie: bytes = b"cxsparse",
    table: int = 1536,
    version: int = 0x10000,
    entries: int = 4,
    block: int = 65536,
    checksum: bool = True,
) -> bytes:
    """The header behind the copy of the footer."""
    data = struct.pack(">8sQQIIII", cookie, NOWHERE, table, version, entries, block, 0).ljust(1024, b"\0")
    return with_checksum(data, 36) if checksum else data


def block(data: bytes, written: range | None = None, size: int = 65536) -> bytes:
    """A block with its bitmap: all sectors of ``data``, or those in ``written``."""
    bits = 0
    for sector in range(size // 512) if written is None else written:
        bits |= 1 << 4095 - sector
    return bits.to_bytes(512, "big") + data.ljust(size, b"\0")


def image(
    entries: list[int],
    blocks: list[bytes],
    *,
    size: int = 4 * 65536,
    first: bytes | None = None,
    second: bytes | None = None,
    last: bytes | None = None,
) -> bytes:
    """A whole dynamic VHD: footer's copy, header, table of one sector, blocks (the first at sector 4), footer."""
    copy = footer(size) if first is None else first
    head = dynamic_header(entries=len(entries)) if second is None else second
    table = struct.pack(f">{len(entries)}I", *entries).ljust(512, b"\xff")
    return copy + head + table + b"".join(blocks) + (copy if last is None else last)
