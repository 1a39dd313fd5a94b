"""Decoding of formats in which tables say where in the file the guest's data is: qcow2, sparse VMDK, VDI, VHD.

The file is walked once, from claim to claim (see ``claims``). A table that arrives claims what it names:

* what lies ahead is decoded when the walk gets there;
* what lies behind was kept, because a table was still missing when it passed, and is decoded at the end.

Bytes that nobody claims are kept while a table is missing, and dropped when all are there. Each byte can be claimed
once: two guest clusters in one host cluster, data in a table, a table named twice are refused.

Held in memory: one table, one cluster, and the claims that wait, :data:`MAX_CLAIMS` of 25 bytes at the most.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import islice
from typing import TYPE_CHECKING

from ovafs.errors import UnsupportedFeature
from ovafs.streams.decode.claims import NEVER, Claim, Claims, KeptRanges, Use
from ovafs.streams.decode.decoder import Decoder, Keep
from ovafs.streams.decode.zeros import data_runs
from ovafs.units import MIB

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ovafs.streams.decode.decoder import Event

MAX_CLAIMS = 1 << 21
"""Runs that may wait at one time, 50 MiB; a table with runs that wait counts as 24 more. A copy made by qemu-img needs
a few; in clusters of 64 KiB, 128 GiB may lie about in single clusters before there are too many."""

_BATCH = 1 << 16  # claims that exist as objects
_READ_SIZE = MIB  # of kept data at a time
_TABLES = frozenset((Use.TABLE, Use.DIRECTORY))


class MappedDecoder(Decoder):
    """Base of decoders that follow tables. Subclasses say what a table claims, and set up the first claims."""

    _tolerated_tail = 0
    """Bytes of the last run that the file may lack; they read as zeros."""

    _keeps = True
    """Bytes that are not claimed may be wanted later."""

    def __init__(self, member: str, size: int | None = None) -> None:
        super().__init__(member, size)
        self._claims = Claims()  # ahead
        self._late = Claims()  # behind: kept
        self._late_tables = Claims()  # those of them that are tables and wait to be read
        self._kept = KeptRanges()
        self._tables_missing = 0

    @abstractmethod
    def _parse(self, claim: Claim, data: memoryview) -> Iterable[Claim]:
        """What the table, or other metadata, that was claimed says of the rest."""

    def _inflate(self, data: memoryview) -> tuple[bytes, int]:
        """The cluster that ``data`` begins with, and how many bytes of it hold the cluster.

        For formats that claim something as COMPRESSED.
        """
        raise NotImplementedError

    # -- claims ------------------------------------------------------------------------------------------------

    def _claim(self, claims: Iterable[Claim]) -> None:
        """Accept claims: all that can be said against them without the data is said here."""
        remaining = iter(claims)
        while batch := list(islice(remaining, _BATCH)):
            self._claim_batch(batch)

    def _claim_batch(self, claims: list[Claim]) -> None:
        ahead: list[Claim] = []
        late: list[Claim] = []
        late_tables: list[Claim] = []
        for claim in claims:
            start, length, use, guest = claim
            if use <= Use.COMPRESSED and guest + length > self._guest_end:
                if guest >= self._guest_end:
                    continue
                if use == Use.DATA:
                    claim = Claim(start, self._guest_end - guest, use, guest)  # noqa: PLW2901  # cut, else the same
            self._check_end(claim)
            self._tables_missing += use in _TABLES
            if start >= self._offset:
                ahead.append(claim)
                continue
            self._check_kept(claim)
            (late_tables if use in _TABLES else late).append(claim)
        self._claims.add(ahead)
        self._late_tables.add(late_tables)
        self._late.add(late)
        if self._claims.weight + self._late.weight + self._late_tables.weight > MAX_CLAIMS:
            hint = "a copy made by 'qemu-img convert' has fewer"
            raise UnsupportedFeature(self._member, f"more than {MAX_CLAIMS} extents out of order", hint)

    def _check_kept(self, claim: Claim) -> None:
        """What lies behind was kept, unless it was used for something: then this would be the second use."""
        end = self._kept.end_of(claim.start)
        if end == claim.start or (claim.use != Use.COMPRESSED and end < claim.start + claim.length):
            raise self._claimed_twice(claim)

    def _check_end(self, claim: Claim) -> None:
        if self._size is None or claim.use in {Use.COMPRESSED, Use.IGNORED}:
            return
        tolerated = self._tolerated_tail if claim.use == Use.DATA else 0
        if claim.start >= self._size or claim.start + claim.length > self._size + tolerated:
            raise self._behind_end(claim)

    def _behind_end(self, claim: Claim) -> Exception:
        return self._invalid(f"{claim.use.name.lower()} at {claim.start} lies behind the end of the file")

    def _claimed_twice(self, claim: Claim) -> Exception:
        return self._invalid(f"{claim.use.name.lower()} at {claim.start} shares bytes with something else")

    # -- the walk ----------------------------------------------------------------------------------------------

    def _walk(self, stop: int = NEVER) -> Generator[Event | None, None, None]:
        """Go on to ``stop``, or to the end of the file, doing what was claimed on the way."""
        while self._offset < stop and (yield from self._more()):
            start = min(self._claims.next_start, stop)
            if self._offset < start:
                offset = self._offset
                yield from self._unclaimed(offset, self._cut(start - offset))
                continue
            claim = self._claims.pop()
            if claim.use == Use.COMPRESSED:
                yield from self._take_compressed(claim)
                continue
            if self._claims.next_start < claim.start + claim.length:
                raise self._claimed_twice(claim)
            if claim.use == Use.DATA:
                yield from self._take_data(claim)
            else:
                data = yield from self._take(claim.length, claim.use.name.lower())
                yield from self._pass_metadata(claim.start, data)
                self._take_table(claim, data)

    def _take_data(self, claim: Claim) -> Generator[Event | None, None, None]:
        start, length, _, guest = claim
        while (rest := start + length - self._offset) > 0:
            if not (yield from self._more()):
                if rest > self._tolerated_tail:
                    raise self._behind_end(claim)
                return
            guest_offset = guest + self._offset - start
            yield from self._write(guest_offset, self._cut(rest))

    def _take_compressed(self, claim: Claim) -> Generator[Event | None, None, None]:
        # The length is that of whole sectors, and the next compressed cluster may begin in the last of them.
        length = min(claim.length, self._claims.next_start - claim.start)
        data = yield from self._take_up_to(length)
        cluster, used = self._inflate(data)
        yield from self._write(claim.guest, memoryview(cluster))
        yield from self._unclaimed(claim.start + used, data[used:])

    def _pass_metadata(self, offset: int, data: memoryview) -> Iterator[Event]:  # noqa: ARG002  # for subclasses
        """What the caller shall know of metadata that passes: nothing."""
        return iter(())

    def _take_table(self, claim: Claim, data: memoryview) -> None:
        self._claim(self._parse(claim, data))
        self._tables_missing -= claim.use in _TABLES

    def _unclaimed(self, offset: int, data: memoryview) -> Iterator[Event]:
        if not self._tables_missing or not self._keeps or not data:
            return
        self._kept.add(offset, offset + len(data))
        for start, end in data_runs(data, offset):
            yield Keep(offset + start, data[start:end])

    # -- the end -----------------------------------------------------------------------------------------------

    def _recall(self) -> Iterator[Event]:
        """At the end of the file: what was kept for tables that came behind it, and whether anything is missing."""
        while len(self._late_tables):
            claim = self._late_tables.pop()
            self._late.add([claim._replace(use=Use.IGNORED)])
            self._take_table(claim, memoryview(self._read_kept(claim.start, claim.length)))
        while len(self._claims):
            if (claim := self._claims.pop()).use != Use.IGNORED:
                raise self._behind_end(claim)
        while len(self._late):
            claim = self._late.pop()
            following = self._late.next_start
            if claim.use == Use.COMPRESSED:
                end = min(claim.start + claim.length, following, self._kept.end_of(claim.start))
                data = self._read_kept(claim.start, end - claim.start)
                yield from self._write(claim.guest, memoryview(self._inflate(memoryview(data))[0]))
            elif following < claim.start + claim.length:
                raise self._claimed_twice(claim)
            elif claim.use == Use.DATA:
                yield from self._recall_data(claim)

    def _recall_data(self, claim: Claim) -> Iterator[Event]:
        for position in range(0, claim.length, _READ_SIZE):
            length = min(_READ_SIZE, claim.length - position)
            data = self._read_kept(claim.start + position, length)
            yield from self._write(claim.guest + position, memoryview(data))
