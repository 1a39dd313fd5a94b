"""qcow2 disk files: decoded while they arrive, and the gate that refuses what an importer must not follow.

``qemu-img convert`` writes each L2 table before the first data that it maps, so its files pass without a spool. L2
tables behind their data come from preallocation=falloc and =full (all tables but one at the end), from discarded
clusters that were used again, and from L1 tables that moved when the disk grew.

Refused, beside what ``formats.qcow2.header`` and ``tables`` refuse: a backing file of any kind, internal snapshots,
an encrypted or dirty image, data in a second place of the guest or inside metadata, a compressed cluster that shares
bytes with another. A compressed cluster yields one cluster and is used once, so what a file can grow to is bounded
by its own size and by its virtual size.

Refcounts are not trusted for anything, but where their blocks lie is read, so that these are not mistaken for data.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING

from ovafs.errors import UnsupportedFeature
from ovafs.formats.inflate import inflate_cluster
from ovafs.formats.qcow2.header import MIN_HEAD, header_area, parse_header, parse_references
from ovafs.formats.qcow2.tables import ClusterKind, L2Decoder, compressed_range, l2_table_runs
from ovafs.streams.decode.claims import Claim, Use
from ovafs.streams.decode.mapped import MAX_CLAIMS, MappedDecoder

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ovafs.formats.qcow2.header import Header
    from ovafs.streams.decode.decoder import Event

MAX_REFCOUNT_TABLE = 8 << 20
"""Bytes; QEMU's QCOW_MAX_REFTABLE_SIZE."""

_ANY_SIZE = 1 << 63


class Qcow2Decoder(MappedDecoder):
    """A qcow2 file of version 2 or 3. Holds the L1 table (up to 32 MiB), an L2 table and a cluster beside claims."""

    _header: Header

    def _decode(self) -> Generator[Event | None, None, None]:
        start = bytes((yield from self._take(MIN_HEAD, "the qcow2 header")))
        first = start + (yield from self._take_up_to(header_area(start) - len(start)))
        self._header = header = parse_header(first, self._member)
        self._tolerated_tail = header.cluster_size - 1  # QEMU need not write the end of the last cluster
        self._set_virtual_size(header.virtual_size)
        self._claim(self._first_claims(first))
        yield from self._walk()
        yield from self._recall()

    def _first_claims(self, first: bytes) -> Iterator[Claim]:
        """The gate; then the tables that the header names."""
        references = parse_references(first)
        if references.backing_file_offset:
            raise UnsupportedFeature(self._member, "backing file", "have the machine exported as a whole disk")
        if references.snapshots:
            raise UnsupportedFeature(
                self._member, f"{references.snapshots} internal snapshots", "a copy made by 'qemu-img convert' has none"
            )
        cluster_size = self._header.cluster_size
        refcounts = references.refcount_table_clusters * cluster_size
        if refcounts > MAX_REFCOUNT_TABLE:
            raise self._invalid(f"refcount table of {refcounts} bytes, more than {MAX_REFCOUNT_TABLE}")
        offset = references.refcount_table_offset
        if offset % cluster_size or offset < cluster_size or not refcounts:
            raise self._invalid(f"refcount table of {refcounts} bytes at {offset}")
        yield Claim(offset, refcounts, Use.REFCOUNTS)
        if self._header.l1_entries:
            yield Claim(self._header.l1_table_offset, self._header.l1_entries * 8, Use.DIRECTORY)

    def _parse(self, claim: Claim, data: memoryview) -> Iterator[Claim]:
        if claim.use == Use.DIRECTORY:
            return self._parse_l1(bytes(data))
        if claim.use == Use.TABLE:
            return self._parse_l2(claim.guest, data)
        if claim.use == Use.REFCOUNTS:
            return self._parse_refcounts(data)
        return iter(())

    def _parse_l1(self, table: bytes) -> Iterator[Claim]:
        size, coverage = self._header.cluster_size, self._header.l2_coverage
        for run in l2_table_runs(table, self._header, self._size or _ANY_SIZE, self._member):
            for number in range(run.length // size):
                yield Claim(run.host_offset + number * size, size, Use.TABLE, run.guest_offset + number * coverage)

    def _parse_l2(self, guest: int, table: memoryview) -> Iterator[Claim]:
        decoder = L2Decoder(self._header, self._size or _ANY_SIZE, self._member, MAX_CLAIMS)
        decoder.decode(bytearray(table), len(table), guest)
        for start, length, host, kind in zip(
            decoder.starts, decoder.lengths, decoder.hosts, decoder.kinds, strict=True
        ):
            if kind == ClusterKind.STANDARD:
                yield Claim(host, length, Use.DATA, start)
            elif kind == ClusterKind.COMPRESSED:
                yield Claim(*compressed_range(host, self._header.cluster_bits), Use.COMPRESSED, start)

    def _parse_refcounts(self, table: memoryview) -> Iterator[Claim]:
        """The refcount blocks ahead; others, and entries that make no sense, change nothing that is read here."""
        entries = array("Q", bytes(table))
        if sys.byteorder == "little":
            entries.byteswap()
        size = self._header.cluster_size
        end = (self._size or _ANY_SIZE) - size
        for offset in filter(None, entries):
            if self._offset <= offset <= end and not offset % size:
                yield Claim(offset, size, Use.IGNORED)

    def _inflate(self, data: memoryview) -> tuple[bytes, int]:
        return inflate_cluster(data, self._header.compression, self._header.cluster_size, self._member)
