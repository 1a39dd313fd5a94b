"""VDIs made by hand: in ways that no program makes them."""

from __future__ import annotations

import struct

MIB = 1 << 20
UNALLOCATED, DISCARDED = 0xFFFFFFFF, 0xFFFFFFFE


def header(
    *,
    signature: int = 0xBEDA107F,
    version: int = 0x10001,
    kind: int = 1,
    map_offset: int = 512,
    data_offset: int = MIB,
    sector: int = 512,
    size: int = 3 * MIB,
    block: int = MIB,
    extra: int = 0,
    blocks: int = 3,
    linked: bytes = b"",
    parent: bytes = b"",
) -> bytes:
    """The first sector."""
    fields = struct.pack("<IIIII", signature, version, 400, kind, 0)
    tail = struct.pack("<IIIIII", map_offset, data_offset, 0, 0, 0, sector)
    sizes = struct.pack("<IQIIII", 0, size, block, extra, blocks, 0)
    ids = bytes(32) + linked.ljust(16, b"\0") + parent.ljust(16, b"\0")
    return (b"<<< text >>>".ljust(64, b"\0") + fields + bytes(256) + tail + sizes + ids).ljust(512, b"\0")


def image(entries: list[int], blocks: list[bytes], first: bytes | None = None) -> bytes:
    """A whole file: header, block map, blocks in the file's order."""
    head = header(blocks=len(entries), size=len(entries) * MIB) if first is None else first
    table = struct.pack(f"<{len(entries)}I", *entries)
    return (head + table).ljust(MIB, b"\0") + b"".join(block.ljust(MIB, b"\0") for block in blocks)
