"""One upload: writes at any offset on one side, a package in its order on the other.

    position   everything before it went into the import, and is not kept
    waiting    runs of bytes behind a gap, in a spool until the gap closes
    size       the file's size as its writer sees it
    received   bytes that came: the position, and all that waits
    is_announced     whether it was said that it is imported: once, whoever finds it so
    begun, written   when it began and when the last write came, by time.monotonic()

A gap may be late data (NFS, syncthing) or a hole that the writer skipped (cp). It is taken for a hole when the file is
closed and it alone stands in the way of a commit, or when no more can wait. Data that comes for it after that must be
zeros; anything else ends the upload: its import may have used the wrong bytes.

Completeness is a property of the content, never of a call: a writer that was killed sends what one sends that is done.
"""

from __future__ import annotations

import enum
import threading
import time
from typing import TYPE_CHECKING

from ovafs.errors import IncompletePackage, NotReadable, OvafsError, StaleHandle, WrittenTwice
from ovafs.storage.writer.new_file import write_error
from ovafs.transfer.ingest.package import Progress
from ovafs.vfs.drop.waiting import Run, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.inventory.receipts import Receipt
    from ovafs.streams.segment import Segment
    from ovafs.transfer.ingest.choices import ImportChoices
    from ovafs.transfer.ingest.package import Imported, PackageImport, WrittenBytes
    from ovafs.transfer.ingest.spool import Spool

_PIECE = 1 << 20
_ZEROS = memoryview(bytes(_PIECE))


# What closes the gap before the end of an archive: two blocks of zeros.
_END_OF_ARCHIVE = 2 * 512


class Occasion(enum.Enum):
    """What a commit is tried for, which says what may still come.

    | occasion | gaps are | an archive whose end has not come |
    |---|---|---|
    | SYNC: fsync(2), in the middle, too (NFS, O_SYNC) | late data | is not complete: the manifest may be behind it |
    | IDLE: nothing was written for a while | late data | is one of VirtualBox, which writes no end |
    | CLOSE: the file is closed or renamed | holes | the same |
    """

    SYNC = enum.auto()
    IDLE = enum.auto()
    CLOSE = enum.auto()


class State(enum.Enum):
    """Of an upload. What is not open stays as it is."""

    OPEN = enum.auto()
    COMMITTED = enum.auto()
    FAILED = enum.auto()


class Upload:
    """All methods block and may be called from any thread; one at a time works, :meth:`discard` ends it."""

    def __init__(
        self,
        begin: Callable[[], PackageImport],
        new_spool: Callable[[], Spool],
        limit: int,
        commit_lock: threading.Lock,
    ) -> None:
        """``begin`` starts the import, at the first byte. One commit at a time holds ``commit_lock``.

        ``limit`` is how many bytes may wait behind gaps.
        """
        self.state = State.OPEN
        self.size = 0
        self.position = 0
        self.begun = self.written = time.monotonic()
        self.is_committing = False
        self.is_announced = False
        self.error: OvafsError | None = None
        self.imported: Imported | None = None
        self._begin = begin
        self._import: PackageImport | None = None
        self._waiting = Waiting(new_spool, limit)
        self._holes: list[Run] = []
        self._lock = threading.Lock()
        self._commit_lock = commit_lock
        self._is_discarded = False

    @property
    def received(self) -> int:
        """In bytes."""
        return self.position + self.waiting

    @property
    def waiting(self) -> int:
        """Bytes that wait behind gaps."""
        return sum(run.end - run.start for run in tuple(self._waiting.runs))

    @property
    def progress(self) -> Progress:
        """Of the import; nothing is known before it has begun, and after its end."""
        running = self._import
        return Progress(None, 0) if running is None else running.progress

    @property
    def allocated(self) -> int:
        """Bytes that its unfinished volumes take in the pool."""
        running = self._import
        return 0 if running is None else running.allocated

    @property
    def written_at(self) -> float:
        """When the last write came, by time.time()."""
        return time.time() - (time.monotonic() - self.written)

    @property
    def is_working(self) -> bool:
        """Whether a call is at work on it."""
        return self._lock.locked()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written yet."""
        return self.position == 0 and not self._waiting.runs

    def write(self, offset: int, data: bytes) -> None:
        """Take bytes. Raises what is wrong with them or with the import; then the upload has failed."""
        with self._lock:
            self.written = time.monotonic()
            if self.state is State.COMMITTED:
                self._accept_padding(offset, data)
                return
            self._check_open()
            with _Latch(self):
                self._take(offset, memoryview(data))
                self.size = max(self.size, offset + len(data))

    def plan(self, offset: int, length: int) -> tuple[list[Segment], list[WrittenBytes]]:
        """The bytes of a range of an upload that is not imported yet. Raises NotReadable.

        What waits is read now, before it goes into the import; the rest stays where it is.
        """
        with self._lock:
            if self.state is not State.OPEN:
                raise NotReadable("the upload failed, and nothing is left of it")
            end = offset + length
            known = max(0, min(end, self.position) - offset)
            segments: list[Segment] = []
            volumes: list[WrittenBytes] = []
            if known and self._import is not None:
                segments, volumes = self._import.plan(offset, known)
            segments += self._waiting.plan(offset + known, end)
            return segments, volumes

    def set_size(self, size: int) -> None:
        """What ftruncate(2) asks for: any size but one that takes away what went into the import."""
        with self._lock:
            if self.state is State.COMMITTED:
                if size != self.size:
                    raise WrittenTwice(f"the package was imported, with {self.size} bytes")
                return
            self._check_open()
            taken = self._waiting.runs[-1].end if self._waiting.runs else self.position
            if size < taken:
                raise WrittenTwice(f"{taken} bytes were taken in already")
            self.size = size

    def try_commit(
        self,
        default_name: str | None,
        occasion: Occasion,
        choices: ImportChoices | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        """Commit if the content is complete; idempotent. Without ``default_name`` only look whether it is.

        ``choices`` are to be used instead of those that the import began with; ``receipt`` is kept with the machines.

        Raises IncompletePackage when more can still come, and anything else when the upload has failed, now or
        before. An empty file is nothing yet.
        """
        with self._lock:
            if self.state is State.COMMITTED or (self.is_empty and self.state is State.OPEN):
                return
            self._check_open()
            with _Latch(self):
                self._check_complete(occasion)
                if default_name is not None:
                    self._commit(default_name, choices, receipt)

    def discard(self) -> None:
        """Take away everything that was not committed; idempotent. What still runs stops soon."""
        self._is_discarded = True
        with self._lock:
            if self.state is State.OPEN:
                self._fail(StaleHandle("the upload was removed"))

    def _check_open(self) -> None:
        if self.error is not None:
            raise self.error.with_traceback(None)

    def _accept_padding(self, offset: int, data: bytes) -> None:
        """Zeros behind the end of the archive may come after it was found complete; nothing else."""
        if offset < self.size or data.strip(b"\0"):
            raise WrittenTwice("the package was imported")
        self.size = offset + len(data)

    def _take(self, offset: int, data: memoryview) -> None:
        known = min(max(self.position - offset, 0), len(data))
        if known:
            self._check_rewrite(Run(offset, offset + known), data[:known])
            offset, data = offset + known, data[known:]
        while offset > self.position and data and not self._waiting.has_room(len(data)):
            self._close_gap(offset)
        if offset > self.position and data:
            self._waiting.keep(offset, data)
        elif data:
            self._feed_and_drain(data)

    def _feed_and_drain(self, data: memoryview) -> None:
        """Feed data that begins at the position; what waits of the same range is older, and does not count."""
        self._feed(data)
        while self._waiting.runs and self._waiting.runs[0].start <= self.position:
            run = self._waiting.runs[0]
            while self.position < run.end:
                self._feed(memoryview(self._waiting.read(self.position, min(_PIECE, run.end - self.position))))
            self._waiting.drop_first()

    def _check_rewrite(self, run: Run, data: memoryview) -> None:
        is_hole = any(hole.start <= run.start and run.end <= hole.end for hole in self._holes)
        if not is_hole or bytes(data).strip(b"\0"):
            raise WrittenTwice(f"bytes {run.start} to {run.end} were taken in already")

    def _feed(self, data: memoryview) -> None:
        if self._is_discarded:
            raise StaleHandle("the upload was removed")
        if self._import is None:
            self._import = self._begin()
        self._import.receive_data(data)
        self.position += len(data)

    def _close_gap(self, limit: int) -> None:
        """Take the gap at the position for a hole: up to what waits behind it, or up to ``limit``."""
        start = self.position
        end = min([limit, *(run.start for run in self._waiting.runs[:1])])
        while self.position < end:
            self._feed(_ZEROS[: min(_PIECE, end - self.position)])
        if self._holes and self._holes[-1].end == start:
            start = self._holes.pop().start
        self._holes.append(Run(start, end))
        self._feed_and_drain(_ZEROS[:0])

    def _check_complete(self, occasion: Occasion) -> None:
        """Raise IncompletePackage unless everything is there; gaps are closed only if that can make it complete."""
        while not self._is_complete(occasion):
            lack = self._import.shortfall() if self._import is not None else None
            missing = 0 if lack is None else lack.missing
            if lack is not None and self.position + missing > self.size:
                raise lack
            if occasion is not Occasion.CLOSE or self.position in {0, self.size}:
                raise IncompletePackage(f"bytes from {self.position} on have not come yet", missing=1)
            # No further than it takes: behind its end the file may be as large as its writer says.
            far = self.size if self._waiting.runs else self.position + max(missing, _END_OF_ARCHIVE)
            self._close_gap(min(far, self.size))

    def _is_complete(self, occasion: Occasion) -> bool:
        if self._import is None or self._waiting.runs or self._import.shortfall() is not None:
            return False
        return self._import.has_ended or (self.position >= self.size and occasion is not Occasion.SYNC)

    def _commit(self, default_name: str, choices: ImportChoices | None, receipt: Receipt | None) -> None:
        if self._import is None:
            raise RuntimeError("nothing to commit")
        self.is_committing = True
        try:
            with self._commit_lock:
                self.imported = self._import.commit(default_name, choices, receipt)
        finally:
            self.is_committing = False
        self.state = State.COMMITTED
        self._release()

    def _fail(self, error: OvafsError) -> None:
        self.state, self.error = State.FAILED, error
        self._release()

    def _release(self) -> None:
        self._waiting.close()
        running, self._import = self._import, None
        if running is not None:
            running.close()


class _Latch:
    """Makes the first failure the upload's last word; that something is still missing is none."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, IncompletePackage):
            return
        if isinstance(error, OvafsError):
            cause = error
        elif isinstance(error, OSError):
            cause = write_error("the pool", "cannot take the upload", error)
        else:
            cause = OvafsError(f"unexpected failure: {error!r}")
        if self._upload.state is State.OPEN:
            self._upload._fail(cause)  # noqa: SLF001 - a part of Upload
        if cause is not error and isinstance(error, OSError):
            raise cause from error
