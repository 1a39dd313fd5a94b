"""Bytes of an upload that came before those in front of them: a sparse spool, and a list of what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ovafs.streams.segment import Literal, Zero

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.streams.segment import Segment
    from ovafs.transfer.ingest.spool import Spool


class Run(NamedTuple):
    """Bytes ``[start, end)`` of the upload."""

    start: int
    end: int


class Waiting:
    """Runs of bytes, in order and apart from each other; a later write wins. Blocks."""

    def __init__(self, new_spool: Callable[[], Spool], limit: int) -> None:
        """``limit`` is how many bytes may be written to the spool before it is empty again."""
        self._new_spool = new_spool
        self._limit = limit
        self._spool: Spool | None = None
        self._kept = 0
        self.runs: list[Run] = []

    def has_room(self, length: int) -> bool:
        """Whether so many bytes more may wait."""
        return self._kept + length <= self._limit

    def keep(self, offset: int, data: memoryview) -> None:
        """Keep bytes. Raises NoSpace, WriteFailed."""
        if self._spool is None:
            self._spool, self._kept = self._new_spool(), 0
        self._spool.write(offset, data)
        self._kept += len(data)
        start, end = offset, offset + len(data)
        apart = [run for run in self.runs if run.end < start or run.start > end]
        touching = [run for run in self.runs if run.end >= start and run.start <= end]
        merged = Run(min([start, *(run.start for run in touching)]), max([end, *(run.end for run in touching)]))
        self.runs = sorted([*apart, merged])

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of one run."""
        if self._spool is None:
            raise RuntimeError("nothing waits")
        return self._spool.read(offset, length)

    def plan(self, start: int, end: int) -> list[Segment]:
        """What waits in ``[start, end)``; gaps are zeros so far."""
        segments: list[Segment] = []
        for run in [*self.runs, Run(end, end)]:
            if start < min(run.start, end):
                segments.append(Zero(min(run.start, end) - start))
                start = min(run.start, end)
            if run.start <= start < min(run.end, end):
                segments.append(Literal(self.read(start, min(run.end, end) - start)))
                start = min(run.end, end)
        return segments

    def drop_first(self) -> None:
        """Its bytes are no longer needed."""
        del self.runs[0]
        if not self.runs:
            self.close()

    def close(self) -> None:
        """Forget everything; idempotent."""
        self.runs.clear()
        if self._spool is not None:
            self._spool.close()
            self._spool, self._kept = None, 0
