"""From a machine's definition to its package: described without holding anything, or opened for reading.

Everything here blocks and runs in worker threads. The steps of a description, cheapest first:

1. the definition's digest finds the last description; one ``stat`` for each file of its chains proves that it
   still holds (no file is opened: a listing of ten thousand machines costs ten thousand ``stat`` calls);
2. else the chains are opened and locked, and each disk's extents come from the cache, by the identity of its files;
3. else the extents are read from the images' tables and kept in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ovafs.errors import StaleHandle, UnsupportedFeature
from ovafs.formats.ovf.ovirt import DiskFile, descriptor_name, write_ovf
from ovafs.model import Machine, definition_digest
from ovafs.storage.chain import Chain, open_chain
from ovafs.storage.volume import FileIdentity
from ovafs.streams.clusters import ClusterRuns
from ovafs.streams.extents import ExtentMap
from ovafs.streams.ova import Package, member_sizes
from ovafs.streams.qcow2 import CLUSTER_BITS, PlannedQcow2, l2_tables
from ovafs.transfer.execute import execute

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovafs.storage.map_cache import MapCache

log = logging.getLogger(__name__)

DIALECT = "ovirt"

# Part of every generation: to be raised when a new version of ovafs writes other bytes for the same machine.
LAYOUT_VERSION = 1

# A file that was changed within one tick of the kernel's clock can be changed again without a new timestamp
# (up to 10 ms with HZ=100 before kernel 6.13). Identities younger than this are not believed yet.
TIMESTAMP_GRANULARITY_NS = 20_000_000

# Extents of disks kept in memory between two opens: about 4 MB for a disk with 100,000 extents.
DISK_PLANS_BYTES = 32 << 20

Files = tuple[tuple[str, FileIdentity], ...]


class Description(msgspec.Struct, frozen=True):
    """What ``stat`` needs to know of a machine's package; enough to see whether it still holds.

    ``generation`` is a hex digest; ``size`` and ``stored`` (what is not known to be zero) are in bytes;
    ``files`` are all files of all chains. ``volatile`` says that some content can change without a trace
    (block devices), so that nothing derived from it may be kept.
    """

    generation: str
    size: int
    stored: int
    mtime_ns: int
    files: Files
    volatile: bool = False


class _DiskPlan(NamedTuple):
    """What is derived from one chain, and worth caching: its extents, its clusters and their L2 tables."""

    extents: ExtentMap
    runs: ClusterRuns
    tables: ClusterRuns

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return 27 * len(self.extents) + 16 * (len(self.runs) + len(self.tables)) + 1000


class OpenPackage:
    """A pinned generation: the plan of its bytes, and the open, locked volumes behind it."""

    def __init__(self, package: Package, chains: Sequence[Chain], description: Description) -> None:
        self.package = package
        self.chains = chains
        self.description = description

    @property
    def size(self) -> int:
        """Exact number of bytes of the .ova."""
        return self.package.size

    async def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` on; returns the number of bytes, less than asked only at the end.

        Raises VolumeChanged when an image changed since the package was opened, ReadFailed, InvalidImage.
        """
        length = min(len(buffer), self.package.size - offset)
        if length <= 0:
            return 0
        await execute(self.package.plan(offset, length), self.chains, buffer[:length])
        return length

    def check_unchanged(self) -> None:
        """Raise VolumeChanged if an image changed since the package was opened."""
        for chain in self.chains:
            chain.check_unchanged()

    def close(self) -> None:
        """Release every file and lock; idempotent."""
        for chain in self.chains:
            chain.close()


class Packager:
    """Describes and opens packages; safe to use from several threads."""

    def __init__(self, cache: MapCache) -> None:
        self._cache = cache
        self._descriptions: dict[bytes, Description] = {}
        self._plans: OrderedDict[bytes, _DiskPlan] = OrderedDict()
        self._plans_cost = 0
        self._lock = threading.Lock()

    def preload(self, machines: Iterable[Machine]) -> None:
        """Fetch the stored descriptions of many machines at once."""
        keys = [key for machine in machines if (key := _description_key(machine)) not in self._descriptions]
        for key, blob in self._cache.get_many(keys).items():
            self._descriptions[key] = _DECODER.decode(blob)

    def describe(self, machine: Machine) -> Description:
        """The machine's present description.

        Raises an ImageError when an image is missing, in use, broken or unsupported, InvalidDefinition when the
        definition cannot be written down.
        """
        key = _description_key(machine)
        known = self._known(key)
        if known is not None and _still_holds(known.files):
            return known
        with contextlib.ExitStack() as stack:
            chains = _open_chains(machine, stack)
            package, description = self._plan(machine, chains)
            for chain in chains:
                chain.check_unchanged()
        log.debug("planned %s: %d bytes, generation %s", machine.name, package.size, description.generation)
        if not description.volatile:
            self._descriptions[key] = description
            self._cache.put(key, msgspec.msgpack.encode(description))
        return description

    def open(self, machine: Machine, generation: str) -> OpenPackage:
        """Open and lock the machine's volumes and plan its package.

        Raises StaleHandle when that would be another generation than the one asked for; else as describe().
        """
        with contextlib.ExitStack() as undo:
            chains = _open_chains(machine, undo)
            package, description = self._plan(machine, chains)
            if description.generation != generation:
                raise StaleHandle(f"{machine.name}: its definition or an image changed since it was looked up")
            undo.pop_all()
        return OpenPackage(package, chains, description)

    def _known(self, key: bytes) -> Description | None:
        known = self._descriptions.get(key)
        if known is None and (blob := self._cache.get(key)) is not None:
            known = self._descriptions[key] = _DECODER.decode(blob)
        return known

    def _plan(self, machine: Machine, chains: Sequence[Chain]) -> tuple[Package, Description]:
        disks = [self._plan_disk(number, chain) for number, chain in enumerate(chains)]
        sizes = member_sizes([disk.size for disk in disks])
        ovf = write_ovf(
            machine,
            [DiskFile(chain.virtual_size, size) for chain, size in zip(chains, sizes, strict=True)],
        )
        names = [disk.volume.uuid for disk in machine.disks]
        package = Package(descriptor_name(machine), ovf, list(zip(names, disks, strict=True)), machine.modified)
        files = tuple(stamp for chain in chains for stamp in chain.identities())
        description = Description(
            generation=_generation(machine, files),
            size=package.size,
            stored=package.stored,
            mtime_ns=_newest(machine, files),
            files=files,
            volatile=any(chain.is_volatile for chain in chains),
        )
        return package, description

    def _plan_disk(self, number: int, chain: Chain) -> PlannedQcow2:
        plan = self._disk_plan(chain)
        chain.use_extents(plan.extents)
        try:
            return PlannedQcow2(number, chain.virtual_size, plan.runs, plan.tables)
        except ValueError as error:  # more than qcow2 can hold
            raise UnsupportedFeature(chain.files[0].path, str(error)) from None

    def _disk_plan(self, chain: Chain) -> _DiskPlan:
        """The chain's extents and clusters: from memory, from the cache, or by reading its tables."""
        key = b"disk:" + _digest([LAYOUT_VERSION, CLUSTER_BITS, chain.virtual_size, chain.identities()])
        if chain.is_volatile:
            plan = _read_disk_plan(chain)
        elif (remembered := self._remembered(key)) is not None:
            plan = remembered
        else:
            blob = self._cache.get(key)
            if blob is None:
                plan = _read_disk_plan(chain)
                self._cache.put(key, _pack(plan))
            else:
                plan = _unpack(blob)
            self._remember(key, plan)
        return plan

    def _remembered(self, key: bytes) -> _DiskPlan | None:
        with self._lock:
            plan = self._plans.get(key)
            if plan is not None:
                self._plans.move_to_end(key)
            return plan

    def _remember(self, key: bytes, plan: _DiskPlan) -> None:
        with self._lock:
            if key in self._plans:
                return
            self._plans[key] = plan
            self._plans_cost += plan.cost
            while self._plans_cost > DISK_PLANS_BYTES and len(self._plans) > 1:
                _, oldest = self._plans.popitem(last=False)
                self._plans_cost -= oldest.cost


_DECODER = msgspec.msgpack.Decoder(Description)


def _open_chains(machine: Machine, stack: contextlib.ExitStack) -> list[Chain]:
    """Open the chains of all disks, with timestamps that can be believed; ``stack`` closes them."""
    chains = []
    for disk in machine.disks:
        chain = open_chain(disk.volume.path, disk.volume.format)
        stack.callback(chain.close)
        chains.append(chain)
    newest = max((identity.ctime_ns for chain in chains for _, identity in chain.identities()), default=0)
    if 0 <= time.time_ns() - newest < TIMESTAMP_GRANULARITY_NS:
        time.sleep(TIMESTAMP_GRANULARITY_NS / 1e9)
        for chain in chains:
            chain.check_unchanged()
    return chains


def _read_disk_plan(chain: Chain) -> _DiskPlan:
    extents = chain.read_extents()
    runs = ClusterRuns.from_extents(extents, CLUSTER_BITS)
    return _DiskPlan(extents, runs, l2_tables(runs))


def _pack(plan: _DiskPlan) -> bytes:
    return msgspec.msgpack.encode([part.to_bytes() for part in plan])


def _unpack(blob: bytes) -> _DiskPlan:
    extents, runs, tables = msgspec.msgpack.decode(blob, type=tuple[memoryview, memoryview, memoryview])
    return _DiskPlan(ExtentMap.from_bytes(extents), ClusterRuns.from_bytes(runs), ClusterRuns.from_bytes(tables))


def _description_key(machine: Machine) -> bytes:
    return b"ova:%d:" % LAYOUT_VERSION + definition_digest(machine)


def _still_holds(files: Files) -> bool:
    """True when every file is what it was; a file that is missing now is for the caller to find out about."""
    for path, identity in files:
        try:
            now = os.stat(path)
        except OSError:
            return False
        if (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) != identity:
            return False
    return True


def _generation(machine: Machine, files: Files) -> str:
    """Paths are not part of it beyond what the definition names: a moved mount point changes no byte."""
    identities = [identity for _, identity in files]
    return _digest([LAYOUT_VERSION, DIALECT, definition_digest(machine), identities]).hex()


def _newest(machine: Machine, files: Files) -> int:
    """The time of the last change of anything in the package, in nanoseconds.

    ``ctime`` counts because a tool that compares only size and mtime (rsync) must see every new generation, also
    one whose images got an old ``mtime`` back.
    """
    changes = [max(identity.mtime_ns, identity.ctime_ns) for _, identity in files]
    return max([machine.modified * 1_000_000_000, *changes])


def _digest(value: object) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(value)).digest()
