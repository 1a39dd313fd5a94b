"""From a machine's definition to its package: described without holding anything, or opened for reading.

Everything here blocks and runs in worker threads. The steps of a description, cheapest first:

1. the definition's digest finds the last description; one ``stat`` for each file of its volumes proves that it
   still holds (no file is opened: a listing of ten thousand machines costs ten thousand ``stat`` calls);
2. else the volumes are opened and locked, and each disk's extents come from the cache, by the identity of its files;
3. else the extents are read from the images' tables and kept in the cache.

A machine that runs is left to ``live``.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import time
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from ovafs import __version__
from ovafs.errors import StaleHandle, VolumeChanged
from ovafs.model import Machine, definition_digest
from ovafs.storage.opener import NativeOpener
from ovafs.transfer.assembly import Assembler
from ovafs.transfer.description import LAYOUT_VERSION, Description, digest, generation, newest, still_holds
from ovafs.transfer.disk_plans import DiskPlans, plan_disk
from ovafs.transfer.live import LivePackager
from ovafs.transfer.open_package import OpenPackage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovafs.inventory.inventory import Inventory
    from ovafs.storage.map_cache import MapCache
    from ovafs.storage.opener import Opener
    from ovafs.storage.volume import Volume
    from ovafs.streams.ova import Package

log = logging.getLogger(__name__)

_ATTEMPTS = 3


class Pin(enum.StrEnum):
    """What keeps the images of an open package as they are."""

    LOCK = "lock"
    REFLINK = "reflink"


class Packager:
    """Describes and opens packages; safe to use from several threads."""

    def __init__(
        self, cache: MapCache, inventory: Inventory, pin: Pin = Pin.LOCK, opener: Opener | None = None
    ) -> None:
        """``pin`` REFLINK: images are cloned when they are opened, where their file system can do that.

        Without an ``opener``, what ovafs does not read itself is refused.
        """
        self._cache = cache
        self._opener = opener or NativeOpener()
        self._pin = pin
        self._assembler = Assembler(inventory.read_state)
        self._live = LivePackager(inventory, self._assembler, self._opener)
        self._descriptions: dict[bytes, Description] = {}
        self._not_cached: set[bytes] = set()
        self._disk_plans = DiskPlans(cache)

    def preload(self, machines: Iterable[Machine]) -> None:
        """Fetch the stored descriptions of all present machines at once, and forget those of all others."""
        wanted = {_description_key(machine) for machine in machines}
        for key in list(self._descriptions):
            if key not in wanted:
                self._descriptions.pop(key, None)
        unknown = wanted - self._descriptions.keys()
        for key, blob in self._cache.get_many(unknown).items():
            self._descriptions[key] = _DECODER.decode(blob)
        self._not_cached = unknown - self._descriptions.keys()

    def describe(self, machine: Machine) -> Description:
        """The machine's present description.

        Raises an ImageError when an image is missing, in use, broken or unsupported, InvalidDefinition when the
        definition cannot be written down.
        """
        if self._live.is_running(machine):
            return self._live.describe(machine)
        key = _description_key(machine)
        known = self._known(key)
        if known is not None and still_holds(known.files):
            return known
        with contextlib.ExitStack() as stack:
            volumes = self._open_volumes(machine, stack)
            package, description = self._plan(machine, volumes)
            for volume in volumes:
                volume.check_unchanged()
        log.debug("planned %s: %d bytes, generation %s", machine.name, package.size, description.generation)
        self._keep(key, description)
        return description

    def open(self, machine: Machine, wanted: Description) -> OpenPackage:
        """Open and lock the machine's volumes, or begin a backup of it where it runs, and plan its package.

        Raises StaleHandle when that would be another generation than the one that is ``wanted``; else as describe(),
        and VolumeBusy, NoSpace, SourceError when a backup cannot begin.
        """
        if wanted.is_live:
            return self._live.open(machine, wanted)
        # Not left to the locks: an image that has become a backing file of what the machine writes to is not locked.
        if self._live.is_running(machine):
            raise StaleHandle(f"{machine.name}: it was started since it was looked up")
        with contextlib.ExitStack() as undo:
            volumes = self._open_volumes(machine, undo)
            package, description = self._plan(machine, volumes)
            if description.generation != wanted.generation:
                self._keep(_description_key(machine), description)
                raise StaleHandle(f"{machine.name}: its definition or an image changed since it was looked up")
            for volume in volumes if self._pin is Pin.REFLINK else ():
                if not volume.clone():
                    log.debug("%s: %s cannot be cloned as a whole; what is not stays locked", machine.name, volume.path)
            undo.pop_all()
        return OpenPackage(package, volumes, description)

    def open_present(self, machine: Machine) -> OpenPackage:
        """Describe and open, again if something changed in between. Raises as describe() and open() do."""
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(StaleHandle):
                return self.open(machine, self.describe(machine))
        return self.open(machine, self.describe(machine))

    def _keep(self, key: bytes, description: Description) -> None:
        if not description.volatile:
            self._descriptions[key] = description
            self._cache.put(key, msgspec.msgpack.encode(description))

    def _known(self, key: bytes) -> Description | None:
        known = self._descriptions.get(key)
        if known is None and key not in self._not_cached and (blob := self._cache.get(key)) is not None:
            known = self._descriptions[key] = _DECODER.decode(blob)
        return known

    def _plan(self, machine: Machine, volumes: Sequence[Volume]) -> tuple[Package, Description]:
        plans = [self._disk_plans.plan(volume) for volume in volumes]
        disks = [plan_disk(number, volume, plan) for number, volume, plan in zip(count(), volumes, plans, strict=False)]
        package, ovf = self._assembler.assemble(machine, disks)
        files = tuple(stamp for volume in volumes for stamp in volume.identities())
        description = Description(
            generation=generation(machine, files, [ovf, *(plan.layout for plan in plans)]),
            size=package.size,
            stored=package.stored,
            mtime_ns=newest(machine, files),
            files=files,
            volatile=any(volume.is_volatile for volume in volumes),
        )
        return package, description

    def _open_volumes(self, machine: Machine, stack: contextlib.ExitStack) -> list[Volume]:
        """Open all disks, with timestamps that can be believed; ``stack``, given empty, closes them."""
        volumes = self._open_once(machine, stack)
        if wait := _too_young(volumes):
            time.sleep(wait / 1e9)
            for volume in volumes:
                volume.check_unchanged()
            # Opened again, because the headers were read while the files could still change unnoticed.
            stack.close()
            volumes = self._open_once(machine, stack)
            if _too_young(volumes):
                raise VolumeChanged(volumes[0].path, "a file of the machine changes at this moment")
        return volumes

    def _open_once(self, machine: Machine, stack: contextlib.ExitStack) -> list[Volume]:
        volumes = []
        for disk in machine.disks:
            volumes.append(self._opener.open(disk.volume))
            stack.callback(volumes[-1].close)
        return volumes


_DECODER = msgspec.msgpack.Decoder(Description)


def _too_young(volumes: Iterable[Volume]) -> int:
    """Nanoseconds after which a further change of any file shows in its timestamps; 0: it would show now."""
    now = time.time_ns()
    wait = 0
    for _, identity in (stamp for volume in volumes for stamp in volume.identities()):
        if 0 <= now - identity.ctime_ns < identity.granularity_ns:
            wait = max(wait, identity.granularity_ns)
    return wait


def _description_key(machine: Machine) -> bytes:
    """For this version of ovafs only: another one may read the images in another way."""
    return b"ova:" + digest([__version__, LAYOUT_VERSION, definition_digest(machine)])
