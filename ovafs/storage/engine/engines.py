"""Engines: processes that serve disks, each shared by all who read the same content.

An engine is ended some seconds after its last reader, so that whoever opens a disk for each piece does not wait each
time; at once if its disk can change without a trace, since the process remembers tables of the image. One that dies is
started again, once.

Locks are the readers' business: an engine that nobody uses holds none, so that a machine can be started. Whoever comes
later and finds the same files with the same identities finds the content that the engine knows.

Concurrency: everything may be called in any thread. ``_lock`` guards who uses what and is never held while a process is
started or ended; each engine has a lock of its own for that.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import ImageError, ImageUnavailable, InvalidImage, ReadFailed
from ovafs.storage.engine.place import Place, end_abandoned, usual_base
from ovafs.storage.engine.process import EngineProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ovafs.formats.nbd import Export
    from ovafs.model import DiskFormat
    from ovafs.storage.engine.command import Options
    from ovafs.storage.source_file import SourceFile

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0

MOST_IDLE = 8
"""Engines that may wait for another reader: a listing of a thousand machines opens each disk once."""

_DYING_SECONDS = 0.3
"""A connection breaks a moment before its process is known to have ended."""


class Served(NamedTuple):
    """What an engine shows: a disk that people know as ``path``, in open and locked files.

    ``options`` makes QEMU's options of the descriptors of these files in the engine, and of what it has written into
    files of its own: it gets the descriptor of one for a text. Equal ``key`` and equal
    identities of the files are the same content, unless it ``is_volatile``. ``formats`` are those of the images, from
    the top; ``secret`` is a file with a passphrase. ``hint`` says what to do when one on the network does not open.
    """

    path: str
    key: Hashable
    files: tuple[SourceFile, ...]
    options: Callable[[Sequence[int], Callable[[bytes], int]], Options]
    is_volatile: bool
    formats: tuple[DiskFormat, ...]
    secret: SourceFile | None = None
    hint: str = "check the server, and what it serves"

    @property
    def all_files(self) -> tuple[SourceFile, ...]:
        """Those of the disk, and the secret."""
        return self.files if self.secret is None else (*self.files, self.secret)


class RunningEngine(NamedTuple):
    """For people: which disk is served, by which process, to how many readers."""

    path: str
    pid: int
    readers: int


class Engines:
    """All engines of this process of ovafs. Close it."""

    def __init__(self, base: str | None = None, grace: float = GRACE_SECONDS) -> None:
        """``base``: where the directory of sockets is made. Nothing is made or started before it is needed."""
        self._base = base or usual_base()
        self._grace = grace
        self._place: Place | None = None
        self._lock = threading.Lock()
        self._engines: dict[Hashable, Engine] = {}  # those that can be shared
        self._all: list[Engine] = []
        self._is_closed = False
        # Engines end with the thread that starts them (prctl(2), PR_SET_PDEATHSIG), so that is always this one.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="engine-starter")

    def end_abandoned(self) -> None:
        """End what processes that were killed left behind."""
        try:
            end_abandoned(self._base)
        except OSError as error:
            log.warning("%s cannot be searched for what is left of others: %s", self._base, error.strerror)

    def use(self, served: Served) -> Engine:
        """An engine for a disk, shared if there is one; to be given back (:meth:`Engine.release`). Blocks.

        Raises what starting it raises.
        """
        identities = tuple((file.device, file.identity) for file in served.all_files)
        key = (served.key, identities)
        with self._lock:
            engine = self._engines.get(key)
            if engine is None or not engine.is_settled:
                engine = self._engines[key] = Engine(self, served)
                self._all.append(engine)
            engine.readers += 1
        try:
            engine.start()
        except BaseException:
            engine.release()
            raise
        return engine

    def running(self) -> list[RunningEngine]:
        """All engines that have a process now."""
        with self._lock:
            return [
                RunningEngine(one.path, one.process.pid, one.readers) for one in self._all if one.process is not None
            ]

    def close(self) -> None:
        """End all engines; idempotent."""
        with self._lock:
            self._is_closed = True
            engines, self._all = self._all, []
            self._engines.clear()
        for engine in engines:
            engine.end()
        self._starter.shutdown()
        if self._place is not None:
            self._place.close()

    # -- for engines

    def start(self, served: Served, options: Options, descriptors: Sequence[int]) -> EngineProcess:
        """A new process; ``descriptors`` are those of all files, and maybe more."""
        with self._lock:
            if self._is_closed:
                raise ReadFailed(served.path, "ovafs is ending")
            if self._place is None:
                self._place = Place(self._base)
            socket = self._place.new_socket()
        secret = None if served.secret is None else descriptors[len(served.files)]
        return EngineProcess(served.path, options, socket, self._starter, descriptors, secret)

    def given_back(self, engine: Engine) -> None:
        """A reader has gone: end the engine, now or later, if it was the last."""
        with self._lock:
            engine.readers -= 1
            if engine.readers:
                return
            engine.idle_since = time.monotonic()
            if not self._grace or self._is_closed or not self._is_shared(engine) or not engine.may_wait:
                ending = [engine]
            else:
                idle = sorted((one for one in self._all if not one.readers), key=lambda one: one.idle_since)
                ending = idle[:-MOST_IDLE]
                if engine not in ending:
                    timer = threading.Timer(self._grace, self._end_idle, (engine, engine.idle_since))
                    timer.daemon = True
                    timer.start()
            self._forget(ending)
        for one in ending:
            one.end()

    def _end_idle(self, engine: Engine, since: float) -> None:
        with self._lock:
            if engine.readers or engine.idle_since != since or engine not in self._all:
                return
            self._forget([engine])
        engine.end()

    def _is_shared(self, engine: Engine) -> bool:
        return any(one is engine for one in self._engines.values())

    def _forget(self, engines: Sequence[Engine]) -> None:
        self._all = [one for one in self._all if one not in engines]
        self._engines = {key: one for key, one in self._engines.items() if one not in engines}


class Engine:
    """A disk that a process serves to ``readers``; made and ended by Engines."""

    def __init__(self, engines: Engines, served: Served) -> None:
        self._engines = engines
        self.served = served
        self.path = served.path
        self.readers = 0
        self.idle_since = 0.0
        self.process: EngineProcess | None = None
        self._lock = threading.Lock()
        self._began = time.time_ns()
        self._settles = max((_settles(file) for file in served.all_files), default=0)
        # Descriptors that hold no lock and nothing but the file's place, for the process and one after it.
        self._descriptors: list[int] = []
        self._options: Options | None = None
        self._was_restarted = False
        self._has_ended = False

    @property
    def is_settled(self) -> bool:
        """Whether it began when a change of its files was certain to show in their identities."""
        return self._began >= self._settles

    @property
    def may_wait(self) -> bool:
        """Whether it can be used by a reader that comes later."""
        return self.process is not None and self.is_settled and not self.served.is_volatile

    @property
    def export(self) -> Export:
        """Where the disk is served now. Raises ReadFailed when it has ended."""
        if self.process is None:
            raise ReadFailed(self.path, "is closed")
        return self.process.export

    @property
    def messages(self) -> str:
        """What the process said last; may be empty."""
        process = self.process
        return "" if process is None else process.messages

    def start(self) -> None:
        """Start the process unless it runs. Blocks; raises what starting it raises."""
        with self._lock:
            if self.process is not None and self.process.has_ended():
                log.warning("%s: %s while nobody used it", self.path, self.process.obituary)
                self._bury(self.process)
            if self.process is None:
                self._begin()

    def after_failure(self, failed: Export) -> Export | None:
        """Where the disk is served instead of ``failed``, whose process has ended; None if it has not. Blocks.

        Raises ReadFailed when it cannot be started again, or was before.
        """
        with self._lock:
            process = self.process
            if process is None or process.export != failed:  # another reader was here first
                return self.export
            if not process.has_ended(_DYING_SECONDS):
                return None
            obituary = process.obituary
            if self._was_restarted:
                raise ReadFailed(self.path, f"{obituary}, and so it did before", "open the .ova again to try again")
            log.warning("%s: %s; it is started again", self.path, obituary)
            self._was_restarted = True
            self._bury(process)
            try:
                self._begin()
            except ImageError as error:
                raise ReadFailed(self.path, error.reason, error.hint) from error
            return self.export

    def release(self) -> None:
        """One reader less. Blocks for a moment if it was the last."""
        self._engines.given_back(self)

    def end(self) -> None:
        """End the process for good; idempotent."""
        with self._lock:
            self._has_ended = True
            if self.process is not None:
                self._bury(self.process)
            while self._descriptors:
                os.close(self._descriptors.pop())
            self._options = None

    def _begin(self) -> None:
        if self._has_ended:
            raise ReadFailed(self.path, "is closed")
        if self._options is None:
            self._descriptors = [_place_of(file) for file in self.served.all_files]
            self._options = self.served.options(self._descriptors[: len(self.served.files)], self._keep)
        try:
            self.process = self._engines.start(self.served, self._options, self._descriptors)
        except InvalidImage as error:
            if self.served.files:
                raise
            raise ImageUnavailable(self.path, error.reason, self.served.hint) from error

    def _keep(self, text: bytes) -> int:
        """A file in memory for the process, with this text."""
        descriptor = os.memfd_create("engine", os.MFD_CLOEXEC)
        self._descriptors.append(descriptor)
        os.write(descriptor, text)
        return descriptor

    def _bury(self, process: EngineProcess) -> None:
        self.process = None
        process.end()


def _place_of(file: SourceFile) -> int:
    with file.in_use():
        return os.open(f"/proc/self/fd/{file.fileno()}", os.O_PATH | os.O_CLOEXEC)


def _settles(file: SourceFile) -> int:
    return file.identity.ctime_ns + file.identity.granularity_ns
