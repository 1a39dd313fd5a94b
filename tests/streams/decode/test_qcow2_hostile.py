"""What an importer must not follow in a qcow2 file: one error, nothing else, in bounded time and memory."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from ovafs.errors import InvalidPackage, UnsupportedFeature
from ovafs.streams.decode import mapped
from ovafs.streams.decode.qcow2 import Qcow2Decoder
from tests.support.decoding import assert_decodes, assert_refused, decode, every, mutations, refusal
from tests.support.images import COMPRESSED, COPIED, compressed_entry, deflated, hand_made

CLUSTER = 65536
L2 = 4 * CLUSTER | COPIED
DATA = 5 * CLUSTER
ENTRY = DATA | COPIED


def make(size: int | None = None) -> Qcow2Decoder:
    return Qcow2Decoder("disk.qcow2", size)


def bomb(cluster_bits: int = 21) -> bytes:
    """512 GiB of data in a file of 12 MiB: one compressed cluster of 2 MiB, mapped 262,144 times."""
    cluster = 1 << cluster_bits
    data = deflated(b"\xa5" * cluster)
    l2 = [compressed_entry(5 * cluster, len(data), cluster_bits)] * (cluster // 8)
    tail = data.ljust(cluster, b"\0")
    return hand_made(cluster_bits=cluster_bits, size=len(l2) * cluster, l1=[4 * cluster | COPIED], l2=l2, tail=tail)


def backing(name: bytes) -> bytes:
    return hand_made(backing=name)


DATA_FILE = struct.pack(">II", 0x44415441, 11) + b"/etc/passwd".ljust(16, b"\0")
TEXT = deflated(b"text" * (CLUSTER // 4))
BLOCK = b"D" * CLUSTER

HOSTILE = {
    "backing file, absolute": (backing(b"/etc/passwd"), "unsupported: backing file"),
    "backing file, relative": (backing(b"../../../etc/passwd"), "unsupported: backing file"),
    "backing file, nbd": (backing(b"nbd://127.0.0.1:1/x"), "unsupported: backing file"),
    "backing file, json": (backing(b'json:{"driver":"file","filename":"/etc/passwd"}'), "unsupported: backing file"),
    "backing file, too long": (backing(b"x" * 2000), "more than 1023"),
    "data file": (hand_made(incompatible=4, extensions=DATA_FILE), "external data file"),
    "data file without a name": (hand_made(incompatible=4), "external data file"),
    "data file without its bit": (hand_made(extensions=DATA_FILE), "external data file"),
    "unknown bit": (hand_made(incompatible=1 << 40), "incompatible feature bit 40"),
    "dirty": (hand_made(incompatible=1), "dirty bit"),
    "corrupt": (hand_made(incompatible=2), "corrupt bit"),
    "AES": (hand_made(crypt=1), "encryption (AES)"),
    "LUKS": (hand_made(crypt=2), "encryption (LUKS)"),
    "version 1": (b"QFI\xfb\0\0\0\1" + bytes(600), "version 1"),
    "version 4": (hand_made(version=4), "version 4"),
    "internal snapshots": (hand_made(snapshots=1, snapshots_offset=CLUSTER), "1 internal snapshots"),
    "2^32 - 1 internal snapshots": (hand_made(snapshots=2**32 - 1), "internal snapshots"),
    "virtual size of 2^64 - 1": (hand_made(size=2**64 - 1), "too small for"),
    "virtual size of 2^63 - 512": (hand_made(size=2**63 - 512), "too small for"),
    "virtual size of 2^50, L1 of one entry": (hand_made(size=1 << 50), "too small for"),
    "virtual size of 4 PiB": (hand_made(cluster_bits=21, size=1 << 52, l1_size=1 << 13), "a virtual size of"),
    "cluster_bits 8": (hand_made()[:20] + struct.pack(">I", 8) + hand_made()[24:], "cluster_bits is 8"),
    "cluster_bits 63": (hand_made()[:20] + struct.pack(">I", 63) + hand_made()[24:], "cluster_bits is 63"),
    "refcount_order 7": (hand_made(refcount_order=7), "refcount_order is 7"),
    "header_length": (hand_made(header_length=0x7FFFFFF8), "header_length is"),
    "header extension": (hand_made(extensions=struct.pack(">II", 0x6803F857, 0xFFFFFFF0)), "header extension"),
    "L1 of 2^31 - 1 entries": (hand_made(l1_size=0x7FFFFFFF), "more than 32 MiB"),
    "L1 not aligned": (hand_made(l1_offset=0x30001), "not aligned"),
    "L1 behind the end": (hand_made(l1_offset=1 << 40), "behind the end"),
    "L1 over the header": (hand_made(l1_offset=0), "overlaps the header"),
    "L1 over the refcount table": (hand_made(l1_offset=1), "shares bytes"),
    "refcount table of 2^31 - 1 clusters": (hand_made(refcount_clusters=0x7FFFFFFF), "more than 8388608"),
    "refcount table of 0 clusters": (hand_made(refcount_clusters=0), "refcount table of 0 bytes"),
    "refcount table behind the end": (hand_made(refcount_offset=1 << 50), "behind the end"),
    "refcount table over the header": (hand_made(refcount_offset=0), "refcount table of"),
    "L2 is the header": (hand_made(l1=[COPIED]), None),  # offset 0: unallocated
    "L2 is the refcount table": (hand_made(l1=[CLUSTER | COPIED]), "shares bytes"),
    "L2 behind the end": (hand_made(l1=[1 << 45 | COPIED]), "is not an L2 table"),
    "L2 not aligned": (hand_made(l1=[L2 | 0x200]), "is not an L2 table"),
    "L2 twice": (hand_made(size=1 << 30, l1_size=2, l1=[L2, L2], l2=[0]), "shares bytes"),
    "L2 is data": (hand_made(l1=[L2], l2=[L2]), "shares bytes"),
    "data is the header": (hand_made(l1=[L2], l2=[COMPRESSED | 16]), "shares bytes"),
    "data is the refcount table": (hand_made(l1=[L2], l2=[CLUSTER | COPIED], tail=BLOCK), "shares bytes"),
    "data is a refcount block behind it": (
        hand_made(refcount_offset=1, l1=[L2], l2=[ENTRY], tail=BLOCK)[:CLUSTER]
        + struct.pack(">Q", DATA).ljust(CLUSTER, b"\0")
        + hand_made(l1=[L2], l2=[ENTRY], tail=BLOCK)[2 * CLUSTER :],
        "shares bytes",
    ),
    "data is the L1 table": (hand_made(l1=[L2], l2=[3 * CLUSTER | COPIED], tail=BLOCK), "shares bytes"),
    "data behind the end": (hand_made(l1=[L2], l2=[1 << 44 | COPIED]), "behind the end"),
    "data not aligned": (hand_made(l1=[L2], l2=[ENTRY | 0x200], tail=BLOCK), "not a cluster's offset"),
    "data twice": (hand_made(l1=[L2], l2=[ENTRY, ENTRY], tail=BLOCK), "shares bytes"),
    "data 64 times": (hand_made(l1=[L2], l2=[ENTRY] * 64, tail=BLOCK), "shares bytes"),
    "runs that overlap": (
        hand_made(l1=[L2], l2=[ENTRY, ENTRY + CLUSTER, 0, ENTRY + CLUSTER], tail=BLOCK * 2),
        "shares bytes",
    ),
    "cut inside the L2 table": (hand_made(l1=[L2], l2=[0])[: 4 * CLUSTER + 100], "L2 table"),
    "cut inside the header": (hand_made()[:60], "cut off"),
    "cut inside the magic": (hand_made()[:6], "ends inside the qcow2 header"),
    "compressed garbage": (hand_made(l1=[L2], l2=[COMPRESSED | DATA], tail=b"\xff" * 512), "compressed cluster"),
    "compressed and short": (
        hand_made(l1=[L2], l2=[compressed_entry(DATA, 100)], tail=deflated(b"x" * 512).ljust(512)),
        "does not hold 65536 bytes",
    ),
    "compressed and long": (
        hand_made(l1=[L2], l2=[compressed_entry(DATA, 1024)], tail=deflated(b"x" * (CLUSTER + 1)).ljust(1024)),
        "does not hold 65536 bytes",
    ),
    "compressed twice": (
        hand_made(l1=[L2], l2=[compressed_entry(DATA, len(TEXT))] * 2, tail=TEXT.ljust(512, b"\0")),
        "does not hold",
    ),
    "compressed and overlapping": (
        hand_made(
            l1=[L2],
            l2=[compressed_entry(DATA, len(TEXT)), compressed_entry(DATA + 20, len(TEXT) - 20)],
            tail=TEXT.ljust(512, b"\0"),
        ),
        "does not hold",
    ),
    "compressed and standard": (
        hand_made(l1=[L2], l2=[compressed_entry(DATA + 8, 512), ENTRY], tail=BLOCK),
        "shares bytes",
    ),
    "compressed inside the L2 table": (
        hand_made(l1=[L2], l2=[compressed_entry(4 * CLUSTER + 512, 512)]),
        "shares bytes",
    ),
    "compressed behind the end": (hand_made(l1=[L2], l2=[compressed_entry(1 << 40, 512)]), "behind the end"),
    "bomb": (bomb(), "does not hold 2097152 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str) -> None:
    data, message = HOSTILE[name]
    if message is None:
        assert decode(make(len(data)), data)[0] == bytes(1 << 29)
        return
    assert_refused(lambda: make(len(data)), data, message)
    assert_refused(make, data, "", every(30_000, len(data)))


def test_the_bomb_is_refused_before_it_grows() -> None:
    """A smaller one, for tracing is slow: 8 GiB in 1.5 MiB."""
    data = bomb(18)
    tracemalloc.start()
    assert refusal(make(len(data)), data, every(1 << 20, len(data))) is not None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20  # 32,768 claims as objects


def late(l2: list[int], data: bytes, *, after: bytes = b"") -> bytes:
    """A file whose L2 table lies behind its data, at cluster 6."""
    table = struct.pack(f">{len(l2)}Q", *l2).ljust(CLUSTER, b"\0")
    head = hand_made(size=16 * CLUSTER, l1=[6 * CLUSTER | COPIED])[: 4 * CLUSTER].ljust(4 * CLUSTER, b"\0")
    return head + data.ljust(2 * CLUSTER, b"\0") + table + after


def test_late_tables() -> None:
    """Standard and compressed clusters before their table, and behind it."""
    two = TEXT + deflated(b"more" * (CLUSTER // 4))
    start = 5 * CLUSTER
    entries = [
        4 * CLUSTER | COPIED,
        compressed_entry(start, len(TEXT)),
        compressed_entry(start + len(TEXT), len(two) - len(TEXT)),
    ]
    data = late([*entries, 7 * CLUSTER | COPIED], BLOCK + two, after=b"E" * CLUSTER)
    content = BLOCK + b"text" * (CLUSTER // 4) + b"more" * (CLUSTER // 4) + b"E" * CLUSTER
    record = assert_decodes(make, data, content.ljust(16 * CLUSTER, b"\0"))
    assert record.kept > CLUSTER


LATE = {
    "data twice": late([4 * CLUSTER | COPIED] * 2, BLOCK),
    "data is the L1 table": late([3 * CLUSTER | COPIED], BLOCK),
    "data is the table": late([6 * CLUSTER | COPIED], BLOCK),
    "data over L1": late([2 * CLUSTER | COPIED, 3 * CLUSTER | COPIED], BLOCK),
    "compressed twice": late([compressed_entry(4 * CLUSTER, len(TEXT))] * 2, TEXT),
    "compressed in standard": late([compressed_entry(4 * CLUSTER + 20, 600), 4 * CLUSTER | COPIED], BLOCK),
    "compressed in the header": late([compressed_entry(100, 600)], BLOCK),
    "compressed into the table": late([compressed_entry(6 * CLUSTER - 10, 600)], BLOCK),
}


@pytest.mark.parametrize("name", LATE)
def test_hostile_late_tables(name: str) -> None:
    data = LATE[name]
    for cuts in ((), every(10_000, len(data))):
        assert isinstance(refusal(make(len(data)), data, cuts), InvalidPackage)


def test_the_clusters_behind_the_disk_are_not_there() -> None:
    """Entries of the last L2 table that map nothing of the disk; and the end of the last cluster."""
    data = hand_made(size=CLUSTER // 2, l1=[L2], l2=[ENTRY, ENTRY + CLUSTER], tail=BLOCK * 2)
    record = assert_decodes(make, data, BLOCK[: CLUSTER // 2])
    assert record.writes == [(0, CLUSTER // 2)]


def test_the_end_of_the_last_cluster_may_be_missing() -> None:
    """As QEMU leaves it; it reads as zeros. But not a whole cluster."""
    data = hand_made(size=16 * CLUSTER, l1=[L2], l2=[ENTRY, ENTRY + CLUSTER], tail=BLOCK + b"E" * 100)
    content = BLOCK + b"E" * 100
    assert_decodes(make, data, content.ljust(16 * CLUSTER, b"\0"))
    for size in (None, 6 * CLUSTER):
        assert_refused(lambda size=size: make(size), data[: 6 * CLUSTER], "behind the end")  # type: ignore[misc]


@pytest.mark.parametrize("length", [10, 100, CLUSTER + 9, 3 * CLUSTER + 8, 4 * CLUSTER, 4 * CLUSTER + 800, DATA])
def test_a_file_that_was_cut_off(length: int) -> None:
    data = hand_made(l1=[L2], l2=[ENTRY], tail=BLOCK)
    assert_refused(lambda: make(len(data)), data[:length], "ends after")
    assert refusal(make(length), data[:length]) is not None
    assert refusal(make(None), data[:length]) is not None


def test_more_than_the_size() -> None:
    data = hand_made(l1=[L2], l2=[ENTRY], tail=BLOCK)
    assert_refused(lambda: make(len(data) - 1), data, "more than the")


def test_too_many_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in random order may have only so many runs waiting."""
    monkeypatch.setattr(mapped, "MAX_CLAIMS", 100)
    entries = [(5 + number * 2) * CLUSTER | COPIED for number in range(101)]
    data = hand_made(l1=[L2], l2=entries[::-1], tail=bytes(205 * CLUSTER))
    error = refusal(make(len(data)), data)
    assert isinstance(error, UnsupportedFeature)
    assert "more than 100 extents" in str(error)


def test_mutations() -> None:
    """Whatever is done to a file: it decodes, or the one error; and what was written never overlaps."""
    standard = hand_made(
        cluster_bits=9, size=9 * 512, l1=[2048 | COPIED], l2=[2560 | COPIED, 1, 3072 | COPIED], tail=b"AB" * 512
    )
    text = deflated(b"t" * 512)
    entries = [compressed_entry(2560, len(text), 9), compressed_entry(2560 + len(text), len(text), 9)]
    mixed = hand_made(cluster_bits=9, size=9 * 512, l1=[2048 | COPIED], l2=entries, tail=(text * 2).ljust(512, b"\0"))
    for whole in (standard, mixed):
        assert refusal(make(len(whole)), whole) is None
        for data in mutations(whole, 600, seed=3):
            refusal(make(None), data)
            refusal(make(len(data)), data, [100, 600, 2100])
