"""A whole import, from the first byte of a package to registered machines."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidDefinition, InvalidPackage, NameTaken
from ovafs.storage.writer.new_volume import NewVolume
from ovafs.transfer.ingest.landing import DryLanding, PoolLanding, definition
from ovafs.transfer.ingest.machines import ImportChoices, Taken, check_choices, make_machine
from ovafs.transfer.ingest.session import Ingest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ovafs.errors import IncompletePackage
    from ovafs.formats.ovf.read_model import Descriptor, PackageDisk
    from ovafs.inventory.pool import Pool
    from ovafs.model import Machine, Volume
    from ovafs.transfer.ingest.session import Contents


class Imported(NamedTuple):
    """The machines of a package as they were registered, or would be, and what could not be kept as it was."""

    machines: list[Machine]
    warnings: list[str]


def import_package(pool: Pool, pieces: Iterable[memoryview], default_name: str, choices: ImportChoices) -> Imported:
    """Import the package that ``pieces`` are, one behind the other, into ``pool``: all of it, or nothing.

    ``default_name`` is for a machine that has no name. Blocks. Raises InvalidPackage, UnsupportedFeature,
    InvalidDefinition, NoSpace, WriteFailed, SourceError; and what ``pieces`` raises.
    """
    with contextlib.closing(PackageImport(pool, default_name, choices)) as running:
        for piece in pieces:
            running.receive_data(piece)
        return running.commit(default_name)


class PackageImport:
    """An import whose bytes come from outside, one piece behind the other. All of it blocks.

    Raises as :func:`import_package`; after an error, but one of :meth:`shortfall`, it can only be closed.
    """

    def __init__(self, pool: Pool, default_name: str, choices: ImportChoices) -> None:
        """``default_name`` is what a machine without a name would be called by now; what it is, ``commit`` says."""
        check_choices(choices)
        self._pool = pool
        self._default_name = default_name
        self._choices = choices
        self._landing = PoolLanding(pool)
        self._ingest = Ingest(self._landing, choices.format, choices.spool_limit, self._accept)

    def receive_data(self, data: bytes | memoryview) -> None:
        """The next bytes of the package."""
        self._ingest.receive_data(data)

    def shortfall(self) -> IncompletePackage | None:
        """What is missing if the package ended here; None if it can be committed. Changes nothing."""
        return self._ingest.shortfall()

    def commit(self, default_name: str) -> Imported:
        """The package has ended: verify it, and register its machines; durable when this returns."""
        contents = self._ingest.finish()
        volumes = {disk: self._landing.volume_of(writer) for disk, writer in contents.disks.items()}
        machines, warnings = _register(
            self._pool, self._landing, contents.descriptor, volumes, self._choices, default_name
        )
        return Imported(machines, contents.warnings + warnings)

    def close(self) -> None:
        """Take away what was not committed; idempotent."""
        try:
            self._ingest.close()
        finally:
            self._landing.close()

    def _accept(self, descriptor: Descriptor) -> None:
        _try_machines(self._pool, descriptor, self._choices, self._default_name)
        self._landing.check_space(_least_size(descriptor))


def check_package(pool: Pool, pieces: Iterable[memoryview], default_name: str, choices: ImportChoices) -> Imported:
    """Do everything that :func:`import_package` does, but store and register nothing."""
    check_choices(choices)

    def accept(descriptor: Descriptor) -> None:
        _try_machines(pool, descriptor, choices, default_name)

    with contextlib.closing(Ingest(DryLanding(), choices.format, choices.spool_limit, accept)) as ingest:
        contents = _take_in(ingest, pieces)
    machines, warnings = _try_machines(pool, contents.descriptor, choices, default_name)
    return Imported(machines, contents.warnings + warnings)


def _take_in(ingest: Ingest, pieces: Iterable[memoryview]) -> Contents:
    for piece in pieces:
        ingest.receive_data(piece)
    return ingest.finish()


def _try_machines(pool: Pool, descriptor: Descriptor, choices: ImportChoices, default_name: str) -> Imported:
    """The machines as they would be, to refuse what cannot be before any disk has come."""
    disks = [slot.disk for system in descriptor.systems for slot in system.disks]
    volumes = {disk: definition(NewVolume.name(pool.volumes_path, choices.format.converted)) for disk in disks}
    return _make_machines(descriptor, volumes, choices, _taken(pool), default_name)


def _register(
    pool: Pool,
    landing: PoolLanding,
    descriptor: Descriptor,
    volumes: Mapping[PackageDisk, Volume],
    choices: ImportChoices,
    default_name: str,
) -> Imported:
    """Make and register the machines; once more if another process took one of their names in between."""
    while True:
        taken = _taken(pool)
        imported = _make_machines(descriptor, volumes, choices, copy.deepcopy(taken), default_name)
        try:
            landing.commit(imported.machines)
        except (NameTaken, InvalidDefinition):
            if _taken(pool) == taken:
                raise
        else:
            return imported


def _taken(pool: Pool) -> Taken:
    return Taken(uuids=pool.uuids(), names=pool.names(), macs=pool.macs())


def _make_machines(
    descriptor: Descriptor,
    volumes: Mapping[PackageDisk, Volume],
    choices: ImportChoices,
    taken: Taken,
    default_name: str,
) -> Imported:
    systems = descriptor.systems
    if choices.name is not None and len(systems) > 1:
        raise InvalidPackage(
            f"the package has {len(systems)} machines; one name is not enough", hint="import it without --name"
        )
    machines, warnings = [], []
    for system in systems:
        machine, said = make_machine(system, volumes, choices, taken, default_name)
        machines.append(machine)
        warnings += said
    return Imported(machines, warnings)


def _least_size(descriptor: Descriptor) -> int:
    """Bytes that the disks certainly take: of a raw disk nobody knows how much of it is zeros."""
    return sum(_least_disk_size(slot.disk) for system in descriptor.systems for slot in system.disks)


def _least_disk_size(disk: PackageDisk) -> int:
    if disk.file is None:
        return 0
    if disk.populated_size is not None:
        return min(disk.populated_size, disk.capacity or disk.populated_size)
    is_compressed = disk.file.gzip or "streamoptimized" in disk.format.lower()
    return disk.file.size or 0 if is_compressed else 0
