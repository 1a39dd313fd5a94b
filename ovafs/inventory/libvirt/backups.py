"""Backups of running domains: all disks as they were at one moment, served over NBD while the guest runs on.

The guest comes first. A watch over each job ends it before the scratch files fill their file system: QEMU would stop a
guest whose old data cannot be saved. What is read from the backup fails then, and says why.

Concurrency: any thread. Each backup has a thread of its own, which also ends the job when libvirt did not answer at
the time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lxml import etree

from ovafs.errors import NoSpace, SourceError, StaleHandle
from ovafs.formats.domain.read import read_domain
from ovafs.formats.nbd import Export
from ovafs.inventory.libvirt.freezing import frozen, has_left, thaw_left
from ovafs.inventory.libvirt.jobs import (
    RunningJob,
    Scratch,
    begin_job,
    check_idle,
    end_job,
    running_jobs,
    scratch_used,
)
from ovafs.inventory.libvirt.machines import disk_targets
from ovafs.inventory.libvirt.scratch import ScratchDirectory, abandoned
from ovafs.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.inventory.inventory import BackupSettings
    from ovafs.inventory.libvirt.connection import Connection
    from ovafs.model import Machine

log = logging.getLogger(__name__)

# How often it is seen how much room is left: who overwrites 2 GiB/s needs half a second for a reserve of 1 GiB.
_WATCH_SECONDS = 0.25
_ASK_SECONDS = 1.0
_END_SECONDS = 0.05
_PATIENCE = 5.0
_OWNER = re.compile(r"\+?(\d+):\+?(\d+)")


class Backup:
    """A backup that runs; ``exports`` are its disks in the machine's order. ``began`` is in seconds since 1970."""

    def __init__(
        self, backups: Backups, name: str, job: RunningJob, exports: Sequence[Export], *, is_frozen: bool
    ) -> None:
        self.exports = tuple(exports)
        self.is_frozen = is_frozen
        self.began = time.time()
        self.scratch_used = 0
        self.failure = ""
        """Why it ended although somebody may still read; "" while it has not."""
        self._backups = backups
        self._name = name
        self._job = job
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"backup of {name}", daemon=True)

    def watch(self) -> None:
        """Begin to; once."""
        self._watcher.start()

    def end(self) -> None:
        """End the job; idempotent. Blocks, for a while; when libvirt does not answer, the end follows once it does."""
        self.failure = self.failure or "the backup has ended"
        self._is_over.set()
        self._watcher.join(_PATIENCE)

    def _watch(self) -> None:
        asked = time.monotonic()
        while not self._is_over.wait(_WATCH_SECONDS):
            if (free := self._backups.free()) < self._backups.reserve:
                self._fail(
                    f"{self._backups.base} has {format_size(free)} left, less than the reserve of "
                    f"{format_size(self._backups.reserve)}: the backup was given up so that the guest can go on"
                )
                log.error("%s: %s", self._name, self.failure)
            elif time.monotonic() - asked > _ASK_SECONDS:
                asked = time.monotonic()
                self.look()
        self._see_it_end()
        self._backups.forget(self)

    def look(self) -> str:
        """Ask libvirt whether the job is still there; returns ``failure``. Blocks."""
        with contextlib.suppress(SourceError):  # libvirt is away; QEMU serves the backup all the same
            used = scratch_used(self._backups.connection, self._job)
            if used is None:
                self._fail("the backup job has ended: the machine was stopped, or somebody ended it")
            else:
                self.scratch_used = used
        return self.failure

    def _fail(self, reason: str) -> None:
        """For those who read, who tell of it; there may be none any more."""
        self.failure = self.failure or reason
        self._is_over.set()

    def _see_it_end(self) -> None:
        is_warned = False
        while True:
            try:
                if end_job(self._backups.connection, self._job):
                    break
                time.sleep(_END_SECONDS)
            except SourceError as error:
                if not is_warned:
                    log.warning("%s: the backup job cannot be ended yet: %s", self._name, error)
                is_warned = True
                time.sleep(_ASK_SECONDS)
        with contextlib.suppress(OSError):  # QEMU leaves it when the guest ends first
            os.unlink(self._job.socket)


class Backups:
    """The backups of one source; their scratch files lie below ``base``, where ``reserve`` bytes are left free."""

    def __init__(self, connection: Connection, source_id: str, settings: BackupSettings) -> None:
        """``source_id`` is the UUID of the source: other sources may have the same scratch directory, too."""
        self.connection = connection
        self.base = settings.scratch or ""
        self.reserve = settings.reserve
        self._freeze = settings.freeze
        self._prefix = f"jobs-{source_id[:8]}-"
        scheme = urlsplit(connection.canonical_uri).scheme
        self.is_possible = scheme.partition("+")[0] == "qemu" and connection.is_local
        """Only of QEMU's machines, and with a libvirt of this host: its sockets and scratch files are on that."""
        self._lock = threading.Lock()
        self._directory: ScratchDirectory | None = None
        self._running: set[Backup] = set()

    def begin(self, machine: Machine) -> Backup:
        """Begin a backup of all disks of a machine that runs.

        Raises StaleHandle (it does not run any more, or has other disks now), VolumeBusy (libvirt works on it, or its
        file systems must be frozen and cannot be), NoSpace (for scratch files), SourceError.
        """
        listing = self.connection.list_domains(lambda uuid: uuid == machine.uuid)
        texts = [domain for domain in listing.texts if domain.is_active]
        targets = disk_targets(read_domain(texts[0].text)) if texts else {}
        if not texts or any(disk.uuid not in targets for disk in machine.disks):
            raise StaleHandle(f"{machine.name}: it was stopped, or its disks changed, since it was looked up")
        directory = self._open_directory()
        if (free := directory.free()) < self.reserve:
            raise NoSpace(
                f"{machine.name} runs, and {self.base} has {format_size(free)} free for what it overwrites while it is "
                f"copied; {format_size(self.reserve)} are to stay free",
                "make room there, or give another place: scratch=DIRECTORY",
            )
        path = directory.new_path()
        job = RunningJob(machine.uuid, path)
        names = [targets[disk.uuid] for disk in machine.disks]
        check_idle(self.connection, machine.uuid)  # before its guest is frozen
        try:
            with frozen(self.connection, machine.uuid, self._freeze, directory.path) as is_frozen:
                begin_job(self.connection, job, [Scratch(name, f"{path}-{name}") for name in names])
        except BaseException:
            self._end_if_begun(job)
            raise
        backup = Backup(self, machine.name, job, [Export(path, name) for name in names], is_frozen=is_frozen)
        with self._lock:
            self._running.add(backup)
        backup.watch()
        return backup

    def _end_if_begun(self, job: RunningJob) -> None:
        """Where only the answer was lost, the job would hold the domain for as long as this process lives."""
        with contextlib.suppress(SourceError):
            if job in running_jobs(self.connection):
                end_job(self.connection, job)

    def end_abandoned(self) -> None:
        """End the jobs of processes of ovafs that were killed, and remove what they left; best effort."""
        if not self.is_possible:
            return
        try:
            with abandoned(self.base, self._prefix) as directories:
                for job in running_jobs(self.connection) if directories else ():
                    if os.path.dirname(job.socket) in directories:
                        log.warning("a backup job of domain %s was left over; it is ended", job.domain)
                        end_job(self.connection, job)
                for directory in list(directories):
                    try:
                        thaw_left(self.connection, directory)
                    except SourceError as error:
                        log.warning("it stays so for now: %s", error.summary)
                        directories.remove(directory)
        except (OSError, SourceError) as error:
            log.warning("%s: backup jobs that may be left over are not looked at: %s", self.base, error)

    def free(self) -> int:
        """Bytes that are free for scratch files; 0 when that cannot be found out."""
        try:
            return 0 if self._directory is None else self._directory.free()
        except OSError:
            return 0

    def forget(self, backup: Backup) -> None:
        """Its job has ended."""
        with self._lock:
            self._running.discard(backup)

    def close(self) -> None:
        """End all of them; idempotent."""
        for backup in list(self._running):
            backup.end()
        with self._lock:
            directory, self._directory = self._directory, None
        if directory is not None and not self._running:
            directory.close(keep=has_left(directory.path))

    def _open_directory(self) -> ScratchDirectory:
        with self._lock:
            if self._directory is None:
                self.end_abandoned()
                self._directory = ScratchDirectory(self.base, self._prefix, _qemu_owner(self.connection.capabilities()))
            return self._directory


def _qemu_owner(capabilities: str) -> tuple[int, int]:
    """User and group that QEMU runs as, from libvirt's capabilities; root's where it does not say."""
    root = etree.fromstring(capabilities.encode())
    for model in root.iterfind("host/secmodel"):
        if model.findtext("model") == "dac" and (match := _OWNER.fullmatch(model.findtext("baselabel") or "")):
            return int(match[1]), int(match[2])
    return 0, 0
