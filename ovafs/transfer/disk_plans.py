"""What is derived from an open disk: remembered for the next open, and cached for the next mount."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ovafs import __version__
from ovafs.errors import UnsupportedFeature
from ovafs.streams.clusters import ClusterRuns
from ovafs.streams.extents import ExtentMap
from ovafs.streams.qcow2 import CLUSTER_BITS, PlannedQcow2, l2_tables

if TYPE_CHECKING:
    from ovafs.storage.map_cache import MapCache
    from ovafs.storage.opener import LiveVolume
    from ovafs.storage.volume import Volume

# What is read in less time is read again: a listing of many small images would write as many plans.
WORTH_KEEPING_SECONDS = 0.002

# Plans kept in memory between two opens, in bytes: about 4 MB for a disk with 100,000 extents.
DISK_PLANS_BYTES = 32 << 20


class DiskPlan(NamedTuple):
    """The extents of a disk, its clusters and their L2 tables.

    ``layout`` is a digest of the clusters: equal digests, equal tables of the planned image.
    """

    extents: ExtentMap
    runs: ClusterRuns
    tables: ClusterRuns
    layout: bytes

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return 27 * len(self.extents) + 16 * (len(self.runs) + len(self.tables)) + 1000


class DiskPlans:
    """The plans of all disks; safe to use from several threads."""

    def __init__(self, cache: MapCache) -> None:
        self._cache = cache
        self._plans: OrderedDict[bytes, DiskPlan] = OrderedDict()
        self._cost = 0
        self._lock = threading.Lock()

    def plan(self, volume: Volume) -> DiskPlan:
        """The volume's plan: from memory, from the cache, or by reading its tables. Blocks.

        Nothing is kept of one whose content can change without a trace. Raises what reading the tables raises.
        """
        if volume.is_volatile:
            return read_plan(volume)
        key = _key(volume)
        plan = self._remembered(key)
        if plan is None:
            blob = self._cache.get(key)
            if blob is None:
                begun = time.perf_counter()
                plan = read_plan(volume)
                if time.perf_counter() - begun > WORTH_KEEPING_SECONDS:
                    self._cache.put(key, _pack(plan))
            else:
                plan = _unpack(blob)
            self._remember(key, plan)
        return plan

    def _remembered(self, key: bytes) -> DiskPlan | None:
        with self._lock:
            plan = self._plans.get(key)
            if plan is not None:
                self._plans.move_to_end(key)
            return plan

    def _remember(self, key: bytes, plan: DiskPlan) -> None:
        with self._lock:
            if key in self._plans:
                return
            self._plans[key] = plan
            self._cost += plan.cost
            while self._cost > DISK_PLANS_BYTES and len(self._plans) > 1:
                _, oldest = self._plans.popitem(last=False)
                self._cost -= oldest.cost


def plan_disk(number: int, volume: Volume | LiveVolume, plan: DiskPlan) -> PlannedQcow2:
    """The image of the package's disk ``number``, which is ``volume``. Raises UnsupportedFeature: it is too large."""
    volume.use_extents(plan.extents)
    try:
        return PlannedQcow2(number, volume.virtual_size, plan.runs, plan.tables)
    except ValueError as error:  # more than qcow2 can hold
        raise UnsupportedFeature(volume.path, str(error)) from None


def _key(volume: Volume) -> bytes:
    """All that a plan is a function of.

    The formats count: one file can be a raw disk of one machine and a qcow2 image of another; and the snapshot. So does
    the version of ovafs: another one may read the images in another way.
    """
    reader = (__version__, CLUSTER_BITS)
    files = (volume.virtual_size, volume.formats, volume.identities(), volume.snapshot)
    return b"disk:" + hashlib.sha256(msgspec.msgpack.encode((reader, files))).digest()


def read_plan(volume: Volume | LiveVolume) -> DiskPlan:
    """Find out what is stored, and plan it. Blocks. Raises what ``read_extents`` raises."""
    extents = volume.read_extents()
    runs = ClusterRuns.from_extents(extents, CLUSTER_BITS)
    return DiskPlan(extents, runs, l2_tables(runs), hashlib.sha256(runs.to_bytes()).digest())


def _pack(plan: DiskPlan) -> bytes:
    columns = (part.to_bytes() for part in (plan.extents, plan.runs, plan.tables))
    return msgspec.msgpack.encode([*columns, plan.layout])


def _unpack(blob: bytes) -> DiskPlan:
    extents, runs, tables, layout = msgspec.msgpack.decode(blob, type=tuple[memoryview, memoryview, memoryview, bytes])
    return DiskPlan(ExtentMap.from_bytes(extents), ClusterRuns.from_bytes(runs), ClusterRuns.from_bytes(tables), layout)
