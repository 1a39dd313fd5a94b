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
import time
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from ovafs import __version__
from ovafs.errors import StaleHandle, UnsupportedFeature, VolumeChanged
from ovafs.formats.ovf.ovirt import STATE_FILES, DiskFile, descriptor_name, write_ovf
from ovafs.model import Machine, definition_digest
from ovafs.storage.chain import Chain, open_chain
from ovafs.storage.volume import FileIdentity
from ovafs.streams.ova import Package, member_sizes
from ovafs.streams.qcow2 import PlannedQcow2
from ovafs.transfer.disk_plans import DiskPlans
from ovafs.transfer.execute import execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ovafs.model import StateKind
    from ovafs.storage.map_cache import MapCache
    from ovafs.transfer.disk_plans import DiskPlan

log = logging.getLogger(__name__)

DIALECT = "ovirt"

# Part of every generation: to be raised when a new version of ovafs writes other bytes for the same machine.
LAYOUT_VERSION = 1

# A file that was changed within one tick of the kernel's clock can be changed again without a new timestamp
# (up to 10 ms with HZ=100 before kernel 6.13). Identities younger than this are not believed yet.
TIMESTAMP_GRANULARITY_NS = 20_000_000

# The same where times are whole seconds, or every second one.
COARSE_GRANULARITY_NS = 2_000_000_000

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

    def __init__(self, cache: MapCache, read_state: Callable[[Machine, StateKind], bytes]) -> None:
        """``read_state`` gives the text of a state that a machine has; the inventory's."""
        self._cache = cache
        self._read_state = read_state
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
        self._keep(key, description)
        return description

    def open(self, machine: Machine, generation: str) -> OpenPackage:
        """Open and lock the machine's volumes and plan its package.

        Raises StaleHandle when that would be another generation than the one asked for; else as describe().
        """
        with contextlib.ExitStack() as undo:
            chains = _open_chains(machine, undo)
            package, description = self._plan(machine, chains)
            if description.generation != generation:
                self._keep(_description_key(machine), description)
                raise StaleHandle(f"{machine.name}: its definition or an image changed since it was looked up")
            undo.pop_all()
        return OpenPackage(package, chains, description)

    def _keep(self, key: bytes, description: Description) -> None:
        if not description.volatile:
            self._descriptions[key] = description
            self._cache.put(key, msgspec.msgpack.encode(description))

    def _known(self, key: bytes) -> Description | None:
        known = self._descriptions.get(key)
        if known is None and key not in self._not_cached and (blob := self._cache.get(key)) is not None:
            known = self._descriptions[key] = _DECODER.decode(blob)
        return known

    def _plan(self, machine: Machine, chains: Sequence[Chain]) -> tuple[Package, Description]:
        plans = [self._disk_plans.plan(chain) for chain in chains]
        disks = [_plan_disk(number, chain, plan) for number, chain, plan in zip(count(), chains, plans, strict=False)]
        sizes = member_sizes([disk.size for disk in disks])
        ovf = write_ovf(
            machine,
            [DiskFile(chain.virtual_size, size) for chain, size in zip(chains, sizes, strict=True)],
        )
        names = [disk.volume.uuid for disk in machine.disks]
        texts = [(STATE_FILES[kind], self._read_state(machine, kind)) for kind in machine.states]
        members = list(zip(names, disks, strict=True))
        package = Package(descriptor_name(machine), ovf, members, machine.modified, texts)
        files = tuple(stamp for chain in chains for stamp in chain.identities())
        description = Description(
            generation=_generation(machine, files, [ovf, *(plan.layout for plan in plans)]),
            size=package.size,
            stored=package.stored,
            mtime_ns=_newest(machine, files),
            files=files,
            volatile=any(chain.is_volatile for chain in chains),
        )
        return package, description


_DECODER = msgspec.msgpack.Decoder(Description)


def _open_chains(machine: Machine, stack: contextlib.ExitStack) -> list[Chain]:
    """Open the chains of all disks, with timestamps that can be believed; ``stack``, given empty, closes them."""
    chains = _open_once(machine, stack)
    if wait := _too_young(chains):
        time.sleep(wait / 1e9)
        for chain in chains:
            chain.check_unchanged()
        # Opened again, because the headers were read while the files could still change unnoticed.
        stack.close()
        chains = _open_once(machine, stack)
        if _too_young(chains):
            raise VolumeChanged(chains[0].files[0].path, "a file of the machine changes at this moment")
    return chains


def _open_once(machine: Machine, stack: contextlib.ExitStack) -> list[Chain]:
    chains = []
    for disk in machine.disks:
        chain = open_chain(disk.volume.path, disk.volume.format)
        stack.callback(chain.close)
        chains.append(chain)
    return chains


def _too_young(chains: Iterable[Chain]) -> int:
    """Nanoseconds after which a further change of any file shows in its timestamps; 0: it would show now."""
    now = time.time_ns()
    wait = 0
    for _, identity in (stamp for chain in chains for stamp in chain.identities()):
        granularity = COARSE_GRANULARITY_NS if identity.is_coarse else TIMESTAMP_GRANULARITY_NS
        if 0 <= now - identity.ctime_ns < granularity:
            wait = max(wait, granularity)
    return wait


def _plan_disk(number: int, chain: Chain, plan: DiskPlan) -> PlannedQcow2:
    chain.use_extents(plan.extents)
    try:
        return PlannedQcow2(number, chain.virtual_size, plan.runs, plan.tables)
    except ValueError as error:  # more than qcow2 can hold
        raise UnsupportedFeature(chain.files[0].path, str(error)) from None


def _description_key(machine: Machine) -> bytes:
    """For this version of ovafs only: another one may read the images in another way."""
    return b"ova:" + _digest([__version__, LAYOUT_VERSION, definition_digest(machine)])


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


def _generation(machine: Machine, files: Files, contents: Sequence[bytes]) -> str:
    """What the package's bytes are a function of; ``contents`` are its descriptor and the layouts of its disks.

    The layouts follow from the files, but not from their identities alone: what a file system reports as a hole can
    change while the file does not (tmpfs, once somebody maps the file and reads it), and a block device has no
    identity that is worth much. Another layout is another generation then, never other bytes of the same.

    Paths are not part of it beyond what the definition names: a moved mount point changes no byte.
    """
    identities = [identity for _, identity in files]
    return _digest([LAYOUT_VERSION, DIALECT, definition_digest(machine), identities, contents]).hex()


def _newest(machine: Machine, files: Files) -> int:
    """The time of the last change of anything in the package, in nanoseconds.

    ``ctime`` counts, not ``mtime``: a tool that compares only size and time (rsync) must see every new generation,
    also one whose images got an old ``mtime`` back, and ``mtime`` can be set to the future.
    """
    return max([machine.modified * 1_000_000_000, *(identity.ctime_ns for _, identity in files)])


def _digest(value: object) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(value)).digest()
