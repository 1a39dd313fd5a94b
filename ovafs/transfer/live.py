"""Packages of machines that run: announced without touching the machine, read from a backup of it.

What the guest writes until a backup begins makes its disks' files longer, so their sizes are announced with some room
(:data:`SLACK_PART`), which stays zeros at each file's end: an image file may be longer than what it holds. A guest that
needs more than that has a new size, and so a new generation, by then.

What a running machine stores is estimated from its images while they change: measured again only when they have grown
by a part of that room, since the tables of a large image take seconds to read.

Everything here blocks and runs in worker threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from array import array
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidImage, StaleHandle
from ovafs.model import definition_digest
from ovafs.storage.nbd.volume import open_nbd
from ovafs.streams.clusters import ClusterRuns
from ovafs.streams.qcow2 import CLUSTER, CLUSTER_BITS, PlannedQcow2
from ovafs.transfer.description import Description, generation, newest
from ovafs.transfer.disk_plans import plan_disk, read_plan
from ovafs.transfer.open_package import OpenPackage
from ovafs.units import MIB, align_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.inventory.inventory import Inventory
    from ovafs.model import Machine
    from ovafs.storage.opener import LiveVolume, Opener
    from ovafs.storage.volume import Volume
    from ovafs.transfer.assembly import Assembler

log = logging.getLogger(__name__)

SLACK_PART = 16
"""The room for what a guest writes is this part of what a disk stores, at least LEAST_SLACK."""

LEAST_SLACK = 64 * MIB

_ATTEMPTS = 5


class _Measured(NamedTuple):
    """Sizes that were announced for the disks of a machine with this definition, and what its images stored then."""

    definition: bytes
    allocated: int
    sizes: tuple[int, ...]
    slack: int


class LivePackager:
    """Describes and opens packages of machines that run; safe to use from several threads."""

    def __init__(self, inventory: Inventory, assembler: Assembler, opener: Opener) -> None:
        self._inventory = inventory
        self._opener = opener
        self._assembler = assembler
        self._measured: dict[str, _Measured] = {}
        self._backups: Counter[str] = Counter()
        self._salt = os.urandom(16)
        self._lock = threading.Lock()

    def is_running(self, machine: Machine) -> bool:
        """Whether the machine runs, and a backup of it can be made; one without disks needs none."""
        return bool(machine.disks) and self._inventory.can_back_up(machine)

    def describe(self, machine: Machine) -> Description:
        """The machine's present description; nothing is begun. Raises an ImageError, InvalidDefinition."""
        for attempt in range(1, _ATTEMPTS + 1):
            with contextlib.ExitStack() as stack:
                try:
                    volumes = self._open(machine, stack)
                    sizes = self._measure(machine, volumes).sizes
                except InvalidImage as error:  # a table names what the file has got since it was opened
                    if attempt == _ATTEMPTS:
                        raise
                    log.debug("%s: measured again: %s", machine.name, error)
                    continue
                return self._describe(machine, volumes, sizes)
        raise AssertionError("every attempt returns or raises")

    def open(self, machine: Machine, description: Description) -> OpenPackage:
        """Begin a backup, and plan its package in the size that was announced.

        Raises StaleHandle when it does not fit into that, or when the machine was stopped; VolumeBusy when libvirt
        works on it, NoSpace, SourceError, ImageUnavailable, ReadFailed.
        """
        sizes = description.announced or ()
        with contextlib.ExitStack() as undo:
            backup = self._inventory.begin_backup(machine)
            undo.callback(backup.end)
            with self._lock:
                self._backups[machine.uuid] += 1
            volumes = []
            for export in backup.exports:
                volumes.append(open_nbd(export))
                undo.callback(volumes[-1].close)
            disks = [_planned(number, volume) for number, volume in enumerate(volumes)]
            if any(disk.size > size for disk, size in zip(disks, sizes, strict=True)):
                self._outgrown(machine, disks)
                raise StaleHandle(f"{machine.name}: it stores more than it did when it was looked up")
            package, _ = self._assembler.assemble(machine, disks, sizes)
            if package.size != description.size:
                raise StaleHandle(f"{machine.name}: its definition changed since it was looked up")
            undo.pop_all()
        log.info("%s: a backup has begun", machine.name)
        return OpenPackage(package, volumes, description, backup)

    def _open(self, machine: Machine, stack: contextlib.ExitStack) -> list[LiveVolume]:
        """Open the images while they are in use, for an estimate."""
        volumes = []
        for disk in machine.disks:
            volumes.append(self._opener.open_live(disk.volume))
            stack.callback(volumes[-1].close)
        return volumes

    def _describe(
        self,
        machine: Machine,
        volumes: Sequence[LiveVolume],
        sizes: tuple[int, ...],
    ) -> Description:
        empty = [PlannedQcow2(number, volume.virtual_size, _runs(0)) for number, volume in enumerate(volumes)]
        package, ovf = self._assembler.assemble(machine, empty, sizes)
        files = tuple(stamp for volume in volumes for stamp in volume.identities())
        # A block device does not tell when it was written to: at any moment, then.
        now = time.time_ns() if any(volume.is_volatile for volume in volumes) else 0
        # A generation is of one backup and of none later: a write within a tick of the clock shows in no time.
        backups = self._backups[machine.uuid]
        return Description(
            generation=generation(machine, files, [ovf, self._salt, f"{backups} {now}".encode()]),
            size=package.size,
            stored=package.size,
            mtime_ns=max(newest(machine, files), now),
            files=files,
            volatile=True,
            announced=sizes,
        )

    def _measure(self, machine: Machine, volumes: Sequence[LiveVolume]) -> _Measured:
        allocated = sum(file.allocated for volume in volumes for file in volume.files)
        with self._lock:
            known = self._measured.get(machine.uuid)
        is_same = known is not None and known.definition == definition_digest(machine)
        if known is not None and is_same and allocated - known.allocated < known.slack // 4:
            return known
        return self._announce(machine, allocated, [_planned(number, volume) for number, volume in enumerate(volumes)])

    def _announce(self, machine: Machine, allocated: int, disks: Sequence[PlannedQcow2]) -> _Measured:
        slacks = [align_up(max(disk.size // SLACK_PART, LEAST_SLACK), CLUSTER) for disk in disks]
        sizes = tuple(
            min(disk.size + slack, _largest(disk.virtual_size)) for disk, slack in zip(disks, slacks, strict=True)
        )
        measured = _Measured(definition_digest(machine), allocated, sizes, min(slacks, default=0))
        with self._lock:
            self._measured[machine.uuid] = measured
        return measured

    def _outgrown(self, machine: Machine, disks: Sequence[PlannedQcow2]) -> None:
        """Announce what the backup needed, and room beyond that: QEMU may write its tables long after the data."""
        with self._lock:
            known = self._measured.get(machine.uuid)
        self._announce(machine, 0 if known is None else known.allocated, disks)


def _planned(number: int, volume: Volume | LiveVolume) -> PlannedQcow2:
    return plan_disk(number, volume, read_plan(volume))


def _runs(clusters: int) -> ClusterRuns:
    """The first ``clusters`` of a disk."""
    return ClusterRuns(CLUSTER_BITS, array("Q", [0][:clusters]), array("Q", [0, clusters][: 1 + bool(clusters)]))


def _largest(virtual_size: int) -> int:
    """The size of an image that stores all of a disk."""
    return PlannedQcow2(0, virtual_size, _runs(align_up(virtual_size, CLUSTER) // CLUSTER)).size
