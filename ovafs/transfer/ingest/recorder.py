"""Where every byte of a package went, so that it can be read again without having been stored twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ovafs.errors import NotReadable
from ovafs.streams.decode.disk_file import HEAD_SIZE
from ovafs.streams.segment import Literal, SourceRange
from ovafs.streams.skeleton import Skeleton

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovafs.formats.tar_events import MemberData, MemberStart
    from ovafs.storage.writer.volume_writer import VolumeWriter
    from ovafs.streams.segment import Segment

SMALL = 1 << 20
"""Bytes of a member that is no disk and is kept as it is; a larger one (an ISO image) makes a package unreadable."""

ONLY_CHECKED = "the package was only checked; nothing of it is kept"
NOT_KEPT = "only raw disks, and qcow2 ones imported with the format keep, have their bytes as they came"
"""Why a package cannot be read."""


class Disk(Protocol):
    """A disk file that is taken apart."""

    @property
    def verbatim(self) -> VolumeWriter | None:
        """What has the bytes of the disk file at their own offsets; None if nothing has."""
        ...


class _Source(NamedTuple):
    """Where a member's bytes are: in a disk file from ``start`` on, in a spool, or (neither) nowhere."""

    disk: Disk | None = None
    start: int = 0
    read_spool: Callable[[int, int], bytes] | None = None


class Recorder:
    """Notes of one archive. The first bytes of each large member are kept, until it is clear what becomes of it."""

    def __init__(self) -> None:
        self._skeleton = Skeleton()
        self._sources: list[_Source] = []
        self._piece = memoryview(b"")
        self._piece_start = 0  # in the archive
        self._member_start = 0
        self._is_literal = True

    # -- while it arrives ----------------------------------------------------------------------------------------

    def begin_piece(self, data: memoryview) -> None:
        """The next bytes of the archive, which are going to be taken apart."""
        self._piece_start = self._skeleton.size
        self._piece = data

    def end_piece(self) -> None:
        """They are taken apart."""
        self._add_literals(self._piece_start + len(self._piece))
        self._piece = memoryview(b"")

    def begin_disk(self, member: MemberStart, disk: Disk, start: int) -> None:
        """A member begins that is a disk file, from ``start`` on."""
        self._begin(member, _Source(disk, start))

    def begin_text(self, member: MemberStart) -> None:
        """A member begins that is kept as it is."""
        self._begin(member, None)

    def begin_other(self, member: MemberStart) -> None:
        """A member begins that nobody wants."""
        self._begin(member, None if member.size <= SMALL else _Source())

    def begin_waiting(self, member: MemberStart, read_spool: Callable[[int, int], bytes]) -> int:
        """A member begins of which nobody knows what it is; :meth:`resolve` wants the number that this returns."""
        if member.size <= SMALL:
            self._begin(member, None)
            return -1
        self._begin(member, _Source(read_spool=read_spool))
        return len(self._sources) - 1

    def _begin(self, member: MemberStart, source: _Source | None) -> None:
        self._member_start = member.offset
        self._is_literal = source is None
        if source is not None:
            self._sources.append(source)

    def resolve(self, number: int, disk: Disk | None, start: int) -> None:
        """A waiting member is a disk file from ``start`` on, or (None) nobody's and gone."""
        if number >= 0:
            self._sources[number] = _Source(disk, start)

    def pass_data(self, event: MemberData) -> None:
        """The next bytes of the member."""
        if self._is_literal:
            return
        source = self._sources[-1]
        head = max(0, min(len(event.data), HEAD_SIZE - source.start - event.offset))
        offset = event.offset + head
        if head < len(event.data):
            self._add_literals(self._member_start + offset)
            self._skeleton.add_range(len(self._sources) - 1, offset, len(event.data) - head)

    def _add_literals(self, end: int) -> None:
        """What was not noted yet, up to this offset in the archive, is kept."""
        start = self._skeleton.size
        if start < end:
            self._skeleton.add(self._piece[start - self._piece_start : end - self._piece_start])

    # -- the way back --------------------------------------------------------------------------------------------

    def plan(self, offset: int, length: int) -> list[Segment]:
        """The bytes of a range that has arrived; sources are those of :meth:`volumes`. Raises NotReadable.

        Blocks: what waits in a spool is read now, for it may be moved at any time.
        """
        if not self._skeleton.is_whole:
            raise NotReadable(NOT_KEPT)
        return [self._find(segment) for segment in self._skeleton.plan(offset, length)]

    def volumes(self) -> list[VolumeWriter | None]:
        """What has the bytes of each source."""
        return [None if source.disk is None else source.disk.verbatim for source in self._sources]

    def stored(self, volumes: Sequence[VolumeWriter]) -> Skeleton | None:
        """The whole archive, its sources the numbers of these volumes; None if it cannot be read."""
        places = self.volumes()
        if not self._skeleton.is_whole or any(places[number] is None for number in self._skeleton.sources()):
            return None
        numbers = {volume.path: number for number, volume in enumerate(volumes)}

        def place(source: int, start: int) -> tuple[int, int]:
            volume = places[source]
            if volume is None:
                raise ValueError(f"source {source} is nowhere")
            return numbers[volume.path], self._sources[source].start + start

        return self._skeleton.moved(place)

    def _find(self, segment: Segment) -> Segment:
        if not isinstance(segment, SourceRange):
            return segment
        disk, start, read_spool = self._sources[segment.disk]
        if read_spool is not None:
            return Literal(read_spool(segment.guest_offset, segment.length))
        if disk is None or disk.verbatim is None:
            raise NotReadable(NOT_KEPT)
        return segment._replace(guest_offset=start + segment.guest_offset)
