"""qcow2 files that stay as they are: nothing is decoded, everything is judged, on the complete file.

Whoever converts an image reads it once. One that is kept is written, too, by the machine that runs on it, so more of
it has to be right. Beside what ``qcow2`` refuses:

| refused | because |
|---|---|
| a host cluster that two things refer to, data that reads as zeros now included | a write to one would change both |
| a refcount that is lower than what refers to the cluster, or none | QEMU would give it away while it is in use |
| the offset of an empty snapshot table that is no offset | 'qemu-img check' counts it as an error |
| persistent bitmaps | they own clusters; nobody who imports a disk wants them |

Not refused: refcounts that are too high (leaked clusters, as after a crash; 'qemu-img check' counts them), and the
flag in L1 and L2 entries that says "refcount is one", which decides only where QEMU writes next: both ways are right
where nothing is shared. Internal snapshots, the only thing that could legally share clusters, are refused as ever.
Compressed clusters are inflated once, so that each is known to be sound; several may lie in one host cluster.
"""

from __future__ import annotations

from array import array
from operator import lt
from typing import TYPE_CHECKING

from ovafs.errors import UnsupportedFeature
from ovafs.formats.qcow2.header import parse_references
from ovafs.formats.qcow2.references import decode_refcount_table, decode_refcounts, host_ranges
from ovafs.streams.decode.claims import Claim, Use
from ovafs.streams.decode.decoder import Keep
from ovafs.streams.decode.qcow2 import Qcow2Decoder
from ovafs.streams.decode.zeros import data_runs

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ovafs.formats.qcow2.header import References
    from ovafs.streams.decode.decoder import Event, Write

MAX_CLUSTERS = 1 << 25
"""Host clusters that can be judged, 3 bytes of memory each: 2 TiB of file in clusters of 64 KiB."""

_END = 1 << 63
"""Of what an offset can be, for QEMU."""

_HINT = "import it with the format qcow2, or make a copy with 'qemu-img convert'"


class Qcow2Judge(Qcow2Decoder):
    """A qcow2 file of version 2 or 3. Writes nothing; keeps all but the guest's data, whose place is known.

    Holds 3 bytes for each host cluster beside what Qcow2Decoder holds.
    """

    _references: References

    def __init__(self, member: str, size: int | None = None) -> None:
        super().__init__(member, size)
        self._counts = array("H")  # by host cluster: how many entries refer to it
        self._shared = bytearray()  # by host cluster: whether these are compressed clusters, which may share it

    def _decode(self) -> Generator[Event | None, None, None]:
        yield from super()._decode()
        self._check_refcounts()

    # -- nothing is written, everything can be read again --------------------------------------------------------

    def _write(self, guest_offset: int, data: memoryview) -> Iterator[Write]:  # noqa: ARG002  # as in the base class
        return iter(())

    def _recall_data(self, claim: Claim) -> Iterator[Event]:  # noqa: ARG002  # as in the base class
        return iter(())

    def _pass_metadata(self, offset: int, data: memoryview) -> Iterator[Event]:
        for start, end in data_runs(data, offset):
            yield Keep(offset + start, data[start:end])

    def _unclaimed(self, offset: int, data: memoryview) -> Iterator[Event]:
        if data:
            self._kept.add(offset, offset + len(data))
            yield from self._pass_metadata(offset, data)

    # -- what refers to what -------------------------------------------------------------------------------------

    def _first_claims(self, first: bytes) -> Iterator[Claim]:
        self._references = references = parse_references(first)
        if references.has_bitmaps:
            raise UnsupportedFeature(self._member, "persistent bitmaps", _HINT)
        if references.snapshots_offset % self._header.cluster_size or references.snapshots_offset >= _END:
            raise self._invalid(f"its snapshot table is said to be at {references.snapshots_offset}, where none can be")
        self._refer(0, self._header.cluster_size)
        for claim in super()._first_claims(first):
            whole = claim._replace(length=references.l1_entries * 8) if claim.use == Use.DIRECTORY else claim
            self._refer(whole.start, whole.length)
            yield whole

    def _parse_l1(self, table: bytes) -> Iterator[Claim]:
        for claim in super()._parse_l1(table):
            self._refer(claim.start, claim.length)
            yield claim

    def _parse_l2(self, guest: int, table: memoryview) -> Iterator[Claim]:
        yield from super()._parse_l2(guest, table)  # refuses what is no offset at all
        for found in host_ranges(bytes(table), self._header):
            if found.is_compressed:
                self._share(found.offset, found.length)
            else:
                self._refer(found.offset, found.length)

    def _parse_refcounts(self, table: memoryview) -> Iterator[Claim]:
        for offset in filter(None, decode_refcount_table(bytes(table))):
            if offset % self._header.cluster_size:
                raise self._invalid(f"refcount block at {offset}, where no cluster begins")
            self._refer(offset, self._header.cluster_size)
        return super()._parse_refcounts(table)

    def _refer(self, offset: int, length: int) -> None:
        """Something owns these bytes, and with them their host clusters."""
        first, end = self._clusters(offset, length)
        if any(self._counts[first:end]):
            raise self._invalid(f"two things refer to the host clusters at {offset} ({length} bytes)")
        self._counts[first:end] = array("H", [1]) * (end - first)

    def _share(self, offset: int, length: int) -> None:
        """A compressed cluster lies in these sectors."""
        for cluster in range(*self._clusters(offset, length)):
            if self._counts[cluster] and not self._shared[cluster]:
                raise self._invalid(f"a compressed cluster at {offset} lies in a host cluster that is in use")
            if self._counts[cluster] == 0xFFFF:
                raise self._invalid(f"more than {0xFFFF} compressed clusters lie in the host cluster at {offset}")
            self._counts[cluster] += 1
            self._shared[cluster] = 1

    def _clusters(self, offset: int, length: int) -> tuple[int, int]:
        """First and end of the host clusters in which these bytes lie, for which there is room now."""
        if self._size is not None and offset >= self._size:
            raise self._invalid(f"{offset} is referred to, which lies behind the end of the file")
        bits = self._header.cluster_bits
        first, end = offset >> bits, offset + length - 1 >> bits
        missing = end + 1 - len(self._counts)
        if end >= MAX_CLUSTERS:
            raise UnsupportedFeature(self._member, f"more than {MAX_CLUSTERS} clusters in an image to be kept", _HINT)
        if missing > 0:
            self._counts.frombytes(bytes(2 * missing))
            self._shared += bytes(missing)
        return first, end + 1

    # -- refcounts -----------------------------------------------------------------------------------------------

    def _check_refcounts(self) -> None:
        size, references = self._header.cluster_size, self._references
        per_block = size * 8 // references.refcount_bits
        table = decode_refcount_table(
            self._read_kept(references.refcount_table_offset, references.refcount_table_clusters * size)
        )
        for number, first in enumerate(range(0, len(self._counts), per_block)):
            counts = self._counts[first : first + per_block]
            offset = table[number] if number < len(table) else 0
            if not offset and not any(counts):
                continue
            if not offset or offset >= self._offset:
                raise self._invalid(f"refcount block {number} is missing")
            refcounts = decode_refcounts(self._read_kept(offset, size), references.refcount_bits)
            if any(map(lt, refcounts, counts)):
                wrong = next(index for index, count in enumerate(counts) if refcounts[index] < count)
                cluster = first + wrong
                raise self._invalid(
                    f"host cluster {cluster} has a refcount of {refcounts[wrong]}, and {counts[wrong]} refer to it"
                )
